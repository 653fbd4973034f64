package inuse

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// flow is a made-up connection as the kernel of its server sees it: one request after the other.
type flow struct {
	now             time.Duration
	sent, heard     time.Duration // the last data
	acked           time.Duration
	in, out, acks   uint32
	bytesIn         uint64
	bytesOut        uint64
	unacknowledged  bool // the client's last data, by the server
	acknowledgeAt   time.Duration
	clientOwes      bool // an acknowledgement, until clientAt
	clientAt        time.Duration
	looks           []time.Duration // when it is looked at, in order
	rule            Rule
	past            Memory
	last            Verdict
	calledIdleInUse bool
	inUse           bool
}

const jiffy = 4 * time.Millisecond

// pass lets time pass, with what the kernels do meanwhile and the looks.
func (f *flow) pass(d time.Duration) {
	for end := f.now + d; ; {
		next, what := end, 0
		consider := func(at time.Duration, w int) {
			if at <= next {
				next, what = max(at, f.now), w
			}
		}
		if len(f.looks) > 0 {
			consider(f.looks[0], 1)
		}
		if f.unacknowledged {
			consider(f.acknowledgeAt, 2)
		}
		if f.clientOwes {
			consider(f.clientAt, 3)
		}
		f.now = next
		switch what {
		case 0:
			return
		case 1:
			f.looks = f.looks[1:]
			f.look()
		case 2:
			f.unacknowledged = false
			f.acks++
		case 3:
			f.clientOwes, f.acked = false, f.now
		}
	}
}

func (f *flow) look() {
	since := func(at time.Duration) time.Duration { return f.now/jiffy*jiffy - at/jiffy*jiffy }
	s := Sample{
		State: Established, HasClocks: true, SinceSent: since(f.sent), SinceReceived: since(f.heard), SinceAcked: since(f.acked),
		HasBytes: true, BytesReceived: f.bytesIn, BytesSent: f.bytesOut,
		HasSegments: true, SegmentsReceived: f.in, SegmentsSent: f.out, BareACKs: uint16(f.acks),
	}
	f.last, f.past = f.rule.Judge(&s, f.past)
	f.calledIdleInUse = f.calledIdleInUse || f.inUse && f.last.Class == Idle
}

// say is a segment of the client. It carries the acknowledgement of what it has read.
func (f *flow) say(bytes int, acknowledge time.Duration) {
	if f.unacknowledged && acknowledge == 0 {
		f.acks++
	}
	f.in, f.bytesIn, f.heard, f.inUse = f.in+1, f.bytesIn+uint64(bytes), f.now, true
	if f.clientOwes {
		f.clientOwes, f.acked = false, f.now
	}
	switch {
	case acknowledge == 0:
		f.acks++
		f.unacknowledged = false
	case !f.unacknowledged:
		f.unacknowledged, f.acknowledgeAt = true, f.now+acknowledge
	}
}

// answer is the server's, in so many segments, the acknowledgement of which the client sends alone after a time.
func (f *flow) answer(segments int, last bool, acknowledge time.Duration) {
	f.out, f.bytesOut, f.sent, f.unacknowledged = f.out+uint32(segments), f.bytesOut+uint64(200*segments), f.now, false
	f.clientOwes, f.clientAt, f.inUse = true, f.now+acknowledge, !last
}

// A request in flight is never called idle, on a connection that has one at a time, whatever came before and whenever it
// was looked at: not before the longest time that a request may be silent.
func TestARequestInFlightIsNeverCalledIdle(t *testing.T) {
	span := func(low, high time.Duration) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.IntRange(int(low/time.Microsecond), int(high/time.Microsecond)), func(us int) time.Duration {
			return time.Duration(us) * time.Microsecond
		})
	}
	soon := rapid.OneOf(span(20*time.Microsecond, 300*time.Microsecond), span(time.Millisecond, 30*time.Millisecond), span(45*time.Millisecond, 2*time.Second))
	rapid.Check(t, func(t *rapid.T) {
		f := &flow{rule: Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Minute}, now: time.Hour + span(0, jiffy).Draw(t, "phase")}
		f.sent, f.heard, f.acked = f.now, f.now, f.now
		at := f.now
		for range rapid.IntRange(0, 30).Draw(t, "looks") {
			at += span(0, 400*time.Millisecond).Draw(t, "look")
			f.looks = append(f.looks, at)
		}
		requests := rapid.IntRange(0, 12).Draw(t, "answered")
		answers := rapid.IntRange(1, 3).Draw(t, "segments of an answer")
		first := true
		request := func() {
			for i := range rapid.SampledFrom([]int{1, 1, 2}).Draw(t, "segments") {
				if i > 0 {
					f.pass(soon.Draw(t, "gap"))
				}
				// The first segment is acknowledged at once, the others with the answer or when that is late.
				acknowledge := 40 * time.Millisecond
				if first || rapid.IntRange(0, 9).Draw(t, "at once") == 0 {
					acknowledge, first = 0, false
				}
				f.say(rapid.IntRange(80, 150).Draw(t, "bytes"), acknowledge)
			}
		}
		for range requests {
			request()
			f.pass(soon.Draw(t, "handler"))
			f.answer(answers, true, rapid.SampledFrom([]time.Duration{30 * time.Microsecond, 40 * time.Millisecond}).Draw(t, "acknowledged"))
			f.pass(soon.Draw(t, "think"))
		}
		request()
		if rapid.Bool().Draw(t, "has room again") {
			f.pass(span(0, 25*time.Millisecond).Draw(t, "later"))
			f.acked = f.now
		}
		f.pass(time.Second)
		for range 20 {
			f.pass(time.Second)
			f.look()
		}
		if f.calledIdleInUse {
			t.Fatalf("called idle; at the end %+v, %+v", *f, f.past)
		}
		f.answer(answers, true, 40*time.Millisecond)
		for range 62 {
			f.pass(time.Second)
			f.look()
		}
		if f.last.Class != Idle {
			t.Fatalf("called in use a minute after the answer: %+v, %+v", f.last, f.past)
		}
	})
}

// Whatever the looks have learnt: what the client said last is a request, until it has been silent for too long.
func TestAByteReceivedUnansweredIsNeverIdle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		duration := rapid.Map(rapid.IntRange(0, 50_000), millisOf)
		past := Memory{
			known: true, in: rapid.Uint32().Draw(t, "in"), out: rapid.Uint32().Draw(t, "out"), bareACKs: rapid.Uint16().Draw(t, "acks"),
			last: rapid.SampledFrom([]side{nobody, client, server}).Draw(t, "last"), bareACK: rapid.Bool().Draw(t, "bare ACK"),
			opened: rapid.Bool().Draw(t, "opened"), inPause: rapid.Bool().Draw(t, "in a pause"), pausedBefore: rapid.Bool().Draw(t, "paused before"),
			base: rapid.SampledFrom([]base{noBase, mayWait, nothingWaits}).Draw(t, "base"), asked: uint8(rapid.IntRange(0, 2).Draw(t, "asked")),
			told: rapid.Bool().Draw(t, "told"), idle: rapid.Bool().Draw(t, "idle"),
		}
		received := duration.Draw(t, "since received")
		s := Sample{
			State: Established, HasClocks: true, SinceReceived: received, SinceSent: received + jiffy + duration.Draw(t, "before"),
			SinceAcked: duration.Draw(t, "since acked"), HasBytes: true, BytesReceived: 1 + rapid.Uint64().Draw(t, "bytes in")/2, BytesSent: rapid.Uint64().Draw(t, "bytes out"),
			HasSegments: true, SegmentsReceived: past.in + 1, SegmentsSent: past.out + uint32(rapid.IntRange(0, 3).Draw(t, "sent")),
			BareACKs: rapid.Uint16().Draw(t, "acks now"),
		}
		rule := Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Minute}
		for range 3 {
			var v Verdict
			if v, past = rule.Judge(&s, past); v.Class != InUse {
				t.Fatalf("%+v is called %+v", s, v)
			}
			more := rapid.IntRange(0, int((rule.RequestTimeout-s.SinceReceived)/time.Millisecond)).Draw(t, "later")
			s.SinceReceived += millisOf(more)
			s.SinceSent += millisOf(more)
			s.SinceAcked += millisOf(more)
		}
	})
}

// On a multiplexed connection whose requests are as short as those of HTTP/2 none is ever called idle while it
// is in flight, in whatever order they are begun and answered, by however many segments, and whenever the
// connection was looked at.
func TestAStreamInFlightIsNeverCalledIdle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := func(low, high time.Duration) *rapid.Generator[time.Duration] {
			return rapid.Map(rapid.IntRange(int(low/time.Microsecond), int(high/time.Microsecond)), func(n int) time.Duration {
				return time.Duration(n) * time.Microsecond
			})
		}
		soon := rapid.OneOf(us(20*time.Microsecond, 300*time.Microsecond), us(time.Millisecond, 30*time.Millisecond),
			us(45*time.Millisecond, 2*time.Second))
		f := &flow{rule: Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Hour}, now: time.Hour}
		f.sent, f.heard, f.acked = f.now, f.now, f.now
		at := f.now
		for range rapid.IntRange(0, 30).Draw(t, "looks") {
			at += us(0, 400*time.Millisecond).Draw(t, "look")
			f.looks = append(f.looks, at)
		}
		pending := 0
		acknowledged := func() time.Duration {
			return rapid.SampledFrom([]time.Duration{0, 40 * time.Millisecond}).Draw(t, "acknowledged")
		}
		ask := func(bytes int) {
			pending++
			f.say(bytes, acknowledged())
		}
		answer := func(segments int) {
			pending--
			f.answer(segments, pending == 0, 40*time.Millisecond)
		}
		// The opening: the preface, SETTINGS of both, and their acknowledgements, before or after the first request.
		f.bytesOut += 30
		f.out, f.sent = f.out+1, f.now
		f.say(rapid.IntRange(58, 90).Draw(t, "preface"), 0)
		f.inUse = false
		f.pass(soon.Draw(t, "until the first request"))
		ask(rapid.IntRange(40, 150).Draw(t, "first request"))
		f.pass(us(20*time.Microsecond, 20*time.Millisecond).Draw(t, "until the acknowledgement"))
		f.say(9, acknowledged())
		f.out, f.bytesOut, f.sent = f.out+1, f.bytesOut+9, f.now
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			f.pass(soon.Draw(t, "next"))
			if pending < 2 || rapid.Bool().Draw(t, "one more") {
				ask(rapid.IntRange(20, 60).Draw(t, "request"))
			} else {
				answer(rapid.SampledFrom([]int{1, 1, 2, 3, 14}).Draw(t, "segments"))
			}
		}
		f.inUse = true
		for range 8 {
			f.pass(time.Second)
			f.look()
		}
		if f.calledIdleInUse {
			t.Fatalf("with %d in flight called idle; at the end %+v, %+v", pending, *f, f.past)
		}
	})
}
