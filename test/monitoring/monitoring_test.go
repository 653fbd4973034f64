// Package monitoring checks what deploy/ has for Prometheus and Grafana with Prometheus' own parsers, against the metrics
// that a running drain really tells. It is a module of its own: those parsers bring a large one along.
package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"prestop/drain"
	"prestop/internal/httpapi"
	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
)

// told is the metrics that a drain tells, each with its labels and the texts that those have had.
type told map[string]map[string][]string

// metrics drains a Pod that an in-memory Eureka holds, and reads its metrics with Prometheus' parser.
func metrics(t *testing.T) told {
	t.Helper()
	server := httptest.NewServer(registrytest.NewEureka(registrytest.EurekaConfig{Cache: time.Millisecond}))
	defer server.Close()
	u, err := url.Parse(server.URL + "/eureka")
	if err != nil {
		t.Fatal(err)
	}
	h := client.New(nil, "prestop/test")
	defer h.Close()
	d := drain.New(drain.Options{
		Registries: []registry.Registry{eureka.New(eureka.Options{URLs: []*url.URL{u}, HTTP: h})},
		Pod:        registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, Ports: []uint16{8080}, Budget: time.Minute, Linger: 0,
		RegistryTimeout: time.Second, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { d.Run(ctx); close(ended) }()
	if _, err := d.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	httpapi.NewServer(d, httpapi.Options{
		Version: "test", Traffic: map[string]*registry.Traffic{"eureka": h.Traffic()},
		Log: slog.New(slog.DiscardHandler),
	}).Handler.ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	text := rec.Body.Bytes()
	cancel()
	<-ended
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	all := told{}
	for name, f := range families {
		texts := map[string][]string{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				texts[l.GetName()] = append(texts[l.GetName()], l.GetValue())
			}
		}
		all[name] = texts
		if f.GetType().String() == "HISTOGRAM" {
			withBound := maps.Clone(texts)
			withBound["le"] = nil
			all[name+"_bucket"], all[name+"_sum"], all[name+"_count"] = withBound, texts, texts
		}
	}
	if len(all) < 15 {
		t.Fatalf("only these are told: %v", slices.Sorted(maps.Keys(all)))
	}
	return all
}

// ofScrape are the labels that Prometheus adds in Kubernetes.
var ofScrape = []string{"namespace", "pod"}

// right checks an expression: it parses, each metric in it is told, and each label that it is chosen by has such a text.
func (all told) right(t *testing.T, where, expr string) {
	t.Helper()
	e, err := parser.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, expr)
		return
	}
	selectors := 0
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		s, is := n.(*parser.VectorSelector)
		if !is {
			return nil
		}
		selectors++
		texts, known := all[s.Name]
		if !known {
			t.Errorf("%s: no metric is called %s", where, s.Name)
			return nil
		}
		for _, m := range s.LabelMatchers {
			if m.Name == labels.MetricName || slices.Contains(ofScrape, m.Name) {
				continue
			}
			if values, known := texts[m.Name]; !known || m.Type == labels.MatchEqual && m.Name != "source" && !slices.Contains(values, m.Value) {
				t.Errorf("%s: %s has no %s (it has %v)", where, s.Name, m, texts)
			}
		}
		return nil
	})
	if selectors == 0 {
		t.Errorf("%s: nothing is asked for: %s", where, expr)
	}
}

// alerts reads the alert rules as Prometheus does.
func alerts(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	text, err := os.ReadFile("../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return groups
}

func TestAlertsAreRulesOverMetricsThatExist(t *testing.T) {
	groups := alerts(t)
	all := metrics(t)
	rules := 0
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			rules++
			all.right(t, r.Alert, r.Expr)
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s has no summary, description or severity", r.Alert)
			}
		}
	}
	if rules < 5 {
		t.Errorf("only %d rules", rules)
	}
}

// dashboard is what is checked of Grafana's JSON model.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Panels        []struct {
		ID         int
		Title      string
		Type       string
		GridPos    struct{ H, W, X, Y int }
		Datasource struct{ Type, UID string }
		Targets    []struct{ RefID, Expr string }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

func TestTheDashboardShowsMetricsThatExist(t *testing.T) {
	text, err := os.ReadFile("../../deploy/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 30 || len(d.Panels) < 10 {
		t.Errorf("%+v", d)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	// What Grafana puts in for its variables.
	fill := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$namespace", "shop", "$pod", ".*")
	all := metrics(t)
	held := pods(t, map[string]string{`prestop_state{state="draining"}`: "1x30", `prestop_state{state="serving"}`: "0x30"})
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1 << 20, Timeout: time.Minute})
	defer engine.Close()
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	shown := map[string]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("the panel %q has no title, or the number %d of another one", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies over %q, or beside the grid", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if !slices.Contains([]string{"stat", "timeseries", "state-timeline", "table"}, p.Type) || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%q is of the type %q, on %+v, with %d targets", p.Title, p.Type, p.Datasource, len(p.Targets))
		}
		for _, target := range p.Targets {
			for _, v := range regexp.MustCompile(`\$\{?([a-z]\w*)`).FindAllStringSubmatch(target.Expr, -1) {
				if !slices.Contains(variables, v[1]) {
					t.Errorf("%q uses $%s, which is no variable", p.Title, v[1])
				}
			}
			expr := fill.Replace(target.Expr)
			all.right(t, fmt.Sprintf("%q", p.Title), expr)
			q, err := engine.NewInstantQuery(t.Context(), held, nil, expr, time.Unix(0, 0).Add(29*time.Minute))
			if err != nil {
				t.Fatalf("%q: %v", p.Title, err)
			}
			if result := q.Exec(t.Context()); result.Err != nil { // two sides that do not fit, say
				t.Errorf("%q: %v in %s", p.Title, result.Err, expr)
			}
			q.Close()
			for name := range all {
				if regexp.MustCompile(`\b` + name + `\b`).MatchString(target.Expr) {
					shown[name] = true
				}
			}
		}
	}
	for name := range all {
		plain := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count"), "_bucket")
		if !shown[name] && !shown[plain+"_bucket"] && name != "prestop_state_timestamp_seconds" {
			t.Errorf("%s is on no panel", name)
		}
	}
	for _, v := range d.Templating.List {
		if name := regexp.MustCompile(`^label_values\((\w+)`).FindStringSubmatch(v.Definition); v.Type == "query" && (name == nil || all[name[1]] == nil) {
			t.Errorf("$%s is made of %q", v.Name, v.Definition)
		}
	}
}
