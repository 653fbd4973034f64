package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
