package test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// BenchmarkEurekaLeave is from the call of Leave to its return: each server has said OUT_OF_SERVICE and been read back.
func BenchmarkEurekaLeave(b *testing.B) {
	for name, n := range map[string]int{"one server": 1, "two peers": 2} {
		b.Run(name, func(b *testing.B) {
			var urls []string
			for _, s := range servers.RunEureka(b, n, servers.EurekaOptions{}) {
				urls = append(urls, s.URL)
			}
			_, _, pod := freshEurekaApp(b, "bench", urls...)
			r := registryAt(b, urls...)
			mustFind(b, r, pod)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				must(b, r.Leave(b.Context()))
				took = append(took, time.Since(began))
				b.StopTimer()
				must(b, r.Rejoin(b.Context()))
				b.StartTimer()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
		})
	}
}

// BenchmarkEurekaCatalog is a sidecar, the real binary, that looks for its instance among 10,000 of other Pods without knowing
// its service. Bar: below 20 MiB at most, however long the list.
func BenchmarkEurekaCatalog(b *testing.B) {
	b.Run("real", func(b *testing.B) {
		e := servers.RunEureka(b, 1, servers.EurekaOptions{Heap: "512m", Flags: []string{"--eureka.server.eviction-interval-timer-in-ms=3600000"}})[0]
		amongMany(b, e.URL)
	})
	b.Run("memory", func(b *testing.B) {
		s := httptest.NewServer(registrytest.NewEureka(registrytest.EurekaConfig{Cache: time.Hour}))
		b.Cleanup(s.Close)
		amongMany(b, s.URL+"/eureka/")
	})
}

// amongMany registers 10,000 instances and the sidecar's, and reports what the sidecar has used once it has found that.
func amongMany(b *testing.B, server string) {
	b.Helper()
	const many = 10_000
	port := listen(b)
	w := &registrytest.EurekaWorld{Servers: []string{server}, Client: eurekaClient, Heartbeat: time.Hour}
	address := netip.MustParseAddr("10.7.0.0")
	atOnce(many, func(i int) {
		ip := address.As4()
		ip[2], ip[3] = byte(i/250), byte(i%250)
		w.Start(b, registrytest.App{Service: fmt.Sprintf("service-%d", i%500), Address: netip.AddrPortFrom(netip.AddrFrom4(ip), 8080)})
	})
	w.Start(b, registrytest.App{Service: "orders", Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))})
	listed := 0
	comesTrue(b, "be listed", func() error {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, server+"apps", nil)
		must(b, err)
		req.Header.Set("Accept", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		list, err := io.ReadAll(resp.Body)
		listed = len(list)
		if n := bytes.Count(list, []byte(`"status":"UP"`)); n <= many {
			return fmt.Errorf("%d are, %v", n, err)
		}
		return err
	})
	var rss []float64
	for b.Loop() {
		s := runSidecar(b, port, []string{"PRESTOP_EUREKA_URL=" + server}, "--linger", "0")
		eventually(b, "found", func() bool { return s.status(b).shows(1, "UP") })
		rss = append(rss, vmHWM(b, s.cmd.Process.Pid))
		must(b, s.cmd.Process.Kill())
	}
	slices.Sort(rss)
	b.ReportMetric(rss[len(rss)-1], "peak-RSS-MiB")
	b.ReportMetric(float64(listed)/(1<<20), "list-MiB")
	b.ReportMetric(0, "ns/op")
}

// vmHWM is the most that a process has had resident, in MiB.
func vmHWM(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kB float64
	_, err = fmt.Sscan(rest, &kB)
	must(b, err)
	return kB / 1024
}
