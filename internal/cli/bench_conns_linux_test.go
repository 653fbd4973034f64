package cli

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestop/drain/conns/connstest"
)

// aPod is a running sidecar in a Pod's network namespace, with so many idle connections to the app beside it, and a node
// outside from which it is called.
type aPod struct {
	*measured
	holder *connstest.Holder
	node   *connstest.Outside
	conn   net.Conn
	answer *bufio.Reader
}

func newAPod(b *testing.B, others int, flags ...string) *aPod {
	b.Helper()
	connstest.Pod(b)
	p := &aPod{holder: connstest.Hold(b, others)}
	var err error
	if p.node, err = connstest.NewOutside(249); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.node.Close)
	p.measured = start(b, shipped(b), "127.0.0.1:8090", append([]string{"--listen", ":8090", "--port", fmt.Sprint(connstest.Port)}, flags...)...)
	p.node.Do(func() { p.conn, err = net.Dial("tcp", p.node.Address+":8090") })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.conn.Close() })
	p.answer = bufio.NewReader(p.conn)
	return p
}

// ask calls the sidecar from the node.
func (p *aPod) ask(b *testing.B, path string) {
	b.Helper()
	if _, err := fmt.Fprintf(p.conn, "GET %s HTTP/1.1\r\nHost: pod\r\n\r\n", path); err != nil {
		b.Fatal(err)
	}
}

// told waits for the answer, and returns when it came.
func (p *aPod) told(b *testing.B, want string) time.Time {
	b.Helper()
	resp, err := http.ReadResponse(p.answer, nil)
	at := time.Now()
	if err != nil {
		b.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(body), want) {
		b.Fatalf("%d %s (%v)", resp.StatusCode, body, err)
	}
	return at
}

// cpu is what the sidecar has used, in user and in system mode.
func (m *measured) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	var ticks int
	for _, f := range fields[11:13] { // utime, stime, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkLastCloseToAnswer is from the end of the last connection in use to the hook's answer on the node, the linger being
// over, with so many idle connections of clients beside it, in a Pod where nothing else happens or whose app has heartbeats
// twice a second. There each answer needs a look at all of them, so the rounds come as slowly as those looks are paid for: a
// Pod drains once. Bar: p99 below 5 ms.
func BenchmarkLastCloseToAnswer(b *testing.B) {
	for _, c := range []struct {
		others, rounds int
		pause          time.Duration // until it has looked, and may look again
		talk           bool
	}{
		{0, 1000, 50 * time.Millisecond, false},
		{10_000, 1000, 80 * time.Millisecond, false}, {10_000, 100, time.Second, true},
		{100_000, 1000, 300 * time.Millisecond, false}, {100_000, 20, 5 * time.Second, true},
	} {
		b.Run(fmt.Sprintf("others=%d,heartbeats=%t", c.others, c.talk), func(b *testing.B) {
			p := newAPod(b, c.others, "--linger", "0", "--idle-after", "1s", "--grace-period", "1h")
			time.Sleep(1500 * time.Millisecond) // they become idle
			if c.talk {
				p.holder.Do(b, "talk")
			}
			var all []time.Duration
			for range c.rounds {
				p.holder.Do(b, "open")
				p.ask(b, "/shutdown")
				time.Sleep(c.pause)
				var closed int64
				if _, err := fmt.Sscan(p.holder.Do(b, "close"), &closed); err != nil {
					b.Fatal(err)
				}
				all = append(all, p.told(b, "OK").Sub(time.Unix(0, closed)))
				p.ask(b, "/resume")
				p.told(b, "OK")
			}
			percentiles(b, all)
			if c.talk {
				p.holder.Do(b, "hush")
			}
		})
	}
}

// BenchmarkDraining is what a drain of 100,000 idle connections and one in use costs: a share of a core while it lingers
// and while it waits for the last one, in a Pod where nothing else happens or whose app has heartbeats, and memory. Bars: 2%,
// 16 MiB.
func BenchmarkDraining(b *testing.B) {
	for _, talk := range []bool{false, true} {
		b.Run(fmt.Sprintf("heartbeats=%t", talk), func(b *testing.B) {
			p := newAPod(b, 100_000, "--linger", "30s", "--idle-after", "1s", "--grace-period", "1h")
			time.Sleep(1500 * time.Millisecond)
			b.ReportMetric(p.memory(b, "VmRSS"), "idle-MiB")
			if talk {
				p.holder.Do(b, "talk")
			}
			p.holder.Do(b, "open")
			share := func(d time.Duration) float64 {
				before := p.cpu(b)
				time.Sleep(d)
				return 100 * float64(p.cpu(b)-before) / float64(d)
			}
			p.ask(b, "/shutdown")
			time.Sleep(2 * time.Second)
			b.ReportMetric(share(25*time.Second), "linger-%core")
			time.Sleep(5 * time.Second)
			b.ReportMetric(share(20*time.Second), "last-%core")
			p.holder.Do(b, "close")
			p.told(b, "OK")
			b.ReportMetric(p.memory(b, "VmRSS"), "drained-MiB")
			b.ReportMetric(p.memory(b, "VmHWM"), "peak-MiB")
			b.ReportMetric(0, "ns/op")
			if talk {
				p.holder.Do(b, "hush")
			}
		})
	}
}

// BenchmarkQuietPeriod is how long a drain takes whose callers are told by their registry and go on for 1 to 3 s, each
// calling every 50 to 500 ms, half of them on a connection of its own each time: with a linger of 40 s, and with a quiet
// period as well.
func BenchmarkQuietPeriod(b *testing.B) {
	for _, quiet := range []string{"off", "5s", "2s"} {
		b.Run("quiet-period="+quiet, func(b *testing.B) {
			app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer app.Close()
			port := app.Listener.Addr().(*net.TCPAddr).Port
			m := start(b, shipped(b), "127.0.0.1:18090", "--listen", "127.0.0.1:18090", "--port", fmt.Sprint(port), "--linger", "40s", "--grace-period", "90", "--quiet-period", quiet)
			draining := make(chan time.Time)
			var callers sync.WaitGroup
			var last atomic.Int64
			for i := range 20 {
				callers.Go(func() {
					c := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
					defer c.CloseIdleConnections()
					var knows <-chan time.Time
					begun := draining
					for {
						resp, err := c.Get(app.URL)
						if err != nil {
							b.Error(err)
							return
						}
						resp.Body.Close()
						last.Store(time.Now().UnixNano())
						select {
						case <-begun:
							knows, begun = time.After(time.Second+rand.N(2*time.Second)), nil
						case <-knows:
							return
						case <-time.After(50*time.Millisecond + rand.N(450*time.Millisecond)):
						}
					}
				})
			}
			time.Sleep(2 * time.Second)
			began := time.Now()
			close(draining)
			m.call(b, "/shutdown")
			took := time.Since(began)
			b.ReportMetric(took.Seconds(), "drain-s")
			callers.Wait()
			b.ReportMetric(began.Add(took).Sub(time.Unix(0, last.Load())).Seconds(), "after-last-call-s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkPollingManager is the same end seen by a manager that asks for its proxy's metrics every 5 s and puts a file
// there for the hook to find, which looks once a second: Contour's shutdown-manager with its default intervals, in a few
// lines. Two hundred at once, each with its own moment.
func BenchmarkPollingManager(b *testing.B) {
	const interval, look = 5 * time.Second, time.Second
	var all []time.Duration
	var mu sync.Mutex
	var pollers sync.WaitGroup
	for range 200 {
		pollers.Go(func() {
			var active atomic.Int64
			active.Store(1)
			stats := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, "envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"ingress\"} %d\n", active.Load())
			}))
			defer stats.Close()
			file := make(chan struct{})
			var closed time.Time
			end := time.AfterFunc(6*time.Second+rand.N(interval), func() { closed = time.Now(); active.Store(0) })
			defer end.Stop()
			go func() {
				for {
					resp, err := http.Get(stats.URL)
					if err != nil {
						b.Error(err)
						close(file)
						return
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if strings.HasSuffix(string(body), " 0\n") {
						close(file)
						return
					}
					time.Sleep(interval)
				}
			}()
			for there := false; !there; {
				time.Sleep(look)
				select {
				case <-file:
					there = true
				default:
				}
			}
			took := time.Since(closed)
			mu.Lock()
			all = append(all, took)
			mu.Unlock()
		})
	}
	pollers.Wait()
	percentiles(b, all)
}
