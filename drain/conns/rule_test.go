package conns

import (
	"testing"
	"time"
)

// ms is a count of milliseconds.
type ms = int

// seen is a sample of an established connection with empty queues.
func seen(sent, received, acked ms, bytesReceived, bytesSent uint64, segmentsReceived, segmentsSent uint32) sample {
	return sample{
		state:     stateEstablished,
		hasClocks: true, sinceSent: millisOf(sent), sinceReceived: millisOf(received), sinceAcked: millisOf(acked),
		hasBytes: true, bytesReceived: bytesReceived, bytesSent: bytesSent,
		hasSegments: true, segmentsReceived: segmentsReceived, segmentsSent: segmentsSent, acknowledgements: 9,
	}
}

func millisOf(n ms) time.Duration { return time.Duration(n) * time.Millisecond }

// with returns the sample with some of it changed.
func (s sample) with(change func(*sample)) sample {
	change(&s)
	return s
}

// The figures without a remark are measured: Linux 6.18, HZ=250, over loopback and over a veth pair.
func TestJudge(t *testing.T) {
	half := Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Minute}
	for name, c := range map[string]struct {
		rule Rule
		sample
		want verdict
	}{
		"opened and nothing said":    {half, seen(1504, 1504, 1504, 0, 0, 0, 0), verdict{use: idle, silent: millisOf(1504)}},
		"the first request answered": {half, seen(1504, 1504, 1504, 31, 118, 1, 1), verdict{use: idle, silent: millisOf(1504)}},
		"100 requests answered, a lone acknowledgement since": {
			half, seen(1504, 1504, 1460, 3100, 11800, 100, 100), verdict{use: idle, silent: millisOf(1504)}},
		"100 answered, the next in flight": {
			half, seen(1500, 1500, 1500, 3131, 11800, 101, 100), verdict{use: active, next: half.IdleAfter, silent: millisOf(1500)}},
		"the first request in flight": {
			half, seen(1504, 1504, 1504, 31, 0, 1, 0), verdict{use: active, next: half.IdleAfter, silent: millisOf(1504)}},
		"an event stream between two events": {
			half, seen(400, 1504, 400, 30, 139, 1, 2), verdict{use: active, next: millisOf(100), silent: millisOf(400)}},
		"HTTP/2, a slow stream in flight": {
			half, seen(1504, 1504, 1504, 129, 61, 3, 2), verdict{use: active, next: half.IdleAfter, silent: millisOf(1504)}},
		"TLS, 20 requests answered": {half, seen(708, 708, 664, 3000, 9000, 23, 22), verdict{use: idle, silent: millisOf(708)}},
		"TLS, the first request in flight": {
			half, seen(708, 708, 708, 700, 3000, 4, 2), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"TLS, the first answer is a large one": {half, seen(708, 708, 664, 740, 70_000, 3, 8), verdict{use: idle, silent: millisOf(708)}},
		"TLS, 19 answered, the 20th in flight": {
			half, seen(708, 708, 708, 3000, 9000, 23, 21), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"HTTP/2, 50 answered": {half, seen(756, 756, 712, 3000, 3000, 52, 52), verdict{use: idle, silent: millisOf(756)}},
		"HTTP/2, 49 answered, the 50th in flight": {
			half, seen(756, 756, 756, 3000, 3000, 52, 51), verdict{use: active, next: half.IdleAfter, silent: millisOf(756)}},
		"HTTP/2 over TLS, 5 answered": {half, seen(760, 760, 716, 1000, 4000, 10, 9), verdict{use: idle, silent: millisOf(760)}},
		"HTTP/2 over TLS, 4 answered, the 5th in flight": {
			half, seen(760, 760, 760, 1000, 4000, 10, 8), verdict{use: active, next: half.IdleAfter, silent: millisOf(760)}},
		"HTTP/2, two streams in flight, another answered meanwhile": {
			half, seen(708, 708, 664, 220, 240, 8, 6), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},

		"HTTP/1.1, four requests answered, but it might be TLS": {
			half, seen(708, 708, 664, 1000, 800, 4, 4), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"HTTP/1.1, four requests answered, where nobody speaks TLS": {
			half, seen(708, 708, 664, 1000, 800, 4, 4).with(func(s *sample) { s.plain = true }), verdict{use: idle, silent: millisOf(708)}},
		"HTTP/1.1, three answered, the fourth in flight, where nobody speaks TLS": {
			half, seen(708, 708, 708, 1000, 600, 4, 3).with(func(s *sample) { s.plain = true }),
			verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"TLS, two requests answered": { // or HTTP/2's first in flight, the next row
			half, seen(708, 720, 664, 1800, 2700, 5, 4), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"HTTP/2 over TLS, the first request in flight, the server's SETTINGS after it": {
			half, seen(708, 720, 664, 1751, 2608, 5, 4), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"HTTP/2, a stream in flight, another answered meanwhile": {
			half, seen(708, 708, 664, 152, 136, 4, 3), verdict{use: active, next: half.IdleAfter, silent: millisOf(708)}},
		"HTTP/2, the first stream in flight, the server's SETTINGS after it": {
			half, seen(452, 464, 408, 129, 61, 3, 3).with(func(s *sample) { s.sinceSent += time.Second; s.sinceReceived += time.Second }),
			verdict{use: active, next: half.IdleAfter, silent: millisOf(1452)}},
		"the first request, a large answer": {
			half, seen(1400, 1400, 1400, 101, 300139, 1, 7), verdict{use: idle, silent: millisOf(1400)}},
		"five large answers": { // or a request after four
			half, seen(1400, 1400, 1400, 505, 1618914, 5, 36), verdict{use: active, next: half.IdleAfter, silent: millisOf(1400)}},
		"ten requests of two segments answered": {
			half, seen(3084, 3084, 3040, 2459, 3160, 24, 13), verdict{use: idle, silent: millisOf(3084)}},

		// Made up from here on.
		"received later than sent": {
			half, seen(9000, 700, 700, 500, 900, 9, 9), verdict{use: active, next: half.IdleAfter, silent: millisOf(700)}},
		"sent later than received, not quiet yet": {
			half, seen(300, 700, 300, 500, 900, 9, 9), verdict{use: active, next: millisOf(200), silent: millisOf(300)}},
		"sent later than received, quiet for exactly as long as it takes": {
			half, seen(500, 700, 500, 500, 900, 9, 9), verdict{use: idle, silent: millisOf(500)}},
		"a server that spoke first": {half, seen(700, 704, 660, 0, 80, 0, 1), verdict{use: idle, silent: millisOf(700)}},
		"in one jiffy, acknowledged by a keep-alive probe long after": {
			half, seen(20000, 20000, 5000, 3131, 11800, 101, 100), verdict{use: active, next: half.IdleAfter, silent: millisOf(20000)}},
		"in one jiffy, acknowledged by a keep-alive probe, balanced by answers of two segments": {
			half, seen(20000, 20000, 5000, 3131, 11800, 100, 100), verdict{use: active, next: half.IdleAfter, silent: millisOf(20000)}},
		"in flight for as long as a request may take": {
			half, seen(70000, 60000, 60000, 500, 900, 9, 9), verdict{use: active, next: time.Millisecond, silent: time.Minute}},
		"in flight for longer than a request may take": {
			half, seen(70000, 60001, 60001, 500, 900, 9, 9), verdict{use: idle, silent: millisOf(60001), expired: true}},
		"in flight for ever, no bound": {
			Rule{IdleAfter: time.Second}, seen(1e9, 1e8, 1e8, 500, 900, 9, 9), verdict{use: active, next: time.Second, silent: millisOf(1e8)}},
		"unread bytes": {
			half, seen(700, 704, 660, 500, 900, 9, 9).with(func(s *sample) { s.unread = 1 }),
			verdict{use: active, next: half.IdleAfter, silent: millisOf(700)}},
		"an answer that the client is still reading": {
			half, seen(700, 904, 300, 500, 90000, 9, 90).with(func(s *sample) { s.unsent = 70000 }),
			verdict{use: active, next: deliveryLook, silent: millisOf(700)}},
		"an answer that the client does not read, its window closed for long": {
			half, seen(90000, 90000, 9000, 500, 90000, 9, 90).with(func(s *sample) { s.unsent = 70000 }),
			verdict{use: active, next: deliveryLook, silent: millisOf(90000)}},
		"an answer to a client that is gone": {
			half, seen(60500, 90000, 60500, 500, 90000, 9, 90).with(func(s *sample) { s.unsent = 70000 }),
			verdict{use: idle, silent: millisOf(60500), expired: true}},
		"the client half closed, unanswered": {
			half, seen(900, 700, 700, 500, 0, 1, 0).with(func(s *sample) { s.state = stateCloseWait }),
			verdict{use: active, next: half.IdleAfter, silent: millisOf(700)}},
		"the client closed, the app never does": {
			half, seen(900, 904, 700, 500, 400, 1, 1).with(func(s *sample) { s.state = stateCloseWait }),
			verdict{use: idle, silent: millisOf(900)}},
		"the app closed, half the answer is on its way": {
			half, seen(900, 904, 700, 500, 4000, 1, 4).with(func(s *sample) { s.state, s.unsent = stateFinWait1, 2 }),
			verdict{use: active, next: deliveryLook, silent: millisOf(900)}},
		"the app closed, only its FIN is on its way": {
			half, seen(900, 904, 700, 500, 4000, 1, 4).with(func(s *sample) { s.state, s.unsent = stateFinWait1, 1 }), verdict{}},
		"both closed, the answer is on its way": {
			half, seen(900, 904, 700, 500, 4000, 1, 4).with(func(s *sample) { s.state, s.unsent = stateLastAck, 2000 }),
			verdict{use: active, next: deliveryLook, silent: millisOf(900)}},
		"the app closed on a client that is gone": {
			half, seen(61000, 90000, 90000, 500, 4000, 1, 4).with(func(s *sample) { s.state, s.unsent = stateFinWait1, 2000 }), verdict{}},
		"connecting":                             {half, sample{state: stateSynRecv}, verdict{use: active, next: deliveryLook}},
		"connecting, the client does not answer": {half, sample{state: stateSynRecv, retransmits: 1}, verdict{}},
		"closed by both":                         {half, sample{state: 6}, verdict{}},
		"closed by the app, delivered":           {half, sample{state: 5}, verdict{}},

		"every open connection is in use": {
			Rule{RequestTimeout: time.Second}, seen(9000, 9000, 8960, 500, 500, 9, 9), verdict{use: active, silent: 9 * time.Second}},
		"a source without clocks": {half, sample{state: stateEstablished}, verdict{use: active}},
		"a source without clocks, half an answer on its way": {
			half, sample{state: stateFinWait1, unsent: 2}, verdict{use: active, next: deliveryLook}},
		"an old kernel without counters, answered later": {
			half, seen(700, 800, 700, 0, 0, 0, 0).with(old), verdict{use: idle, silent: millisOf(700)}},
		"an old kernel without counters, within one jiffy": {
			half, seen(700, 700, 700, 0, 0, 0, 0).with(old), verdict{use: active, next: half.IdleAfter, silent: millisOf(700)}},
		"segment counters that wrapped": {
			half, seen(756, 756, 712, 3000, 3000, 2, ^uint32(0)), verdict{use: active, next: half.IdleAfter, silent: millisOf(756)}},
		"a segment counter that wrapped to one": {
			half, seen(756, 756, 756, 1<<40, 1<<40, 1, 1), verdict{use: active, next: half.IdleAfter, silent: millisOf(756)}},
		"a counter of acknowledgements that wrapped to one": {
			half, seen(756, 756, 756, 9e6, 9e6, 70_000, 70_000).with(func(s *sample) { s.acknowledgements = 1 }),
			verdict{use: active, next: half.IdleAfter, silent: millisOf(756)}},
		"segment counters of which one wrapped": {
			half, seen(756, 756, 712, 3000, 3000, ^uint32(0), 1), verdict{use: idle, silent: millisOf(756)}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := c.rule.judge(c.sample, mark{}); got != c.want {
				t.Errorf("judge(%+v) =\n%+v, want\n%+v", c.sample, got, c.want)
			}
		})
	}
}

// What earlier looks saw of the same socket decides where the figures of one do not.
func TestJudgeRemembers(t *testing.T) {
	half := Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Minute}
	acks := func(n uint16) func(*sample) { return func(s *sample) { s.acknowledgements = n } }
	for name, c := range map[string]struct {
		looks []sample // one after the other
		want  use
	}{
		"unchanged since it was idle, acknowledged by a probe": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(9000, 9000, 700, 3000, 3000, 60, 60)}, idle},
		"one since it was idle, within a jiffy": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(700, 700, 700, 3100, 3100, 61, 61)}, idle},
		"a request since it was idle, within a jiffy": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(700, 700, 700, 3100, 3000, 61, 60)}, active},
		"two requests and one answer since it was idle, within a jiffy": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(700, 700, 700, 3200, 3100, 62, 61).with(acks(10))}, active},
		"nothing was acknowledged alone since the last look": {
			[]sample{seen(50, 50, 50, 3000, 3000, 60, 60), seen(700, 700, 700, 3900, 3900, 69, 69)}, idle},
		"something was acknowledged alone since the last look": {
			[]sample{seen(50, 50, 50, 3000, 3000, 60, 60), seen(700, 700, 700, 3900, 3900, 69, 69).with(acks(10))}, active},
		"something was acknowledged alone when the last look had seen it": {
			[]sample{seen(50, 50, 50, 3000, 3000, 60, 60), seen(8, 8, 8, 3900, 3900, 69, 69), seen(700, 700, 700, 3900, 3900, 69, 69).with(acks(10))}, active},
		"an answer alone since the last look": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 60), seen(700, 9000, 700, 3000, 3100, 60, 61)}, idle},
		"the one that waited is answered": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(700, 9000, 700, 3000, 3100, 60, 60)}, idle},
		"another is answered, the one that waited not": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(700, 704, 700, 3030, 3100, 61, 60)}, active},
		"the same, acknowledged alone": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(700, 700, 660, 3030, 3100, 61, 60)}, active},
		"another and the one that waited are answered": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(700, 704, 700, 3030, 3200, 61, 61)}, idle},
		"another is answered in two segments, as all are": {
			[]sample{seen(9000, 700, 700, 3000, 9000, 60, 118), seen(700, 704, 700, 3030, 9200, 61, 120)}, active},
		"ten others are answered, the one that waited not": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(700, 704, 700, 3300, 4000, 70, 69)}, active},
		"it waits on": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(9000, 5000, 700, 3000, 3000, 60, 59)}, active},
		"it is not believed any more": {
			[]sample{seen(9000, 700, 700, 3000, 3000, 60, 59), seen(70000, 70000, 70000, 3000, 3000, 60, 59)}, idle},
		"one more is ahead than before, others answered": {
			[]sample{seen(50, 54, 50, 9000, 9000, 60, 59), seen(50, 54, 50, 9900, 9900, 69, 68), seen(700, 704, 700, 11000, 11000, 80, 78)}, active},
		"each request is sent in two segments": {
			[]sample{seen(50, 54, 50, 9000, 9000, 60, 59), seen(700, 704, 700, 11000, 11000, 80, 69)}, idle},
		"TLS, the first request and the session tickets, answered after seconds": {
			[]sample{seen(3000, 3004, 2960, 700, 1250, 3, 2), seen(700, 3704, 660, 700, 1350, 3, 3)}, idle},
		"HTTP/2's SETTINGS after the first request, then its answer": {
			[]sample{seen(300, 304, 260, 129, 49, 3, 2), seen(700, 3704, 660, 129, 144, 3, 3)}, idle},
		"pinged since it was idle, by HTTP/2": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(8, 8, 8, 3017, 3017, 61, 61)}, idle},
		"pinged twice since it was idle, over TLS": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(8, 8, 8, 3078, 3078, 62, 62)}, idle},
		"as long as a ping, and not answered": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(700, 8, 8, 3017, 3000, 61, 60)}, active},
		"a ping and a request since it was idle": {
			[]sample{seen(700, 700, 660, 3000, 3000, 60, 60), seen(8, 8, 8, 3057, 3017, 62, 61)}, active},
	} {
		t.Run(name, func(t *testing.T) {
			var past mark
			var got verdict
			for _, s := range c.looks {
				got, past = half.judge(s, past)
			}
			if got.use != c.want {
				t.Errorf("judged %+v: %+v", c.looks, got)
			}
		})
	}
}

func old(s *sample) { s.hasBytes, s.hasSegments = false, false }
