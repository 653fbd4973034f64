package conns

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/inuse"
	"prestop/drain/conns/sockdiag"
)

// closedConns hears from the kernel's word of each connection that ended when its client last said something, so that one which
// came and went between two looks is known. It is asked at each look; in between the kernel queues, for some hundred
// connections, and costs no wake-up. What it could not queue counts as heard when that is found out.
type closedConns struct {
	rule  *Rule
	conn  *sockdiag.Conn // nil: closed
	buf   []byte
	ports portSet
	heard activity // since the ports are listened for
	diag  sockdiag.Message
	msg   message
	// origins say who the client was; nil: not asked.
	origins *origins

	// What the connections whose ends are to be kept had received when they ended, by cookie.
	kept map[uint64]received
	lost bool // some ends, since kept was made

	broken error // what closed the socket
}

// received is how many segments a connection has received, and how many of them with data. They wrap.
type received struct{ all, data uint32 }

// closedQueue is asked of the kernel for its queue; it gives what net.core.rmem_max allows.
const closedQueue = 1 << 20

func newClosedConns(l *look) *closedConns {
	return &closedConns{rule: &l.rule, buf: make([]byte, 4<<10)}
}

// listen listens for connections to ports from now on. No ports: not any more.
func (e *closedConns) listen(ports []uint16) error {
	e.close()
	e.ports.set(ports, e.rule.ExcludePorts)
	e.heard = activity{}
	if len(ports) == 0 {
		return nil
	}
	conn, err := sockdiag.Open()
	if err != nil {
		return err
	}
	e.conn = conn
	conn.SetReceiveBuffer(closedQueue)
	conn.Filter(destroyFilter(ports, nil))
	if err := conn.Subscribe(); err != nil {
		e.close()
		return fmt.Errorf("hear clients: %w", err)
	}
	e.heard.at = time.Now() // what was said before, nobody knows
	return nil
}

// hear returns what was heard so far, on connections that have ended.
func (e *closedConns) hear() activity {
	if e.conn == nil {
		return activity{unknown: true}
	}
	for {
		n, err := e.conn.Receive(e.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return e.heard
		case errors.Is(err, unix.ENOBUFS): // some were lost
			e.lost = true
			e.heard.join(activity{at: time.Now()})
		case err != nil:
			e.broken = err
			e.close()
			return activity{unknown: true}
		default:
			e.take(e.buf[:n])
		}
	}
}

// take takes the kernel's word of a connection that ended.
func (e *closedConns) take(b []byte) {
	now := time.Now()
	_, err := sockdiag.Parse(b, &e.diag, func(d *sockdiag.Message) {
		m := &e.msg
		m.from(d)
		if m.remotePort == 0 || !e.ports.has(m.localPort) || !e.rule.fromClient(m.connection) {
			return
		}
		if e.origins != nil && !e.origins.mayHear(m) {
			return
		}
		if _, keep := e.kept[m.cookie]; keep {
			e.kept[m.cookie] = received{m.segments, m.SegmentsReceived}
		}
		if !m.HasClocks {
			e.heard.join(activity{at: now})
			return
		}
		e.heard.add(m.connection, &m.Sample, now, inuse.Gone)
	})
	if err != nil {
		e.heard.join(activity{at: now})
	}
}

// keep keeps what the connections have received when they end; before that, and if they were not told, nothing. What
// ended since the last time that somebody asked is kept, too.
func (e *closedConns) keep(all []inUse) {
	e.kept, e.lost = make(map[uint64]received, len(all)), false
	for _, c := range all {
		e.kept[c.cookie] = received{}
	}
}

func (e *closedConns) close() {
	if e.conn != nil {
		e.conn.Close()
	}
	e.conn = nil
}
