package scrape

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"prestop/drain/conns"
	"prestop/drain/conns/connstest"
	"prestop/drain/endpoint"
)

// metrics are what the tests count; exclusions are label=regexp.
func metrics(t *testing.T, url string, names []string, exclusions ...string) Metrics {
	t.Helper()
	e, err := endpoint.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	m := Metrics{URL: e, Names: names}
	for _, x := range exclusions {
		parsed, err := ParseExclusion(x)
		if err != nil {
			t.Fatal(err)
		}
		m.Exclude = append(m.Exclude, parsed)
	}
	return m
}

// envoy is an exposition as Envoy writes it.
const envoy = `# TYPE envoy_http_downstream_cx_active gauge
envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="admin"} 1
envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="ingress",envoy_worker="a, \"quoted\" \\ one"} 3
envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="admin-ui"} 4

# TYPE envoy_http_downstream_rq_time histogram
envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="ingress",le="+Inf"} 7
envoy_other 1e+06 1700000000000
`

func TestSumIsThatOfTheNamedSeries(t *testing.T) {
	const active = "envoy_http_downstream_cx_active"
	for name, c := range map[string]struct {
		text    string
		names   []string
		exclude []string
		want    string
	}{
		"all of them, one with two labels once":           {envoy, []string{active}, nil, "8"},
		"but the excluded, matched whole":                 {envoy, []string{active}, []string{"envoy_http_conn_manager_prefix=admin"}, "7"},
		"an exclusion is a regular expression":            {envoy, []string{active}, []string{"envoy_http_conn_manager_prefix=admin(-.*)?"}, "3"},
		"any exclusion excludes":                          {envoy, []string{active}, []string{"none=x", "envoy_worker=.+"}, "5"},
		"a label that is not there is empty":              {envoy, []string{active}, []string{"envoy_worker="}, "3"},
		"everything excluded is zero, not missing":        {envoy, []string{active}, []string{"none=.*"}, "0"},
		"several metrics":                                 {envoy, []string{active, "envoy_other"}, nil, "1000008"},
		"a metric that is missing is an error":            {envoy, []string{active, "envoy_tcp"}, nil, "no series named envoy_tcp"},
		"nothing at all is an error":                      {"", []string{active}, nil, "no series named " + active},
		"NaN is an error":                                 {"a NaN\n", []string{"a"}, nil, "line 1: a is NaN"},
		"NaN that is excluded is none":                    {"a{b=\"c\"} NaN\na 2\n", []string{"a"}, []string{"b=c"}, "2"},
		"a number below zero is an error":                 {"a -1\n", []string{"a"}, nil, "a is -1"},
		"infinity is an error":                            {"a +Inf\n", []string{"a"}, nil, "a is +Inf"},
		"a gauge that ran below zero is many, not few":    {"a 18446744073709551615\n", []string{"a"}, nil, "2147483647"},
		"half a connection is one":                        {"a 0.5\n", []string{"a"}, nil, "1"},
		"a text cut off within a line is an error":        {"a 1\nb 1", []string{"a"}, nil, "line 2: the text ends within it"},
		"a page that is no exposition is an error":        {"<html>login</html>\n", []string{"a"}, nil, "line 1"},
		"a line longer than the buffer is an error":       {"a 1\n" + strings.Repeat("b", lineBuffer+1) + " 1\n", []string{"a"}, nil, "longer than"},
		"what is wrong with another metric is wrong, too": {"a 1\nb{c=\"d\",c=\"e\"} 1\n", []string{"a"}, nil, "line 2: it has the label c twice"},
	} {
		t.Run(name, func(t *testing.T) {
			m := metrics(t, "http://localhost/", c.names, c.exclude...)
			n, err := m.sum(bufio.NewReaderSize(strings.NewReader(c.text), lineBuffer))
			got := fmt.Sprint(n)
			if err != nil {
				got = err.Error()
			}
			if err == nil && got != c.want || !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestAnExclusionIsRefusedIf(t *testing.T) {
	for _, text := range []string{"", "admin", "=admin", "1a=b", "a b=c", "a=(", "a={1"} {
		_, err := ParseExclusion(text)
		if text == "a={1" { // RE2 takes the brace for itself
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
		} else if err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// fakeKernel is the counter underneath.
type fakeKernel struct {
	conns.Counter
	closed bool
	heard  time.Time
}

func (k *fakeKernel) Count(context.Context, []uint16) (conns.Tally, error) {
	return conns.Tally{Open: 99, Heard: k.heard}, nil
}

func (k *fakeKernel) Close() error { k.closed = true; return nil }

// exporter answers scrapes with handle, over TCP or, with a path, a unix socket.
func exporter(t *testing.T, network, address string, handle http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handle)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

func TestAScrapeCountsWhatTheExporterTells(t *testing.T) {
	socket := connstest.Socket(t)
	paths := make(chan string, 8)
	handle := func(w http.ResponseWriter, r *http.Request) {
		paths <- r.URL.String()
		fmt.Fprint(w, envoy)
	}
	exporter(t, "unix", socket, handle)
	address := exporter(t, "tcp", "127.0.0.1:0", handle)
	escaped := strings.ReplaceAll(socket, "/", "%2F")
	for _, url := range []string{"http://" + address + "/stats?filter=cx", "unix://" + socket + ":/stats?filter=cx", "http+unix://" + escaped + "/stats?filter=cx"} {
		kernel := &fakeKernel{}
		c := newCounter(kernel, metrics(t, url, []string{"envoy_http_downstream_cx_active"}, "envoy_http_conn_manager_prefix=admin"))
		for range 2 {
			got, err := c.Count(t.Context(), []uint16{80})
			if err != nil {
				t.Fatalf("%s: %v", url, err)
			}
			if got.Source != conns.Prometheus || got.Open != 7 || got.Active != 7 || got.Idle != 0 || got.Peers != nil || got.Took < leastCost || got.Took > mostCost {
				t.Errorf("%s: %+v", url, got)
			}
			if p := <-paths; p != "/stats?filter=cx" {
				t.Errorf("%s asked for %s", url, p)
			}
		}
		if err := c.Close(); err != nil || !kernel.closed {
			t.Errorf("close: %v, the kernel's counter closed: %v", err, kernel.closed)
		}
	}
}

func TestNoPortsAreNoConnections(t *testing.T) {
	c := newCounter(&fakeKernel{}, metrics(t, "unix:///nowhere:/", []string{"a"}))
	if got, err := c.Count(t.Context(), nil); err != nil || got.Open != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAScrapeThatFailsSaysWhy(t *testing.T) {
	release := make(chan struct{})
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/fine", http.StatusFound)
		case "/fine":
			fmt.Fprint(w, "a 0\n")
		case "/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "a 0\n")
		case "/hangs":
			<-release
		default:
			http.Error(w, "secret page", http.StatusForbidden)
		}
	}
	address := exporter(t, "tcp", "127.0.0.1:0", answer)
	defer close(release)
	for url, want := range map[string]string{
		"http://u:pass@" + address + "/no?token=secret": "by the metrics at http://u:xxxxx@" + address + "/no: it answers 403 Forbidden",
		"http://" + address + "/moved":                  "it answers 302",
		"http://" + address + "/cut":                    "unexpected EOF",
		"http://" + address + "/hangs":                  "deadline exceeded",
		"unix:///nowhere/a.sock:/stats":                 "by the metrics at unix:///nowhere/a.sock:/stats: dial unix /nowhere/a.sock: connect: no such file or directory",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		c := newCounter(&fakeKernel{}, metrics(t, url, []string{"a"}))
		_, err := c.Count(ctx, []uint16{80})
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pass") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want %s", url, err, want)
		}
		c.client.CloseIdleConnections()
	}
}

// Metrics tell nothing of when a client was heard; the kernel below does, where it is asked for.
func TestTheKernelHearsWhereMetricsCount(t *testing.T) {
	url := "http://" + exporter(t, "tcp", "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a 1\n") }) + "/"
	kernel := &fakeKernel{heard: time.Unix(1e9, 0)}
	c := newCounter(kernel, metrics(t, url, []string{"a"}))
	defer c.Close()
	for _, hear := range []bool{false, true} {
		c.hear = hear
		tally, err := c.Count(t.Context(), []uint16{80})
		if err != nil || tally.Open != 1 || tally.Heard.Equal(kernel.heard) != hear {
			t.Errorf("hear %t: %+v, %v", hear, tally, err)
		}
	}
}
