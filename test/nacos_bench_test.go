package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/test/servers"
)

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

// keptAlive registers an instance over HTTP that needs no heartbeats for ten minutes.
func keptAlive(b *testing.B, n *servers.Nacos, service, ip string, port int) {
	metadata := `{"preserved.heart.beat.timeout":"600000","preserved.ip.delete.timeout":"600000"}`
	_, err := n.Call(b.Context(), http.MethodPost, "v1/ns/instance", url.Values{"serviceName": {service}, "ip": {ip}, "port": {strconv.Itoa(port)},
		"weight": {"2.5"}, "metadata": {metadata}})
	if err != nil {
		b.Error(err)
	}
}

// atOnce calls f with 0 to n-1, sixteen at a time.
func atOnce(n int, f func(k int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for k := range n {
		slots <- struct{}{}
		wg.Go(func() { f(k); <-slots })
	}
	wg.Wait()
}

// BenchmarkNacosNames is a Dubbo app: one Pod with 300 services, which leave and rejoin.
func BenchmarkNacosNames(b *testing.B) {
	const names = 300
	for _, version := range []string{"2.3.2", "3.1.0"} {
		b.Run(version, func(b *testing.B) {
			n := runNacos(b, version)
			atOnce(names, func(k int) {
				keptAlive(b, n, fmt.Sprintf("providers:com.example.Service%d:1.0:", k), "127.9.9.9", 8080)
			})
			front, calls := metered(b, n.URL)
			r := nacosAs(b, front, n.User, n.Password, "")
			waitFor(b, "find all", func() error {
				found, err := r.Find(b.Context(), nacosPod)
				if err == nil && len(found) != names {
					err = fmt.Errorf("found %d", len(found))
				}
				return err
			})
			var left, rejoined []time.Duration
			var requests float64
			for b.Loop() {
				before, began := calls.Load(), time.Now()
				mustNot(b, r.Leave(b.Context()), "leave")
				left = append(left, time.Since(began))
				if done, err := r.Published(b.Context()); !done || err != nil {
					b.Fatalf("published %v, %v", done, err)
				}
				requests = float64(calls.Load() - before)
				began = time.Now()
				mustNot(b, r.Rejoin(b.Context()), "rejoin")
				rejoined = append(rejoined, time.Since(began))
			}
			percentiles(b, "leave", left)
			percentiles(b, "rejoin", rejoined)
			b.ReportMetric(requests, "requests/leave")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkNacosCatalog is a Pod that looks for itself among 10,000 instances of 500 services. Bar: constant memory.
func BenchmarkNacosCatalog(b *testing.B) {
	const services, each = 500, 20
	for _, version := range []string{"2.3.2", "3.1.0"} {
		b.Run(version, func(b *testing.B) {
			n := runNacos(b, version)
			atOnce(services*each, func(k int) {
				keptAlive(b, n, fmt.Sprintf("service-%d", k%services), fmt.Sprintf("10.7.%d.%d", k/250, 1+k%250), 8080)
			})
			r := nacosAs(b, n.URL, n.User, n.Password, "")
			pod := registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.7.39.250")}, Ports: []uint16{8080}}
			waitFor(b, "find the last", func() error {
				found, err := r.Find(b.Context(), pod)
				if err == nil && len(found) != 1 {
					err = fmt.Errorf("found %+v", found)
				}
				return err
			})
			var took []time.Duration
			var grown uint64
			for b.Loop() {
				stop, peak := peakHeap()
				began := time.Now()
				_, err := r.Find(b.Context(), pod)
				took = append(took, time.Since(began))
				stop()
				mustNot(b, err, "find")
				grown = max(grown, <-peak)
			}
			percentiles(b, "find", took)
			b.ReportMetric(float64(grown)/1024, "KiB-grown")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// peakHeap watches the heap until stop, and tells then by how much it grew at most; garbage counts as long as it is there.
func peakHeap() (stop func(), peak <-chan uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, highest := m.HeapAlloc, m.HeapAlloc
	end, result := make(chan struct{}), make(chan uint64, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			runtime.ReadMemStats(&m)
			highest = max(highest, m.HeapAlloc)
			select {
			case <-tick.C:
			case <-end:
				result <- highest - before
				return
			}
		}
	}()
	return func() { close(end) }, result
}
