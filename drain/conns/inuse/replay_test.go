package inuse

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// replayed is a connection of the corpus (test/corpus), as the kernel told of it: what `go test ./corpus -args -record FILE`
// in the test module has written.
type replayed struct {
	title   string
	shape   string
	class   string        // "idle common", "idle -", "in use -", "in use paced", "in use mixed", "in use blind"
	done    time.Duration // when it was as the shape wants it
	moments []replayedMoment
}

// replayedMoment is what was told from one look to another, between which only time passed.
type replayedMoment struct {
	at, until time.Duration
	Sample
}

// at is what was told at a time; false when nobody looked then.
func (r *replayed) at(t time.Duration) (Sample, bool) {
	for i, m := range r.moments {
		if last := i == len(r.moments)-1; t >= m.at && (t <= m.until || last) {
			m.SinceSent += t - m.at
			m.SinceReceived += t - m.at
			m.SinceAcked += t - m.at
			m.At = t
			return m.Sample, true
		}
	}
	return Sample{}, false
}

func recordedCorpus(t *testing.T) []*replayed {
	t.Helper()
	f, err := os.Open("testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []*replayed
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if title, ok := strings.CutPrefix(line, "# "); ok {
			part := strings.Split(title, " | ")
			r := &replayed{title: strings.Join(part[:3], ": "), shape: part[1] + part[2], class: part[3]}
			var ms int
			if _, err := fmt.Sscan(part[4], &ms); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			r.done = millisOf(ms)
			all = append(all, r)
			continue
		}
		var at, until, sent, received, acked int
		var segments uint32
		m := replayedMoment{Sample: Sample{HasClocks: true, HasBytes: true, HasSegments: true}}
		if _, err := fmt.Sscan(line, &at, &until, &m.State, &m.Unread, &m.Unacked, &sent, &received, &acked, &m.BytesReceived, &m.BytesSent,
			&m.SegmentsReceived, &m.SegmentsSent, &segments); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		m.at, m.until, m.SinceSent, m.SinceReceived, m.SinceAcked = millisOf(at), millisOf(until), millisOf(sent), millisOf(received), millisOf(acked)
		m.BareACKs = uint16(segments - m.SegmentsSent)
		all[len(all)-1].moments = append(all[len(all)-1].moments, m)
	}
	return all
}

// calledIdle looks as a drain does, every so often before the connection is as the shape wants it and when the rule says so
// after, and reports whether it is called idle within --idle-after and a second.
func (r *replayed) calledIdle(rule Rule, every time.Duration) bool {
	var past Memory
	var v Verdict
	if every > 0 {
		for at := r.moments[0].at; at < r.done; at += every {
			if s, ok := r.at(at); ok {
				_, past = rule.Judge(&s, past)
			}
		}
	}
	for at := r.done; at <= r.done+rule.IdleAfter+time.Second; {
		s, ok := r.at(at)
		if !ok {
			at += 10 * time.Millisecond
			continue
		}
		if v, past = rule.Judge(&s, past); v.Class != InUse {
			return true
		}
		at += min(max(v.Next, time.Millisecond), 250*time.Millisecond)
	}
	return false
}

// The corpus as it was recorded on a machine with other work to do. None in use is called idle, however it was looked at; how
// many of the idle ones are recognised may only grow.
func TestRecordedCorpus(t *testing.T) {
	rule := Rule{IdleAfter: time.Second, RequestTimeout: time.Hour}
	all := recordedCorpus(t)
	for _, c := range []struct {
		looked       string
		every        time.Duration
		common, idle float64
	}{
		{"afterwards", 0, 0.08, 0.09},
		{"every second", time.Second, 0.09, 0.1},
		{"every 100 ms", 100 * time.Millisecond, 0.11, 0.11},
		{"every 20 ms", 20 * time.Millisecond, 0.11, 0.11},
	} {
		t.Run(c.looked, func(t *testing.T) {
			called, of := map[string]int{}, map[string]int{}
			shapes := map[string]bool{}
			for _, r := range all {
				shapes[r.shape] = true
				isIdle := r.calledIdle(rule, c.every)
				if (r.class == "in use -" || r.class == "in use paced") && isIdle {
					t.Errorf("in use, and called idle: %s", r.title)
				}
				of[r.class]++
				if isIdle == strings.HasPrefix(r.class, "idle") {
					called[r.class]++
				}
			}
			common, idles := float64(called["idle common"])/float64(of["idle common"]), float64(called["idle common"]+called["idle -"])/float64(of["idle common"]+of["idle -"])
			if common < c.common || idles < c.idle {
				t.Errorf("recognised %.3f of the common ones, %.3f of the idle ones; want %.3f and %.3f", common, idles, c.common, c.idle)
			}
			t.Logf("%d connections of %d shapes: %v of %v", len(all), len(shapes), called, of)
		})
	}
}

// What is idle and unchanged is not judged again: the rule would say the same of it, and learn nothing.
func TestWhatIsStillIdleIsAsTheRuleWouldSay(t *testing.T) {
	rule := Rule{IdleAfter: 200 * time.Millisecond, RequestTimeout: time.Second}
	const cookie = 7
	still := 0
	for _, r := range recordedCorpus(t) {
		var table Table
		for at := r.moments[0].at; at <= r.done+3*time.Second; at += 50 * time.Millisecond {
			s, ok := r.at(at)
			if !ok {
				continue
			}
			table.Begin()
			is, past := table.StillIdle(cookie, &s), table.Find(cookie)
			v, now := rule.Judge(&s, past)
			if is {
				still++
				if want := (Verdict{Class: Idle, Silent: s.silent()}); v != want || now != past {
					t.Fatalf("%s: idle and judged %+v: %+v, %+v, want %+v, %+v", r.title, s, v, now, want, past)
				}
			}
			table.Keep(cookie, now)
		}
	}
	if still == 0 {
		t.Error("nothing was ever idle still: the test is broken")
	}
}
