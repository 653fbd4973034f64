package drain

import (
	"io"
	"maps"
	"slices"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

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

// series is one sample of a family: its label, if any, and its value.
type series struct {
	label, text string
	value       float64
}

// WriteMetrics writes what is true now in the Prometheus text format. Every name starts with prestop_.
func (d *Drain) WriteMetrics(w io.Writer, version string) error {
	s := d.status.Load().state
	families := []*dto.MetricFamily{
		family("prestop_build_info", "The version that runs.", dto.MetricType_GAUGE, series{"version", version, 1}),
		family("prestop_state", "1 for the state of the drain, 0 for the others.", dto.MetricType_GAUGE, states(s.phase)...),
		family("prestop_connections", "Connections to the app at the last count, by use.", dto.MetricType_GAUGE, d.uses()...),
	}
	families = append(families, d.history.families()...)
	families = append(families, d.registryFamilies()...)
	for _, f := range families {
		if len(f.Metric) == 0 {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

func states(now phase) []series {
	var all []series
	for p := serving; p <= forgotten; p++ {
		all = append(all, series{"state", p.String(), one(p == now)})
	}
	return all
}

func (d *Drain) uses() []series {
	t, _ := d.lookout.last()
	return []series{{"use", "active", float64(t.Active)}, {"use", "idle", float64(t.Idle)}}
}

func (h *history) families() []*dto.MetricFamily {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ended []series
	for _, r := range []Result{Drained, Expired, Cancelled} {
		ended = append(ended, series{"result", string(r), float64(h.drains[r])})
	}
	return []*dto.MetricFamily{
		family("prestop_drains_total", "Drains that ended, by result.", dto.MetricType_COUNTER, ended...),
		family("prestop_drain_seconds", "How long the parts of the last drain took.", dto.MetricType_GAUGE,
			series{"part", "leave", h.leave}, series{"part", "linger", h.linger}, series{"part", "count", h.count}, series{"part", "all", h.took}),
	}
}

func (d *Drain) registryFamilies() []*dto.MetricFamily {
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
	return []*dto.MetricFamily{
		family("prestop_registry_instances_in", "Instances of this Pod that callers are sent to.", dto.MetricType_GAUGE, byKind(in)...),
		family("prestop_registry_reasserts_total", "Times that a registry showed the Pod in service again during a drain.", dto.MetricType_COUNTER, byKind(undone)...),
		family("prestop_registry_trouble", "1 while something is wrong at a registry; /status says what.", dto.MetricType_GAUGE, byKind(trouble)...),
	}
}

func byKind(m map[string]float64) []series {
	var all []series
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, series{"registry", k, m[k]})
	}
	return all
}

func family(name, help string, t dto.MetricType, all ...series) *dto.MetricFamily {
	f := &dto.MetricFamily{Name: &name, Help: &help, Type: &t}
	for _, s := range all {
		m := &dto.Metric{Label: []*dto.LabelPair{{Name: &s.label, Value: &s.text}}}
		if t == dto.MetricType_COUNTER {
			m.Counter = &dto.Counter{Value: &s.value}
		} else {
			m.Gauge = &dto.Gauge{Value: &s.value}
		}
		f.Metric = append(f.Metric, m)
	}
	return f
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
