package scrape

import (
	"bufio"
	"bytes"
	"math"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"
)

// sums are the sums of all samples by name.
func sums(text string) (map[string]float64, error) {
	all := map[string]float64{}
	err := readExposition(bufio.NewReaderSize(strings.NewReader(text), lineBuffer), func(s *series) error {
		all[string(s.name)] += s.value
		return nil
	})
	return all, err
}

// byPrometheus is the same by Prometheus' own parser.
func byPrometheus(text string) (map[string]float64, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	all := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			all[name] += m.GetUntyped().GetValue() + m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all, err
}

func same(a, b map[string]float64) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		y, there := b[name]
		if !there || x != y && !(math.IsNaN(x) && math.IsNaN(y)) {
			return false
		}
	}
	return true
}

// FuzzExpositionReadsNothingThatPrometheusDoesNot compares with Prometheus' own parser: what is taken is taken there, too,
// with the same sums. Comments are left out there: types would make it fold several samples into one.
func FuzzExpositionReadsNothingThatPrometheusDoesNot(f *testing.F) {
	for _, seed := range []string{
		envoy, "", "a 1\n", "a{} 1\n", "a{b=\"c\",} 1 2\n", "a { b = \"c\" , d=\"\\n\\\\\\\"\" } NaN\n", "\t a\t-0x1p-2\n", "a 1_0\n", "a 1 2 3\n", "a 1 \n",
		"a{b=\"\xff\"} 1\n", "{\"a\"} 1\n", "a{__name__=\"b\"} 1\n", "a{b=\"c\"d=\"e\"} 1\n", "a:b_1 +Inf\r\n", "# HELP a \\x\n#\na 1", "a-1\n", "a{,} 1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ours, err := sums(text)
		if err != nil {
			return
		}
		var samples strings.Builder
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
				samples.WriteString(line)
			}
		}
		want, err := byPrometheus(samples.String())
		if err != nil || !same(ours, want) {
			t.Errorf("%q: read as %v; Prometheus: %v, %v", text, ours, want, err)
		}
	})
}

func TestExpositionReadsWhateverPrometheusWrites(t *testing.T) {
	name := rapid.StringMatching(`[a-zA-Z_:][a-zA-Z0-9_:]{0,9}`)
	labelName := rapid.StringMatching(`[a-z_][a-zA-Z0-9]{0,5}`)
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]float64{}
		var text bytes.Buffer
		for _, n := range rapid.SliceOfNDistinct(name, 0, 4, rapid.ID[string]).Draw(t, "names") {
			family := &dto.MetricFamily{Name: new(n), Help: new(rapid.String().Draw(t, "help")), Type: dto.MetricType_GAUGE.Enum()}
			for range rapid.IntRange(1, 4).Draw(t, "series") {
				m := &dto.Metric{Gauge: &dto.Gauge{Value: new(rapid.Float64().Draw(t, "value"))}}
				for _, l := range rapid.SliceOfNDistinct(labelName, 0, 3, rapid.ID[string]).Draw(t, "labels") {
					m.Label = append(m.Label, &dto.LabelPair{Name: new(l), Value: new(strings.ToValidUTF8(rapid.String().Draw(t, "label"), ""))})
				}
				if rapid.Bool().Draw(t, "timed") {
					m.TimestampMs = new(rapid.Int64().Draw(t, "time"))
				}
				family.Metric = append(family.Metric, m)
				want[n] += m.Gauge.GetValue()
			}
			if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := sums(text.String()); err != nil || !same(got, want) {
			t.Fatalf("%s\nis read as %v, %v; want %v", text.String(), got, err, want)
		}
	})
}
