package httpapi

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"prestop/drain"
	"prestop/registry"
)

// family is one metric with its samples. Prometheus' own library would write it too, for 1.7 MB in
// every Pod.
type family struct {
	name, help, kind string
	samples          []sample
}

// sample is one value. suffix is of a histogram's: _bucket, _sum or _count.
type sample struct {
	suffix string
	labels labels
	value  float64
}

// labels are names and their texts by turns.
type labels []string

const gauge, counter, histogram = "gauge", "counter", "histogram"

// write appends the family in the Prometheus text format, version 0.0.4.
func (f family) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
	for _, s := range f.samples {
		fmt.Fprintf(b, "%s%s%s %g\n", f.name, s.suffix, s.labels, s.value)
	}
}

func (l labels) String() string {
	if len(l) == 0 {
		return ""
	}
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	var parts []string
	for i := 0; i+1 < len(l); i += 2 {
		parts = append(parts, fmt.Sprintf(`%s="%s"`, l[i], escape.Replace(l[i+1])))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// metrics writes f and the requests to the registries in the Prometheus text format. Every name
// starts with prestop_, and the texts of every label but build_info's come from a short list.
func metrics(f drain.Figures, traffic map[string]*registry.Traffic, version string) []byte {
	label := func(name, text string) []sample { return []sample{{labels: labels{name, text}, value: 1}} }
	families := []family{
		{"prestop_build_info", "The version that runs.", gauge, label("version", version)},
		{"prestop_state", "1 for the state of the drain, 0 for the others.", gauge, states(f.State)},
		{"prestop_state_timestamp_seconds", "When the drain came to its state.", gauge,
			only(float64(f.Since.UnixMilli()) / 1e3)},
		{"prestop_app_listening", "1 while the app listens.", gauge, only(one(f.Listening))},
		{"prestop_connections", "Connections to the app at the last count, by use.", gauge, uses(f)},
		{"prestop_connections_source_info", "Where the count of the connections comes from.", gauge,
			label("source", f.Source)},
	}
	families = append(families, drainFamilies(f)...)
	families = append(families, registryFamilies(f.Registries)...)
	families = append(families, trafficFamilies(traffic)...)
	var b bytes.Buffer
	for _, f := range families {
		if len(f.samples) > 0 {
			f.write(&b)
		}
	}
	return b.Bytes()
}

func only(v float64) []sample { return []sample{{value: v}} }

func states(now string) []sample {
	var all []sample
	for _, s := range drain.States() {
		all = append(all, sample{labels: labels{"state", s}, value: one(s == now)})
	}
	return all
}

func uses(f drain.Figures) []sample {
	return []sample{
		{labels: labels{"use", "active"}, value: float64(f.Active)},
		{labels: labels{"use", "idle"}, value: float64(f.Idle)},
	}
}

// drainFamilies tell of the drains.
func drainFamilies(f drain.Figures) []family {
	var results []sample
	for _, r := range []drain.Result{drain.Drained, drain.Expired, drain.Cancelled} {
		results = append(results, sample{labels: labels{"result", string(r)}, value: float64(f.Drains[r])})
	}
	phase := func(name string, d time.Duration) sample {
		return sample{labels: labels{"phase", name}, value: d.Seconds()}
	}
	return []family{
		{"prestop_drains_total", "Drains that ended, by result; expired: the deadline came first.", counter, results},
		{"prestop_drain_phase_seconds",
			"What each phase of the last drain took, or has taken until now of the one that goes on.", gauge,
			[]sample{phase("leave", f.Leave), phase("linger", f.Linger), phase("count", f.Count)}},
		{"prestop_drain_budget_seconds", "Longest time that a drain may take: grace period less reserve.", gauge,
			only(f.Budget.Seconds())},
	}
}

// registryFamilies tell of the registries. Two of one kind are one series: labels stay few.
func registryFamilies(all []drain.RegistryFigures) []family {
	in, undone, trouble := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, r := range all {
		in[r.Kind] += float64(r.In)
		undone[r.Kind] += float64(r.Undone)
		trouble[r.Kind] = max(trouble[r.Kind], one(r.Trouble))
	}
	return []family{
		{"prestop_registry_instances_in", "Instances of this Pod that callers are sent to.", gauge, byKind(in)},
		{"prestop_registry_reasserts_total",
			"Times that a registry showed the Pod in service again during a drain.", counter, byKind(undone)},
		{"prestop_registry_trouble", "1 while something is wrong at a registry; /status says what.", gauge,
			byKind(trouble)},
	}
}

// trafficFamilies tell of the requests to each kind of registry.
func trafficFamilies(traffic map[string]*registry.Traffic) []family {
	requests := family{"prestop_registry_requests_total", "Requests to a registry, every attempt by itself, by method and by the class of the status or why there was no answer.", counter, nil}
	latency := family{"prestop_registry_request_duration_seconds", "Time until the header of a registry's answer.", histogram, nil}
	for _, kind := range slices.Sorted(maps.Keys(traffic)) {
		sum := traffic[kind].Requests()
		for _, r := range slices.SortedFunc(maps.Keys(sum.Total), func(a, b registry.Request) int {
			return cmp.Or(cmp.Compare(a.Method, b.Method), cmp.Compare(a.Outcome, b.Outcome))
		}) {
			requests.samples = append(requests.samples, sample{labels: labels{"registry", kind, "method", r.Method, "outcome", r.Outcome}, value: float64(sum.Total[r])})
		}
		bucket := func(le string, n int) sample {
			return sample{"_bucket", labels{"registry", kind, "le", le}, float64(n)}
		}
		for i, bound := range registry.LatencyBounds {
			latency.samples = append(latency.samples, bucket(fmt.Sprintf("%g", bound), sum.Within[i]))
		}
		latency.samples = append(latency.samples, bucket("+Inf", sum.Answered),
			sample{"_sum", labels{"registry", kind}, sum.Took.Seconds()}, sample{"_count", labels{"registry", kind}, float64(sum.Answered)})
	}
	return []family{requests, latency}
}

func byKind(m map[string]float64) []sample {
	var all []sample
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, sample{labels: labels{"registry", k}, value: m[k]})
	}
	return all
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
