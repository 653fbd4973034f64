package conns

import (
	"math"
	"time"
)

const (
	// leastDelayedAck and delayedAck bound how long after the data its lone acknowledgement comes: Linux waits 40 to 200 ms
	// (TCP_DELACK_MIN and _MAX, include/net/tcp.h), and a jiffy is up to 10 ms. What comes sooner may be the word of a client
	// that has room again, having read a large answer after it sent its next request; what comes later the answer to a
	// keep-alive probe.
	leastDelayedAck, delayedAck = 30 * time.Millisecond, 220 * time.Millisecond
	// settled is for how long nothing was said when a look learns from the balance of segments: what belongs together has
	// come by then. settledOpening is that for the opening of a protocol, which a busy server does not do in a moment.
	settled, settledOpening = 20 * time.Millisecond, time.Second
	// leastAnswer is more than what an HTTP/2 server says before its first answer: SETTINGS and their acknowledgement,
	// WINDOW_UPDATE. Measured: 30 (Netty) to 61 bytes (Go).
	leastAnswer = 100
	// mostOpening is more than what a server says before its first answer over TLS: certificates, of which a chain has a few kB,
	// and tickets.
	mostOpening = 32 << 10
	// handshakeSurplus is by how many data segments a TLS handshake and the openings of HTTP/2 and gRPC leave the client
	// ahead of the server. Measured: up to 2.
	handshakeSurplus = 2
	// openingSegments is how many data segments a client sends until its first request over TLS is complete: two for the
	// handshake, HTTP/2's preface and SETTINGS, their acknowledgement, the head and the body.
	openingSegments = 6
	// earlySegments is how many it has sent when the looks have seen the connection nearly from its beginning.
	earlySegments = 12
)

// side is one end of a connection.
type side uint8

const (
	nobody side = iota // not known
	theClient
	theServer
)

// mark is what the looks have learnt of a connection so far. The zero mark knows nothing.
type mark struct {
	known bool
	// The counters at the last look. They wrap.
	in, out          uint32
	acknowledgements uint16
	// last is who said the last thing, as of these counters.
	last side
	// acknowledged: the server's kernel has, or may have, acknowledged something alone since the look before the last change.
	acknowledged bool
	// settled: the opening of the protocol was over at that look, if it is one of those that the client waits for.
	settled bool
	// begun: something was said after such a look.
	begun bool
	// rest: nothing was unanswered, with so many bytes said, their lowest bits.
	rest              bool
	bytesIn, bytesOut uint32
	// based: the least balance of segments that the looks have seen, at these counters. With waiting it is that of a moment
	// when a request waited for its answer.
	based, waiting  bool
	baseIn, baseOut uint32
}

// after is the mark after one more look.
func (m mark) after(s sample) mark {
	if !s.hasSegments {
		return m
	}
	in, out := s.segmentsReceived, s.segmentsSent
	changed := m.known && (m.in != in || m.out != out)
	switch {
	case changed && m.rest && m.pinged(s):
		return m.atRest(s)
	case changed:
		m.rest = false
		m.begun = m.begun || m.settled
		m.acknowledged = m.acknowledgements != s.acknowledgements
		m.last = nobody
		if m.in == in {
			m.last = theServer
		} else if m.out == out {
			m.last = theClient
		}
	case !m.known:
		m.acknowledged = true
	default:
		m.acknowledged = m.acknowledged || m.acknowledgements != s.acknowledgements
	}
	if m.last == nobody {
		m.last = s.lastSpeaker(m)
	}
	m.known, m.in, m.out, m.acknowledgements = true, in, out, s.acknowledgements
	m.settled = in >= 3 && out > 0 && s.silent() >= settledOpening
	if s.silent() >= settled && out > 0 && s.unsent == 0 {
		m.weigh(s)
	}
	return m
}

// lastSpeaker says who said the last thing on a connection of which the counters alone do not tell.
func (s sample) lastSpeaker(m mark) side {
	switch late := s.sinceSent - s.sinceAcked; {
	case s.sinceReceived < s.sinceSent:
		return theClient
	case s.sinceReceived > s.sinceSent:
		return theServer
	// The last data went both ways within one jiffy, as it does in a LAN with fast handlers: an answer followed by the
	// next request, or a request followed by its answer.
	case late >= leastDelayedAck && late <= delayedAck:
		return theServer // acknowledged alone, and not by the next request
	case !s.hasSegments || s.segmentsSent == 0:
		return nobody
	case s.segmentsReceived == 1 && !s.wrapped():
		return theServer // one segment is one request
	case s.silent() < delayedAck:
		return nobody
	case !m.acknowledged:
		return theServer // whatever the client said was acknowledged by what the server said after it
	case s.acknowledgements <= 1 && s.segmentsReceived <= s.segmentsSent && !s.wrapped():
		return theServer // the same; the first segment is acknowledged at once
	}
	return nobody
}

// wrapped reports whether a counter may have started anew from 0: of acknowledgements those 16 bits that are kept, of
// segments the kernel's 32. There is a byte in each segment, and there are less than two acknowledgements for each received.
func (s sample) wrapped() bool { return s.segmentsReceived > 1<<15 || s.bytesReceived > math.MaxUint32 }

// weigh learns from the balance of segments of a connection on which nothing is under way.
func (m *mark) weigh(s sample) {
	balance := int32(m.in - m.out)
	base := int32(m.baseIn - m.baseOut)
	switch {
	case m.last == theClient && s.bytesSent < leastAnswer:
		m.waiting, m.based, m.baseIn, m.baseOut = true, true, m.in, m.out
	case s.sinceReceived < s.sinceSent || m.last == theClient:
		if !m.waiting || balance <= base {
			m.waiting, m.based, m.baseIn, m.baseOut = true, true, m.in, m.out
		}
	case m.waiting:
		if m.last == theServer && !m.opening(s) && !m.owed(s) {
			m.waiting, m.baseIn, m.baseOut = false, m.in, m.out
		}
	case m.in <= openingSegments:
	case m.based && balance < base, !m.based && (m.in <= earlySegments || !s.ahead()):
		m.based, m.baseIn, m.baseOut = true, m.in, m.out
	}
}

// atRest is the mark of a connection on which nothing is unanswered.
func (m mark) atRest(s sample) mark {
	if !s.hasSegments {
		return m
	}
	m.known, m.in, m.out, m.acknowledgements = true, s.segmentsReceived, s.segmentsSent, s.acknowledgements
	m.last, m.settled = theServer, m.in >= 3
	m.rest, m.bytesIn, m.bytesOut = true, uint32(s.bytesReceived), uint32(s.bytesSent)
	m.based, m.waiting, m.baseIn, m.baseOut = true, false, m.in, m.out
	return m
}

// pinged reports whether all that was said since the connection was at rest is HTTP/2's PING and its acknowledgement, of
// 17 bytes each, or of so many over TLS: a client that keeps its idle connection alive.
func (m mark) pinged(s sample) bool {
	in, out := s.segmentsReceived-m.in, s.segmentsSent-m.out
	said, answered := uint32(s.bytesReceived)-m.bytesIn, uint32(s.bytesSent)-m.bytesOut
	if in == 0 || in != out || said != answered || said%in != 0 || s.unread > 0 || s.unsent > 0 {
		return false
	}
	switch said / in {
	case 17, 17 + 21, 17 + 22, 17 + 29:
		return true
	}
	return false
}

// unanswered reports whether a request may be in flight on a connection whose queues are empty.
func (m mark) unanswered(s sample) bool {
	switch {
	case s.hasBytes && s.bytesReceived == 0:
		return false // a client that said nothing asked nothing; what was sent is a greeting
	case m.rest:
		return false
	case s.hasBytes && s.bytesSent == 0:
		return true
	case !s.hasSegments:
		return s.lastSpeaker(m) != theServer
	}
	return m.last != theServer || m.opening(s) || m.owed(s)
}

// opening reports whether what the server said last may belong to the opening of a protocol, and the first request be in
// flight: the session tickets of TLS 1.3, which follow on the client's last word of the handshake, and HTTP/2's SETTINGS.
func (m mark) opening(s sample) bool {
	in := s.segmentsReceived
	switch {
	case !s.hasBytes || in < 2 || in > openingSegments:
		return false
	case s.bytesSent < leastAnswer && in <= 4:
		return true
	case m.begun || s.plain || s.bytesSent > mostOpening:
		return false
	case in == 2:
		return s.bytesReceived >= 500 && s.bytesSent >= 300
	case in == 3 || s.acknowledgements > 1:
		return s.bytesReceived >= 400+80*uint64(in-3) && s.bytesSent >= 300
	}
	return false
}

// owed reports whether another request may be unanswered though the server spoke last, as on a multiplexed connection.
// Only the balance of segments tells.
func (m mark) owed(s sample) bool {
	in, out := s.segmentsReceived-m.baseIn, s.segmentsSent-m.baseOut
	switch {
	case m.waiting && in == 0:
		return out == 0
	case m.waiting && 2*uint64(s.segmentsSent) >= 3*uint64(s.segmentsReceived):
		return out < 2*(in+1) // answers of several segments
	case m.waiting:
		return out < in+1 // that one, and what came since
	case m.based && in|out != 0:
		// A client that sends each request in two, the head and the body, gains one for each answer, more or less.
		gain := int32(in - out)
		return gain > 0 && gain != int32(out) && (out < 4 || gain < int32(out)-1 || gain > int32(out)+1)
	}
	return s.ahead()
}

// ahead reports whether the client has sent so many more segments than the server that a request may be unanswered.
func (s sample) ahead() bool {
	in, out := s.segmentsReceived, s.segmentsSent
	surplus := int32(in - out)
	switch {
	case surplus <= 0:
		return false
	case s.bytesReceived < 300+30*uint64(in) || s.bytesSent < 300:
		return true // no TLS, so nothing but a request can be ahead
	case surplus <= handshakeSurplus:
		return false
	}
	// Unless each request is sent in two, the head and the body.
	return out < 8 || uint64(in)+3 < 2*uint64(out)
}
