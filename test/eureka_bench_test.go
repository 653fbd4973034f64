package test

import (
	"slices"
	"testing"
	"time"

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
