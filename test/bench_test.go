package test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// metered stands between a client and a server, and counts the requests.
func metered(b testing.TB, server string) (string, *atomic.Int64) {
	b.Helper()
	target, err := url.Parse(server)
	if err != nil {
		b.Fatal(err)
	}
	n := new(atomic.Int64)
	base := *target
	base.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(&base)
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(s.Close)
	return s.URL + target.Path, n
}

func percentiles(b *testing.B, what string, all []time.Duration) {
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), what+"-p50-ms")
	b.ReportMetric(at(0.99), what+"-p99-ms")
	b.ReportMetric(at(1), what+"-max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkHookToReadBack is the sidecar's first phase on real servers: from the hook to the read-back, and what a whole
// drain of one instance with the default linger costs the registry in requests. Twenty drains, each resumed.
func BenchmarkHookToReadBack(b *testing.B) {
	b.Run("eureka", func(b *testing.B) {
		e := servers.RunEureka(b, 1, servers.EurekaOptions{})[0]
		at, requests := metered(b, e.URL)
		port := listen(b)
		w := eurekaWorld([]*servers.Eureka{e})
		w.Start(b, registrytest.App{Service: "orders", Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))})
		s := runSidecar(b, port, []string{"PRESTOP_EUREKA_URL=" + at}, "--linger", "0")
		drains(b, s, requests, "UP")
	})
	for _, version := range []string{"2.3.2", "3.1.0"} {
		b.Run("nacos-"+version, func(b *testing.B) {
			n := servers.RunNacos(b, version)
			at, requests := metered(b, n.URL)
			port := listen(b)
			nacosWorld(n).Start(b, registrytest.App{Service: "orders", Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))})
			s := runSidecar(b, port, []string{"PRESTOP_NACOS_URL=" + at, "PRESTOP_NACOS_USERNAME=nacos", "PRESTOP_NACOS_PASSWORD=nacos"}, "--linger", "0")
			drains(b, s, requests, "enabled")
		})
	}
}

var leave = regexp.MustCompile(`leave ([0-9.a-zµ]+)`)

func drains(b *testing.B, s *sidecar, requests *atomic.Int64, in string) {
	b.Helper()
	var all []time.Duration
	var used int64
	for range 20 {
		eventually(b, "in service", func() bool { return s.status(b).shows(1, in) })
		before := requests.Load()
		code, body := get(s.url + "/shutdown")
		used += requests.Load() - before
		m := leave.FindStringSubmatch(body)
		if code != http.StatusOK || m == nil {
			b.Fatalf("%d %s", code, body)
		}
		d, err := time.ParseDuration(m[1])
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, d)
		get(s.url + "/resume")
	}
	percentiles(b, "leave", all)
	b.ReportMetric(float64(used)/20, "requests/leave")
}

// listen makes an app that listens and nothing else.
func listen(b *testing.B) int {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// fleet is how many sidecars leave at once.
const fleet = 1000

// BenchmarkFleetLeaves is a thousand sidecars that leave one registry at the same moment, real and in memory. Bar: all read
// back as out within 10 s, at most 8 requests each.
func BenchmarkFleetLeaves(b *testing.B) {
	b.Run("eureka-real", func(b *testing.B) {
		w := eurekaWorld(servers.RunEureka(b, 1, servers.EurekaOptions{Heap: "512m"}))
		leaveAtOnce(b, w, &w.Servers[0])
	})
	b.Run("eureka-memory", func(b *testing.B) {
		s := httptest.NewServer(registrytest.NewEureka(registrytest.EurekaConfig{}))
		b.Cleanup(s.Close)
		w := &registrytest.EurekaWorld{Client: eurekaClient, Servers: []string{s.URL + "/eureka/"}}
		leaveAtOnce(b, w, &w.Servers[0])
	})
	b.Run("nacos-real-2.3.2", func(b *testing.B) {
		w := nacosWorld(servers.RunNacos(b, "2.3.2"))
		leaveAtOnce(b, w, &w.Servers[0])
	})
	b.Run("nacos-memory", func(b *testing.B) {
		s := httptest.NewServer(registrytest.NewNacos(registrytest.NacosConfig{}))
		b.Cleanup(s.Close)
		w := &registrytest.NacosWorld{Client: nacosClient, Servers: []string{s.URL + "/nacos"}, Major: 2}
		leaveAtOnce(b, w, &w.Servers[0])
	})
}

// leaveAtOnce registers the fleet, lets every member find itself, and has all leave. server is where it is registered, and
// is replaced by the meter then.
func leaveAtOnce(b *testing.B, w registrytest.World, server *string) {
	b.Helper()
	setPace(w, 10*time.Second)
	address := netip.MustParseAddr("10.1.0.0")
	var pods []registry.Pod
	for i := range fleet {
		address = address.Next()
		pods = append(pods, registry.Pod{Addresses: []netip.Addr{address}, Ports: []uint16{8080}, Services: []string{fmt.Sprintf("service-%d", i%20)}})
	}
	members := make([]registry.Registry, fleet)
	each(members, 64, func(i int) { // a Nacos takes half a second to list each
		w.Start(b, registrytest.App{Service: pods[i].Services[0], Address: netip.AddrPortFrom(pods[i].Addresses[0], 8080)})
	})
	metered, requests := metered(b, *server)
	each(members, 8, func(i int) {
		members[i] = w.New(b, []string{metered})
		eventually(b, "found", func() bool {
			found, err := members[i].Find(b.Context(), pods[i])
			return err == nil && len(found) == 1
		})
	})
	before, began := requests.Load(), time.Now()
	took := make([]time.Duration, fleet)
	each(members, fleet, func(i int) {
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		if err := members[i].Leave(ctx); err != nil {
			b.Error(err)
		}
		took[i] = time.Since(began)
	})
	b.ReportMetric(float64(requests.Load()-before)/fleet, "requests/sidecar")
	percentiles(b, "out", took)
}

func setPace(w registrytest.World, d time.Duration) {
	switch w := w.(type) {
	case *registrytest.EurekaWorld:
		w.Heartbeat = d
	case *registrytest.NacosWorld:
		w.Heartbeat = d
	}
}

// each calls f for every member, at most n at a time.
func each(members []registry.Registry, n int, f func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, n)
	for i := range members {
		slots <- struct{}{}
		wg.Go(func() { f(i); <-slots })
	}
	wg.Wait()
}
