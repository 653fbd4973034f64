//go:build linux

package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"prestop/registry/registrytest"
)

// held is a registry in memory, behind a front that can go wrong, which holds the app.
type held struct {
	world registrytest.World
	app   registrytest.App
	run   registrytest.Running
	front *httptest.Server
	flag  string // for the sidecar
	wrong atomic.Pointer[http.HandlerFunc]
	// undo restarts the server, which forgets.
	undo func()
}

// holds registers the app at a registry of the kind.
func holds(t *testing.T, kind string, a *app) *held {
	t.Helper()
	h := &held{}
	var server http.Handler
	var path string
	switch kind {
	case "eureka":
		e := registrytest.NewEureka(registrytest.EurekaConfig{Cache: 200 * time.Millisecond})
		server, path, h.undo = e, "/eureka", e.Restart
	case "nacos":
		n := registrytest.NewNacos(registrytest.NacosConfig{})
		server, path, h.undo = n, "/nacos", n.Restart
	}
	// The app and its callers reach the registry past the front.
	real := httptest.NewServer(server)
	t.Cleanup(func() { real.CloseClientConnections(); real.Close() })
	to, err := url.Parse(real.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	h.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := h.wrong.Load(); f != nil {
			(*f)(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	h.front.Listener.Close()
	h.front.Listener = sharedListener(t)
	h.front.Start()
	t.Cleanup(func() { h.front.CloseClientConnections(); h.front.Close() })
	h.flag = "--" + kind + "-url=" + strings.Replace(h.front.URL, "http://", "http://prestop:"+hush+"@", 1) + path
	if kind == "eureka" {
		h.world = &registrytest.EurekaWorld{Servers: []string{real.URL + path}, Heartbeat: 200 * time.Millisecond}
	} else {
		h.world = &registrytest.NacosWorld{Servers: []string{real.URL + path}, Heartbeat: 200 * time.Millisecond, Major: 2}
	}
	h.app = registrytest.App{Service: "orders", Address: netip.MustParseAddrPort("127.0.0.1:" + a.port)}
	h.run = h.world.Start(t, h.app)
	return h
}

// goesDown ends the front. Nobody else gets its port, where calls are refused from now on.
func (h *held) goesDown(t *testing.T) {
	t.Helper()
	port := h.front.Listener.Addr().(*net.TCPAddr).Port
	occupy(t, port) // before it is free
	h.front.CloseClientConnections()
	h.front.Close()
}

// called reports whether callers are sent to the app.
func (h *held) called(t *testing.T) bool {
	for _, seen := range h.world.Callers(t, h.app.Service)[0] {
		if seen.Address == h.app.Address {
			return true
		}
	}
	return false
}

// becomes waits until callers are, or are not, sent to the app.
func (h *held) becomes(t *testing.T, called bool) {
	t.Helper()
	eventually(t, fmt.Sprint("callers are sent to the app: ", called), func() error {
		if h.called(t) != called {
			return errors.New("not so")
		}
		return nil
	})
}

// silent fails if the password of the registry's URL is in the log, the status or the metrics.
func (p *process) silent() {
	p.t.Helper()
	for where, text := range map[string]string{"log": p.logs.String(), "status": p.must("/status", 200, ""), "metrics": p.must("/metrics", 200, "")} {
		if strings.Contains(text, hush) {
			p.t.Errorf("the password is in the %s:\n%s", where, text)
		}
	}
}

func both(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range []string{"eureka", "nacos"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, kind)
		})
	}
}

// TestTheWholeJob is a Pod's end from the hook to the last SIGTERM.
func TestTheWholeJob(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil, h.flag, "--linger=500ms")
		p.says("registered")
		if !h.called(t) {
			t.Fatal("the app is not in the registry")
		}
		answered := a.call(t)
		hook := p.hook()
		p.says("left the registry")
		h.becomes(t, false)
		p.inUse(1)
		if s := p.status(); len(s.Registries) != 1 || s.Registries[0].Kind != kind || len(s.Registries[0].Instances) != 1 || s.Registries[0].Error != "" {
			t.Errorf("the registries are %+v", s.Registries)
		}
		a.release()
		if err := <-answered; err != nil {
			t.Error(err)
		}
		p.is(hook, 200, "OK drained in ")
		h.run.Crash(t)
		a.die()
		p.silent()
		p.signal(syscall.SIGTERM)
		p.exits(exitOK)
		p.says("nothing of the Pod is left in the registry")
		h.becomes(t, false)
	})
}

func TestAnAppThatIsRestartedIsPutBack(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil, h.flag)
		p.says("registered")
		p.is(p.hook(), 200, "OK drained in ")
		h.becomes(t, false)
		p.must("/resume", 200, "OK")
		h.becomes(t, true)
		p.reaches("serving")
	})
}

// TestARegistryThatIsWrong is the design's: whatever a registry does, the hook returns by its deadline, in little memory, and
// the reason is in the answer, the log and the status.
func TestARegistryThatIsWrong(t *testing.T) {
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	for fault, do := range map[string]http.HandlerFunc{
		"is down":      nil,
		"hangs":        func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"resets":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"answers 500":  says(500, "text/plain", "out of order"),
		"answers 401":  says(401, "text/plain", "who are you?"),
		"answers 403":  says(403, "text/plain", "you may not"),
		"answers HTML": says(200, "text/html", "<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"),
		"sends 2 GB of JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if _, err := w.Write([]byte(`{"applications":{"application":[{"name":"`)); err != nil {
				return
			}
			chunk := []byte(strings.Repeat("a", 1<<16))
			for range 1 << 15 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"sends 2 GB of instances": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if _, err := w.Write([]byte(`{"applications":{"application":[{"name":"X","instance":[`)); err != nil {
				return
			}
			chunk := []byte(strings.Repeat(`{"instanceId":"a","ipAddr":"10.0.0.1","port":{"$":1,"@enabled":"true"}},`, 1000))
			for range 2 << 30 / len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"redirects elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		},
	} {
		for _, since := range []string{"from the start", "from the hook on"} {
			t.Run(fault+" "+since, func(t *testing.T) {
				t.Parallel()
				both(t, func(t *testing.T, kind string) {
					a := newApp(t)
					h := holds(t, kind, a)
					goWrong := func() {
						if do == nil {
							h.goesDown(t)
						}
						h.wrong.Store(&do)
					}
					if since == "from the start" {
						goWrong()
					}
					p := sidecarOf(t, a, nil, h.flag, "--registry-timeout=1s", "--grace-period=30s")
					if since == "from the hook on" {
						p.says("registered")
						goWrong()
					}
					p.says("the app listens")
					body := p.is(p.hook(), 200, "OK drained in ")
					if !strings.Contains(body, "; registry "+kind+": ") {
						t.Errorf("the answer does not name the registry: %s", body)
					}
					gave := p.says("could not take the instance out of the registry; going on without")
					if fmt.Sprint(gave["error"]) == "" || gave["registry"] != kind {
						t.Errorf("the log does not say why: %v", gave)
					}
					eventually(t, "the status names the reason", func() error {
						if s := p.status(); len(s.Registries) != 1 || s.Registries[0].Error == "" {
							return fmt.Errorf("%+v", s.Registries)
						}
						return nil
					})
					p.silent()
					most := p.memory("VmHWM")
					t.Logf("%d KiB at most; %v", most, gave["error"])
					if most > 36<<10 { // two copies of the largest answer that is read whole, and what is always there
						t.Errorf("%d KiB resident at most", most)
					}
				})
			})
		}
	}
}

// says answers with a fixed text.
func says(code int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body)) // the sidecar may have gone away
	}
}

func TestOneRegistryThatHangsDoesNotDelayTheOther(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	sick, well := holds(t, "eureka", a), holds(t, "nacos", a)
	p := sidecarOf(t, a, nil, sick.flag, well.flag, "--registry-timeout=20s", "--grace-period=60s")
	eventually(t, "registered in both", func() error {
		for _, r := range p.status().Registries {
			if len(r.Instances) == 0 {
				return fmt.Errorf("not in %s", r.Kind)
			}
		}
		return nil
	})
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	sick.wrong.Store(&hang)
	h := p.hook()
	if line := p.says("left the registry"); line["registry"] != "nacos" {
		t.Errorf("left %v first", line["registry"])
	}
	well.becomes(t, false)
	sick.wrong.Store(nil)
	p.is(h, 200, "OK drained in ")
	sick.becomes(t, false)
}

func TestTwoRegistriesOfOneKindAreLeftByThemselves(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		one, two := holds(t, kind, a), holds(t, kind, a)
		_, url, _ := strings.Cut(two.flag, "=")
		p := sidecarOf(t, a, nil, one.flag+";"+url, "--registry-timeout=20s", "--grace-period=60s")
		eventually(t, "registered in both", func() error {
			registries := p.status().Registries
			if len(registries) != 2 {
				t.Fatalf("%+v", registries)
			}
			for _, r := range registries {
				if len(r.Instances) == 0 {
					return fmt.Errorf("not in %s", r.URL)
				}
			}
			return nil
		})
		hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		one.wrong.Store(&hang)
		h := p.hook()
		if line := p.says("left the registry"); line["url"] != p.status().Registries[1].URL {
			t.Errorf("left %v first", line["url"])
		}
		two.becomes(t, false)
		one.wrong.Store(nil)
		p.is(h, 200, "OK drained in ")
		one.becomes(t, false)
		p.silent()
	})
}

func TestAnInstanceThatIsNotThereIsSaidAndTheDrainGoesOn(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		other, a := newApp(t), newApp(t)
		h := holds(t, kind, other)
		p := sidecarOf(t, a, nil, h.flag)
		p.says("the app listens")
		p.is(p.hook(), 200, "OK drained in ")
		p.says("the registry holds no instance of this Pod; nothing to leave")
		if !h.called(t) {
			t.Error("another app's instance was taken out")
		}
	})
}

func TestARegistryThatForgetsIsToldAgain(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil, h.flag, "--grace-period=120")
		p.says("registered")
		a.call(t)
		p.hook()
		p.says("left the registry")
		h.becomes(t, false)
		h.undo() // the app's next heartbeat registers it anew, in service
		p.says("the registry shows the instance in service again; taking it out once more")
		h.becomes(t, false)
		p.must("/metrics", 200, `prestop_registry_reasserts_total{registry="`+kind+`"} 1`)
		p.reaches("draining")
	})
}

func TestARegistryThatComesBackIsLeftWhileDraining(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil, h.flag, "--registry-timeout=1s", "--grace-period=120")
		p.says("registered")
		sick := says(503, "text/plain", "starting")
		h.wrong.Store(&sick)
		a.call(t)
		p.hook()
		p.says("could not take the instance out of the registry; going on without")
		h.wrong.Store(nil)
		h.becomes(t, false)
		p.says("the trouble with the registry is over")
	})
}

// TestWithoutACountTheDrainEndsWithTheLinger runs where the kernel's tables cannot be read: a root without /proc.
func TestWithoutACountTheDrainEndsWithTheLinger(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	// A copy would be busy while a process that another test starts has its file from the fork.
	if err := os.Link(binary, filepath.Join(root, "prestop")); err != nil {
		t.Fatal(err)
	}
	a := newApp(t)
	p := launch(t, func(c *exec.Cmd) {
		c.Path, c.Dir = "/prestop", "/"
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	}, nil, "--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--port="+a.port, "--linger=100ms", "--count=proc")
	if line := p.says("connections cannot be counted; a drain ends with its linger"); line["level"] != "ERROR" {
		t.Errorf("said as %v", line["level"])
	}
	a.call(t)
	p.is(p.hook(), 200, "connections not counted")
	p.must("/status", 200, `"source": "none"`)
}
