package test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

var nacosPod = registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.9.9.9")}, Ports: []uint16{8080}}

// nacosOrder is an instance of that Pod.
func nacosOrder(service string) registrytest.NacosInstance {
	return registrytest.NacosInstance{Service: service, IP: "127.9.9.9", Port: 8080, Weight: 2.5}
}

func nacosAs(t testing.TB, server, user, password, namespace string) registry.Registry {
	h := registry.NewHTTP(nil, "prestop/test")
	t.Cleanup(h.Close)
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	return nacos.New(nacos.Options{Servers: []*url.URL{u}, Namespace: namespace, Username: user, HTTP: h,
		Password: func() (string, error) { return password, nil }})
}

// waitFor calls f until it returns nil, for a minute at most.
func waitFor(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// findOne waits until r finds one instance.
func findOne(t testing.TB, r registry.Registry) registry.Instance {
	t.Helper()
	var found []registry.Instance
	waitFor(t, "find the instance", func() (err error) {
		found, err = r.Find(t.Context(), nacosPod)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	return found[0]
}

func mustNot(t testing.TB, err error, doing string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}

// TestNacosWithLogins: one server with auth on, tokens that live three seconds, and a user who may write in one namespace.
func TestNacosWithLogins(t *testing.T) {
	t.Parallel()
	n := runNacos(t, "2.3.2", "nacos.core.auth.enabled=true", "nacos.core.auth.plugin.nacos.token.expire.seconds=6",
		"nacos.core.auth.caching.enabled=false")
	token, err := n.Token(t.Context())
	mustNot(t, err, "log in")
	admin := func(path string, q url.Values) {
		t.Helper()
		q.Set("accessToken", token)
		_, err := n.Call(t.Context(), http.MethodPost, path, q)
		mustNot(t, err, path)
	}
	admin("v1/auth/users", url.Values{"username": {"orders"}, "password": {"geheim-1"}})
	admin("v1/auth/roles", url.Values{"username": {"orders"}, "role": {"ORDERS"}})
	admin("v1/auth/permissions", url.Values{"role": {"ORDERS"}, "resource": {"dev:*:*"}, "action": {"rw"}})
	clients := servers.RunNacosClients(t, nacosClientVersion)
	i := nacosOrder("with-logins")
	i.Namespace = "dev"
	// The Java client's own token may end, on a busy machine, before it is used.
	waitFor(t, "register", func() error {
		_, err := connectAs(clients, n.URL, i, n.User, n.Password)
		return err
	})

	r := nacosAs(t, n.URL, "orders", "geheim-1", "dev")
	// The server reads its rights anew every 15 s.
	waitFor(t, "have the rights", func() error {
		found, err := r.Find(t.Context(), nacosPod)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	// The token ends in mid-drain.
	waitFor(t, "have the token expire", func() error {
		_, err := n.Call(t.Context(), http.MethodGet, "v1/ns/catalog/services", url.Values{"withInstances": {"true"}, "pageNo": {"1"}, "pageSize": {"1"}, "accessToken": {token}})
		if err == nil || !strings.Contains(err.Error(), "403") {
			return fmt.Errorf("it is still good: %v", err)
		}
		return nil
	})
	mustNot(t, r.Leave(t.Context()), "leave with an expired token")
	mustNot(t, r.Rejoin(t.Context()), "rejoin")

	for name, other := range map[string]registry.Registry{
		"a wrong password":         nacosAs(t, n.URL, "orders", "geheim-2", "dev"),
		"an unknown user":          nacosAs(t, n.URL, "nobody", "geheim-2", "dev"),
		"another namespace's user": nacosAs(t, n.URL, "orders", "geheim-1", ""),
		"no login at all":          nacosAs(t, n.URL, "", "", "dev"),
	} {
		_, err := other.Find(t.Context(), nacosPod)
		e := (*registry.Error)(nil)
		if !errors.As(err, &e) || !e.Final || e.Remedy == "" || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}

// connectAs registers with a login.
func connectAs(clients *servers.NacosClients, server string, i registrytest.NacosInstance, user, password string) (nacosConnection, error) {
	return connectWith(clients, server, i, url.Values{"username": {user}, "password": {password}})
}

// TestNacosThatRestartsInMidDrain: with its data. Whatever the server remembers, the instance is out after another Leave.
func TestNacosThatRestartsInMidDrain(t *testing.T) {
	for _, version := range []string{"2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := runNacos(t, version)
			clients := servers.RunNacosClients(t, nacosClientVersion)
			_, err := connect(clients, n.URL, nacosOrder("restarts"))
			mustNot(t, err, "register")
			r := nacosAs(t, n.URL, n.User, n.Password, "")
			findOne(t, r)
			mustNot(t, r.Leave(t.Context()), "leave")
			mustNot(t, n.Kill(), "kill")
			mustNot(t, n.Again(t.Context()), "start again")
			waitFor(t, "be registered again", func() error {
				i, err := r.Check(t.Context())
				if err == nil && i[0].State == registry.Absent {
					err = errors.New("absent")
				}
				return err
			})
			was, err := r.Check(t.Context())
			mustNot(t, err, "check")
			t.Logf("after the restart it is %s", was[0].Status)
			mustNot(t, r.Leave(t.Context()), "leave again")
			if i := findOne(t, r); i.State != registry.Out {
				t.Fatalf("it is %+v", i)
			}
			mustNot(t, r.Rejoin(t.Context()), "rejoin")
		})
	}
}

// BenchmarkNacosLeave measures, against real servers and an instance of the official client: how long a Leave takes until
// it has been read back, when a subscriber is told after the Leave began, and how many requests a drain costs.
func BenchmarkNacosLeave(b *testing.B) {
	clients := servers.RunNacosClients(b, nacosClientVersion)
	for _, version := range []string{"2.3.2", "3.1.0"} {
		b.Run(version, func(b *testing.B) {
			n := runNacos(b, version)
			to, err := url.Parse(n.URL)
			mustNot(b, err, "parse")
			var calls atomic.Int64
			forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host }}
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { calls.Add(1); forward.ServeHTTP(w, r) }))
			b.Cleanup(front.Close)
			_, err = connect(clients, n.URL, nacosOrder("bench"))
			mustNot(b, err, "register")
			caller := url.Values{"id": {"caller-" + version}, "server": {to.Host}, "service": {"bench"}}
			_, err = clients.Do("subscribe", caller)
			mustNot(b, err, "subscribe")
			findOne(b, nacosAs(b, n.URL, n.User, n.Password, "")) // it is there, and the server is warm
			var left, told, requests []float64
			for b.Loop() {
				r := nacosAs(b, front.URL+"/nacos", n.User, n.Password, "") // a new sidecar: it has to log in and ask for the version
				calls.Store(0)
				findOne(b, r)
				began := time.Now()
				mustNot(b, r.Leave(b.Context()), "leave")
				left = append(left, float64(time.Since(began).Milliseconds()))
				if done, err := r.Published(b.Context()); !done || err != nil {
					b.Fatalf("published %v, %v", done, err)
				}
				requests = append(requests, float64(calls.Load()))
				waitFor(b, "tell the subscriber", func() error {
					seen, err := clients.Do("seen", caller)
					if err != nil {
						return err
					}
					lines := strings.Split(seen, "\n")
					at, list, _ := strings.Cut(lines[len(lines)-1], " ")
					ms, err := strconv.ParseInt(at, 10, 64)
					if err != nil || list != "" || ms < began.UnixMilli() {
						return fmt.Errorf("seen %q, %w", lines[len(lines)-1], err)
					}
					told = append(told, float64(ms-began.UnixMilli()))
					return nil
				})
				mustNot(b, r.Rejoin(b.Context()), "rejoin")
			}
			for name, all := range map[string][]float64{"leave": left, "told": told, "requests": requests} {
				slices.Sort(all)
				unit := "-ms"
				if name == "requests" {
					unit = ""
				}
				b.ReportMetric(all[len(all)/2], name+"-p50"+unit)
				b.ReportMetric(all[len(all)-1], name+"-max"+unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
