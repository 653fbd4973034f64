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
	ports := append([]int{0}, offsets...)
	port, listeners, err := listenAll(ports)
	for tries := 0; err != nil && tries < 10; tries++ { // another program has taken one meanwhile
		port, listeners, err = listenAll(ports)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{Port: port, conns: map[net.Conn]bool{}}
	var accepting sync.WaitGroup
	t.Cleanup(func() {
		for _, listener := range listeners {
			listener.Close()
		}
		l.Cut()
		accepting.Wait()
	})
	for k, listener := range listeners {
		accepting.Go(func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return // closed
				}
				go l.forward(c, fmt.Sprintf("127.0.0.1:%d", to+ports[k]))
			}
		})
	}
	return l
}

// listenAll listens at a free port plus each of offsets.
func listenAll(offsets []int) (port int, all []net.Listener, err error) {
	if port, err = FreePort(offsets...); err != nil {
		return 0, nil, err
	}
	for _, o := range offsets {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+o))
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return 0, nil, err
		}
		all = append(all, listener)
	}
	return port, all, nil
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
