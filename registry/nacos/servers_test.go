package nacos_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

// A server that has not heard of the change yet keeps the Leave waiting until it has.
func TestAllServersMustShowThatItLeft(t *testing.T) {
	t.Parallel()
	late, lateURL := serve(t, registrytest.NacosConfig{}, nil)
	_, u := serve(t, registrytest.NacosConfig{}, nil)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u, lateURL}})
	mustFind(t, r, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := r.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "orders@DEFAULT@10.0.0.1:8080") {
		t.Fatalf("it left at one of two: %v", err)
	}
	if done, err := r.Published(t.Context()); done || err != nil {
		t.Fatalf("published %v, %v", done, err)
	}
	other := newRegistry(t, nacos.Options{Servers: []*url.URL{lateURL}})
	mustFind(t, other, 1)
	must(t, other.Leave(t.Context()))
	must(t, r.Leave(t.Context()))
	if len(late.Listed("orders")) != 0 {
		t.Fatal("the late one lists it")
	}
}

// listenAt serves h at an address of loopback.
func listenAt(t *testing.T, at string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", at)
	must(t, err)
	s := &http.Server{Handler: h}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }() // http.ErrServerClosed
	t.Cleanup(func() { s.Close(); <-ended })
	return l.Addr().String()
}

// A headless Service is one name for all servers.
func TestANameOfSeveralServersStandsForAllOfThem(t *testing.T) {
	t.Parallel()
	var servers []*registrytest.Nacos
	for range 2 {
		n := registrytest.NewNacos(registrytest.NacosConfig{Rebuild: -1})
		n.Register(order)
		servers = append(servers, n)
	}
	_, port, err := net.SplitHostPort(listenAt(t, "127.0.0.1:0", servers[0]))
	must(t, err)
	listenAt(t, "127.0.0.2:"+port, servers[1])
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	h.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
	}
	r := nacos.New(nacos.Options{HTTP: h, Servers: []*url.URL{{Scheme: "http", Host: "nacos-headless:" + port, Path: "/nacos"}}})
	mustFind(t, r, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	// They are no cluster: the change is made at one, and the other does not learn of it.
	if err := r.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("it left at one of two: %v", err)
	}
	if strings.Contains(r.URL(), "127.0.0") {
		t.Errorf("the address is shown as %s", r.URL())
	}
	for _, n := range servers {
		n.Disconnect()
	}
	must(t, r.Leave(t.Context()))
}

func TestAServerThatIsUpgradedInMidDrainIsSpokenToInItsNewWay(t *testing.T) {
	t.Parallel()
	n, u := serve(t, registrytest.NacosConfig{}, nil)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}, Username: "nacos", Password: password("nacos")})
	mustFind(t, r, 1)
	n.Upgrade("3.1.0")
	must(t, r.Leave(t.Context()))
	if got := state(t, r); got != registry.Out {
		t.Fatalf("it is %v", got)
	}
	n.Upgrade("2.3.2")
	must(t, r.Rejoin(t.Context()))
	if got := state(t, r); got != registry.In {
		t.Fatalf("it is %v", got)
	}
}

// A cluster is upgraded from 1.x while the Pod lives: from then on a record outlives an instance.
func TestAnUpgradeFrom1xIsNoticed(t *testing.T) {
	t.Parallel()
	n, u := serve(t, registrytest.NacosConfig{Version: "1.4.1"}, nil)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	n.Upgrade("2.3.2")
	must(t, r.Leave(t.Context()))
	n.Disconnect()
	must(t, r.Forget(t.Context()))
	n.Register(order)
	if len(n.Listed("orders")) != 1 {
		t.Fatal("the next one is not listed")
	}
}

// A PUT registers on 1.x what is not there, and on 2.0 and 2.1 while a 1.x is in their cluster.
func TestNothingIsPutWhereAPutRegisters(t *testing.T) {
	for name, c := range map[string]struct {
		before, after registrytest.NacosConfig
		puts          int
	}{
		"a 1.x":                           {registrytest.NacosConfig{Version: "1.4.1"}, registrytest.NacosConfig{Version: "1.4.1"}, 0},
		"a 2.x that was turned back":      {registrytest.NacosConfig{Version: "2.3.2"}, registrytest.NacosConfig{Version: "1.4.1"}, 0},
		"a 2.0 beside a 1.x":              {registrytest.NacosConfig{Version: "2.0.4", Upgrading: true}, registrytest.NacosConfig{Version: "2.0.4", Upgrading: true}, 0},
		"a 2.0 alone":                     {registrytest.NacosConfig{Version: "2.0.4"}, registrytest.NacosConfig{Version: "2.0.4"}, 1},
		"a 3.x, whose PUT is another one": {registrytest.NacosConfig{Version: "2.3.2"}, registrytest.NacosConfig{Version: "3.1.0"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.before.NoAdminAuth = true
			n, u := serve(t, c.before, nil)
			r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
			mustFind(t, r, 1)
			must(t, r.Leave(t.Context()))
			n.Disconnect()
			n.Upgrade(c.after.Version)
			must(t, r.Forget(t.Context()))
			if got := n.Requests()["PUT /v1/ns/instance"] + n.Requests()["PUT /v3/admin/ns/instance"]; got != c.puts {
				t.Errorf("%d PUT, want %d: %v", got, c.puts, n.Requests())
			}
			if len(n.Listed("orders")) != 0 {
				t.Error("the dead instance is registered")
			}
		})
	}
}
