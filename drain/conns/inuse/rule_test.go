package inuse

import (
	"testing"
	"time"
)

// ms is a count of milliseconds.
type ms = int

// seen is a Sample of an established connection with empty queues.
func seen(sent, received, acked ms, BytesReceived, BytesSent uint64, SegmentsReceived, SegmentsSent uint32) Sample {
	return Sample{
		State:     Established,
		HasClocks: true, SinceSent: millisOf(sent), SinceReceived: millisOf(received), SinceAcked: millisOf(acked),
		HasBytes: true, BytesReceived: BytesReceived, BytesSent: BytesSent,
		HasSegments: true, SegmentsReceived: SegmentsReceived, SegmentsSent: SegmentsSent, BareACKs: 9,
		LargestReceived: 536,
	}
}

func millisOf(n ms) time.Duration { return time.Duration(n) * time.Millisecond }

// with returns the Sample with some of it changed.
func (s Sample) with(change func(*Sample)) Sample {
	change(&s)
	return s
}

// The figures without a remark are measured: Linux 6.18, HZ=250, over loopback and over a veth pair.
func TestJudge(t *testing.T) {
	half := Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Minute}
	for name, c := range map[string]struct {
		rule Rule
		Sample
		want Verdict
	}{
		"one request of which an answer of 40 bytes came": {half, seen(700, 704, 660, 60, 40, 1, 1), Verdict{Class: Idle, Silent: millisOf(700)}},
		"told to go on with its body": {
			half, seen(700, 704, 660, 160, 25, 1, 1), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"one word, answered by another": {half, seen(700, 704, 660, 6, 6, 1, 1), Verdict{Class: Idle, Silent: millisOf(700)}},
		"HTTP/1.1, 40 requests of different lengths answered": {
			half, seen(700, 704, 660, 5123, 7001, 40, 40), Verdict{Class: Idle, Silent: millisOf(700)}},
		"HTTP/1.1, 40 requests answered, some by two segments": { // or a stream in flight beside others
			half, seen(700, 704, 660, 4123, 70010, 40, 44), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"HTTP/1.1, 20 requests alike, each answered by three segments": {
			half, seen(700, 704, 660, 2000, 64_000, 20, 60), Verdict{Class: Idle, Silent: millisOf(700)}},
		"21 requests alike, 20 of them answered by three segments": {
			half, seen(700, 704, 660, 2100, 64_000, 21, 60), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"HTTP/2 over TLS, a stream in flight beside others, as many segments either way": { // measured, one of 30,000
			half, seen(41512, 41516, 11172, 894, 6780, 11, 11).with(func(s *Sample) { s.BareACKs = 8 }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: 41512 * time.Millisecond}},
		"20 short requests, by accident of one length on average, and so the answers": {
			half, seen(700, 704, 660, 494, 3439, 19, 19), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"as many segments either way, but the client's are those of HTTP/2": {
			half, seen(700, 704, 660, 1411, 7001, 40, 40), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"as many segments either way, but for a client's certificate": {
			half, seen(700, 704, 660, 9123, 9001, 40, 40).with(func(s *Sample) { s.LargestReceived = 1448 }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"as many segments either way, the client's large": {
			half, seen(700, 704, 660, 32_123, 9001, 40, 40).with(func(s *Sample) { s.LargestReceived = 1000 }),
			Verdict{Class: Idle, Silent: millisOf(700)}},
		"as many segments either way, but for a client's body": {
			half, seen(700, 704, 660, 104_123, 60_001, 100, 100).with(func(s *Sample) { s.LargestReceived = 1448 }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"as many segments either way, all the server's of control frames": {
			half, seen(700, 704, 660, 4123, 1201, 40, 40), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},

		"opened and nothing said":    {half, seen(1504, 1504, 1504, 0, 0, 0, 0), Verdict{Class: Idle, Silent: millisOf(1504)}},
		"the first request answered": {half, seen(1504, 1504, 1504, 31, 118, 1, 1), Verdict{Class: Idle, Silent: millisOf(1504)}},
		"100 requests answered, a lone acknowledgement since": {
			half, seen(1504, 1504, 1460, 3100, 11800, 100, 100), Verdict{Class: Idle, Silent: millisOf(1504)}},
		"100 answered, the next in flight": {
			half, seen(1500, 1500, 1500, 3131, 11800, 101, 100), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(1500)}},
		"the first request in flight": {
			half, seen(1504, 1504, 1504, 31, 0, 1, 0), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(1504)}},
		"an event stream between two events": {
			half, seen(400, 1504, 400, 30, 139, 1, 2), Verdict{Class: InUse, Next: millisOf(100), Silent: millisOf(400)}},
		"HTTP/2, a slow stream in flight": {
			half, seen(1504, 1504, 1504, 129, 61, 3, 2), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(1504)}},
		"TLS, 20 requests answered": {half, seen(708, 708, 664, 3000, 9000, 23, 22), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"TLS, the first request in flight": {
			half, seen(708, 708, 708, 700, 3000, 4, 2), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"TLS, the first answer is a large one": {half, seen(708, 708, 664, 740, 70_000, 3, 8), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"TLS, 19 answered, the 20th in flight": {
			half, seen(708, 708, 708, 3000, 9000, 23, 21), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"HTTP/2, 50 answered": {half, seen(756, 756, 712, 3000, 3000, 52, 52), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(756)}},
		"HTTP/2, 49 answered, the 50th in flight": {
			half, seen(756, 756, 756, 3000, 3000, 52, 51), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(756)}},
		"HTTP/2 over TLS, 5 answered": {half, seen(760, 760, 716, 1000, 4000, 10, 9), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(760)}},
		"HTTP/2 over TLS, 4 answered, the 5th in flight": {
			half, seen(760, 760, 760, 1000, 4000, 10, 8), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(760)}},
		"HTTP/2, two streams in flight, another answered meanwhile": {
			half, seen(708, 708, 664, 220, 240, 8, 6), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},

		"HTTP/1.1, four requests answered, but it might be TLS": {
			half, seen(708, 708, 664, 1000, 800, 4, 4), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"TLS, two requests answered": { // or HTTP/2's first in flight, the next row
			half, seen(708, 720, 664, 1800, 2700, 5, 4), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"HTTP/2 over TLS, the first request in flight, the server's SETTINGS after it": {
			half, seen(708, 720, 664, 1751, 2608, 5, 4), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"HTTP/2, a stream in flight, another answered meanwhile": {
			half, seen(708, 708, 664, 152, 136, 4, 3), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(708)}},
		"HTTP/2, the first stream in flight, the server's SETTINGS after it": {
			half, seen(452, 464, 408, 129, 61, 3, 3).with(func(s *Sample) { s.SinceSent += time.Second; s.SinceReceived += time.Second }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(1452)}},
		"the first request, a large answer": {
			half, seen(1400, 1400, 1400, 101, 300139, 1, 7), Verdict{Class: Idle, Silent: millisOf(1400)}},
		"five large answers": { // or a request after four
			half, seen(1400, 1400, 1400, 505, 1618914, 5, 36), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(1400)}},
		"ten requests of two segments answered": {
			half, seen(3084, 3084, 3040, 2459, 3160, 24, 13), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(3084)}},

		// Made up from here on.
		"received later than sent": {
			half, seen(9000, 700, 700, 500, 900, 9, 9), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"sent later than received, not quiet yet": {
			half, seen(300, 700, 300, 500, 900, 1, 1), Verdict{Class: InUse, Next: millisOf(200), Silent: millisOf(300)}},
		"sent later than received, quiet for exactly as long as it takes": {
			half, seen(500, 700, 500, 500, 900, 1, 1), Verdict{Class: Idle, Silent: millisOf(500)}},
		"a server that spoke first": {half, seen(700, 704, 660, 0, 80, 0, 1), Verdict{Class: Idle, Silent: millisOf(700)}},
		"in one jiffy, acknowledged by a keep-alive probe long after": {
			half, seen(20000, 20000, 5000, 3131, 11800, 101, 100), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(20000)}},
		"in one jiffy, acknowledged by a keep-alive probe, balanced by answers of two segments": {
			half, seen(20000, 20000, 5000, 3131, 11800, 100, 100), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(20000)}},
		"in flight for as long as a request may take": {
			half, seen(70000, 60000, 60000, 500, 900, 9, 9), Verdict{Class: InUse, Next: time.Millisecond, Silent: time.Minute}},
		"in flight for longer than a request may take": {
			half, seen(70000, 60001, 60001, 500, 900, 9, 9), Verdict{Class: Idle, Silent: millisOf(60001), Expired: true}},
		"in flight for ever, no bound": {
			Rule{IdleAfter: time.Second}, seen(1e9, 1e8, 1e8, 500, 900, 9, 9), Verdict{Class: InUse, Next: time.Second, Silent: millisOf(1e8)}},
		"Unread bytes": {
			half, seen(700, 704, 660, 500, 900, 9, 9).with(func(s *Sample) { s.Unread = 1 }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"an answer that the client is still reading": {
			half, seen(700, 904, 300, 500, 90000, 9, 90).with(func(s *Sample) { s.Unacked = 70000 }),
			Verdict{Class: InUse, Next: DeliveryLook, Silent: millisOf(700)}},
		"an answer that the client does not read, its window closed for long": {
			half, seen(90000, 90000, 9000, 500, 90000, 9, 90).with(func(s *Sample) { s.Unacked = 70000 }),
			Verdict{Class: InUse, Next: DeliveryLook, Silent: millisOf(90000)}},
		"an answer to a client that is gone": {
			half, seen(60500, 90000, 60500, 500, 90000, 9, 90).with(func(s *Sample) { s.Unacked = 70000 }),
			Verdict{Class: Idle, Silent: millisOf(60500), Expired: true}},
		"the client half closed, unanswered": {
			half, seen(900, 700, 700, 500, 0, 1, 0).with(func(s *Sample) { s.State = CloseWait }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"the client closed, the app never does": {
			half, seen(900, 904, 700, 500, 400, 1, 1).with(func(s *Sample) { s.State = CloseWait }),
			Verdict{Class: Idle, Silent: millisOf(900)}},
		"the app closed, half the answer is on its way": {
			half, seen(900, 904, 700, 500, 4000, 1, 4).with(func(s *Sample) { s.State, s.Unacked = FinWait1, 2 }),
			Verdict{Class: InUse, Next: DeliveryLook, Silent: millisOf(900)}},
		"the app closed, only its FIN is on its way": {
			half, seen(900, 904, 700, 500, 4000, 1, 4).with(func(s *Sample) { s.State, s.Unacked = FinWait1, 1 }), Verdict{}},
		"both closed, the answer is on its way": {
			half, seen(900, 904, 700, 500, 4000, 1, 4).with(func(s *Sample) { s.State, s.Unacked = LastAck, 2000 }),
			Verdict{Class: InUse, Next: DeliveryLook, Silent: millisOf(900)}},
		"the app closed on a client that is gone": {
			half, seen(61000, 90000, 90000, 500, 4000, 1, 4).with(func(s *Sample) { s.State, s.Unacked = FinWait1, 2000 }), Verdict{}},
		"connecting":                             {half, Sample{State: SynRecv}, Verdict{Class: InUse, Next: DeliveryLook}},
		"connecting, the client does not answer": {half, Sample{State: SynRecv, SynAckRetransmits: 1}, Verdict{}},
		"closed by both":                         {half, Sample{State: 6}, Verdict{}},
		"closed by the app, delivered":           {half, Sample{State: 5}, Verdict{}},

		"every open connection is in use": {
			Rule{RequestTimeout: time.Second}, seen(9000, 9000, 8960, 500, 500, 9, 9), Verdict{Class: InUse, Silent: 9 * time.Second}},
		"a source without clocks": {half, Sample{State: Established}, Verdict{Class: InUse}},
		"a source without clocks, half an answer on its way": {
			half, Sample{State: FinWait1, Unacked: 2}, Verdict{Class: InUse, Next: DeliveryLook}},
		"an old kernel without counters, answered later": {
			half, seen(700, 800, 700, 0, 0, 0, 0).with(old), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"an old kernel without counters, within one jiffy": {
			half, seen(700, 700, 700, 0, 0, 0, 0).with(old), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(700)}},
		"segment counters that wrapped": {
			half, seen(756, 756, 712, 3000, 3000, 2, ^uint32(0)), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(756)}},
		"a segment counter that wrapped to one": {
			half, seen(756, 756, 756, 1<<40, 1<<40, 1, 1), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(756)}},
		"a counter of bare ACKs that wrapped to one": {
			half, seen(756, 756, 756, 9e6, 9e6, 70_000, 70_000).with(func(s *Sample) { s.BareACKs = 1 }),
			Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(756)}},
		"segment counters of which one wrapped": {
			half, seen(756, 756, 712, 3000, 3000, ^uint32(0), 1), Verdict{Class: InUse, Next: half.IdleAfter, Silent: millisOf(756)}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := c.rule.Judge(&c.Sample, Memory{}); got != c.want {
				t.Errorf("Judge(%+v) =\n%+v, want\n%+v", c.Sample, got, c.want)
			}
		})
	}
}

// What earlier looks saw of the same socket decides where the figures of one do not.
func TestJudgeRemembers(t *testing.T) {
	half := Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Minute}
	acks := func(n uint16) func(*Sample) { return func(s *Sample) { s.BareACKs = n } }
	// at rest is a connection on which 60 requests of 100 bytes were answered by as many.
	atRest := seen(700, 700, 660, 6000, 6000, 60, 60)
	// inDoubt is one whose answers had two or three segments.
	inDoubt := seen(700, 704, 660, 6000, 90_000, 60, 140)
	for name, c := range map[string]struct {
		looks []Sample // one after the other
		want  Class
	}{
		"unchanged since it was idle, acknowledged by a probe": {
			[]Sample{atRest, seen(9000, 9000, 700, 6000, 6000, 60, 60)}, Idle},
		"one since it was idle, within a jiffy": {
			[]Sample{atRest, seen(700, 700, 700, 6100, 6100, 61, 61)}, Idle},
		"one since it was idle, answered by many segments": {
			[]Sample{atRest, seen(700, 704, 700, 6100, 26_000, 61, 75)}, Idle},
		"one since it was idle, answered by a control frame": {
			[]Sample{atRest, seen(700, 704, 700, 6100, 6030, 61, 61)}, InUse},
		"a request since it was idle, within a jiffy": {
			[]Sample{atRest, seen(700, 700, 700, 6100, 6000, 61, 60)}, InUse},
		"two requests and one answer since it was idle": {
			[]Sample{atRest, seen(700, 704, 700, 6200, 6100, 62, 61)}, InUse},
		"two requests and one answer of two segments, after one of two segments": {
			[]Sample{seen(700, 704, 660, 60, 2000, 1, 2), seen(700, 704, 660, 180, 4000, 3, 4)}, InUse},
		"two requests and one answer of three segments since it was idle": {
			[]Sample{atRest, seen(700, 704, 700, 6200, 9000, 62, 63)}, InUse},
		"two requests and two answers since it was idle": {
			[]Sample{atRest, seen(700, 704, 700, 6210, 6300, 62, 62)}, Idle},
		"nothing but data was sent since the last look": {
			[]Sample{atRest, seen(700, 700, 700, 6910, 6900, 69, 69)}, Idle},
		"a bare ACK was sent since the last look": {
			[]Sample{atRest, seen(700, 700, 700, 6910, 6900, 69, 69).with(acks(10))}, InUse},
		"a bare ACK was sent when the last look had seen it": {
			[]Sample{atRest, seen(8, 8, 8, 6910, 6900, 69, 69), seen(700, 700, 700, 6910, 6900, 69, 69).with(acks(10))}, InUse},
		"one more is ahead than before, others answered": {
			[]Sample{atRest, seen(50, 54, 50, 6930, 6900, 69, 68), seen(700, 704, 700, 8010, 7800, 80, 79)}, InUse},

		"the one that waited is answered": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(700, 9000, 700, 6100, 6100, 61, 61)}, Idle},
		"another is answered, the one that waited not": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(700, 704, 700, 6130, 6100, 62, 61)}, InUse},
		"another is answered in two segments, the one that waited not": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(700, 704, 700, 6130, 9000, 62, 63)}, InUse},
		"another and the one that waited are answered": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(700, 704, 700, 6207, 6200, 62, 62)}, Idle},
		"one of two that waited is answered": {
			[]Sample{seen(9000, 700, 700, 6100, 5900, 61, 59), seen(700, 9000, 700, 6100, 6000, 61, 60)}, InUse},
		"ten others are answered, the one that waited not": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(700, 704, 700, 7100, 7000, 71, 70)}, InUse},
		"it waits on": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(9000, 5000, 700, 6100, 6000, 61, 60)}, InUse},
		"it is not believed any more": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(70000, 70000, 70000, 6100, 6000, 61, 60)}, Idle},
		"one after that is answered": {
			[]Sample{seen(70000, 70000, 70000, 6100, 6000, 61, 60), seen(700, 704, 700, 6200, 9000, 62, 63)}, Idle},

		"in doubt, then one request is answered": {
			[]Sample{inDoubt, seen(700, 704, 660, 6100, 93_000, 61, 143)}, Idle},
		"in doubt, then one of two requests is answered": {
			[]Sample{inDoubt, seen(700, 704, 660, 6200, 93_000, 62, 143)}, InUse},
		"in doubt, and not quiet before the next request": {
			[]Sample{inDoubt.with(func(s *Sample) { s.SinceSent, s.SinceReceived = 96*time.Millisecond, 100*time.Millisecond }),
				seen(700, 704, 660, 6100, 93_000, 61, 143)}, InUse},
		"in doubt, the client's segments ahead, then one is answered": {
			[]Sample{seen(700, 704, 660, 6000, 6000, 60, 59), seen(700, 704, 660, 6100, 6100, 61, 60)}, InUse},
		"in doubt, as short as HTTP/2's, then one is answered": {
			[]Sample{seen(700, 704, 660, 2111, 90_000, 60, 140), seen(700, 704, 660, 2140, 93_000, 61, 143)}, InUse},

		"the first exchange too short for TLS, then another": {
			[]Sample{seen(700, 704, 660, 80, 150, 1, 1), seen(700, 704, 660, 163, 310, 2, 2)}, Idle},
		"the first exchange may be of TLS, then another": {
			[]Sample{seen(700, 704, 660, 300, 1200, 1, 1), seen(700, 704, 660, 500, 1450, 2, 2)}, InUse},
		"a pause in the TLS handshake, the request in flight after it": {
			[]Sample{seen(1200, 1204, 1160, 600, 1200, 2, 1), seen(700, 704, 660, 780, 1450, 3, 2)}, InUse},
		"TLS, the first request and the session tickets": {
			[]Sample{seen(3000, 3004, 2960, 700, 1250, 3, 2), seen(700, 3704, 660, 700, 1350, 3, 3)}, InUse},

		"pinged since it was idle, by HTTP/2": {
			[]Sample{atRest, seen(8, 8, 8, 6017, 6017, 61, 61)}, Idle},
		"pinged twice since it was idle, over TLS 1.3": {
			[]Sample{atRest, seen(8, 8, 8, 6078, 6078, 62, 62)}, Idle},
		"pinged since it was idle, over TLS 1.2 with AES-GCM": {
			[]Sample{atRest, seen(8, 8, 8, 6046, 6046, 61, 61)}, Idle},
		"pinged since it was idle, over TLS 1.2 with ChaCha20": {
			[]Sample{atRest, seen(8, 8, 8, 6038, 6038, 61, 61)}, Idle},
		"two segments of 35 bytes": {
			[]Sample{atRest, seen(8, 8, 8, 6035, 6035, 62, 62)}, InUse},
		"as long as a ping, and not answered": {
			[]Sample{atRest, seen(700, 8, 8, 6017, 6000, 61, 60)}, InUse},
		"a ping and a request since it was idle": {
			[]Sample{atRest, seen(8, 8, 8, 6057, 6017, 62, 61)}, InUse},
		"pinged while a request waits": {
			[]Sample{atRest, seen(9000, 700, 700, 6100, 6000, 61, 60), seen(700, 700, 660, 6117, 6017, 62, 61)}, InUse},
	} {
		t.Run(name, func(t *testing.T) {
			var past Memory
			var got Verdict
			for _, s := range c.looks {
				got, past = half.Judge(&s, past)
			}
			if got.Class != c.want {
				t.Errorf("judged %+v: %+v", c.looks, got)
			}
		})
	}
}

// A client that keeps its connection alive by pings, or has read a part of its answer, does not prolong the
// time for which its request is believed.
func TestControlFramesDoNotBreakTheSilence(t *testing.T) {
	rule := Rule{IdleAfter: 5 * time.Second, RequestTimeout: time.Minute}
	for name, c := range map[string]struct {
		in, out, bytesIn, bytesOut int // each time
		expires                    bool
	}{
		"pings":                           {1, 1, 17, 17, true},
		"pings over TLS 1.3":              {1, 1, 39, 39, true},
		"WINDOW_UPDATEs":                  {1, 0, 13, 0, true},
		"two of them each time, over TLS": {1, 0, 26 + 22, 0, true},
		"a body that is sent slowly":      {1, 0, 100, 0, false},
		"an answer that is sent slowly":   {0, 1, 0, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := seen(4, 0, 0, 300, 200, 4, 3)
			_, past := rule.Judge(&s, Memory{})
			var v Verdict
			for range 8 {
				s.At += 10 * time.Second
				s.SegmentsReceived += uint32(c.in)
				s.SegmentsSent += uint32(c.out)
				s.BytesReceived += uint64(c.bytesIn)
				s.BytesSent += uint64(c.bytesOut)
				if c.in == 0 {
					s.SinceReceived += 10 * time.Second
				}
				if c.out == 0 {
					s.SinceSent += 10 * time.Second
				}
				v, past = rule.Judge(&s, past)
				if s.At > rule.RequestTimeout {
					break
				}
				if v.Class != InUse {
					t.Fatalf("given up after %v: %+v", s.At, v)
				}
			}
			if v.Expired != c.expires {
				t.Errorf("after %v it is judged %+v", s.At, v)
			}
		})
	}
}

func old(s *Sample) { s.HasBytes, s.HasSegments = false, false }
