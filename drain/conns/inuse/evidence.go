package inuse

import (
	"math"
	"time"
)

// Answer is one to a question about a connection. Unknown is in use.
type Answer uint8

// The answers.
const (
	Unknown Answer = iota
	Yes
	No
)

const (
	// leastDelayedACK and delayedACK bound how long after the data a bare ACK of it comes: Linux
	// waits 40 to 200 ms (TCP_DELACK_MIN and _MAX, include/net/tcp.h), and a jiffy is up to 10 ms.
	// An earlier one may be a window update of a client that read a large answer after it sent its
	// next request, a later one the answer to a keep-alive probe.
	leastDelayedACK, delayedACK = 30 * time.Millisecond, 220 * time.Millisecond
	// continueBytes and shortContinueBytes are the length of "HTTP/1.1 100 Continue" with its empty
	// line, which is no answer, and the same without a reason, as Tomcat sends it.
	continueBytes, shortContinueBytes = 25, 17
	// leastAnswer is more than a server sends on a request that it has not answered, and less than
	// a response of HTTP/1.1 has: HTTP/2's WINDOW_UPDATE and PING together have 30 bytes.
	leastAnswer = 32
	// leastHello is the length of the shortest ClientHello of TLS 1.3 (RFC 8446, 4.1.2: one cipher
	// suite, an X25519 key share, no server name).
	leastHello = 117
	// openingSegments is more than a client sends until its first request is complete if none is a
	// large one: two ClientHellos and Finished; HTTP/2's preface, acknowledgements of SETTINGS and
	// PING, and WINDOW_UPDATE; head and body.
	openingSegments = 10
	// openingBytes is more than an HTTP/2 server sends before its first answer: SETTINGS, their
	// acknowledgement, WINDOW_UPDATE. Measured: 30 (Netty) to 61 bytes (Go).
	openingBytes = 100
	// leastText is less than a request of HTTP/1.1 has by the clients that are in use, and more
	// than one of HTTP/2 has on average, whose header is in its table.
	leastText = 80
	// smallOpening is more than a client sends in an opening none of whose segments is large.
	smallOpening = 1 << 10
	// manyAlike is how many short requests of the same length are believed to be of text: among so
	// many others two remainders are 0 by accident once in 4,096 times.
	manyAlike = 64
	// smallSegment is the kernel's estimate of the client's largest segment until one is larger
	// (TCP_MSS_DEFAULT, include/net/tcp.h).
	smallSegment = 536
)

// side is one end of a connection.
type side uint8

const (
	nobody side = iota // not known
	client
	server
)

// waiting answers whether a request waits for its answer on a connection whose queues are empty.
//
// Only HTTP/1.1 in clear has one request at a time from its first byte. TLS and HTTP/2 begin with
// an exchange in which the server sends data last and answers nothing; on a multiplexed connection
// the server sends data last when it answered another request. So that the server sent data last is
// not enough: it must have answered all that was sent since nothing waited.
func (m Memory) waiting(s *Sample) Answer {
	switch {
	case s.HasBytes && s.BytesReceived == 0:
		return No // a client that sent nothing asked nothing; what was sent is a greeting
	case m.idle:
		return No
	case s.HasBytes && s.BytesSent == 0 || m.last == client:
		return Yes
	case !s.HasSegments || !s.HasBytes || m.last != server:
		return Unknown
	case s.SegmentsReceived == 1 && !s.wrapped():
		// One segment: one request, or the first of a handshake, with none yet.
		return noIf(s.BytesSent != continueBytes && s.BytesSent != shortContinueBytes)
	case m.base == nothingWaits && m.asked == 0:
		return No
	case m.base != noBase && m.asked == 1:
		return noIf(m.told)
	case s.alike() && !s.wrapped():
		return No
	case s.even():
		return noIf(m.base == nothingWaits || s.pastOpening())
	}
	return Unknown
}

func noIf(is bool) Answer {
	if is {
		return No
	}
	return Unknown
}

// lastSender says who sent the last data, if the last look does not tell it.
func (m Memory) lastSender(s *Sample) side {
	switch late := s.SinceSent - s.SinceAcked; {
	case s.SinceReceived < s.SinceSent:
		return client
	case s.SinceReceived > s.SinceSent:
		return server
	// The last data went both ways within one jiffy, as it does in a LAN with fast handlers: an
	// answer followed by the next request, or a request followed by its answer.
	case late >= leastDelayedACK && late <= delayedACK:
		return server // the client acknowledged it with a bare ACK, not with the next request
	case !s.HasSegments || s.SegmentsSent == 0:
		return nobody
	case s.SegmentsReceived == 1 && !s.wrapped():
		return server // one segment is one request
	case s.silent() < delayedACK:
		return nobody
	case !m.bareACK:
		return server // whatever the client sent was acknowledged by data that the server sent after it
	case s.BareACKs <= 1 && s.SegmentsReceived <= s.SegmentsSent && !s.wrapped():
		return server // the same; the first segment is acknowledged at once
	}
	return nobody
}

// even reports whether there is a segment of the server for each of the client, each with an
// answer's bytes on average: so it is when each request and each answer was one. A request that
// waits, and one that was sent in two, make the client's more; a long answer makes the server's
// more.
func (s *Sample) even() bool {
	return s.SegmentsReceived == s.SegmentsSent && s.BytesSent >= leastAnswer*uint64(s.SegmentsSent)
}

// pastOpening reports whether the client has sent more than the opening of a protocol has.
func (s *Sample) pastOpening() bool {
	return s.HasBytes && s.SegmentsReceived > openingSegments && (s.text() || s.alike())
}

// noOpening reports whether the first exchange shows that the protocol has no opening: one segment
// of the client, too short for a ClientHello, and an answer longer than HTTP/2's first frames.
func (s *Sample) noOpening() bool {
	return s.SegmentsReceived == 1 && !s.wrapped() && s.BytesReceived < leastHello && s.BytesSent >= openingBytes
}

// text reports whether the client's segments are as long as requests in text, on average. Where one
// was large, all must be about as large: else it may be of a handshake, or a body, that lifts the
// average.
func (s *Sample) text() bool {
	in := uint64(s.SegmentsReceived)
	if s.LargestReceived > smallSegment {
		return 4*s.BytesReceived >= 3*in*uint64(s.LargestReceived)
	}
	return s.BytesReceived >= smallOpening+leastText*in
}

// alike reports whether all exchanges were of the same lengths, as of a client that asks for the
// same again and again: an opening, and a request that waits, would leave a remainder. Of short
// requests it takes many, since remainders may be 0 by accident.
func (s *Sample) alike() bool {
	in := uint64(s.SegmentsReceived)
	return in > openingSegments && (in >= manyAlike || s.BytesReceived >= leastText*in) && s.BytesSent >= leastAnswer*in &&
		uint64(s.SegmentsSent)%in == 0 && s.BytesReceived%in == 0 && s.BytesSent%in == 0
}

// wrapped reports whether a counter may have started anew from 0: of bare ACKs those 16 bits that
// are kept, of segments the kernel's 32. There is a byte in each segment, and there are less than
// two bare ACKs for each one received.
func (s *Sample) wrapped() bool {
	return s.SegmentsReceived > 1<<15 || s.BytesReceived > math.MaxUint32
}

// The lengths of HTTP/2's frames that ask nothing (RFC 9113, 6.7, 6.9): a frame's header has 9
// bytes.
const (
	ping         = 9 + 8
	windowUpdate = 9 + 4
)

// The bytes that TLS adds to a record: 5 of its header, 16 of the authentication tag, and in 1.3
// the content type; AES-GCM of 1.2 has a nonce of 8 bytes in each.
const (
	tls12ChaCha = 5 + 16
	tls13       = 5 + 16 + 1
	tls12GCM    = 5 + 8 + 16
)

// pings reports whether all that was sent since the last look are PINGs of HTTP/2 and their
// acknowledgements: a client that keeps its connection alive.
func (m Memory) pings(s *Sample) bool {
	in, out := s.SegmentsReceived-m.in, s.SegmentsSent-m.out
	received, sent := uint32(s.BytesReceived)-m.bytesIn, uint32(s.BytesSent)-m.bytesOut
	return in > 0 && in == out && received == sent && received%in == 0 &&
		s.Unread|s.Unacked == 0 && frame(received/in, ping)
}

// windowUpdates reports whether all that was sent since the last look are WINDOW_UPDATEs of the
// client: it has read an answer, or a part of one.
func (m Memory) windowUpdates(s *Sample) bool {
	in, out := s.SegmentsReceived-m.in, s.SegmentsSent-m.out
	received := uint32(s.BytesReceived) - m.bytesIn
	return in > 0 && out == 0 && received%in == 0 && s.Unread|s.Unacked == 0 &&
		(frame(received/in, windowUpdate) || frame(received/in, 2*windowUpdate))
}

// frame reports whether so many bytes are a frame of that length, in clear or in a record of TLS.
func frame(bytes, length uint32) bool {
	switch bytes - length {
	case 0, tls12ChaCha, tls13, tls12GCM:
		return true
	}
	return false
}
