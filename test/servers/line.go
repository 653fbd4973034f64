package servers

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// Line forwards TCP to a server, and can be cut: what is connected breaks, and what connects is closed at once. Safe for
// concurrent use.
type Line struct {
	// Port is where it listens; each offset that it was made with is a port of its own beside that.
	Port int

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

// RunLine listens at a free port, and at it plus each of offsets, and forwards to 127.0.0.1 at to plus the same, until the
// test ends.
func RunLine(t testing.TB, to int, offsets ...int) *Line {
	t.Helper()
	port, err := FreePort(offsets...)
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{Port: port, conns: map[net.Conn]bool{}}
	var accepting sync.WaitGroup
	t.Cleanup(func() { l.Cut(); accepting.Wait() }) // after the listeners are closed
	for _, o := range append([]int{0}, offsets...) {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+o))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		accepting.Go(func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return // closed
				}
				go l.forward(c, fmt.Sprintf("127.0.0.1:%d", to+o))
			}
		})
	}
	return l
}

// Cut cuts the line until Mend.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		c.Close()
	}
}

// Mend lets connections through again.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

func (l *Line) forward(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return // the server is gone, and so is the connection
	}
	defer s.Close()
	if !l.hold(c, s) {
		return
	}
	defer l.drop(c, s)
	both := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{c, s}, {s, c}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1]) // either end may break it
			both <- struct{}{}
		}()
	}
	<-both
}

func (l *Line) hold(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.conns[c] = true
	}
	return !l.cut
}

func (l *Line) drop(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}
