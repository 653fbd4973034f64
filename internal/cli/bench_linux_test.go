package cli

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The bars of the design that the sidecar alone must meet, measured on the binary as it is shipped. Each benchmark makes
// its own number of rounds in its first run, whatever -benchtime says.

// shipped builds the binary as `make build` does.
func shipped(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "prestop")
	build := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w -buildid=", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return path
}

// measured is a running sidecar beside an app whose connections the benchmark holds.
type measured struct {
	url  string
	cmd  *exec.Cmd
	app  net.Listener
	took time.Duration // from start to listening
}

func measure(b *testing.B, path string, flags ...string) *measured {
	b.Helper()
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { app.Close() })
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := own.Addr().String()
	own.Close()
	m := start(b, path, address, append([]string{"--listen", address, "--port", fmt.Sprint(app.Addr().(*net.TCPAddr).Port)}, flags...)...)
	m.app = app
	return m
}

// start starts the binary, which will listen at address.
func start(b *testing.B, path, address string, flags ...string) *measured {
	b.Helper()
	m := &measured{url: "http://" + address}
	m.cmd = exec.Command(path, append([]string{"--termination-log", "", "--log-level", "error"}, flags...)...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := m.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.cmd.Process.Kill(); m.cmd.Wait() })
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			m.took = time.Since(began)
			c.Close()
			return m
		}
		if time.Since(began) > 10*time.Second {
			b.Fatal("it does not listen")
		}
	}
}

func (m *measured) call(b *testing.B, path string) string {
	b.Helper()
	resp, err := http.Get(m.url + path)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	return string(body)
}

// memory reads a field of /proc/PID/status in MiB.
func (m *measured) memory(b *testing.B, field string) float64 { return m.proc(b, field) / 1024 }

// switches is the voluntary context switches of all threads so far.
func (m *measured) switches(b *testing.B) float64 {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", m.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	sum := 0.0
	for _, t := range threads {
		sum += field(b, t, "voluntary_ctxt_switches")
	}
	return sum
}

func (m *measured) proc(b *testing.B, name string) float64 {
	b.Helper()
	return field(b, fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid), name)
}

// field reads a number of a status file of /proc.
func field(b *testing.B, file, field string) float64 {
	b.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("no %s in\n%s", field, text)
	return 0
}

// percentiles tells them in milliseconds.
func percentiles(b *testing.B, all []time.Duration) {
	slices.Sort(all)
	ms := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
	b.ReportMetric(ms(1), "max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStartToListening: bar 15 ms.
func BenchmarkStartToListening(b *testing.B) {
	path := shipped(b)
	var all []time.Duration
	for range 50 {
		m := measure(b, path)
		all = append(all, m.took)
		m.cmd.Process.Kill()
	}
	percentiles(b, all)
}

// BenchmarkMemory is the resident memory while idle. Bar: 10 MiB.
func BenchmarkMemory(b *testing.B) {
	m := measure(b, shipped(b))
	time.Sleep(2 * time.Second)
	b.ReportMetric(m.memory(b, "VmRSS"), "idle-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdleWakeups is the context switches a second while nothing happens. Bar: below 1.
func BenchmarkIdleWakeups(b *testing.B) {
	m := measure(b, shipped(b))
	time.Sleep(3 * time.Second)
	before, began := m.switches(b), time.Now()
	time.Sleep(60 * time.Second)
	b.ReportMetric((m.switches(b)-before)/time.Since(began).Seconds(), "wakeups/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkBinary is the size of the binary. Bar: 9 MB.
func BenchmarkBinary(b *testing.B) {
	info, err := os.Stat(shipped(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/1e6, "MB")
	b.ReportMetric(0, "ns/op")
}
