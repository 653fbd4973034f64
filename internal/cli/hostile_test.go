//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Callers that are many, slow or rude.

// TestTenThousandCallersJoinOneDrain also measures what a caller that waits costs.
func TestTenThousandCallersJoinOneDrain(t *testing.T) {
	const callers = 10_000
	raiseFiles(t, callers+500)
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	answered := a.call(t)
	p.says("the app listens")
	h := p.hook()
	p.inUse(1)
	before := p.memory("VmRSS")
	conns := make([]net.Conn, 0, callers)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range callers {
		c, err := net.Dial("tcp", p.listen)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET /shutdown HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	p.says("many callers of the hook; the others wait unattended")
	p.must("/healthz", 200, "OK")
	waiting := p.memory("VmRSS")
	a.release()
	<-answered
	p.is(h, 200, "OK drained in ")
	var wg sync.WaitGroup
	wrong := make(chan string, callers)
	for i := range 8 {
		wg.Go(func() {
			for j := i; j < callers; j += 8 {
				_ = conns[j].SetReadDeadline(time.Now().Add(patience))
				if b, err := io.ReadAll(conns[j]); err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 200 OK\r\n")) || !bytes.Contains(b, []byte("OK drained in ")) {
					wrong <- fmt.Sprintf("%q, %v", b, err)
				}
			}
		})
	}
	wg.Wait()
	close(wrong)
	if len(wrong) > 0 {
		t.Errorf("%d of %d callers were not told, the first: %s", len(wrong), callers, <-wrong)
	}
	if n := strings.Count(p.logs.String(), `"msg":"draining"`); n != 1 {
		t.Errorf("%d drains", n)
	}
	most := p.memory("VmHWM")
	t.Logf("%d callers wait: %d KiB resident before, %d while (%d bytes for each), %d at most", callers, before, waiting, (waiting-before)*1024/callers, most)
	if most > 48<<10 { // 264 MiB where each has a goroutine
		t.Errorf("%d KiB resident for %d callers", most, callers)
	}
}

func raiseFiles(t *testing.T, n uint64) {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Cur >= n {
		return
	}
	l.Cur, l.Max = n, max(l.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatalf("%d open files are needed: %v; raise ulimit -n", n, err)
	}
}

func TestASlowClientHoldsNothingUp(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	p.says("the app listens")
	for _, begun := range []string{
		"",                             // nothing but a connection
		"GET /shutdown HTTP/1.1\r\nHo", // no end of the header
		"POST /shutdown HTTP/1.1\r\nHost: pod\r\nContent-Length: 1000\r\n\r\nx", // no end of the body
		"GET /status HTTP/1.1\r\nHost: pod\r\n\r\n",                             // does not read
	} {
		for range 20 {
			c, err := net.Dial("tcp", p.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, begun); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.must("/healthz", 200, "OK")
	p.is(p.hook(), 200, "OK drained in ")
	a.die()
	p.signal(syscall.SIGTERM)
	p.exits(exitOK)
}

// TestThousandsOfSlowClientsCostLittle: each would cost up to 20 KiB, and the container has 32 MiB.
func TestThousandsOfSlowClientsCostLittle(t *testing.T) {
	raiseFiles(t, 4_000)
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	answered := a.call(t)
	p.says("the app listens")
	h := p.hook() // an attended one, which none of them may push out
	p.inUse(1)
	for _, begun := range []string{"", "GET /shutdown HTTP/1.1\r\nHo", "GET /healthz HTTP/1.1\r\nHost: pod\r\n\r\n"} {
		for range 1000 {
			c, err := net.Dial("tcp", p.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, begun) // it may have been put out
		}
	}
	p.must("/healthz", 200, "OK")
	a.release()
	<-answered
	p.is(h, 200, "OK drained in ")
	most := p.memory("VmHWM")
	t.Logf("%d KiB at most", most)
	if most > 30<<10 { // 61 MiB where nobody is put out
		t.Errorf("%d KiB resident", most)
	}
}

func TestALargeHeaderIsRefused(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), nil)
	if got := p.get(t.Context(), "/shutdown", "X-Padding", strings.Repeat("a", 64<<10)); got.code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("answered %d %q, %v", got.code, got.body, got.err)
	}
	p.reaches("serving")
}
