package drain

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"prestop/registry"
)

// history is what /metrics tells of the drains that ended.
type history struct {
	mu                         sync.Mutex
	drains                     map[Result]int
	took, leave, linger, count float64 // seconds of the last one
}

func (h *history) add(o Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drains == nil {
		h.drains = map[Result]int{}
	}
	h.drains[o.Result]++
	h.took, h.leave = o.Took.Seconds(), o.Leave.Seconds()
	h.linger, h.count = o.Linger.Seconds(), o.Count.Seconds()
}

// family is one metric with its samples. Prometheus' own library would write it too, for 1.7 MB in every Pod.
type family struct {
	name, help, kind string
	samples          []sample
}

// sample is one value with its only label.
type sample struct {
	label, text string
	value       float64
}

const gauge, counter = "gauge", "counter"

// write appends the family in the Prometheus text format, version 0.0.4.
func (f family) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for _, s := range f.samples {
		fmt.Fprintf(b, "%s{%s=\"%s\"} %g\n", f.name, s.label, escape.Replace(s.text), s.value)
	}
}

// Metrics is what is true now in the Prometheus text format. Every name starts with prestop_.
func (d *Drain) Metrics(version string) []byte {
	s := d.status.Load().state
	families := []family{
		{"prestop_build_info", "The version that runs.", gauge, []sample{{"version", version, 1}}},
		{"prestop_state", "1 for the state of the drain, 0 for the others.", gauge, states(s.phase)},
		{"prestop_connections", "Connections to the app at the last count, by use.", gauge, d.uses()},
	}
	families = append(families, d.history.families()...)
	families = append(families, d.registryFamilies()...)
	var b bytes.Buffer
	for _, f := range families {
		if len(f.samples) > 0 {
			f.write(&b)
		}
	}
	return b.Bytes()
}

func states(now phase) []sample {
	var all []sample
	for p := serving; p <= forgotten; p++ {
		all = append(all, sample{"state", p.String(), one(p == now)})
	}
	return all
}

func (d *Drain) uses() []sample {
	t, _ := d.lookout.last()
	return []sample{{"use", "active", float64(t.Active)}, {"use", "idle", float64(t.Idle)}}
}

func (h *history) families() []family {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ended []sample
	for _, r := range []Result{Drained, Expired, Cancelled} {
		ended = append(ended, sample{"result", string(r), float64(h.drains[r])})
	}
	return []family{
		{"prestop_drains_total", "Drains that ended, by result.", counter, ended},
		{"prestop_drain_seconds", "How long the parts of the last drain took.", gauge, []sample{
			{"part", "leave", h.leave}, {"part", "linger", h.linger}, {"part", "count", h.count}, {"part", "all", h.took},
		}},
	}
}

func (d *Drain) registryFamilies() []family {
	// Two registries of one kind are one series: labels stay few.
	in, undone, trouble := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, k := range d.keepers {
		kind := k.registry.Kind()
		in[kind] += 0
		for _, i := range *k.found.Load() {
			in[kind] += one(i.State == registry.In)
		}
		undone[kind] += float64(k.undone.Load())
		trouble[kind] = max(trouble[kind], one(*k.err.Load() != nil))
	}
	return []family{
		{"prestop_registry_instances_in", "Instances of this Pod that callers are sent to.", gauge, byKind(in)},
		{"prestop_registry_reasserts_total", "Times that a registry showed the Pod in service again during a drain.", counter, byKind(undone)},
		{"prestop_registry_trouble", "1 while something is wrong at a registry; /status says what.", gauge, byKind(trouble)},
	}
}

func byKind(m map[string]float64) []sample {
	var all []sample
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, sample{"registry", k, m[k]})
	}
	return all
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
