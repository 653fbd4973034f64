package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// binary builds the product once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "prestop-binary-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "prestop")
	build := exec.Command("go", "build", "-tags", "nethttpomithttp2", "-o", path, ".")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build prestop: %w\n%s", err, out)
	}
	return path, nil
})

// sidecar is a running prestop.
type sidecar struct {
	url   string
	cmd   *exec.Cmd
	log   *os.File
	ended *servers.Ended
}

// runSidecar starts the real binary beside an app on port and ends it with the test. env is NAME=VALUE.
func runSidecar(t testing.TB, port int, env []string, flags ...string) *sidecar {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	own, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "prestop.log"))
	if err != nil {
		t.Fatal(err)
	}
	s := &sidecar{url: fmt.Sprintf("http://127.0.0.1:%d", own), log: log}
	s.cmd = exec.Command(path, append([]string{"--listen", fmt.Sprintf("127.0.0.1:%d", own), "--port", fmt.Sprint(port), "--termination-log", ""}, flags...)...)
	s.cmd.Env, s.cmd.Stderr = append([]string{"POD_IP=127.0.0.1"}, env...), log
	if s.ended, err = servers.StartBound(s.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("prestop's log:\n%s", text)
		}
		_ = s.cmd.Process.Kill() // it may have ended
	})
	eventually(t, "the sidecar answers", func() bool { code, _ := get(s.url + "/healthz"); return code == http.StatusOK })
	return s
}

// status is the part of /status that the tests read.
type status struct {
	State       string
	Connections struct{ Active int }
	Registries  []struct {
		Instances []struct{ ID, Service, Status string }
		Error     string
	}
}

func (s *sidecar) status(t testing.TB) status {
	t.Helper()
	_, body := get(s.url + "/status")
	var st status
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatalf("/status: %v\n%s", err, body)
	}
	return st
}

// shows reports whether the only registry's instances are so many and all have the status.
func (st status) shows(n int, word string) bool {
	if len(st.Registries) != 1 || len(st.Registries[0].Instances) != n {
		return false
	}
	for _, i := range st.Registries[0].Instances {
		if i.Status != word {
			return false
		}
	}
	return true
}

// terminate sends SIGTERM and wants an orderly end.
func (s *sidecar) terminate(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended.Done():
		if err := s.ended.Err(); err != nil {
			t.Errorf("the sidecar's end: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the sidecar did not end after its app")
	}
}

// get returns the code and body, 0 if nothing answered.
func get(url string) (int, string) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// eventually fails the test if ok is not true within two minutes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so after two minutes: %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// load calls url in several loops until stop is called, and counts.
type load struct {
	calls, failed atomic.Int64
	first         atomic.Pointer[string] // the first failure
	stop          func()
}

func runLoad(t testing.TB, url string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{}
	var wg sync.WaitGroup
	l.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(l.stop)
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				code, body := get(url)
				l.calls.Add(1)
				if code != http.StatusOK || !strings.HasPrefix(body, "OK ") {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &body)
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	return l
}

// TestSidecarStopsASpringAppOnEurekaWithoutLosingACall is the main job: a real Eureka, two Spring apps, a Spring Cloud
// LoadBalancer caller with short caches that calls all the time, and one app stopped as the kubelet does it.
func TestSidecarStopsASpringAppOnEurekaWithoutLosingACall(t *testing.T) {
	t.Parallel()
	eureka := servers.RunEureka(t, 1, servers.EurekaOptions{Spring: true})[0]
	ports := []int{freePort(t), freePort(t), freePort(t)}
	apps := make([]*servers.Process, 2)
	for i := range apps {
		apps[i] = servers.RunEurekaApp(t, "orders", fmt.Sprintf("orders-%d:orders:%d", i, ports[i]), ports[i], []string{eureka.URL})
	}
	// The caller is of the same kind of app, and has no sidecar.
	caller := servers.RunEurekaConsumer(t, ports[2], []string{eureka.URL})
	// What the app's own environment says is enough.
	s := runSidecar(t, ports[0], []string{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=" + eureka.URL, "SPRING_APPLICATION_NAME=orders"},
		"--linger", "15s", "--grace-period", "2m") // the caller's caches are 3 s, its timers late on a busy machine
	eventually(t, "the sidecar found the instance", func() bool { return s.status(t).shows(1, "UP") })
	eventually(t, "the caller knows both", func() bool {
		_, seen := get(caller + "/seen?s=orders")
		return strings.Contains(seen, fmt.Sprint(ports[0])) && strings.Contains(seen, fmt.Sprint(ports[1]))
	})
	l := runLoad(t, caller+"/call?s=orders")
	eventually(t, "calls are answered", func() bool { return l.calls.Load() > 50 })

	code, body := get(s.url + "/shutdown")
	if code != http.StatusOK || !strings.HasPrefix(body, "OK drained") {
		t.Errorf("the hook: %d %s", code, body)
	}
	if !s.status(t).shows(1, "OUT_OF_SERVICE") {
		t.Errorf("after the hook: %+v", s.status(t))
	}
	if err := apps[0].Stop(); err != nil {
		t.Error(err)
	}
	s.terminate(t)
	if code, body := get(eureka.URL + fmt.Sprintf("apps/ORDERS/orders-0:orders:%d", ports[0])); code != http.StatusNotFound {
		t.Errorf("something is left in Eureka: %d %s", code, body)
	}
	after := l.calls.Load()
	eventually(t, "the load goes on for a while", func() bool { return l.calls.Load() > after+100 })
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d calls failed, the first with %s", l.failed.Load(), l.calls.Load(), *l.first.Load())
	}
	t.Logf("%d calls, none lost: %s", l.calls.Load(), body)
}

// TestSidecarSurvivesAKilledAppOnEureka is the liveness restart that goes wrong: drained, killed without a word, started
// again with the same ID; the override of the drain would keep it out for ever.
func TestSidecarSurvivesAKilledAppOnEureka(t *testing.T) {
	t.Parallel()
	eureka := servers.RunEureka(t, 1, servers.EurekaOptions{Spring: true})[0]
	port := freePort(t)
	id := fmt.Sprintf("stock-0:stock:%d", port)
	app := servers.RunEurekaApp(t, "stock", id, port, []string{eureka.URL})
	s := runSidecar(t, port, []string{"PRESTOP_EUREKA_URL=" + eureka.URL}, "--linger", "0")
	eventually(t, "found", func() bool { return s.status(t).shows(1, "UP") })
	if code, body := get(s.url + "/shutdown"); code != http.StatusOK {
		t.Fatalf("the hook: %d %s", code, body)
	}
	if err := app.Kill(); err != nil {
		t.Fatal(err)
	}
	servers.RunEurekaApp(t, "stock", id, port, []string{eureka.URL})
	eventually(t, "the app that came back is in service", func() bool {
		st := s.status(t)
		return st.State == "serving" && st.shows(1, "UP")
	})
	eventually(t, "and the registry says so to callers", func() bool {
		_, body := get(eureka.URL + "apps/STOCK")
		return strings.Contains(body, "<status>UP</status>")
	})
}

// TestSidecarStopsAnAppOnNacos drains an app that the official Java client registers over gRPC, on both generations of
// the API, and has it back by /resume.
func TestSidecarStopsAnAppOnNacos(t *testing.T) {
	for _, version := range []string{"2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := runNacos(t, version)
			clients := servers.RunNacosClients(t, nacosClientVersion)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			port := listener.Addr().(*net.TCPAddr).Port
			if _, err := connect(clients, n.URL, registrytest.NacosInstance{Service: "orders", IP: "127.0.0.1", Port: port, Weight: 3}); err != nil {
				t.Fatal(err)
			}
			env := []string{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR=" + n.URL, "SPRING_CLOUD_NACOS_DISCOVERY_USERNAME=nacos", "SPRING_CLOUD_NACOS_DISCOVERY_PASSWORD=nacos"}
			s := runSidecar(t, port, env, "--linger", "1s")
			eventually(t, "found", func() bool { return s.status(t).shows(1, "enabled") })
			code, body := get(s.url + "/shutdown")
			if code != http.StatusOK {
				t.Fatalf("the hook: %d %s", code, body)
			}
			if !s.status(t).shows(1, "disabled") {
				t.Errorf("after the hook: %+v", s.status(t))
			}
			if _, list := get(n.URL + "/v1/ns/instance/list?serviceName=orders"); strings.Contains(list, fmt.Sprintf(`"port":%d`, port)) {
				t.Errorf("callers still read it: %s", list)
			}
			if code, _ := get(s.url + "/resume"); code != http.StatusOK {
				t.Errorf("resume: %d", code)
			}
			eventually(t, "back in service", func() bool { return s.status(t).shows(1, "enabled") })
			t.Log(lastLine(t, s, "the drain is over"))
		})
	}
}

// lastLine returns the last log line with the message.
func lastLine(t testing.TB, s *sidecar, message string) string {
	t.Helper()
	f, err := os.Open(s.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	last := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.Contains(lines.Text(), message) {
			last = lines.Text()
		}
	}
	if last == "" {
		t.Errorf("no log line says %q", message)
	}
	return last
}

func freePort(t testing.TB) int {
	t.Helper()
	p, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
