// Package inuse decides whether a TCP connection of the app is in use: whether a request may be in
// flight on it. It is pure: it knows no socket, no clock and no network, only the kernel's figures
// and what earlier looks left in Memory. RULE.md is its page; each constant of the code stands
// there.
package inuse

import "time"

// The states of a TCP socket, include/net/tcp_states.h.
const (
	Established = 1
	SynRecv     = 3
	FinWait1    = 4
	FinWait2    = 5
	TimeWait    = 6
	CloseWait   = 8
	LastAck     = 9
	Closing     = 11
	NewSynRecv  = 12
)

// DeliveryLook is when to look again at a connection that only the client's acknowledgement, which
// is no event, keeps in use.
const DeliveryLook = 100 * time.Millisecond

// Rule is how long what does not end by itself is believed in use.
type Rule struct {
	// IdleAfter is for how long a connection must be quiet after an answer. 0: every open one is in
	// use.
	IdleAfter time.Duration
	// RequestTimeout is how long a request is believed in flight without a byte either way. 0: for
	// ever.
	RequestTimeout time.Duration
}

// Sample is what the kernel tells of one connection at one moment.
type Sample struct {
	// At is the moment, from any fixed one.
	At    time.Duration
	State uint8
	// SynAckRetransmits are those of a connection that is being opened.
	SynAckRetransmits uint8
	// Unread bytes the app has not read. Unacked bytes the client has not acknowledged; a FIN is
	// one.
	Unread, Unacked uint32

	// HasClocks: the times since the last data segment sent and received, and since the last ACK
	// received, are known. They advance in jiffies, of 1 to 10 ms, and start when the connection is
	// opened.
	HasClocks                            bool
	SinceSent, SinceReceived, SinceAcked time.Duration
	// HasBytes: the bytes of the connection are known (Linux 4.1), without those sent again (4.19).
	HasBytes                 bool
	BytesReceived, BytesSent uint64
	// HasSegments: its data segments are known (Linux 4.6), without those that this end sent again.
	// They wrap.
	HasSegments                    bool
	SegmentsReceived, SegmentsSent uint32
	// BareACKs are the lowest bits of how many segments were sent without data.
	BareACKs uint16
	// LargestReceived is the kernel's estimate of the largest segment that the client has sent.
	LargestReceived uint32
}

// Class is how a connection counts.
type Class uint8

// The classes.
const (
	// Gone: it is not open any more, or not yet.
	Gone Class = iota
	// Idle: it is open, and no request is in flight.
	Idle
	// InUse: a request may be in flight.
	InUse
)

// Verdict is what the rule says of one connection.
type Verdict struct {
	Class Class
	// Next is after how long one that is in use can be idle at the earliest without having ended.
	// 0: never.
	Next time.Duration
	// Silent is the time since the last byte either way, control frames of HTTP/2 aside. 0: not
	// known.
	Silent time.Duration
	// Expired: idle from this look on since it was silent for RequestTimeout, and for nothing else.
	Expired bool
}

// Judge says how a connection counts, and what to remember of it. past is what the last look
// remembered, the zero Memory if there was none. Where the figures do not tell, the connection is
// in use: to call it idle would cost a request, to call it in use costs waiting.
func (r Rule) Judge(s *Sample, past Memory) (Verdict, Memory) {
	switch s.State {
	case SynRecv, NewSynRecv:
		// A client that is connecting. One that lets the SYN-ACK be repeated is not there: a scan,
		// a spoofed flood, a lost peer.
		if s.SynAckRetransmits > 0 {
			return Verdict{}, past
		}
		return Verdict{Class: InUse, Next: DeliveryLook}, past
	case FinWait1, Closing, LastAck:
		// The app has closed, and its answer is still being delivered: if the network namespace
		// goes now, the client loses the tail. The FIN alone is nothing.
		if s.Unacked <= 1 || r.expired(s, s.sinceAny()) {
			return Verdict{}, past
		}
		return Verdict{Class: InUse, Next: DeliveryLook, Silent: s.silent()}, past
	case Established, CloseWait:
		return r.judgeOpen(s, past)
	}
	return Verdict{}, past
}

// judgeOpen is Judge for a connection on which the app can still answer.
func (r Rule) judgeOpen(s *Sample, past Memory) (Verdict, Memory) {
	if r.IdleAfter == 0 || !s.HasClocks {
		return Verdict{Class: InUse, Silent: s.silent()}, past
	}
	now := past.after(s)
	silent := now.silent(s)
	v := Verdict{Class: InUse, Next: r.IdleAfter, Silent: silent} // answered right after this look
	if s.Unacked > 0 {
		// A client that reads slowly, or not: as long as it is there it acknowledges the probes of
		// its closed window.
		if r.expired(s, s.sinceAny()) {
			return Verdict{Class: Idle, Silent: silent, Expired: !now.idle}, now.givenUp()
		}
		v.Next = max(r.IdleAfter-silent, DeliveryLook)
		return v, now
	}
	waiting := now.waiting(s)
	if s.Unread > 0 {
		waiting = Yes
	}
	switch {
	case r.expired(s, silent):
		if now.idle {
			return Verdict{Class: Idle, Silent: s.silent()}, now
		}
		return Verdict{Class: Idle, Silent: silent, Expired: waiting != No}, now.givenUp()
	case waiting != No:
		if r.RequestTimeout > 0 {
			v.Next = min(r.IdleAfter, r.RequestTimeout-silent+time.Millisecond)
		}
		if silent < delayedACK {
			v.Next = min(v.Next, max(r.IdleAfter, delayedACK)-silent) // then it tells more
		}
		if waiting == Unknown && s.silent() >= r.IdleAfter {
			now = now.paused(s)
		}
		return v, now
	case silent < r.IdleAfter && !now.idle:
		v.Next = r.IdleAfter - silent
		return v, now.answered()
	}
	return Verdict{Class: Idle, Silent: s.silent()}, now.settled()
}

// silent is the time since the last byte either way.
func (s *Sample) silent() time.Duration { return min(s.SinceSent, s.SinceReceived) }

// sinceAny is the time since the last byte either way or the last acknowledgement.
func (s *Sample) sinceAny() time.Duration { return min(s.silent(), s.SinceAcked) }

// expired reports whether no request is believed in flight after that much silence.
func (r Rule) expired(s *Sample, silence time.Duration) bool {
	return s.HasClocks && r.RequestTimeout > 0 && r.IdleAfter > 0 && silence > r.RequestTimeout
}
