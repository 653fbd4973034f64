package test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"prestop/test/servers"
)

const envoyConfig = `
admin: {address: {pipe: {path: %[1]s}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress_http
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app, timeout: 0s}}]}]}
          http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: app
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[3]d}}}}]}]}
`

// envoy is a running one with an app behind it. A request for /slow sends to arrived, and is answered after finish.
type envoy struct {
	port            int
	socket          string // of its admin endpoint
	arrived, finish chan struct{}
}

func runEnvoy(t testing.TB) *envoy {
	t.Helper()
	e := &envoy{port: freePort(t), arrived: make(chan struct{}, 1), finish: make(chan struct{})}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			e.arrived <- struct{}{}
			select {
			case <-e.finish:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "OK")
	}))
	t.Cleanup(app.Close)
	dir, err := os.MkdirTemp("", "envoy-") // a socket's path has at most 107 bytes, and a test's folder its name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e.socket = filepath.Join(dir, "admin.sock")
	config := fmt.Sprintf(envoyConfig, e.socket, e.port, app.Listener.Addr().(*net.TCPAddr).Port)
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := servers.EnvoyCommand(ctx, config)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	ended, err := servers.StartBound(cmd)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-ended.Done()
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", log.String())
		}
	})
	eventually(t, "Envoy is ready", func() bool {
		code, _ := e.admin(http.MethodGet, "/ready")
		return code == http.StatusOK
	})
	return e
}

// admin calls Envoy's admin endpoint; code 0 if nothing answered.
func (e *envoy) admin(method, path string) (int, string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	}}}
	req, err := http.NewRequest(method, "http://envoy"+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// sidecar runs prestop beside it, as deploy/example-envoy.yaml does.
func (e *envoy) sidecar(t testing.TB, flags ...string) *sidecar {
	t.Helper()
	return runSidecar(t, e.port, nil, append([]string{
		"--count", "prometheus", "--metrics-url", "unix://" + e.socket + ":/stats/prometheus?filter=downstream_cx_active",
		"--metric", "envoy_http_downstream_cx_active", "--metric-exclude", "envoy_http_conn_manager_prefix=admin",
		"--drain-call", "POST http+unix://" + strings.ReplaceAll(e.socket, "/", "%2F") + "/healthcheck/fail",
	}, flags...)...)
}

// visitor is one kept-alive connection to Envoy.
type visitor struct {
	conn   net.Conn
	answer *bufio.Reader
}

func (e *envoy) visit(t testing.TB) *visitor {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", e.port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &visitor{conn, bufio.NewReader(conn)}
}

func (v *visitor) ask(t testing.TB, path string) {
	t.Helper()
	if _, err := fmt.Fprintf(v.conn, "GET %s HTTP/1.1\r\nHost: app\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
}

// answered reads the answer and reports whether it ends the connection.
func (v *visitor) answered(t testing.TB) (last bool) {
	t.Helper()
	resp, err := http.ReadResponse(v.answer, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "OK" {
		t.Fatalf("%s, %v", body, err)
	}
	return resp.Close
}

// leave closes the connection, as a client does that was told so, and returns when. (For one that is not closed, Envoy
// waits 6 s: drain_timeout and delayed_close_timeout.)
func (v *visitor) leave(t testing.TB) time.Time {
	t.Helper()
	at := time.Now()
	if err := v.conn.Close(); err != nil {
		t.Fatal(err)
	}
	return at
}

// hook calls the sidecar's hook and sends its answer.
func (s *sidecar) hook() <-chan hooked {
	c := make(chan hooked, 1)
	go func() {
		code, body := get(s.url + "/shutdown")
		c <- hooked{code, body, time.Now()}
	}()
	return c
}

type hooked struct {
	code int
	body string
	at   time.Time
}

// TestEnvoyIsDrainedByItsOwnMetrics is what Contour's shutdown-manager does: health checks fail, so that Envoy closes each
// connection with its next answer, and the hook returns when its metrics count none.
func TestEnvoyIsDrainedByItsOwnMetrics(t *testing.T) {
	t.Parallel()
	e := runEnvoy(t)
	s := e.sidecar(t, "--linger", "1s")
	keeps, slow := e.visit(t), e.visit(t)
	keeps.ask(t, "/")
	if keeps.answered(t) {
		t.Fatal("Envoy closes connections although nobody drains it")
	}
	slow.ask(t, "/slow")
	status := func() string { _, body := get(s.url + "/status"); return strings.Join(strings.Fields(body), "") }
	eventually(t, "two connections are counted, and Envoy's admin is not", func() bool {
		return strings.Contains(status(), `"active":2`) && strings.Contains(status(), `"source":"prometheus"`)
	})

	hook := s.hook()
	eventually(t, "Envoy fails its health checks", func() bool {
		_, stats := e.admin(http.MethodGet, "/server_info")
		return strings.Contains(stats, `"state": "DRAINING"`)
	})
	keeps.ask(t, "/")
	if !keeps.answered(t) {
		t.Error("Envoy keeps a connection although its health checks fail")
	}
	keeps.leave(t)
	eventually(t, "the slow request alone is waited for", func() bool { return strings.Contains(status(), `"active":1`) })
	_, safe := get(s.url + "/ok")
	eventually(t, "the linger is over", func() bool { _, safe = get(s.url + "/ok"); return strings.Contains(safe, "1 connections in use") })
	select {
	case h := <-hook:
		t.Fatalf("the hook did not wait for the slow request: %d %s", h.code, h.body)
	default:
	}
	e.finish <- struct{}{}
	if !slow.answered(t) {
		t.Error("Envoy keeps the connection of the slow request")
	}
	last := slow.leave(t)
	h := <-hook
	if h.code != http.StatusOK || !strings.Contains(h.body, "0 connections in use") || strings.Contains(h.body, "drain call") {
		t.Errorf("the hook: %d %s", h.code, h.body)
	}
	t.Logf("%s; %v after the last connection's end", strings.TrimSpace(h.body), h.at.Sub(last))
	if line := lastLine(t, s, "drain call made"); !strings.Contains(line, "POST unix://"+e.socket+":/healthcheck/fail") {
		t.Errorf("the log: %s", line)
	}
}

// TestMetricsThatCannotBeReadEndTheDrainWithItsLinger: a metric that Envoy does not have, and a call that nobody takes.
func TestMetricsThatCannotBeReadEndTheDrainWithItsLinger(t *testing.T) {
	t.Parallel()
	e := runEnvoy(t)
	s := runSidecar(t, e.port, nil, "--linger", "1s", "--count", "prometheus", "--metric", "envoy_no_such_thing",
		"--metrics-url", "unix://"+e.socket+":/stats/prometheus", "--drain-call", "POST unix:///nowhere.sock:/fail")
	h := <-s.hook()
	for _, want := range []string{"OK drained", "connections not counted", "drain call POST unix:///nowhere.sock:/fail: dial unix"} {
		if h.code != http.StatusOK || !strings.Contains(h.body, want) {
			t.Errorf("the hook: %d %s; want %s", h.code, h.body, want)
		}
	}
	if line := lastLine(t, s, "could not read the sockets"); !strings.Contains(line, "no series named envoy_no_such_thing") {
		t.Errorf("the log: %s", line)
	}
}

func TestEnvoyTakesTheExamplesConfiguration(t *testing.T) {
	t.Parallel()
	path, err := servers.Envoy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../deploy/example-envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, config, _ := strings.Cut(string(example), "envoy.yaml: |\n")
	config, _, found := strings.Cut(config, "\n---\n")
	if !found {
		t.Fatal("there is no ConfigMap with envoy.yaml in the example")
	}
	out, err := exec.CommandContext(t.Context(), path, "--mode", "validate", "--use-dynamic-base-id", "--config-yaml", config).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// BenchmarkEnvoyLastCloseToAnswer is the time from the end of the last connection, as its client sees it, to the hook's
// answer. Contour's shutdown-manager looks every 5 s.
func BenchmarkEnvoyLastCloseToAnswer(b *testing.B) {
	e := runEnvoy(b)
	s := e.sidecar(b, "--linger", "0")
	var took []time.Duration
	for b.Loop() {
		if code, body := e.admin(http.MethodPost, "/healthcheck/ok"); code != http.StatusOK {
			b.Fatal(body)
		}
		v := e.visit(b)
		v.ask(b, "/slow")
		<-e.arrived // before that, the connection may be in the kernel's accept queue, which Envoy's metrics do not count
		hook := s.hook()
		eventually(b, "the request is waited for", func() bool { _, safe := get(s.url + "/ok"); return strings.Contains(safe, "1 connections in use") })
		e.finish <- struct{}{}
		v.answered(b)
		last := v.leave(b)
		h := <-hook
		if h.code != http.StatusOK {
			b.Fatal(h.body)
		}
		took = append(took, h.at.Sub(last))
		if code, body := get(s.url + "/resume"); code != http.StatusOK {
			b.Fatal(body)
		}
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2])/1e6, "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "ms-p99")
	b.ReportMetric(float64(took[len(took)-1])/1e6, "ms-max")
}
