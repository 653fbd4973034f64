package drain

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

// step is an event and when it happens, in seconds.
type step struct {
	at float64
	e  event
}

func saw(sec float64, k kind) step         { return step{sec, event{kind: k}} }
func told(sec float64, k kind, r int) step { return step{sec, event{kind: k, reg: r}} }

// seen is a tally of a look that began at sec, and arrives then.
func seen(sec float64, active int) step {
	return step{sec, event{kind: sawCount, tally: tally{began: at(sec), active: active}}}
}

// heard is a tally of none in use, of a look that began at sec, when a client was last heard at another time.
func heard(sec, last float64) step {
	return step{sec, event{kind: sawCount, tally: tally{began: at(sec), heard: at(last)}}}
}

func TestMachine(t *testing.T) {
	byRegistry := policy{budget: 100 * time.Second, linger: -1, afterPublished: []time.Duration{40 * time.Second}, afterLeave: []time.Duration{70 * time.Second}}
	none := policy{budget: 20 * time.Second, linger: -1}
	fixed := policy{budget: 100 * time.Second, linger: 10 * time.Second, afterPublished: []time.Duration{40 * time.Second}, afterLeave: []time.Duration{70 * time.Second}}
	quiet, quietFixed, quietNone := byRegistry, fixed, policy{budget: 100 * time.Second, linger: 30 * time.Second, quiet: 5 * time.Second}
	quiet.quiet, quietFixed.quiet = 5*time.Second, 5*time.Second
	up := saw(0, sawListen)
	for _, c := range []struct {
		behaviour string
		policy    policy
		app       appState
		steps     []step
		phase     phase
		want      want
		exit      bool
	}{
		{"without a registry the drain is over after the endpoints' linger", none, appAbsent, []step{up, saw(1, sawHook), seen(4, 0)}, drained, wantOut, false},
		{"a count that began before the linger was over proves nothing", none, appAbsent, []step{up, saw(1, sawHook), seen(3.9, 0), saw(5, sawTime)}, draining, wantOut, false},
		{"a connection in use holds the drain", none, appAbsent, []step{up, saw(1, sawHook), seen(5, 1)}, draining, wantOut, false},
		{"the deadline ends it", none, appAbsent, []step{up, saw(1, sawHook), seen(5, 1), saw(21, sawTime)}, expired, wantOut, false},
		{"without a source of counts the linger ends it", none, appUnseen, []step{saw(1, sawHook), {2, event{kind: sawCount, tally: tally{none: true}}}, saw(4, sawTime)}, drained, wantOut, false},
		{"the linger runs from when callers could see it, not from the call", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), seen(59, 0)}, draining, wantOut, false},
		{"and is over then", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), seen(60, 0)}, drained, wantOut, false},
		{"where publication cannot be seen the longest time counts", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(2, sawUnseen, 0), seen(70, 0)}, draining, wantOut, false},
		{"and is over then too", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(2, sawUnseen, 0), seen(71, 0)}, drained, wantOut, false},
		{"a registry given up is lingered for from then", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(10, sawGaveUp, 0), seen(79, 0)}, draining, wantOut, false},
		{"one that works in the end is lingered for from then", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(10, sawGaveUp, 0), told(30, sawLeft, 0), told(31, sawPublished, 0), seen(70, 0)}, draining, wantOut, false},
		{"what never held the Pod is not lingered for", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawEmpty, 0), seen(4, 0)}, drained, wantOut, false},
		{"what held it once is, though it is empty now", byRegistry, appAbsent, []step{up, told(0, sawIn, 0), told(0, sawLeft, 0), saw(0, sawHook), told(1, sawEmpty, 0), told(1, sawPublished, 0), seen(5, 0)}, draining, wantOut, false},
		{"a given linger runs from the read-back", fixed, appAbsent, []step{up, saw(0, sawHook), told(5, sawLeft, 0), seen(14, 0)}, draining, wantOut, false},
		{"and needs no publication", fixed, appAbsent, []step{up, saw(0, sawHook), told(5, sawLeft, 0), seen(15, 0)}, drained, wantOut, false},
		{"an undone leave lingers anew", fixed, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(8, sawUndone, 0), told(9, sawLeft, 0), seen(18, 0)}, draining, wantOut, false},
		{"nobody reaches an app that does not listen: no linger", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), saw(2, sawVanish), seen(2, 0)}, drained, wantOut, false},
		{"but its last answers are waited for", byRegistry, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), saw(2, sawVanish), seen(3, 1)}, draining, wantOut, false},

		{"a quiet period ends the linger", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), heard(32.1, 27)}, drained, wantOut, false},
		{"but not before it is over", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), heard(31.9, 27)}, draining, wantOut, false},
		{"a client that is heard again begins it anew", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), heard(31, 27), heard(33, 31.5), saw(36, sawTime)}, draining, wantOut, false},
		{"what was said is learnt by a look, not by the time", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), heard(31, 27), saw(33, sawTime)}, draining, wantOut, false},
		{"silence before callers could know is none", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), heard(25, 0)}, draining, wantOut, false},
		{"nor is it one in the time that publication takes where it cannot be seen", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(2, sawUnseen, 0), heard(36, 0)}, draining, wantOut, false},
		{"after that it is", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(2, sawUnseen, 0), heard(36.1, 0)}, drained, wantOut, false},
		{"callers of a registry that was given up do not know: silence says nothing", quiet, appAbsent, []step{up, saw(0, sawHook), told(10, sawGaveUp, 0), heard(60, 0)}, draining, wantOut, false},
		{"a given linger too waits for the publication", quietFixed, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), heard(9, 0)}, draining, wantOut, false},
		{"and ends early then", quietFixed, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(3, sawPublished, 0), heard(8.1, 0)}, drained, wantOut, false},
		{"and is not made longer", quietFixed, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(9, sawPublished, 0), heard(11.1, 11)}, drained, wantOut, false},
		{"a quiet period is no count", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), {33, event{kind: sawCount, tally: tally{began: at(33), heard: at(27), active: 1}}}}, draining, wantOut, false},
		{"an undone leave begins everything anew", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), told(24, sawUndone, 0), heard(33, 0)}, draining, wantOut, false},
		{"where clients cannot be heard the whole linger is waited for", quiet, appAbsent, []step{up, saw(0, sawHook), told(1, sawLeft, 0), told(20, sawPublished, 0), seen(59, 0)}, draining, wantOut, false},
		{"endpoints have their time though all is quiet", policy{budget: 100 * time.Second, linger: 30 * time.Second, quiet: time.Second}, appAbsent, []step{up, saw(0, sawHook), heard(2.9, 0)}, draining, wantOut, false},
		{"without a registry silence counts from the hook on", quietNone, appAbsent, []step{up, saw(10, sawHook), heard(15, 0)}, draining, wantOut, false},
		{"and then ends it", quietNone, appAbsent, []step{up, saw(10, sawHook), heard(15.1, 0)}, drained, wantOut, false},

		{"a crash takes the instance out", byRegistry, appAbsent, []step{up, saw(5, sawVanish)}, serving, wantOut, false},
		{"and its return puts it back", byRegistry, appAbsent, []step{up, saw(5, sawVanish), saw(9, sawListen)}, serving, wantIn, false},
		{"a restart after a drain rejoins", none, appAbsent, []step{up, saw(1, sawHook), seen(4, 0), saw(5, sawVanish), saw(9, sawListen)}, serving, wantIn, false},
		{"a restart that was only seen by the new socket too", none, appAbsent, []step{up, saw(1, sawHook), seen(4, 0), saw(9, sawListen)}, serving, wantIn, false},
		{"an app that opens its socket anew in mid-drain does not end it", none, appAbsent, []step{up, saw(1, sawHook), saw(2, sawListen)}, draining, wantOut, false},
		{"one that was seen gone does", none, appAbsent, []step{up, saw(1, sawHook), seen(2, 1), saw(2, sawVanish), saw(3, sawListen)}, serving, wantIn, false},
		{"resume cancels a drain", none, appAbsent, []step{up, saw(1, sawHook), saw(2, sawResume)}, serving, wantIn, false},
		{"resume after the deadline serves again", none, appAbsent, []step{up, saw(1, sawHook), saw(30, sawTime), saw(31, sawResume)}, serving, wantIn, false},
		{"a second hook soon after gets the same answer", none, appAbsent, []step{up, saw(1, sawHook), seen(4, 0), saw(8, sawHook)}, drained, wantOut, false},
		{"much later it is about another stop", none, appAbsent, []step{up, saw(1, sawHook), seen(4, 0), saw(60, sawHook)}, draining, wantOut, false},

		{"a native sidecar's SIGTERM: the app is gone, forget", byRegistry, appAbsent, []step{up, saw(1, sawVanish), saw(2, sawTerm)}, forgotten, wantGone, false},
		{"and exit when that is done", byRegistry, appAbsent, []step{up, saw(1, sawVanish), saw(2, sawTerm), told(2, sawForgot, 0)}, forgotten, wantGone, true},
		{"or could not be done in time", byRegistry, appAbsent, []step{up, saw(1, sawVanish), saw(2, sawTerm), saw(4, sawTime)}, forgotten, wantGone, true},
		{"an old-style SIGTERM begins the drain", none, appAbsent, []step{up, saw(1, sawTerm)}, draining, wantOut, false},
		{"the hook after it joins", none, appAbsent, []step{up, saw(1, sawTerm), saw(2, sawHook), seen(4, 0)}, drained, wantOut, false},
		{"it stays until the app is gone", none, appAbsent, []step{up, saw(1, sawTerm), seen(4, 0), saw(20, sawTime)}, drained, wantOut, false},
		{"then forgets and goes", none, appAbsent, []step{up, saw(1, sawTerm), seen(4, 0), saw(7, sawVanish)}, forgotten, wantGone, true},
		{"or goes at the deadline, and deletes nothing that lives", none, appAbsent, []step{up, saw(1, sawTerm), seen(4, 0), saw(21, sawTime)}, drained, wantOut, true},
		{"SIGTERM at the deadline of an expired drain", none, appAbsent, []step{up, saw(1, sawTerm), saw(21, sawTime)}, expired, wantOut, true},
		{"SIGTERM where the app cannot be seen goes after the drain", none, appUnseen, []step{saw(1, sawTerm), {4, event{kind: sawCount, tally: tally{began: at(4), none: true}}}}, drained, wantOut, true},
		{"SIGTERM before the app ever listened", none, appAbsent, []step{saw(1, sawTerm)}, forgotten, wantGone, true},
		{"resumed after SIGTERM: leaves when the registries have it back", byRegistry, appAbsent, []step{up, saw(1, sawTerm), saw(2, sawResume)}, serving, wantIn, false},
		{"and then", byRegistry, appAbsent, []step{up, saw(1, sawTerm), saw(2, sawResume), told(3, sawIn, 0)}, serving, wantIn, true},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			s := state{app: c.app, since: epoch, appSince: epoch, regs: make([]regState, len(c.policy.afterLeave))}
			for _, st := range c.steps {
				s = c.policy.next(s, st.e, at(st.at))
			}
			last := at(c.steps[len(c.steps)-1].at)
			if s.phase != c.phase || s.want() != c.want || s.exit(last) != c.exit {
				t.Errorf("%v, want %d, exit %v; expected %v, %d, %v", s.phase, s.want(), s.exit(last), c.phase, c.want, c.exit)
			}
		})
	}
}

// TestEverySequenceKeepsTheInvariants walks every sequence of events, with seconds passing in between, up to a depth, and
// checks the design's invariants at each state. States that differ in nothing that matters are visited once.
func TestEverySequenceKeepsTheInvariants(t *testing.T) {
	for _, w := range []struct {
		name   string
		policy policy
		app    appState
		depth  int
	}{
		{"no registry", policy{budget: 5 * time.Second, linger: -1}, appAbsent, 9},
		{"one registry", policy{budget: 5 * time.Second, linger: -1, afterPublished: []time.Duration{time.Second}, afterLeave: []time.Duration{2 * time.Second}}, appAbsent, 7},
		{"one registry, the sockets cannot be seen", policy{budget: 5 * time.Second, linger: time.Second, afterPublished: []time.Duration{0}, afterLeave: []time.Duration{0}}, appUnseen, 7},
		{"a quiet period", policy{budget: 8 * time.Second, linger: 5 * time.Second, quiet: time.Second}, appAbsent, 9},
		{"a quiet period, one registry", policy{budget: 8 * time.Second, linger: -1, quiet: time.Second, afterPublished: []time.Duration{4 * time.Second}, afterLeave: []time.Duration{5 * time.Second}}, appAbsent, 6},
		{"two registries", policy{budget: 5 * time.Second, linger: -1, afterPublished: []time.Duration{time.Second, 0}, afterLeave: []time.Duration{2 * time.Second, time.Second}}, appAbsent, 6},
	} {
		t.Run(w.name, func(t *testing.T) {
			first := state{app: w.app, since: epoch, appSince: epoch, regs: make([]regState, len(w.policy.afterLeave))}
			seen := map[string]bool{}
			type node struct {
				s    state
				now  time.Time
				path []string
			}
			level := []node{{first, epoch, nil}}
			for depth := 0; depth < w.depth; depth++ {
				var next []node
				for _, n := range level {
					for _, e := range alphabet(w.policy, w.app, n.now) {
						now := n.now
						if e.kind == sawTime {
							now = now.Add(time.Second)
						}
						s := w.policy.next(n.s, e, now)
						path := append(n.path[:len(n.path):len(n.path)], fmt.Sprint(e.kind, e.reg))
						if wrong := violated(w.policy, n.s, s, e, now); wrong != "" {
							t.Fatalf("%s\nafter %v\n%+v\n%+v", wrong, path, n.s, s)
						}
						if s.exit(now) {
							continue
						}
						if k := key(s, now); !seen[k] {
							seen[k] = true
							next = append(next, node{s, now, path})
						}
					}
				}
				level = next
			}
			t.Logf("%d states", len(seen))
			if len(seen) < 1000 {
				t.Errorf("only %d states were reached: the walk is broken", len(seen))
			}
		})
	}
}

// alphabet is everything that can happen.
func alphabet(p policy, app appState, now time.Time) []event {
	all := []event{{kind: sawHook}, {kind: sawTerm}, {kind: sawResume}, {kind: sawTime},
		{kind: sawCount, tally: tally{began: now, active: 1}}, {kind: sawCount, tally: tally{began: now}}, {kind: sawCount, tally: tally{began: now, none: true}}}
	if app != appUnseen {
		all = append(all, event{kind: sawListen}, event{kind: sawVanish})
	}
	if p.quiet > 0 {
		for _, ago := range []time.Duration{0, time.Second, 2 * time.Second} {
			all = append(all, event{kind: sawCount, tally: tally{began: now, heard: now.Add(-ago)}})
		}
	}
	for r := range p.afterLeave {
		for k := sawLeft; k <= sawForgot; k++ {
			all = append(all, event{kind: k, reg: r})
		}
	}
	return all
}

// violated names the invariant that the step from was to s breaks, "" if none.
func violated(p policy, was, s state, e event, now time.Time) string {
	dead := s.app == appGone || s.app == appAbsent
	switch {
	// 1. The hook always returns, at the latest at the deadline.
	case s.phase == draining && !now.Before(s.deadline):
		return "still draining at the deadline"
	case s.phase == draining && s.deadline.After(s.began.Add(p.budget)):
		return "the deadline is later than the budget allows"
	case s.phase == draining && was.phase == draining && s.deadline != was.deadline:
		return "the deadline moved"
	case s.phase == draining && !p.wake(s, now).After(now):
		return "draining, and nothing would wake it at the deadline"
	case e.kind == sawHook && s.phase == serving:
		return "a hook started nothing"
	case s.stopping && !s.exit(now) && p.wake(s, now).IsZero():
		return "told to stop, and nothing would end it"
	case s.stopping && s.phase != draining && !now.Before(s.stopBy) && !now.Before(s.since.Add(forgetFor)) && !s.exit(now):
		return "told to stop, and still there after the last moment"
	// 2. Nothing stays out of service that is alive.
	case s.phase == serving && s.app != appGone && s.want() != wantIn:
		return "serving, and kept out"
	case e.kind == sawResume && was.phase != forgotten && s.phase != serving && !(s.stopping && dead):
		return "resume did not resume"
	case e.kind == sawListen && was.app == appGone && was.phase != forgotten && s.want() != wantIn:
		return "the app listens again, and is kept out"
	// 3. A live instance is never deleted.
	case s.want() == wantGone && was.phase != forgotten && !dead:
		return "deletes what lives"
	// What drained means.
	case s.phase == drained && was.phase == draining && !p.done(s, now):
		return "drained, and not done"
	case s.phase == drained && was.phase == draining && s.app != appGone && now.Before(s.began.Add(p.floor())):
		return "drained before anybody could know"
	case s.phase == drained && was.phase == draining && s.app != appGone && !p.callersStopped(s, now):
		return "drained while callers may go on"
	case s.phase == drained && was.phase == draining && !s.counted.none && s.counted.active > p.threshold:
		return "drained with connections in use"
	// Facts belong to one side.
	case s.want() != was.want() && !s.every(func(r regState) bool { return r == regState{held: r.held} }):
		return "facts of the other side are still believed"
	}
	return ""
}

// callersStopped reports whether the callers had their whole time, or were seen quiet for long enough since all of them knew.
func (p policy) callersStopped(s state, now time.Time) bool {
	if whole, known := p.lingerWhole(s); known && !now.Before(whole) {
		return true
	}
	knew := s.every(func(r regState) bool {
		return r.gaveUp.IsZero() && !r.left.IsZero() && (!r.held || r.blind || !r.published.IsZero() && s.counted.began.Sub(r.published) >= p.quiet)
	})
	return p.quiet > 0 && knew && !s.counted.heard.IsZero() && s.counted.began.Sub(s.counted.heard) >= p.quiet && s.counted.began.Sub(s.began) >= p.quiet
}

// key is what matters of a state: times by their distance, those far away as one.
func key(s state, now time.Time) string {
	near := func(t time.Time) float64 {
		if t.IsZero() {
			return -100
		}
		return max(-12, min(12, t.Sub(now).Seconds()))
	}
	var b strings.Builder
	fmt.Fprint(&b, s.phase, near(s.since), s.app, near(s.appSince), near(s.began), near(s.deadline), s.stopping, near(s.stopBy),
		near(s.counted.began), near(s.counted.heard), s.counted.active, s.counted.none)
	for _, r := range s.regs {
		fmt.Fprint(&b, "|", near(r.left), near(r.published), near(r.gaveUp), r.blind, r.held, r.in, r.forgot)
	}
	return b.String()
}
