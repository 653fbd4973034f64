package drain

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// room is how many connections our server holds at once, parked callers of the hook apart. Each may cost 20 KiB, and
	// the container has 16 to 32 MiB: three thousand that send half a header would end the sidecar, and the hook with it.
	room = 512
	// manners is how long a connection may say nothing before another one may take its place. That a newcomer waits this
	// long, at most, keeps a burst of callers whose requests are on their way from pushing each other out.
	manners = time.Second
)

// door keeps the connections to room: when it is full, the one that came first of those whose request is not being
// answered is closed. So whoever holds connections open without asking for anything keeps nobody else out.
type door struct {
	mu     sync.Mutex
	guests map[net.Conn]*list.Element
	order  *list.List // of *guest, the first one first
	left   chan struct{}
}

type guest struct {
	conn  net.Conn
	since time.Time // of its arrival
	busy  bool      // its request is being answered
}

type guestKey struct{}

func newDoor() *door {
	return &door{guests: map[net.Conn]*list.Element{}, order: list.New(), left: make(chan struct{}, 1)}
}

// enter is the server's ConnContext, called for each connection before the next is accepted. It blocks until there is room,
// which the connections that are there bring about by being answered, by leaving, or by being older than manners.
func (d *door) enter(ctx context.Context, conn net.Conn) context.Context {
	for wait := d.makeRoom(time.Now()); wait > 0; wait = d.makeRoom(time.Now()) {
		timer := time.NewTimer(wait)
		select {
		case <-d.left:
		case <-timer.C:
		}
		timer.Stop()
	}
	g := &guest{conn: conn, since: time.Now()}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests[conn] = d.order.PushBack(g)
	return context.WithValue(ctx, guestKey{}, g)
}

// makeRoom returns 0 when there is room for another connection, else how long to wait before looking again.
func (d *door) makeRoom(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.order.Len() < room {
		return 0
	}
	for e := d.order.Front(); e != nil; e = e.Next() {
		g := e.Value.(*guest)
		if g.busy {
			continue
		}
		if age := now.Sub(g.since); age < manners {
			return manners - age
		}
		_ = g.conn.Close() // whatever it was about
		d.remove(g.conn)
		return 0
	}
	return manners // every one is being answered, which takes milliseconds, or is attended
}

// changed is the server's ConnState.
func (d *door) changed(conn net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	d.mu.Lock()
	d.remove(conn)
	d.mu.Unlock()
	select {
	case d.left <- struct{}{}:
	default:
	}
}

func (d *door) remove(conn net.Conn) {
	if e := d.guests[conn]; e != nil {
		d.order.Remove(e)
		delete(d.guests, conn)
	}
}

// serve marks the connections whose request is being answered.
func (d *door) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
			d.mark(g, true)
			defer d.mark(g, false)
		}
		next.ServeHTTP(w, r)
	})
}

func (d *door) mark(g *guest, busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g.busy = busy
}
