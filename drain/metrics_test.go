package drain

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scraped is what Prometheus' own parser makes of the metrics.
func scraped(t *testing.T, w *world, version string) map[string]*dto.MetricFamily {
	t.Helper()
	text := w.drain.Metrics(version)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// value is the sample of a family with one label's text, as a gauge or a counter; it fails if there is none.
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
	in(t, 2, nil, func(t *testing.T, w *world) {
		over(t, w)
		families := scraped(t, w, "1.2.3")
		if len(families) < 8 {
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
	})
}

func TestMetricsTellTheDrain(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		before := scraped(t, w, "v")
		for _, state := range []string{"serving", "draining", "drained", "expired", "forgotten"} {
			if got := value(t, before, "prestop_state", state); (got == 1) != (state == "serving") {
				t.Errorf("while serving, prestop_state of %s is %v", state, got)
			}
		}
		if got := value(t, before, "prestop_registry_instances_in", "fake0"); got != 1 {
			t.Errorf("%v instances are in before the drain", got)
		}
		w.connect(2)
		w.regs[0].set(true, false)
		over(t, w)
		after := scraped(t, w, "v")
		for name, want := range map[string]float64{
			"prestop_state expired": 1, "prestop_state serving": 0, "prestop_drains_total expired": 1, "prestop_drains_total drained": 0,
			"prestop_connections active": 2, "prestop_registry_trouble fake0": 1, "prestop_drain_seconds all": 60,
		} {
			family, label, _ := strings.Cut(name, " ")
			if got := value(t, after, family, label); got != want {
				t.Errorf("after a drain that expired, %s is %v; want %v", name, got, want)
			}
		}
		parts := value(t, after, "prestop_drain_seconds", "leave") + value(t, after, "prestop_drain_seconds", "linger") + value(t, after, "prestop_drain_seconds", "count")
		if parts < 59.999 || parts > 60.001 {
			t.Errorf("the parts of the drain are %v s together", parts)
		}
	})
}

func TestMetricsCountWhatWasUndone(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.connect(1)
		hooked(t, w)
		w.regs[0].undo()
		over(t, w)
		if got := value(t, scraped(t, w, "v"), "prestop_registry_reasserts_total", "fake0"); got != 1 {
			t.Errorf("%v times reasserted", got)
		}
	})
}

func TestMetricsEscapeAVersion(t *testing.T) {
	in(t, 0, nil, func(t *testing.T, w *world) {
		odd := "1\"2\\3\n4"
		families := scraped(t, w, odd)
		value(t, families, "prestop_build_info", odd)
		for name := range maps.Keys(families) {
			if strings.HasPrefix(name, "prestop_registry_") {
				t.Errorf("%s without a registry", name)
			}
		}
	})
}
