package nacos_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

var (
	address = netip.MustParseAddr("10.0.0.1")
	pod     = registry.Pod{Addresses: []netip.Addr{address}, Ports: []uint16{8080}}
	order   = registrytest.NacosInstance{Service: "orders", IP: "10.0.0.1", Port: 8080, Weight: 2.5}
)

// serve runs an in-memory server with order registered, behind front where that is not nil.
func serve(t *testing.T, c registrytest.NacosConfig, front func(http.Handler) http.Handler) (*registrytest.Nacos, *url.URL) {
	t.Helper()
	if c.Rebuild == 0 {
		c.Rebuild = -1
	}
	n := registrytest.NewNacos(c)
	n.Register(order)
	return n, listen(t, n, front)
}

func listen(t *testing.T, n *registrytest.Nacos, front func(http.Handler) http.Handler) *url.URL {
	t.Helper()
	h := http.Handler(n)
	if front != nil {
		h = front(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	u, err := url.Parse(s.URL + "/nacos")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newRegistry(t *testing.T, o nacos.Options) *nacos.Registry {
	t.Helper()
	o.HTTP = client.New(nil, "prestop/test")
	t.Cleanup(o.HTTP.Close)
	return nacos.New(o)
}

func password(s string) func() (string, error) { return func() (string, error) { return s, nil } }

func mustFind(t *testing.T, r registry.Registry, n int) []registry.Instance {
	t.Helper()
	found, err := r.Find(t.Context(), pod)
	if err != nil || len(found) != n {
		t.Fatalf("found %+v, %v, want %d", found, err, n)
	}
	return found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func state(t *testing.T, r registry.Registry) registry.State {
	t.Helper()
	found, err := r.Check(t.Context())
	if err != nil || len(found) != 1 {
		t.Fatalf("checked %+v, %v", found, err)
	}
	return found[0].State
}

func TestAPodIsFoundOnEveryPageOfTheCatalog(t *testing.T) {
	for _, version := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		for _, services := range []int{0, 1, 498, 499, 500, 501, 999, 1000, 1001, 1700} {
			t.Run(fmt.Sprintf("%s with %d more services", version, services), func(t *testing.T) {
				t.Parallel()
				n, u := serve(t, registrytest.NacosConfig{Version: version, NoAdminAuth: true}, nil)
				for i := range services {
					other := order
					other.Service, other.IP = fmt.Sprintf("a%05d", i), "10.0.0.2"
					if i == services-1 {
						other.Service, other.IP = "zzz-last", order.IP
					}
					n.Register(other)
				}
				r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
				mustFind(t, r, min(services, 1)+1)
			})
		}
	}
}

func TestNamesThatAreGivenNarrowTheSearchButNotByCase(t *testing.T) {
	for services, want := range map[string]int{"orders": 1, "ORDERS": 1, "order": 0, "payment": 0} {
		_, u := serve(t, registrytest.NacosConfig{}, nil)
		r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
		p := pod
		p.Services = []string{services}
		if found, err := r.Find(t.Context(), p); err != nil || len(found) != want {
			t.Errorf("%s: %+v, %v", services, found, err)
		}
	}
}

// drainCalls is how many requests a drain may cost a registry, the login and the version included.
const drainCalls = 8

func TestADrainCostsFewRequests(t *testing.T) {
	for _, version := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			n, u := serve(t, registrytest.NacosConfig{Version: version, Auth: true, Rebuild: 500 * time.Millisecond}, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { calls.Add(1); h.ServeHTTP(w, r) })
			})
			for len(n.Listed("orders")) == 0 { // its list is not made yet
				must(t, t.Context().Err())
			}
			r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}, Username: "nacos", Password: password("nacos")})
			mustFind(t, r, 1)
			must(t, r.Leave(t.Context()))
			if done, err := r.Published(t.Context()); !done || err != nil {
				t.Fatalf("published %v, %v", done, err)
			}
			t.Logf("%d requests: %v", calls.Load(), n.Requests())
			if calls.Load() > drainCalls {
				t.Errorf("%d requests: %v", calls.Load(), n.Requests())
			}
		})
	}
}

func TestNothingIsEverPutInPlaceOrDeletedAliveByALeaveAndARejoin(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		n, u := serve(t, registrytest.NacosConfig{Version: version, NoAdminAuth: true}, nil)
		r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
		mustFind(t, r, 1)
		must(t, r.Leave(t.Context()))
		must(t, r.Rejoin(t.Context()))
		for call := range n.Requests() {
			switch method, path, _ := strings.Cut(call, " "); {
			case method == http.MethodDelete, method == http.MethodPost, method == http.MethodPut && !strings.HasSuffix(path, "/partial"):
				t.Errorf("%s: %s", version, call)
			}
		}
	}
}

func TestATokenThatEndsInMidDrainIsRenewedOnce(t *testing.T) {
	t.Parallel()
	n, u := serve(t, registrytest.NacosConfig{Auth: true}, nil)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}, Username: "nacos", Password: password("nacos")})
	mustFind(t, r, 1)
	n.EndTokens()
	must(t, r.Leave(t.Context()))
	if got := n.Requests()["POST /v1/auth/users/login"]; got != 2 {
		t.Errorf("%d logins: %v", got, n.Requests())
	}
}

func TestAPasswordThatChangesIsReadAgain(t *testing.T) {
	t.Parallel()
	n, u := serve(t, registrytest.NacosConfig{Auth: true, Password: "second"}, nil)
	current := "second"
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}, Username: "nacos", Password: func() (string, error) { return current, nil }})
	mustFind(t, r, 1)
	n.EndTokens()
	current = "wrong"
	err := r.Leave(t.Context())
	if e := (*registry.Error)(nil); !errors.As(err, &e) || !e.Final || e.Remedy == "" || strings.Contains(err.Error(), "wrong") {
		t.Fatalf("a wrong password: %v", err)
	}
	current = "second"
	must(t, r.Leave(t.Context()))
}

func TestARefusalNamesItsRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		config registrytest.NacosConfig
		user   string
		want   string
	}{
		"no login is set":                 {registrytest.NacosConfig{Auth: true}, "", "--nacos-username"},
		"3.x wants one for its admin API": {registrytest.NacosConfig{Version: "3.1.0"}, "", "nacos.core.auth.admin.enabled=false"},
		"the user does not exist":         {registrytest.NacosConfig{Version: "3.1.0"}, "nobody", "--nacos-password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, u := serve(t, c.config, nil)
			r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}, Username: c.user, Password: password("geheim")})
			_, err := r.Find(t.Context(), pod)
			if !registry.IsFinal(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAServerThatRefusesRightLoginsAtFirstIsAskedAgain(t *testing.T) {
	t.Parallel()
	var refused atomic.Int64
	_, u := serve(t, registrytest.NacosConfig{Auth: true}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/login") && refused.Add(1) <= 2 {
				http.Error(w, "caused: User nacos not found;", http.StatusInternalServerError)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	mustFind(t, newRegistry(t, nacos.Options{Servers: []*url.URL{u}, Username: "nacos", Password: password("nacos")}), 1)
}

func TestAnEmptyAnswerIsNoSuccess(t *testing.T) {
	t.Parallel()
	var swallowed atomic.Int64
	_, u := serve(t, registrytest.NacosConfig{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch && swallowed.Add(1) <= 2 {
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	must(t, r.Leave(t.Context()))
	if swallowed.Load() != 3 {
		t.Errorf("%d changes sent", swallowed.Load())
	}
}

// For half a second after its registration an instance cannot be changed.
func TestALeaveRightAfterTheRegistrationHolds(t *testing.T) {
	t.Parallel()
	n := registrytest.NewNacos(registrytest.NacosConfig{Rebuild: 300 * time.Millisecond})
	first := n.Register(order)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{listen(t, n, nil)}})
	for len(n.Listed("orders")) == 0 {
		must(t, t.Context().Err())
	}
	mustFind(t, r, 1)
	first.Close()
	for len(n.Listed("orders")) != 0 {
		must(t, t.Context().Err())
	}
	n.Register(order)
	must(t, r.Leave(t.Context()))
	if got := state(t, r); got != registry.Out {
		t.Fatalf("it is %v", got)
	}
}

// clock is the in-memory server's.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// The first owner of the address dies late: its record expires although the second lives, and no
// list is made anew then.
func TestAnInstanceThatTheListHasLostIsRejoined(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.3.2", "3.1.0"} {
		var c clock
		n, u := serve(t, registrytest.NacosConfig{Version: version, NoAdminAuth: true, Now: c.now}, nil)
		first := n.Register(order)
		r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
		mustFind(t, r, 1)
		must(t, r.Leave(t.Context()))
		n.Register(order)
		first.Close()
		c.advance(2 * time.Minute)
		if len(n.Listed("orders")) != 0 {
			t.Fatal("the in-memory server has lost its trap")
		}
		second := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
		if i := mustFind(t, second, 1)[0]; i.State != registry.Out {
			t.Fatalf("found %+v", i)
		}
		must(t, second.Rejoin(t.Context()))
		c.advance(2 * time.Minute)
		if got := n.Listed("orders"); len(got) == 0 || got[0].Weight != order.Weight {
			t.Fatalf("listed %+v", got)
		}
	}
}

// What is forgotten leaves nothing that the next owner of the address would inherit, now or later.
func TestTheNextOwnerOfTheAddressComesUpAsItIs(t *testing.T) {
	for _, version := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		for _, kind := range []string{"connection", "heartbeats", "persistent", "dies while it is disabled"} {
			t.Run(version+" "+kind, func(t *testing.T) {
				t.Parallel()
				nextOwner(t, version, kind)
			})
		}
	}
}

func nextOwner(t *testing.T, version, kind string) {
	n := registrytest.NewNacos(registrytest.NacosConfig{Version: version, NoAdminAuth: true, Rebuild: 300 * time.Millisecond})
	u := listen(t, n, nil)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	var app *registrytest.NacosClient
	switch kind {
	case "heartbeats", "persistent":
		post(t, u, kind == "persistent")
	default:
		app = n.Register(order)
	}
	for len(n.Listed("orders")) == 0 {
		must(t, t.Context().Err())
	}
	mustFind(t, r, 1)
	if kind == "dies while it is disabled" {
		app.Close()
	}
	must(t, r.Leave(t.Context()))
	if kind == "connection" {
		app.Close()
	}
	must(t, r.Forget(t.Context()))
	next := order
	next.Persistent = kind == "persistent"
	n.Register(next)
	for deadline := time.Now().Add(2 * time.Second); len(n.Listed("orders")) != 1; {
		if time.Now().After(deadline) {
			t.Fatal("the next one is not listed")
		}
	}
}

func post(t *testing.T, u *url.URL, persistent bool) {
	t.Helper()
	resp, err := http.PostForm(u.String()+"/v1/ns/instance", url.Values{"serviceName": {"orders"}, "ip": {"10.0.0.1"}, "port": {"8080"},
		"weight": {"2.5"}, "ephemeral": {fmt.Sprint(!persistent)}})
	must(t, err)
	must(t, resp.Body.Close())
}

func TestAnUnhealthyInstanceIsDownAndIsNotPutIn(t *testing.T) {
	t.Parallel()
	var c clock
	n := registrytest.NewNacos(registrytest.NacosConfig{Now: c.now, Rebuild: -1})
	u := listen(t, n, nil)
	post(t, u, false)
	c.advance(20 * time.Second)
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	if i := mustFind(t, r, 1)[0]; i.State != registry.Down || i.Status != "unhealthy" {
		t.Fatalf("found %+v", i)
	}
	must(t, r.Rejoin(t.Context()))
	must(t, r.Leave(t.Context()))
	if got := state(t, r); got != registry.Out {
		t.Fatalf("it is %v", got)
	}
	must(t, r.Rejoin(t.Context()))
	if got := state(t, r); got != registry.Down {
		t.Fatalf("it is %v", got)
	}
}
