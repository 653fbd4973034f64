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
	// handshakeSurplus is by how many data segments a TLS handshake leaves the client ahead of the server.
	handshakeSurplus = 1
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
}

// judge says whether a connection is in use. RULE.md explains it. Where the sample does not tell, the connection is in
// use, for as long as a request may take: to call it idle would cost the request, to call it in use costs waiting.
func (r Rule) judge(s sample) verdict {
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
		return r.judgeOpen(s)
	}
	return verdict{}
}

// judgeOpen is judge for a connection on which the app can still answer.
func (r Rule) judgeOpen(s sample) verdict {
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
	case s.unread > 0 || s.unanswered():
		if r.RequestTimeout > 0 {
			inUse.next = min(r.IdleAfter, r.RequestTimeout-silent+time.Millisecond)
		}
		return inUse
	case silent < r.IdleAfter:
		inUse.next = r.IdleAfter - silent
		return inUse
	}
	return verdict{use: idle, silent: silent}
}

// unanswered reports whether a request may be in flight on a connection whose queues are empty.
func (s sample) unanswered() bool {
	if s.hasBytes && s.bytesReceived == 0 {
		return false // a client that said nothing asked nothing; what was sent is a greeting
	}
	if s.hasBytes && s.bytesSent == 0 {
		return true
	}
	switch {
	case s.sinceReceived < s.sinceSent:
		return true
	case s.sinceReceived > s.sinceSent:
		return false
	}
	// The last data went both ways within one jiffy, as it does in a LAN with fast handlers: an answer followed by the
	// next request, or a request followed by its answer.
	if !s.hasSegments {
		return true
	}
	surplus := int32(s.segmentsReceived - s.segmentsSent)
	if late := s.sinceSent - s.sinceAcked; late > 0 && late <= delayedAck {
		// The client acknowledged alone, so it had nothing to say: the answer was the last. On a multiplexed
		// connection another stream may be unanswered, hence the balance.
		return surplus > handshakeSurplus
	}
	// One segment each way is one request and its answer. Beyond, an answer of two segments hides a second request.
	return s.segmentsReceived != 1 || s.segmentsSent != 1
}

// silent is the time since the last byte either way.
func (s sample) silent() time.Duration { return min(s.sinceSent, s.sinceReceived) }

// heard is the time since the client last said or acknowledged anything, or was told anything.
func (s sample) heard() time.Duration { return min(s.silent(), s.sinceAcked) }

// expired reports whether no request is believed in flight after that much silence.
func (r Rule) expired(s sample, silence time.Duration) bool {
	return s.hasClocks && r.RequestTimeout > 0 && r.IdleAfter > 0 && silence > r.RequestTimeout
}
