package conns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/sockdiag"
)

const (
	// fewInUse is how many connections are asked for one by one instead of all together.
	fewInUse = 32
	// slowLook is how long a whole look must take for that to be worth it.
	slowLook = time.Millisecond
)

// shortlist lets a look at the few connections that are still in use stand for a whole one, which takes a tenth of a second at
// 100,000 connections.
//
// What a whole look found idle has stayed so, and nothing new has come, if TCP received no segment in the whole network
// namespace since before that look but those of the connections that were in use: a request needs one, and so does a
// connection. Those are asked for one by one, or told of at their end. Segments are counted by the kernel (InSegs of
// /proc/net/snmp) and by each socket, and must be equal; a segment with data counts once there and several times here where
// the interface merged it (GRO), so nothing is concluded from connections that received some. If anything else in the Pod
// talks meanwhile, the look is a whole one.
type shortlist struct {
	ports    []uint16
	few      bool   // all were in use, and no other
	valid    bool   // it can be proved still that the others have stayed idle
	received uint64 // segments of the namespace, before the look
	all      []inUse
	idle     int
	expired  int // were told by looks that proved nothing
	heard    activity
	left     []LeftOut
	took     time.Duration // of the last whole look
	slow     time.Duration // what a look must take, see slowLook
}

// inUse is a connection that was in use.
type inUse struct {
	received
	cookie uint64
	family uint8
	id     sockdiag.SockID
}

// begin begins a whole look.
func (r *shortlist) begin(ports []uint16) {
	r.forget()
	if r.took < r.slow {
		return
	}
	var err error
	if r.received, err = receivedSegments(); err == nil {
		r.few, r.ports = true, append(r.ports[:0], ports...)
	}
}

// restart forgets what the look has seen, but not when it began.
func (r *shortlist) restart() { r.all = r.all[:0] }

func (r *shortlist) forget() { r.all, r.valid, r.few = r.all[:0], false, false }

// add takes a connection in use.
func (r *shortlist) add(m *message) {
	if !r.few || len(r.all) == fewInUse || !m.HasSegments {
		r.few = false
		return
	}
	r.all = append(r.all, inUse{received{m.segments, m.SegmentsReceived}, m.cookie, m.family, m.id})
}

// end ends a whole look.
func (r *shortlist) end(t Tally, h activity) {
	r.took, r.idle, r.heard, r.left = t.Took, t.Idle, h, t.LeftOut
	r.valid = r.few
}

// CountFew counts by the connections that were in use at the last whole look.
func (n *netlinkCounter) CountFew(ctx context.Context, ports []uint16) (t Tally, proved bool) {
	if n.turn.take(ctx) != nil {
		return Tally{}, false
	}
	defer n.turn.release()
	r, l := &n.shortlist, &n.look
	if !r.few || n.closed == nil || n.closed.conn == nil || !slices.Equal(r.ports, ports) {
		return Tally{}, false
	}
	l.beginPart(Netlink)
	l.heard = n.hear()
	l.heard.join(r.heard)
	conn, err := sockdiag.Open()
	if err != nil {
		return Tally{}, false
	}
	defer conn.Close()
	explained := uint64(0)
	for _, c := range r.all {
		now, known := n.lookUp(conn, c)
		if !known || now.data != c.data {
			r.valid = false
		}
		explained += uint64(now.all - c.all)
	}
	// After the connections, so that nothing that they received is missing here.
	if r.valid {
		received, err := receivedSegments()
		r.valid = err == nil && !n.closed.lost && received == r.received+explained
	}
	if r.valid {
		l.tally.Open, l.tally.Idle = l.tally.Open+r.idle, l.tally.Idle+r.idle
	}
	t = l.end()
	t.LeftOut = r.left
	if r.expired += t.Expired; r.valid {
		t.Expired, r.expired = r.expired, 0
	}
	return t, r.valid
}

// lookUp asks for one connection, counts it if it is still there, and returns what it has received, or had when it ended.
func (n *netlinkCounter) lookUp(conn *sockdiag.Conn, c inUse) (now received, known bool) {
	n.look.at = time.Now()
	d, err := n.dumper.Lookup(conn, c.family, c.id)
	if err == nil {
		m := &n.msg
		if m.from(d); !m.HasSegments {
			return received{}, false
		}
		n.look.add(m.connection, &m.Sample, m.cookie)
		return received{m.segments, m.SegmentsReceived}, true
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESTALE) {
		return received{}, false
	}
	n.look.heard.join(n.hear()) // the word of its end may have come only now
	now = n.closed.kept[c.cookie]
	return now, now != received{}
}

// receivedSegments is how many segments TCP has received in this network namespace.
func receivedSegments() (uint64, error) {
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return 0, err
	}
	return parseReceivedSegments(b)
}

// parseReceivedSegments reads InSegs of Tcp from /proc/net/snmp: two lines for each protocol, names and values.
func parseReceivedSegments(b []byte) (uint64, error) {
	var names [][]byte
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || string(fields[0]) != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		i := slices.IndexFunc(names, func(f []byte) bool { return string(f) == "InSegs" })
		if i < 0 || i >= len(fields) {
			break
		}
		return strconv.ParseUint(string(fields[i]), 10, 64)
	}
	return 0, fmt.Errorf("%w: no InSegs of Tcp in snmp", sockdiag.ErrMalformed)
}
