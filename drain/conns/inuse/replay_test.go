package inuse

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// replayed is a connection of the corpus (test/corpus), as the kernel told of it: what `go test ./corpus -args -record FILE`
// in the test module has written.
type replayed struct {
	title    string
	protocol string
	class    string        // "idle common", "idle -", "in use -", "in use paced", "in use mixed", "in use blind"
	done     time.Duration // when it was as the shape wants it
	moments  []replayedMoment
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
			r := &replayed{title: strings.Join(part[:3], ": "), protocol: part[1], class: part[3]}
			var ms int
			if _, err := fmt.Sscan(part[4], &ms); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			r.done = millisOf(ms)
			all = append(all, r)
			continue
		}
		var at, until, sent, received, acked int
		var segments, largest uint32
		m := replayedMoment{Sample: Sample{HasClocks: true, HasBytes: true, HasSegments: true}}
		if _, err := fmt.Sscan(line, &at, &until, &m.State, &m.Unread, &m.Unacked, &sent, &received, &acked, &m.BytesReceived, &m.BytesSent,
			&m.SegmentsReceived, &m.SegmentsSent, &segments, &largest); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		m.at, m.until, m.SinceSent, m.SinceReceived, m.SinceAcked = millisOf(at), millisOf(until), millisOf(sent), millisOf(received), millisOf(acked)
		m.BareACKs, m.LargestReceived = uint16(segments-m.SegmentsSent), largest
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

// The corpus as it was recorded over links of MTU 1500 and 1450, on a machine with other work to do. None in
// use is called idle, however it was looked at. How many of the idle ones are recognised may only grow.
func TestRecordedCorpus(t *testing.T) {
	rule := Rule{IdleAfter: time.Second, RequestTimeout: time.Hour}
	all := recordedCorpus(t)
	for _, c := range []struct {
		looked string
		every  time.Duration
		// least is the share of the idle connections of HTTP/1.1 in clear that is recognised.
		least float64
	}{
		{"afterwards", 0, 0.43},
		{"every second", time.Second, 0.52},
		{"every 100 ms", 100 * time.Millisecond, 0.52},
		{"every 20 ms", 20 * time.Millisecond, 0.52},
	} {
		t.Run(c.looked, func(t *testing.T) {
			recognised, of, inUse := map[string]int{}, map[string]int{}, 0
			for _, r := range all {
				isIdle := r.calledIdle(rule, c.every)
				switch {
				case strings.HasPrefix(r.class, "idle"):
					of[r.protocol]++
					if isIdle {
						recognised[r.protocol]++
					}
				case r.class != "in use blind":
					inUse++
					if isIdle {
						t.Errorf("in use, and called idle: %s", r.title)
					}
				}
			}
			if share := float64(recognised["HTTP/1.1"]) / float64(of["HTTP/1.1"]); share < c.least {
				t.Errorf("recognised %.3f of the idle ones of HTTP/1.1, want %.3f", share, c.least)
			}
			for _, p := range slices.Sorted(maps.Keys(of)) {
				t.Logf("%s: %d of %d idle ones", p, recognised[p], of[p])
			}
			t.Logf("%d in use", inUse)
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
