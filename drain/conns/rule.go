package conns

import "time"

// The states of a TCP socket, include/net/tcp_states.h.
const (
	stateEstablished = 1
	stateSynRecv     = 3
	stateFinWait1    = 4
	stateCloseWait   = 8
	stateLastAck     = 9
	stateListen      = 10
	stateClosing     = 11
	stateNewSynRecv  = 12
)

// openStates are the states in which a connection may count. FIN_WAIT2 and TIME_WAIT are none of them: everything was
// delivered and acknowledged. SYN_RECV is reported for what is kept as NEW_SYN_RECV, so both are asked for.
const openStates = 1<<stateEstablished | 1<<stateSynRecv | 1<<stateNewSynRecv | 1<<stateCloseWait |
	1<<stateFinWait1 | 1<<stateClosing | 1<<stateLastAck

const (
	// deliveryLook is when to look again at a connection that only the client's acknowledgement, which is no event,
	// keeps in use.
	deliveryLook = 100 * time.Millisecond
	// delayedAck bounds how long after the data its lone acknowledgement comes: Linux waits 40 to 200 ms
	// (TCP_DELACK_MIN and _MAX, include/net/tcp.h), and a jiffy is up to 10 ms. What comes later is the answer to a
	// keep-alive probe, which says nothing of requests.
	delayedAck = 220 * time.Millisecond
	// handshakeSurplus is by how many data segments a TLS handshake leaves the client ahead of the server, and
	// leastHandshake is less than the bytes that one takes each way.
	handshakeSurplus, leastHandshake = 1, 300
	// leastAnswer is more than what an HTTP/2 server says before its first answer: SETTINGS and their acknowledgement,
	// WINDOW_UPDATE. Go's says 61 bytes.
	leastAnswer = 100
	// seenWaiting is for how long a request waits before a look remembers that: most are answered before.
	seenWaiting = 20 * time.Millisecond
)

// sample is what the kernel tells of one connection at one moment. Figures that this kernel does not have are marked so.
type sample struct {
	state       uint8
	retransmits uint8  // of the SYN-ACK, for SYN_RECV
	unread      uint32 // bytes that the app has not read
	unsent      uint32 // bytes that the client has not acknowledged; a FIN is one

	// Since the last data segment sent and received and the last acknowledgement received, in steps of a jiffy
	// (1 to 10 ms). They start together when the connection is opened.
	hasClocks                            bool
	sinceSent, sinceReceived, sinceAcked time.Duration
	// Bytes since the connection was opened (Linux 4.1; sent since 4.19, before: acknowledged, which lags).
	hasBytes                 bool
	bytesReceived, bytesSent uint64
	// Data segments since the connection was opened (Linux 4.6). They wrap.
	hasSegments                    bool
	segmentsReceived, segmentsSent uint32
}

// use is how a connection counts.
type use uint8

const (
	gone   use = iota // not open any more, or not yet
	idle              // open, no request in flight
	active            // in use
)

// verdict is what the rule says of one connection.
type verdict struct {
	use use
	// next is after how long an active connection can be idle at the earliest without having ended; 0: never.
	next time.Duration
	// silent is since when there was no byte either way; 0 when the source cannot tell.
	silent time.Duration
	// waiting: a request was received and nothing sent since, for a while.
	waiting bool
}

// judge says whether a connection is in use; past is what is remembered of it, nil if nothing.
// RULE.md explains it. Where the figures do not tell, the connection is in use, for as long as a request may take: to
// call it idle would cost the request, to call it in use costs waiting.
func (r Rule) judge(s sample, past *mark) verdict {
	switch s.state {
	case stateSynRecv, stateNewSynRecv:
		// A client that is just connecting. One that lets the SYN-ACK be repeated is not there: a scan, a spoofed
		// flood, a lost peer; or, with TCP_DEFER_ACCEPT, has connected and said nothing.
		if s.retransmits > 0 {
			return verdict{}
		}
		return verdict{use: active, next: deliveryLook}
	case stateFinWait1, stateClosing, stateLastAck:
		// The app has closed, its answer is on its way still: a namespace that goes now takes the tail with it.
		if s.unsent <= 1 || r.expired(s, s.heard()) {
			return verdict{}
		}
		return verdict{use: active, next: deliveryLook, silent: s.silent()}
	case stateEstablished, stateCloseWait:
		return r.judgeOpen(s, past)
	}
	return verdict{}
}

// judgeOpen is judge for a connection on which the app can still answer.
func (r Rule) judgeOpen(s sample, past *mark) verdict {
	if r.IdleAfter == 0 || !s.hasClocks {
		return verdict{use: active, silent: s.silent()}
	}
	silent := s.silent()
	inUse := verdict{use: active, next: r.IdleAfter, silent: silent} // answered right after this look
	switch {
	case s.unsent > 0:
		// A client that reads slowly, or not: it acknowledges the probes of its closed window as long as it is there.
		if r.expired(s, s.heard()) {
			break
		}
		inUse.next = max(r.IdleAfter-silent, deliveryLook)
		return inUse
	case r.expired(s, silent):
	case s.unread > 0 || s.unanswered(past):
		if r.RequestTimeout > 0 {
			inUse.next = min(r.IdleAfter, r.RequestTimeout-silent+time.Millisecond)
		}
		inUse.waiting = s.waiting(past)
		return inUse
	case silent < r.IdleAfter:
		inUse.next = r.IdleAfter - silent
		return inUse
	}
	return verdict{use: idle, silent: silent}
}

// unanswered reports whether a request may be in flight on a connection whose queues are empty.
func (s sample) unanswered(past *mark) bool {
	switch {
	case s.hasBytes && s.bytesReceived == 0:
		return false // a client that said nothing asked nothing; what was sent is a greeting
	case s.hasBytes && s.bytesSent == 0:
		return true
	case s.hasSegments && past != nil && *past == markOf(s, false):
		return false // at rest before, and unchanged; probes of a keep-alive move the clocks
	case s.sinceReceived < s.sinceSent:
		return true
	case s.sinceReceived > s.sinceSent:
		return s.owed(past)
	}
	// The last data went both ways within one jiffy, as it does in a LAN with fast handlers: an answer followed by the
	// next request, or a request followed by its answer.
	if !s.hasSegments {
		return true
	}
	if late := s.sinceSent - s.sinceAcked; late > 0 && late <= delayedAck {
		return s.owed(past) // acknowledged alone, and not by the next request: the answer was the last
	}
	// One segment received, since it was opened or at rest, is one request, and what was sent its answer. Beyond, an
	// answer of two segments hides a second request.
	if past == nil {
		past = new(mark)
	}
	in, out := s.since(past)
	return past.waiting || in != 1 || out == 0
}

// owed reports whether another request may be unanswered though the server spoke last, as on a multiplexed connection.
// Only the balance of segments tells, so it takes a request for one segment and an answer for one or more.
func (s sample) owed(past *mark) bool {
	if !s.hasSegments {
		return false
	}
	if past != nil {
		in, out := s.since(past)
		if past.waiting {
			return out < in+1 // that one, and what came since
		}
		if in <= out {
			return false
		}
	}
	in, out := s.segmentsReceived, s.segmentsSent
	surplus := int32(in - out)
	switch {
	case in >= 2 && s.hasBytes && s.bytesSent < leastAnswer:
		return true // an HTTP/2 server's SETTINGS, and no answer yet
	case surplus <= 0:
		return false
	case s.bytesReceived < leastHandshake || s.bytesSent < leastHandshake:
		return true // no TLS, so nothing but a request can be ahead
	case surplus <= handshakeSurplus:
		// With HTTP/2 over TLS the server's SETTINGS may be its last word while the first request is in flight.
		return in >= 5 && out <= 4
	}
	// A client that sends each request in two, the head and the body, is ahead by one for each.
	return out < 8 || uint64(in)+3 < 2*uint64(out)
}

// waiting reports whether an unanswered request has been waiting for long enough to be remembered. What waits in a TLS
// handshake is none: not all of that is answered.
func (s sample) waiting(past *mark) bool {
	if s.silent() < seenWaiting || s.sinceReceived > s.sinceSent || s.segmentsSent < 2 {
		return false
	}
	if s.sinceReceived < s.sinceSent {
		return true
	}
	if past == nil || past.waiting {
		return false
	}
	in, out := s.since(past)
	return in > out
}

// since is how many data segments were received and sent since the mark.
func (s sample) since(past *mark) (in, out uint32) {
	return s.segmentsReceived - past.segmentsReceived, s.segmentsSent - past.segmentsSent
}

// silent is the time since the last byte either way.
func (s sample) silent() time.Duration { return min(s.sinceSent, s.sinceReceived) }

// heard is the time since the client last said or acknowledged anything, or was told anything.
func (s sample) heard() time.Duration { return min(s.silent(), s.sinceAcked) }

// expired reports whether no request is believed in flight after that much silence.
func (r Rule) expired(s sample, silence time.Duration) bool {
	return s.hasClocks && r.RequestTimeout > 0 && r.IdleAfter > 0 && silence > r.RequestTimeout
}
