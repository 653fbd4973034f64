package conns

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/connstest"
)

// theirs opens source in the namespace of the calling goroutine.
func theirs(b *testing.B, source string, rule Rule) Counter {
	b.Helper()
	if source == Netlink {
		return counter(b, source, rule)
	}
	c, err := openProcIn("/proc/thread-self/net", rule) // /proc/net is the main thread's
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// One count of so many connections, and as many client ends beside them, quiet or while others come and go.
func BenchmarkCount(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			connstest.Pod(b)
			h := connstest.Hold(b, n)
			rule := Rule{IdleAfter: time.Nanosecond, RequestTimeout: time.Minute}
			for _, churn := range []bool{false, true} {
				if churn {
					h.Do(b, "churn")
				}
				for name, rule := range map[string]Rule{"netlink": rule, "netlink-every-open-one": {}, "proc": rule} {
					source := name[:min(len(name), len(Netlink))]
					c := theirs(b, source, rule)
					state := "quiet"
					if churn {
						state = "churn"
					}
					// A sub-benchmark runs on another thread, so in another namespace: measure here.
					measure(b, name+"-"+state, c, n)
				}
			}
			h.Do(b, "calm")
		})
	}
}

// measure counts for two seconds, and at least three times.
func measure(b *testing.B, name string, c Counter, n int) {
	b.Helper()
	count(b, c, connstest.Port)
	connstest.LowerPeak(b, os.Getpid())
	cpu := cpuTime(b)
	var took []time.Duration
	for start := time.Now(); time.Since(start) < 2*time.Second || len(took) < 3; {
		tally := count(b, c, connstest.Port)
		if tally.Open < n || tally.Open > n+100 {
			b.Fatalf("%s: %d connections are counted as %+v", name, n, tally)
		}
		took = append(took, tally.Took)
	}
	cpu = cpuTime(b) - cpu
	slices.Sort(took)
	fmt.Printf("count %6d %-32s n=%-6d p50 %9.3f ms  max %9.3f ms  cpu %9.3f ms  peak %5.1f MiB\n", n, name, len(took),
		millisecs(took[len(took)/2]), millisecs(took[len(took)-1]), millisecs(cpu)/float64(len(took)), connstest.Peak(b, os.Getpid()))
}

func millisecs(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// From the close of the last connection to a count of none in use, with so many idle ones beside it.
func BenchmarkLastClose(b *testing.B) {
	for _, n := range []int{0, 10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			connstest.Pod(b)
			h := connstest.Hold(b, n)
			c, err := Open(Netlink, Rule{IdleAfter: time.Nanosecond, RequestTimeout: time.Hour}, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			c.Watch([]uint16{connstest.Port})
			// Those opened last are in use for a jiffy, and longer where the machine has no time for their handshakes.
			eventually(b, "all are idle", func() bool { return count(b, c, connstest.Port).Active == 0 })
			var took []time.Duration
			connstest.LowerPeak(b, os.Getpid())
			b.ResetTimer()
			for range b.N {
				h.Do(b, "open")
				if tally := count(b, c, connstest.Port); tally.Active != 1 || tally.Open != n+1 {
					b.Fatalf("one in use and %d idle are counted as %+v", n, tally)
				}
				h.Tell(b, "close")
				for active := 1; active > 0; {
					<-c.Ended()
					active = count(b, c, connstest.Port).Active
				}
				zero := time.Now()
				var closed int64
				if _, err := fmt.Sscan(h.Answer(b), &closed); err != nil {
					b.Fatal(err)
				}
				took = append(took, zero.Sub(time.Unix(0, closed)))
			}
			b.StopTimer()
			slices.Sort(took)
			for p, name := range map[int]string{50: "p50-ms", 99: "p99-ms", 100: "max-ms"} {
				b.ReportMetric(millisecs(took[(len(took)-1)*p/100]), name)
			}
			b.ReportMetric(connstest.Peak(b, os.Getpid()), "peak-MiB")
		})
	}
}
