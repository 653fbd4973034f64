package httpapi

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxConns is how many connections the server holds at once, parked callers of the hook apart.
	// Each may cost 20 KiB, and the container has 16 to 32 MiB: three thousand that send half a
	// header would end the sidecar, and the hook with it.
	maxConns = 512
	// minAge protects a new connection from eviction, so that a burst of callers cannot evict one
	// another before their requests arrive.
	minAge = time.Second
)

// connLimiter keeps the connections to maxConns. When it is full, it closes the oldest one whose
// request is not being answered. So a client that holds connections open without asking for
// anything keeps nobody else out.
type connLimiter struct {
	mu    sync.Mutex
	conns map[net.Conn]*list.Element
	order *list.List // of *trackedConn, the oldest first
	freed chan struct{}
}

type trackedConn struct {
	conn  net.Conn
	since time.Time // when it was accepted
	busy  bool      // its request is being answered
}

type trackedConnKey struct{}

func newConnLimiter() *connLimiter {
	return &connLimiter{conns: map[net.Conn]*list.Element{}, order: list.New(), freed: make(chan struct{}, 1)}
}

// accept is the server's ConnContext, which is called for each connection before the next is
// accepted. It blocks until there is room: when a connection is answered, is closed, or reaches
// minAge.
func (l *connLimiter) accept(ctx context.Context, conn net.Conn) context.Context {
	for wait := l.makeRoom(time.Now()); wait > 0; wait = l.makeRoom(time.Now()) {
		timer := time.NewTimer(wait)
		select {
		case <-l.freed:
		case <-timer.C:
		}
		timer.Stop()
	}
	c := &trackedConn{conn: conn, since: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = l.order.PushBack(c)
	return context.WithValue(ctx, trackedConnKey{}, c)
}

// makeRoom returns 0 when there is room for another connection, else how long to wait before the
// next try.
func (l *connLimiter) makeRoom(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.order.Len() < maxConns {
		return 0
	}
	for e := l.order.Front(); e != nil; e = e.Next() {
		c := e.Value.(*trackedConn)
		if c.busy {
			continue
		}
		if age := now.Sub(c.since); age < minAge {
			return minAge - age
		}
		_ = c.conn.Close() // whatever it was about
		l.remove(c.conn)
		return 0
	}
	return minAge // every request is being answered, which takes milliseconds, or waits for the drain
}

// changed is the server's ConnState.
func (l *connLimiter) changed(conn net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	l.mu.Lock()
	l.remove(conn)
	l.mu.Unlock()
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

func (l *connLimiter) remove(conn net.Conn) {
	if e := l.conns[conn]; e != nil {
		l.order.Remove(e)
		delete(l.conns, conn)
	}
}

// serve marks the connections whose request is being answered.
func (l *connLimiter) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(trackedConnKey{}).(*trackedConn); ok {
			l.setBusy(c, true)
			defer l.setBusy(c, false)
		}
		next.ServeHTTP(w, r)
	})
}

func (l *connLimiter) setBusy(c *trackedConn, busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.busy = busy
}
