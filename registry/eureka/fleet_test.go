package eureka_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
)

// fleet is in-memory servers with a switch in front of each.
type fleet struct {
	*testing.T
	eurekas []*registrytest.Eureka
	faults  []*atomic.Pointer[http.HandlerFunc]
	world   *registrytest.EurekaWorld
}

func newFleet(t *testing.T, n int, c registrytest.EurekaConfig) *fleet {
	if c.Cache == 0 {
		c.Cache = 50 * time.Millisecond
	}
	f := &fleet{T: t, world: &registrytest.EurekaWorld{Client: newClient, Heartbeat: 20 * time.Millisecond}}
	for range n {
		e, fault := registrytest.NewEureka(c), &atomic.Pointer[http.HandlerFunc]{}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h := fault.Load(); h != nil && strings.HasPrefix(r.UserAgent(), "prestop") {
				(*h)(w, r)
				return
			}
			e.ServeHTTP(w, r)
		}))
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		f.eurekas, f.faults = append(f.eurekas, e), append(f.faults, fault)
		f.world.Servers = append(f.world.Servers, s.URL+"/eureka/")
	}
	registrytest.PeerEurekas(f.eurekas...)
	return f
}

// fault makes the n-th server answer the code under test by h; nil as it should.
func (f *fleet) fault(n int, h http.HandlerFunc) {
	if h == nil {
		f.faults[n].Store(nil)
		return
	}
	f.faults[n].Store(&h)
}

var (
	orders = registrytest.App{Service: "orders", Address: netip.MustParseAddrPort("127.0.0.9:8080")}
	pod    = registry.Pod{Addresses: []netip.Addr{orders.Address.Addr()}, Ports: []uint16{8080}}
	id     = registrytest.EurekaID(orders)
)

// started returns a client for all servers that has found the app, which is started.
func (f *fleet) started() (registry.Registry, registrytest.Running) {
	f.Helper()
	app := f.world.Start(f, orders)
	r := f.world.New(f, f.world.Servers)
	f.find(r)
	return r, app
}

func (f *fleet) find(r registry.Registry) {
	f.Helper()
	f.eventually(func() error {
		found, err := r.Find(f.Context(), pod)
		if err == nil && len(found) != 1 {
			err = errors.New("found none")
		}
		return err
	})
}

func (f *fleet) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// statuses asserts each server's status and stored override.
func (f *fleet) statuses(want ...string) {
	f.Helper()
	var got []string
	for _, e := range f.eurekas {
		status, override := e.Status(orders.Service, id)
		got = append(got, status+"("+override+")")
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		f.Fatalf("the servers say %v, want %v", got, want)
	}
}

func (f *fleet) state(r registry.Registry) registry.State {
	f.Helper()
	instances, err := r.Check(f.Context())
	f.must(err)
	if len(instances) != 1 {
		f.Fatalf("%+v", instances)
	}
	return instances[0].State
}

func (f *fleet) eventually(what func() error) {
	f.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := what()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			f.Fatal(err)
		case <-tick.C:
		}
	}
}
