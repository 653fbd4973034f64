package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// comesTrue calls f until it returns nil, at most for two minutes.
func comesTrue(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// eurekaRecord is an instance as a server holds it, past its caches and past the code under test.
type eurekaRecord struct{ Status, OverriddenStatus string }

func (r eurekaRecord) String() string { return r.Status + "(" + r.OverriddenStatus + ")" }

func readEureka(ctx context.Context, server, app, id string) (eurekaRecord, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"apps/"+strings.ToUpper(app)+"/"+id, nil)
	if err != nil {
		return eurekaRecord{}, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return eurekaRecord{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return eurekaRecord{}, nil
	}
	var v struct{ Instance eurekaRecord }
	return v.Instance, json.NewDecoder(resp.Body).Decode(&v)
}

// says waits until the server says want of the instance, "()" when it does not hold it.
func says(t testing.TB, server, app, id, want string) {
	t.Helper()
	comesTrue(t, server+" of "+id, func() error {
		r, err := readEureka(t.Context(), server, app, id)
		if err == nil && r.String() != want {
			err = fmt.Errorf("%v, want %v", r, want)
		}
		return err
	})
}

// settles calls f until it has returned nil for two seconds on end, at most for two minutes.
func settles(t testing.TB, what string, f func() error) {
	t.Helper()
	var since time.Time
	comesTrue(t, what, func() error {
		err := f()
		switch {
		case err != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if err == nil && time.Since(since) < 2*time.Second {
			err = errors.New("not for long enough yet")
		}
		return err
	})
}

// stays asserts that the server goes on saying want for d.
func stays(t testing.TB, d time.Duration, server, app, id, want string) {
	t.Helper()
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if r, err := readEureka(t.Context(), server, app, id); err != nil || r.String() != want {
			t.Fatalf("%s of %s: %v, %v, want %v to stay", server, id, r, err, want)
		}
		select {
		case <-end.C:
			return
		case <-tick.C:
		}
	}
}

func registryAt(t testing.TB, urls ...string) registry.Registry {
	t.Helper()
	return (&registrytest.EurekaWorld{Client: eurekaClient}).New(t, urls)
}

func mustFind(t testing.TB, r registry.Registry, pod registry.Pod) registry.Instance {
	t.Helper()
	var found []registry.Instance
	comesTrue(t, "find the instance", func() (err error) {
		found, err = r.Find(t.Context(), pod)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	return found[0]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A Spring app is drained, killed, started again with the same instance ID, put back in, and stopped in order.
func TestEurekaSpringAppThroughItsLives(t *testing.T) {
	t.Parallel()
	server := servers.RunEureka(t, 1, servers.EurekaOptions{Spring: true})[0].URL
	port, err := servers.FreePort()
	must(t, err)
	const service, id = "orders", "orders-0:orders"
	start := func() *servers.Process { return servers.RunEurekaApp(t, service, id, port, []string{server}) }
	pod := registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []uint16{uint16(port)}}

	app := start()
	r := registryAt(t, server)
	if i := mustFind(t, r, pod); i.ID != id {
		t.Fatalf("%+v", i)
	}
	says(t, server, service, id, "UP(UNKNOWN)")
	must(t, r.Leave(t.Context()))
	stays(t, 4*time.Second, server, service, id, "OUT_OF_SERVICE(OUT_OF_SERVICE)") // through its heartbeats
	must(t, r.Rejoin(t.Context()))
	stays(t, 3*time.Second, server, service, id, "UP(UNKNOWN)")

	must(t, r.Leave(t.Context()))
	must(t, app.Kill())
	app = start() // the trap: the override has outlived the process
	stays(t, 4*time.Second, server, service, id, "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	again := registryAt(t, server)
	if i := mustFind(t, again, pod); i.State != registry.Out {
		t.Fatalf("%+v", i)
	}
	must(t, again.Rejoin(t.Context()))
	says(t, server, service, id, "UP(UNKNOWN)")

	must(t, again.Leave(t.Context()))
	must(t, app.Kill())
	must(t, again.Forget(t.Context()))
	says(t, server, service, id, "()")
	app = start()
	says(t, server, service, id, "UP(UNKNOWN)") // by itself

	must(t, again.Leave(t.Context()))
	must(t, app.Stop())
	says(t, server, service, id, "()")
	must(t, again.Forget(t.Context()))
}

// A Spring app registers itself OUT_OF_SERVICE, as the one does that is let in by somebody else: that is its own word.
func TestEurekaSpringAppThatHoldsItselfBack(t *testing.T) {
	t.Parallel()
	server := servers.RunEureka(t, 1, servers.EurekaOptions{Spring: true})[0].URL
	port, err := servers.FreePort()
	must(t, err)
	const service, id = "orders", "orders-0:orders"
	servers.RunEurekaApp(t, service, id, port, []string{server}, "--eureka.instance.initial-status=OUT_OF_SERVICE")
	pod := registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []uint16{uint16(port)}}
	front, writes := written(t, server)
	r := registryAt(t, front)
	mustFind(t, r, pod)
	must(t, r.Leave(t.Context()))
	must(t, r.Rejoin(t.Context()))
	tried := writes.Load()
	for range 3 {
		stays(t, 2*time.Second, server, service, id, "OUT_OF_SERVICE(UNKNOWN)") // through its heartbeats
		if i := mustFind(t, r, pod); i.State != registry.Down {
			t.Fatalf("%+v, as if it were ours to put in", i)
		}
		must(t, r.Leave(t.Context()))
		must(t, r.Rejoin(t.Context()))
	}
	if tried > 3 || writes.Load() != tried {
		t.Errorf("%d writes, and %d more", tried, writes.Load()-tried)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server+"apps/ORDERS/"+id+"/status?value=UP", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	stays(t, 2*time.Second, server, service, id, "UP(UP)")
	mustFind(t, r, pod)
	must(t, r.Leave(t.Context()))
	stays(t, 2*time.Second, server, service, id, "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	must(t, r.Rejoin(t.Context()))
	stays(t, 3*time.Second, server, service, id, "UP(UNKNOWN)")
}

// written forwards to a server and counts the requests that write.
func written(t testing.TB, server string) (string, *atomic.Int64) {
	t.Helper()
	to, err := url.Parse(server)
	must(t, err)
	n := new(atomic.Int64)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			n.Add(1)
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL + to.Path, n
}

// freshEurekaApp is an app that heartbeats at the first of urls alone.
func freshEurekaApp(t testing.TB, service string, urls ...string) (registrytest.App, registrytest.Running, registry.Pod) {
	t.Helper()
	app := registrytest.App{Service: service, Address: netip.MustParseAddrPort("127.9.9.9:8080")}
	w := &registrytest.EurekaWorld{Servers: urls, Heartbeat: 500 * time.Millisecond}
	return app, w.Start(t, app), registry.Pod{Addresses: []netip.Addr{app.Address.Addr()}, Ports: []uint16{8080}}
}

func TestEurekaPeersOfWhichOneHangsOrIsRestartedEmpty(t *testing.T) {
	t.Parallel()
	peers := servers.RunEureka(t, 2, servers.EurekaOptions{})
	a, b := peers[0], peers[1]
	app, running, pod := freshEurekaApp(t, "peers", a.URL, b.URL)
	id := registrytest.EurekaID(app)
	r := registryAt(t, a.URL, b.URL)
	mustFind(t, r, pod)

	// One hangs: it is not waited for, and told when it is back.
	must(t, b.Signal(syscall.SIGSTOP))
	must(t, r.Leave(t.Context()))
	says(t, a.URL, app.Service, id, "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	must(t, b.Signal(syscall.SIGCONT))
	must(t, r.Leave(t.Context()))
	says(t, b.URL, app.Service, id, "OUT_OF_SERVICE(OUT_OF_SERVICE)")

	// The one where the app heartbeats is restarted empty: the app registers there anew, and is UP there alone.
	must(t, a.Kill())
	must(t, r.Leave(t.Context()))
	must(t, a.Again(t.Context()))
	running.Beat(t)
	everywhere := func(want string) error {
		for _, s := range peers {
			if rec, err := readEureka(t.Context(), s.URL, app.Service, id); err != nil || rec.String() != want {
				return fmt.Errorf("%s: %v, %v", s.URL, rec, err)
			}
		}
		return nil
	}
	settles(t, "out on both, as the leave was or is held", func() error {
		instances, err := r.Check(t.Context())
		if err == nil && instances[0].State == registry.In {
			err = r.Leave(t.Context())
		}
		if err != nil {
			return err
		}
		return everywhere("OUT_OF_SERVICE(OUT_OF_SERVICE)")
	})

	// Back in, on both, without an override on either. On a busy machine a peer's word may come late, and undo it once.
	settles(t, "in on both", func() error {
		if err := r.Rejoin(t.Context()); err != nil {
			return err
		}
		return everywhere("UP(UNKNOWN)")
	})

	// Gone: forgotten on both. A copy of the last heartbeat may still be on its way.
	must(t, r.Leave(t.Context()))
	running.Crash(t)
	settles(t, "gone on both", func() error {
		if err := r.Forget(t.Context()); err != nil {
			return err
		}
		return everywhere("()")
	})
}
