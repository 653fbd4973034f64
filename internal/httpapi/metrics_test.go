package httpapi

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"prestop/drain"
	"prestop/registry"
	"prestop/registry/client"
)

// scraped is what Prometheus' own parser makes of the metrics.
func scraped(t *testing.T, p *pod, version string) map[string]*dto.MetricFamily {
	t.Helper()
	text := metrics(p.drain.Figures(), p.traffic, version)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// value is the sample of a family with one label's text, as a gauge or a counter; it fails if there
// is none.
func value(t *testing.T, families map[string]*dto.MetricFamily, name, label string) float64 {
	t.Helper()
	for _, m := range families[name].GetMetric() {
		if len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no %s of %q", name, label)
	return 0
}

func TestMetricsAreWellFormed(t *testing.T) {
	in(t, 2, nil, func(t *testing.T, p *pod) {
		over(t, p)
		families := scraped(t, p, "1.2.3")
		if len(families) < 12 {
			t.Errorf("only %d families", len(families))
		}
		for name, f := range families {
			if !strings.HasPrefix(name, "prestop_") {
				t.Errorf("%s is not called prestop_…", name)
			}
			if !strings.HasSuffix(f.GetHelp(), ".") {
				t.Errorf("the help of %s is %q", name, f.GetHelp())
			}
			if isCounter := f.GetType() == dto.MetricType_COUNTER; isCounter != strings.HasSuffix(name, "_total") {
				t.Errorf("%s is a %v", name, f.GetType())
			}
			if len(f.GetMetric()) == 0 {
				t.Errorf("%s has no sample", name)
			}
		}
		problems, err := promlint.New(bytes.NewReader(metrics(p.drain.Figures(), p.traffic, "1.2.3"))).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("against the conventions: %v, %v", problems, err)
		}
	})
}

// TestEveryMetricIsInTheDocumentation reads the table of docs/operations.md.
func TestEveryMetricIsInTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(prestop_\\w+)` \\|").FindAllSubmatch(page, -1) {
		documented[string(m[1])] = true
	}
	in(t, 1, nil, func(t *testing.T, p *pod) {
		p.traffic = map[string]*registry.Traffic{"fake0": new(registry.Traffic)}
		told := scraped(t, p, "v")
		told["prestop_registry_requests_total"] = nil // there are none here
		for name := range told {
			if !documented[name] {
				t.Errorf("%s is not in docs/operations.md", name)
			}
		}
		for name := range documented {
			if _, is := told[name]; !is {
				t.Errorf("docs/operations.md has %s, which is not told", name)
			}
		}
	})
}

// TestMetricsTellTheRequestsToTheRegistries makes real ones; the histogram is one that Prometheus'
// parser takes.
func TestMetricsTellTheRequestsToTheRegistries(t *testing.T) {
	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	calls := client.New(nil, "prestop/test")
	call := func(method, to string) {
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = calls.Do(t.Context(), []*url.URL{u}, client.Call{Op: "test", Method: method, Once: true}) // some are to fail
	}
	call(http.MethodGet, answers.URL)
	call(http.MethodGet, answers.URL)
	call(http.MethodPut, answers.URL)
	call(http.MethodGet, gone.URL)
	calls.Close()
	answers.Close()

	p := &pod{drain: drain.New(drain.Options{}), traffic: map[string]*registry.Traffic{"nacos": calls.Traffic()}}
	families := scraped(t, p, "v")
	for kind, want := range map[[2]string]float64{{"GET", "2xx"}: 2, {"PUT", "4xx"}: 1, {"GET", "unreachable"}: 1} {
		found := 0.0
		for _, m := range families["prestop_registry_requests_total"].GetMetric() {
			texts := map[string]string{}
			for _, l := range m.GetLabel() {
				texts[l.GetName()] = l.GetValue()
			}
			if texts["registry"] == "nacos" && texts["method"] == kind[0] && texts["outcome"] == kind[1] {
				found = m.GetCounter().GetValue()
			}
		}
		if found != want {
			t.Errorf("%v requests of %v; want %v", found, kind, want)
		}
	}
	h := families["prestop_registry_request_duration_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 3 || h.GetSampleSum() <= 0 || len(h.GetBucket()) != len(registry.LatencyBounds)+1 {
		t.Errorf("the latencies are %v", h)
	}
	if problems, err := promlint.New(bytes.NewReader(metrics(p.drain.Figures(), p.traffic, "v"))).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("against the conventions: %v, %v", problems, err)
	}
}

func TestMetricsTellADrainThatGoesOn(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, p *pod) {
		p.connect(1)
		hooked(t, p)
		time.Sleep(50 * time.Second) // past the leave and the linger
		families := scraped(t, p, "v")
		sum := 0.0
		for _, p := range []string{"leave", "linger", "count"} {
			sum += value(t, families, "prestop_drain_phase_seconds", p)
		}
		if sum < 49 || sum > 51 || value(t, families, "prestop_drain_phase_seconds", "count") == 0 {
			t.Errorf("after 50 s the phases are %v", families["prestop_drain_phase_seconds"])
		}
	})
}

func TestMetricsTellTheDrain(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, p *pod) {
		before := scraped(t, p, "v")
		for _, state := range []string{"serving", "draining", "drained", "expired", "forgotten"} {
			if got := value(t, before, "prestop_state", state); (got == 1) != (state == "serving") {
				t.Errorf("while serving, prestop_state of %s is %v", state, got)
			}
		}
		if got := value(t, before, "prestop_registry_instances_in", "fake0"); got != 1 {
			t.Errorf("%v instances are in before the drain", got)
		}
		p.connect(2)
		p.regs[0].breakDown()
		over(t, p)
		after := scraped(t, p, "v")
		for name, want := range map[string]float64{
			"prestop_state expired": 1, "prestop_state serving": 0, "prestop_drains_total expired": 1, "prestop_drains_total drained": 0,
			"prestop_connections active": 2, "prestop_registry_trouble fake0": 1,
		} {
			family, label, _ := strings.Cut(name, " ")
			if got := value(t, after, family, label); got != want {
				t.Errorf("after a drain that expired, %s is %v; want %v", name, got, want)
			}
		}
		parts := value(t, after, "prestop_drain_phase_seconds", "leave") + value(t, after, "prestop_drain_phase_seconds", "linger") + value(t, after, "prestop_drain_phase_seconds", "count")
		if parts < 59.999 || parts > 60.001 {
			t.Errorf("the parts of the drain are %v s together", parts)
		}
	})
}

func TestMetricsCountWhatWasUndone(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, p *pod) {
		p.connect(1)
		hooked(t, p)
		p.regs[0].set(registry.In)
		over(t, p)
		if got := value(t, scraped(t, p, "v"), "prestop_registry_reasserts_total", "fake0"); got != 1 {
			t.Errorf("%v times reasserted", got)
		}
	})
}

func TestMetricsEscapeAVersion(t *testing.T) {
	in(t, 0, nil, func(t *testing.T, p *pod) {
		odd := "1\"2\\3\n4"
		families := scraped(t, p, odd)
		value(t, families, "prestop_build_info", odd)
		for name := range maps.Keys(families) {
			if strings.HasPrefix(name, "prestop_registry_") {
				t.Errorf("%s without a registry", name)
			}
		}
	})
}
