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

// deliveryLook is when to look again at a connection that only the client's acknowledgement, which is no event, keeps in use.
const deliveryLook = 100 * time.Millisecond

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
	// Data segments since the connection was opened (Linux 4.6), and the lowest bits of how many were sent without data:
	// acknowledgements. They wrap.
	hasSegments                    bool
	segmentsReceived, segmentsSent uint32
	acknowledgements               uint16
	// plain: it is known of the port that it speaks without TLS.
	plain bool
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
	// expired: idle from this look on because it was silent for RequestTimeout, and for nothing else.
	expired bool
}

// judge says whether a connection is in use, and what to remember of it; past is what was remembered, the zero mark if
// nothing. RULE.md explains it. Where the figures do not tell, the connection is in use, for as long as a request may take:
// to call it idle would cost the request, to call it in use costs waiting.
func (r Rule) judge(s sample, past mark) (verdict, mark) {
	switch s.state {
	case stateSynRecv, stateNewSynRecv:
		// A client that is just connecting. One that lets the SYN-ACK be repeated is not there: a scan, a spoofed
		// flood, a lost peer; or, with TCP_DEFER_ACCEPT, has connected and said nothing.
		if s.retransmits > 0 {
			return verdict{}, past
		}
		return verdict{use: active, next: deliveryLook}, past
	case stateFinWait1, stateClosing, stateLastAck:
		// The app has closed, its answer is on its way still: a namespace that goes now takes the tail with it.
		if s.unsent <= 1 || r.expired(s, s.heard()) {
			return verdict{}, past
		}
		return verdict{use: active, next: deliveryLook, silent: s.silent()}, past
	case stateEstablished, stateCloseWait:
		return r.judgeOpen(s, past)
	}
	return verdict{}, past
}

// judgeOpen is judge for a connection on which the app can still answer.
func (r Rule) judgeOpen(s sample, past mark) (verdict, mark) {
	silent := s.silent()
	if r.IdleAfter == 0 || !s.hasClocks {
		return verdict{use: active, silent: silent}, past
	}
	now := past.after(s)
	waits := s.unread > 0 || now.unanswered(s)
	inUse := verdict{use: active, next: r.IdleAfter, silent: silent} // answered right after this look
	switch {
	case s.unsent > 0:
		// A client that reads slowly, or not: it acknowledges the probes of its closed window as long as it is there.
		if r.expired(s, s.heard()) {
			break
		}
		inUse.next = max(r.IdleAfter-silent, deliveryLook)
		return inUse, now
	case r.expired(s, silent):
	case waits:
		if r.RequestTimeout > 0 {
			inUse.next = min(r.IdleAfter, r.RequestTimeout-silent+time.Millisecond)
		}
		if silent < delayedAck {
			inUse.next = min(inUse.next, max(r.IdleAfter, delayedAck)-silent) // then it tells more
		}
		return inUse, now
	case silent < r.IdleAfter && !now.rest:
		inUse.next = r.IdleAfter - silent
		return inUse, now
	}
	return verdict{use: idle, silent: silent, expired: (waits || s.unsent > 0) && !now.rest}, now.atRest(s)
}

// silent is the time since the last byte either way.
func (s sample) silent() time.Duration { return min(s.sinceSent, s.sinceReceived) }

// heard is the time since the client last said or acknowledged anything, or was told anything.
func (s sample) heard() time.Duration { return min(s.silent(), s.sinceAcked) }

// expired reports whether no request is believed in flight after that much silence.
func (r Rule) expired(s sample, silence time.Duration) bool {
	return s.hasClocks && r.RequestTimeout > 0 && r.IdleAfter > 0 && silence > r.RequestTimeout
}
