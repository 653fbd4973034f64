package monitoring

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// well is half an hour of a Pod that is well: its series, and their values each minute.
var well = map[string]string{
	`prestop_state{state="serving"}`: "1x30", `prestop_state{state="draining"}`: "0x30", `prestop_state{state="expired"}`: "0x30",
	`prestop_app_listening`: "1x30", `prestop_connections_source_info{source="netlink"}`: "1x30", `prestop_drains_total{result="expired"}`: "0x30",
	`prestop_drain_phase_seconds{phase="linger"}`: "0x30", `prestop_drain_phase_seconds{phase="count"}`: "0x30", `prestop_drain_budget_seconds`: "120x30",
	`prestop_registry_trouble{registry="eureka"}`: "0x30", `prestop_registry_instances_in{registry="eureka"}`: "1x30", `prestop_registry_reasserts_total{registry="eureka"}`: "0x30",
}

// TestEachAlertFiresOnItsFaultAlone evaluates the rules, by Prometheus' own engine, over half an hour of two Pods: one that is
// well, and one with a fault.
func TestEachAlertFiresOnItsFaultAlone(t *testing.T) {
	groups := alerts(t)
	for sentence, c := range map[string]struct {
		fault map[string]string
		want  []string
	}{
		"nothing":            {nil, nil},
		"a drain at its end": {map[string]string{`prestop_state{state="expired"}`: "0x28 1x1", `prestop_state{state="serving"}`: "0x30"}, []string{"PrestopDrainExpired"}},
		"a drain that ended": {map[string]string{`prestop_drains_total{result="expired"}`: "0x25 1x4"}, []string{"PrestopDrainExpired"}},
		"a drain near its end": {map[string]string{`prestop_state{state="draining"}`: "1x30", `prestop_state{state="serving"}`: "0x30",
			`prestop_drain_phase_seconds{phase="linger"}`: "95x30", `prestop_drain_phase_seconds{phase="count"}`: "20x30"}, []string{"PrestopDrainNearDeadline"}},
		"a drain that was long":                   {map[string]string{`prestop_drain_phase_seconds{phase="linger"}`: "119x30"}, nil},
		"a registry in trouble":                   {map[string]string{`prestop_registry_trouble{registry="eureka"}`: "1x30"}, []string{"PrestopRegistryTrouble"}},
		"an app that is not there to its callers": {map[string]string{`prestop_registry_instances_in{registry="eureka"}`: "0x30"}, []string{"PrestopNotRegistered"}},
		"an app that does not listen either":      {map[string]string{`prestop_registry_instances_in{registry="eureka"}`: "0x30", `prestop_app_listening`: "0x30"}, nil},
		"a registry that puts it back":            {map[string]string{`prestop_registry_reasserts_total{registry="eureka"}`: "0+1x30"}, []string{"PrestopPutBackIn"}},
		"connections that nobody counts":          {map[string]string{`prestop_connections_source_info{source="none"}`: "1x30"}, []string{"PrestopConnectionsNotCounted"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			held := pods(t, c.fault)
			engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1 << 20, Timeout: time.Minute})
			defer engine.Close()
			var fired []string
			for _, g := range groups.Groups {
				for _, r := range g.Rules {
					// Past a rule's `for`, the fault was there all along.
					q, err := engine.NewInstantQuery(t.Context(), held, nil, r.Expr, time.Unix(0, 0).Add(29*time.Minute))
					if err != nil {
						t.Fatalf("%s: %v", r.Alert, err)
					}
					result := q.Exec(t.Context())
					vector, err := result.Vector()
					if err != nil {
						t.Fatalf("%s: %v", r.Alert, err)
					}
					if len(vector) > 0 {
						fired = append(fired, r.Alert)
						blames(t, r.Alert, vector)
					}
					q.Close()
				}
			}
			if !slices.Equal(fired, c.want) {
				t.Errorf("%q fire; want %q", fired, c.want)
			}
		})
	}
}

// blames wants an alert for one thing, and for the Pod with the fault where it names one.
func blames(t *testing.T, alert string, v promql.Vector) {
	t.Helper()
	if pod := v[0].Metric.Get("pod"); len(v) != 1 || pod != "sick" && pod != "" || v[0].Metric.Get("namespace") != "shop" {
		t.Errorf("%s fires for %v", alert, v)
	}
}

// pods holds the series of two Pods, "well" and "sick", which has the fault.
func pods(t *testing.T, fault map[string]string) storage.Queryable {
	t.Helper()
	var all []storage.Series
	for _, pod := range []string{"well", "sick"} {
		values := maps.Clone(well)
		if pod == "sick" {
			maps.Copy(values, fault)
		}
		for series, v := range values {
			all = append(all, seriesOf(t, pod, series, v))
		}
	}
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		return choose(all, matchers)
	}}}
}

// seriesOf is half an hour of a Pod's series, a sample a minute, in promtool's notation: start+step x times, parts behind each other.
func seriesOf(t *testing.T, pod, series, values string) storage.Series {
	t.Helper()
	set, err := parser.ParseMetric(series)
	if err != nil {
		t.Fatal(err)
	}
	named := labels.NewBuilder(set)
	named.Set("namespace", "shop")
	named.Set("pod", pod)
	_, parsed, err := parser.ParseSeriesDesc("a " + values)
	if err != nil {
		t.Fatalf("%s: %v", values, err)
	}
	var all []chunks.Sample
	for i, v := range parsed {
		all = append(all, sample{int64(i) * time.Minute.Milliseconds(), v.Value})
	}
	return storage.NewListSeries(named.Labels(), all)
}

// choose are the series that all matchers take, in order.
func choose(all []storage.Series, matchers []*labels.Matcher) storage.SeriesSet {
	var some []storage.Series
	for _, s := range all {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Labels().Get(m.Name)) }) {
			some = append(some, s)
		}
	}
	return &chosen{series: some, at: -1}
}

// sample is a plain number at a time in milliseconds.
type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                      { return s.at }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// chosen are series, one after the other.
type chosen struct {
	series []storage.Series
	at     int
}

func (c *chosen) Next() bool                        { c.at++; return c.at < len(c.series) }
func (c *chosen) At() storage.Series                { return c.series[c.at] }
func (c *chosen) Err() error                        { return nil }
func (c *chosen) Warnings() annotations.Annotations { return nil }
