package drain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"prestop/registry"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

// step is an event and when it happens, in seconds.
type step struct {
	at float64
	e  event
}

func saw(sec float64, k eventKind) step         { return step{sec, event{kind: k}} }
func told(sec float64, k eventKind, r int) step { return step{sec, event{kind: k, reg: r}} }

// listens is a look that shows one socket with the id on each port; no ports: nobody listens.
func listens(sec float64, id uint64, ports ...uint16) step { return step{sec, sockets(id, ports...)} }

func sockets(id uint64, ports ...uint16) event {
	e := event{kind: eventSockets, looked: epoch}
	for _, p := range ports {
		e.sockets = append(e.sockets, socket{port: p, id: id})
	}
	return e
}

// seen is a tally of a look that began at sec, and arrives then.
func seen(sec float64, active int) step {
	return step{sec, event{kind: eventCount, tally: tally{began: at(sec), active: active}}}
}

// heard is a tally of none in use, of a look that began at sec, when a client was last heard at
// another time.
func heard(sec, last float64) step {
	return step{sec, event{kind: eventCount, tally: tally{began: at(sec), heard: at(last)}}}
}

func TestMachine(t *testing.T) {
	byRegistry := policy{budget: 100 * time.Second, linger: -1, afterPublished: []time.Duration{40 * time.Second}, afterLeave: []time.Duration{70 * time.Second}}
	none := policy{budget: 20 * time.Second, linger: -1}
	fixed := policy{budget: 100 * time.Second, linger: 10 * time.Second, afterPublished: []time.Duration{40 * time.Second}, afterLeave: []time.Duration{70 * time.Second}}
	quiet, quietFixed, quietNone := byRegistry, fixed, policy{budget: 100 * time.Second, linger: 30 * time.Second, quiet: 5 * time.Second}
	quiet.quiet, quietFixed.quiet = 5*time.Second, 5*time.Second
	up := listens(0, 1, 8080)
	for _, c := range []struct {
		behaviour string
		policy    policy
		app       appState
		steps     []step
		phase     phase
		want      want
		exit      bool
	}{
		{"without a registry the drain is over after the endpoints' linger", none, appAbsent, []step{up, saw(1, eventHook), seen(4, 0)}, drained, wantOut, false},
		{"a count that began before the linger was over proves nothing", none, appAbsent, []step{up, saw(1, eventHook), seen(3.9, 0), saw(5, eventTick)}, draining, wantOut, false},
		{"a connection in use holds the drain", none, appAbsent, []step{up, saw(1, eventHook), seen(5, 1)}, draining, wantOut, false},
		{"the deadline ends it", none, appAbsent, []step{up, saw(1, eventHook), seen(5, 1), saw(21, eventTick)}, expired, wantOut, false},
		{"without a source of counts the linger ends it", none, appUnseen, []step{saw(1, eventHook), {2, event{kind: eventCount, tally: tally{none: true}}}, saw(4, eventTick)}, drained, wantOut, false},
		{"the linger runs from when callers could see it, not from the call", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), seen(59, 0)}, draining, wantOut, false},
		{"and is over then", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), seen(60, 0)}, drained, wantOut, false},
		{"where publication cannot be seen the longest time counts", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(2, eventBlind, 0), seen(70, 0)}, draining, wantOut, false},
		{"and is over then too", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(2, eventBlind, 0), seen(71, 0)}, drained, wantOut, false},
		{"a registry given up is lingered for from then", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(10, eventGaveUp, 0), seen(79, 0)}, draining, wantOut, false},
		{"one that works in the end is lingered for from then", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(10, eventGaveUp, 0), told(30, eventOut, 0), told(31, eventPublished, 0), seen(70, 0)}, draining, wantOut, false},
		{"what never held the Pod is not lingered for", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventEmpty, 0), seen(4, 0)}, drained, wantOut, false},
		{"what held it once is, though it is empty now", byRegistry, appAbsent, []step{up, told(0, eventIn, 0), told(0, eventOut, 0), saw(0, eventHook), told(1, eventEmpty, 0), told(1, eventPublished, 0), seen(5, 0)}, draining, wantOut, false},
		{"a given linger runs from the read-back", fixed, appAbsent, []step{up, saw(0, eventHook), told(5, eventOut, 0), seen(14, 0)}, draining, wantOut, false},
		{"and needs no publication", fixed, appAbsent, []step{up, saw(0, eventHook), told(5, eventOut, 0), seen(15, 0)}, drained, wantOut, false},
		{"an undone leave lingers anew", fixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(8, eventUndone, 0), told(9, eventOut, 0), seen(18, 0)}, draining, wantOut, false},
		{"nobody reaches an app that does not listen: no linger", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), listens(2, 0), seen(2, 0)}, drained, wantOut, false},
		{"but its last answers are waited for", byRegistry, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), listens(2, 0), seen(3, 1)}, draining, wantOut, false},

		{"a quiet period ends the linger", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), heard(32.1, 27)}, drained, wantOut, false},
		{"but not before it is over", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), heard(31.9, 27)}, draining, wantOut, false},
		{"a client that is heard again begins it anew", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), heard(31, 27), heard(33, 31.5), saw(36, eventTick)}, draining, wantOut, false},
		{"what was said is learnt by a look, not by the time", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), heard(31, 27), saw(33, eventTick)}, draining, wantOut, false},
		{"silence before callers could know is none", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), heard(25, 0)}, draining, wantOut, false},
		{"nor is it one in the time that publication takes where it cannot be seen", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(2, eventBlind, 0), heard(36, 0)}, draining, wantOut, false},
		{"after that it is", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(2, eventBlind, 0), heard(36.1, 0)}, drained, wantOut, false},
		{"callers of a registry that was given up do not know: silence says nothing", quiet, appAbsent, []step{up, saw(0, eventHook), told(10, eventGaveUp, 0), heard(60, 0)}, draining, wantOut, false},
		{"a given linger too waits for the publication", quietFixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), heard(9, 0)}, draining, wantOut, false},
		{"and ends early then", quietFixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(3, eventPublished, 0), heard(8.1, 0)}, drained, wantOut, false},
		{"and is not made longer", quietFixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(9, eventPublished, 0), heard(11.1, 11)}, drained, wantOut, false},
		{"a quiet period is no count", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), {33, event{kind: eventCount, tally: tally{began: at(33), heard: at(27), active: 1}}}}, draining, wantOut, false},
		{"an undone leave begins everything anew", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), told(24, eventUndone, 0), heard(33, 0)}, draining, wantOut, false},
		{"where clients cannot be heard the whole linger is waited for", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), told(20, eventPublished, 0), seen(59, 0)}, draining, wantOut, false},
		{"endpoints have their time though all is quiet", policy{budget: 100 * time.Second, linger: 30 * time.Second, quiet: time.Second}, appAbsent, []step{up, saw(0, eventHook), heard(2.9, 0)}, draining, wantOut, false},
		{"without a registry silence counts from the hook on", quietNone, appAbsent, []step{up, saw(10, eventHook), heard(15, 0)}, draining, wantOut, false},
		{"and then ends it", quietNone, appAbsent, []step{up, saw(10, eventHook), heard(15.1, 0)}, drained, wantOut, false},

		{"a crash leaves the Pod serving: the instance of its port is dead", byRegistry, appAbsent, []step{up, listens(5, 0)}, serving, wantIn, false},
		{"and its return puts it back", byRegistry, appAbsent, []step{up, listens(5, 0), listens(9, 10, 8080)}, serving, wantIn, false},
		{"a restart after a drain rejoins", none, appAbsent, []step{up, saw(1, eventHook), seen(4, 0), listens(5, 0), listens(9, 10, 8080)}, serving, wantIn, false},
		{"a restart that was only seen by the new socket too", none, appAbsent, []step{up, saw(1, eventHook), seen(4, 0), listens(9, 10, 8080)}, serving, wantIn, false},
		{"an app that opens its socket anew in mid-drain does not end it", none, appAbsent, []step{up, saw(1, eventHook), listens(2, 3, 8080)}, draining, wantOut, false},
		{"one that was seen gone does", none, appAbsent, []step{up, saw(1, eventHook), seen(2, 1), listens(2, 0), listens(3, 4, 8080)}, serving, wantIn, false},
		{"resume cancels a drain", none, appAbsent, []step{up, saw(1, eventHook), saw(2, eventResume)}, serving, wantIn, false},
		{"resume after the deadline serves again", none, appAbsent, []step{up, saw(1, eventHook), saw(30, eventTick), saw(31, eventResume)}, serving, wantIn, false},
		{"a second hook soon after gets the same answer", none, appAbsent, []step{up, saw(1, eventHook), seen(4, 0), saw(8, eventHook)}, drained, wantOut, false},
		{"soon after an instance was found in service again it waits for who knows it", fixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventEmpty, 0), seen(11, 0), told(13, eventLate, 0), told(14, eventOut, 0), saw(15, eventHook), told(16, eventOut, 0), seen(25, 0)}, draining, wantOut, false},
		{"and has its answer then", fixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventEmpty, 0), seen(11, 0), told(13, eventLate, 0), told(14, eventOut, 0), saw(15, eventHook), told(16, eventOut, 0), seen(26, 0)}, drained, wantOut, false},
		{"once", fixed, appAbsent, []step{up, saw(0, eventHook), told(1, eventEmpty, 0), seen(11, 0), told(13, eventLate, 0), saw(15, eventHook), told(16, eventOut, 0), seen(26, 0), saw(27, eventHook)}, drained, wantOut, false},
		{"much later it is about another stop", none, appAbsent, []step{up, saw(1, eventHook), seen(4, 0), saw(60, eventHook)}, draining, wantOut, false},

		{"a native sidecar's SIGTERM: the app is gone, forget", byRegistry, appAbsent, []step{up, listens(1, 0), saw(2, eventSIGTERM)}, forgotten, wantGone, false},
		{"and exit when that is done", byRegistry, appAbsent, []step{up, listens(1, 0), saw(2, eventSIGTERM), told(2, eventForgotten, 0)}, forgotten, wantGone, true},
		{"or could not be done in time", byRegistry, appAbsent, []step{up, listens(1, 0), saw(2, eventSIGTERM), saw(4, eventTick)}, forgotten, wantGone, true},
		{"an old-style SIGTERM begins the drain", none, appAbsent, []step{up, saw(1, eventSIGTERM)}, draining, wantOut, false},
		{"the hook after it joins", none, appAbsent, []step{up, saw(1, eventSIGTERM), saw(2, eventHook), seen(4, 0)}, drained, wantOut, false},
		{"it stays until the app is gone", none, appAbsent, []step{up, saw(1, eventSIGTERM), saw(1, eventHook), seen(4, 0), saw(20, eventTick)}, drained, wantOut, false},
		{"then forgets and goes", none, appAbsent, []step{up, saw(1, eventSIGTERM), seen(4, 0), listens(7, 0)}, forgotten, wantGone, true},
		{"or goes at the deadline, and deletes nothing that lives", none, appAbsent, []step{up, saw(1, eventSIGTERM), saw(1, eventHook), seen(4, 0), saw(21, eventTick)}, drained, wantOut, true},
		{"SIGTERM at the deadline of an expired drain", none, appAbsent, []step{up, saw(1, eventSIGTERM), saw(21, eventTick)}, expired, wantOut, true},
		{"SIGTERM where the app cannot be seen goes after the drain", none, appUnseen, []step{saw(1, eventSIGTERM), {4, event{kind: eventCount, tally: tally{began: at(4), none: true}}}}, drained, wantOut, true},
		{"SIGTERM before the app ever listened", none, appAbsent, []step{saw(1, eventSIGTERM)}, forgotten, wantGone, true},
		{"resumed after SIGTERM: leaves when the registries have it back", byRegistry, appAbsent, []step{up, saw(1, eventSIGTERM), saw(2, eventResume)}, serving, wantIn, false},
		{"and then", byRegistry, appAbsent, []step{up, saw(1, eventSIGTERM), saw(2, eventResume), told(3, eventIn, 0)}, serving, wantIn, true},

		{"a port of two that is gone: the Pod goes on serving", byRegistry, appAbsent, []step{listens(0, 1, 8080, 9090), listens(5, 1, 9090)}, serving, wantIn, false},
		{"a hook before the app ever listened is over when the registries are left", byRegistry, appAbsent, []step{saw(1, eventHook), told(2, eventEmpty, 0), seen(3, 0)}, drained, wantOut, false},
		{"and keeps nothing out: when it listens, it is in", byRegistry, appAbsent, []step{saw(1, eventHook), told(2, eventEmpty, 0), seen(3, 0), listens(20, 1, 8080)}, serving, wantIn, false},
		{"one that listens while such a hook waits is in too", byRegistry, appAbsent, []step{saw(1, eventHook), listens(2, 1, 8080)}, serving, wantIn, false},
		{"one of two containers that comes back alone ends the drain", none, appAbsent, []step{listens(0, 1, 8080, 9090), saw(1, eventHook), seen(4, 0), listens(5, 1, 9090), {9, event{kind: eventSockets, sockets: []socket{{port: 8080, id: 7}, {port: 9090, id: 1}}}}}, serving, wantIn, false},
		{"in mid-drain too, if it was seen gone", none, appAbsent, []step{listens(0, 1, 8080, 9090), saw(1, eventHook), listens(2, 1, 9090), {3, event{kind: eventSockets, sockets: []socket{{port: 8080, id: 7}, {port: 9090, id: 1}}}}}, serving, wantIn, false},
		{"one that was restarted unseen in mid-drain is in after the drain", none, appAbsent, []step{up, saw(1, eventHook), listens(2, 9, 8080), seen(4, 0), saw(4.1, eventTick)}, serving, wantIn, false},
		{"a late container does not end a drain that it was not part of", none, appAbsent, []step{up, saw(1, eventHook), listens(2, 1, 8080, 9090), seen(4, 0), saw(5, eventTick)}, drained, wantOut, false},
		{"but is in once a deleted Pod would be gone", none, appAbsent, []step{up, saw(1, eventHook), listens(2, 1, 8080, 9090), seen(4, 0), saw(81, eventTick)}, serving, wantIn, false},
		{"SIGTERM after the app, beside another listener", none, appAbsent, []step{listens(0, 1, 8080, 15021), saw(1, eventHook), seen(4, 0), listens(6, 1, 15021), saw(7, eventSIGTERM)}, forgotten, wantGone, true},
		{"the same without a hook: a Job", none, appAbsent, []step{listens(0, 1, 8080, 15021), listens(6, 1, 15021), saw(7, eventSIGTERM), seen(7.4, 0), saw(7.5, eventTick)}, forgotten, wantGone, true},
		{"but a hook may come, at an exporter that ended at its own SIGTERM", none, appAbsent, []step{listens(0, 1, 8080, 9102), listens(7, 1, 8080), saw(7, eventSIGTERM), seen(7.4, 0)}, draining, wantOut, false},
		{"and is waited for then", none, appAbsent, []step{listens(0, 1, 8080, 9102), listens(7, 1, 8080), saw(7, eventSIGTERM), saw(7.3, eventHook), seen(7.5, 0), saw(9, eventTick)}, draining, wantOut, false},
		{"no hook begins another drain after SIGTERM", none, appAbsent, []step{up, saw(1, eventSIGTERM), seen(4, 0), saw(16, eventHook)}, drained, wantOut, false},
		{"a drain after /resume after SIGTERM ends with the process", none, appAbsent, []step{up, saw(1, eventSIGTERM), saw(2, eventResume), saw(15, eventHook), saw(21, eventTick)}, expired, wantOut, true},
		{"SIGTERM while one of two registered apps lives: it drains", byRegistry, appAbsent, []step{listens(0, 1, 8080, 9090), {1, event{kind: eventInstances, instances: []registry.Instance{{ID: "a", Port: 8080}, {ID: "b", Port: 9090}}}}, listens(6, 1, 9090), saw(7, eventSIGTERM)}, draining, wantOut, false},
		{"SIGTERM in mid-drain does not put the end off", none, appAbsent, []step{up, saw(0, eventHook), seen(4, 1), saw(10, eventSIGTERM), saw(20, eventTick)}, expired, wantOut, true},
		{"what listened before us, without a caller, is no app: gone after the drain", none, appAbsent, []step{{0, event{kind: eventSockets, sockets: []socket{{port: 9102, id: 1}}}}, saw(1, eventSIGTERM), seen(4.1, 0)}, drained, wantOut, true},
		{"a count from before a registry told that it is empty proves nothing", byRegistry, appAbsent, []step{up, saw(0, eventHook), seen(7.2, 0), told(8.1, eventEmpty, 0)}, draining, wantOut, false},
		{"nor one from before publication was found to be unseen", quiet, appAbsent, []step{up, saw(0, eventHook), told(1, eventOut, 0), heard(8, 0), told(11.5, eventBlind, 0)}, draining, wantOut, false},
		{"an old failure to count says nothing of a drain", none, appAbsent, []step{up, {1, event{kind: eventCount, tally: tally{began: at(1), none: true}}}, saw(5, eventHook), saw(9, eventTick)}, draining, wantOut, false},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			s := start(nil, c.app == appUnseen, len(c.policy.afterLeave), epoch)
			for _, st := range c.steps {
				s, _ = c.policy.next(s, st.e, at(st.at))
			}
			last := at(c.steps[len(c.steps)-1].at)
			if s.phase != c.phase || s.target().want != c.want || s.exit(last) != c.exit {
				t.Errorf("%v, want %d, exit %v; expected %v, %d, %v", s.phase, s.target().want, s.exit(last), c.phase, c.want, c.exit)
			}
		})
	}
}

// TestEverySequenceKeepsTheInvariants walks every sequence of events, with seconds passing in
// between, up to a depth, and checks the design's invariants at each state. It starts from each of
// several pasts. States that differ in nothing that matters are visited once.
func TestEverySequenceKeepsTheInvariants(t *testing.T) {
	one := policy{budget: 5 * time.Second, linger: -1, afterPublished: []time.Duration{time.Second}, afterLeave: []time.Duration{2 * time.Second}}
	registered := step{0, event{kind: eventInstances, instances: []registry.Instance{{ID: "a", Port: 8080, State: registry.In}}}}
	for _, w := range []struct {
		name   string
		policy policy
		unseen bool
		given  []uint16
		past   []step
		depth  int
	}{
		{"no registry", policy{budget: 5 * time.Second, linger: -1}, false, nil, nil, 6},
		{"no registry, up", policy{budget: 5 * time.Second, linger: -1}, false, nil, []step{listens(0, 1, 8080)}, 6},
		{"no registry, gone", policy{budget: 5 * time.Second, linger: -1}, false, nil, []step{listens(0, 1, 8080), listens(0, 0)}, 6},
		{"no registry, partly gone", policy{budget: 5 * time.Second, linger: -1}, false, nil, []step{listens(0, 1, 8080, 9090), listens(0, 1, 9090)}, 6},
		{"no registry, a port given", policy{budget: 5 * time.Second, linger: -1}, false, []uint16{8080}, nil, 6},
		{"drained", policy{budget: 5 * time.Second, linger: -1}, false, nil, []step{listens(0, 1, 8080), saw(0, eventHook), seen(4, 0)}, 5},
		{"expired", policy{budget: 5 * time.Second, linger: -1}, false, nil, []step{listens(0, 1, 8080), saw(0, eventHook), saw(5, eventTick)}, 5},
		{"one registry", one, false, nil, nil, 5},
		{"one registry that holds the app", one, false, nil, []step{listens(0, 1, 8080), registered}, 5},
		{"one registry that holds one of two ports", one, false, nil, []step{listens(0, 1, 8080, 9090), registered}, 5},
		{"one registry, in mid-drain", one, false, nil, []step{listens(0, 1, 8080), registered, saw(0, eventHook), told(0, eventOut, 0)}, 5},
		{"one registry, the sockets cannot be seen", policy{budget: 5 * time.Second, linger: time.Second, afterPublished: []time.Duration{0}, afterLeave: []time.Duration{0}}, true, nil, nil, 6},
		{"a quiet period", policy{budget: 8 * time.Second, linger: 5 * time.Second, quiet: time.Second}, false, nil, []step{listens(0, 1, 8080)}, 5},
		{"a quiet period, one registry", policy{budget: 8 * time.Second, linger: -1, quiet: time.Second, afterPublished: []time.Duration{4 * time.Second}, afterLeave: []time.Duration{5 * time.Second}}, false, nil, []step{listens(0, 1, 8080)}, 4},
		{"two registries", policy{budget: 5 * time.Second, linger: -1, afterPublished: []time.Duration{time.Second, 0}, afterLeave: []time.Duration{2 * time.Second, time.Second}}, false, nil, []step{listens(0, 1, 8080)}, 4},
	} {
		t.Run(w.name, func(t *testing.T) {
			type node struct {
				s    state
				pod  known
				now  time.Time
				path []string
			}
			first := node{s: start(w.given, w.unseen, len(w.policy.afterLeave), epoch), pod: known{given: w.given, unseen: w.unseen}, now: epoch}
			for _, st := range w.past {
				first.now = at(st.at)
				first.s, _ = w.policy.next(first.s, st.e, first.now)
				first.pod = first.pod.after(st.e)
			}
			least := 500
			if testing.Short() {
				w.depth, least = w.depth-2, 20
			}
			visited := map[string]bool{}
			level := []node{first}
			for depth := 0; depth < w.depth; depth++ {
				var next []node
				for _, n := range level {
					for _, e := range alphabet(w.policy, w.unseen, n.now) {
						now := n.now
						if e.kind == eventTick {
							now = now.Add(time.Second)
						}
						s, effects := w.policy.next(n.s, e, now)
						pod := n.pod.after(e)
						path := append(n.path[:len(n.path):len(n.path)], fmt.Sprint(e.kind, e.reg, e.sockets))
						wrong := violated(w.policy, n.s, s, pod, e, now)
						if wrong == "" {
							wrong = undone(n.s, s, effects, pod)
						}
						if wrong != "" {
							t.Fatalf("%s\nafter %v\n%+v\n%+v", wrong, path, n.s, s)
						}
						if s.exit(now) {
							continue
						}
						if k := key(s, now); !visited[k] {
							visited[k] = true
							next = append(next, node{s, pod, now, path})
						}
					}
				}
				level = next
			}
			t.Logf("%d states", len(visited))
			if len(visited) < least {
				t.Errorf("only %d states were reached: the walk is broken", len(visited))
			}
		})
	}
}

// known is what the world of a walk knows of the Pod, by the events alone.
type known struct {
	given, up, ever, registered []uint16
	unseen                      bool
}

func (k known) after(e event) known {
	switch e.kind {
	case eventSockets:
		k.up, k.ever = nil, slices.Clone(k.ever)
		for _, s := range e.sockets {
			k.up, k.ever = append(k.up, s.port), append(k.ever, s.port)
		}
	case eventInstances:
		k.registered = slices.Clone(k.registered)
		for _, i := range e.instances {
			k.registered = append(k.registered, i.Port)
		}
	}
	return k
}

// lives reports whether something of the app surely lives: a port that is the app's by more than a
// guess, or all that was ever seen.
func (k known) lives() bool {
	ours := append(slices.Clone(k.given), k.registered...)
	if slices.ContainsFunc(ours, func(p uint16) bool { return slices.Contains(k.ever, p) }) {
		return slices.ContainsFunc(ours, func(p uint16) bool { return slices.Contains(k.up, p) })
	}
	return k.unseen || len(k.given) == 0 && len(k.up) > 0 &&
		!slices.ContainsFunc(k.ever, func(p uint16) bool { return !slices.Contains(k.up, p) })
}

// alphabet is everything that can happen.
func alphabet(p policy, unseen bool, now time.Time) []event {
	all := []event{{kind: eventHook}, {kind: eventStopping}, {kind: eventSIGTERM}, {kind: eventResume}, {kind: eventTick},
		{kind: eventCount, tally: tally{began: now, active: 1}}, {kind: eventCount, tally: tally{began: now}},
		{kind: eventCount, tally: tally{began: now.Add(-time.Second)}}, {kind: eventCount, tally: tally{began: now, none: true}}}
	if !unseen {
		all = append(all, sockets(0), sockets(1, 8080), sockets(2, 8080), sockets(1, 8080, 9090), sockets(2, 9090))
	}
	if p.quiet > 0 {
		for _, ago := range []time.Duration{0, time.Second, 2 * time.Second} {
			all = append(all, event{kind: eventCount, tally: tally{began: now, heard: now.Add(-ago)}})
		}
	}
	for r := range p.afterLeave {
		for k := eventOut; k <= eventForgotten; k++ {
			all = append(all, event{kind: k, reg: r})
		}
		all = append(all, event{kind: eventInstances, reg: r, instances: []registry.Instance{{ID: "a", Port: 8080, State: registry.In}}})
	}
	return all
}

// violated names the invariant that the step from was to s breaks, "" if none.
func violated(p policy, was, s state, pod known, e event, now time.Time) string {
	want := s.target().want
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
	case (e.kind == eventHook || e.kind == eventStopping) && s.phase == serving:
		return "a hook started nothing"
	case s.stopping && !s.exit(now) && p.wake(s, now).IsZero():
		return "told to stop, and nothing would end it"
	case s.stopping && s.phase != serving && s.stopBy.After(s.deadline) && was.phase != serving && !was.stopping && was.phase != forgotten && e.kind == eventSIGTERM && s.phase != forgotten && s.began == was.began:
		return "SIGTERM in mid-drain put the end off past the deadline"
	case s.stopping && s.phase != draining && !now.Before(s.stopBy) && !now.Before(s.since.Add(forgetFor)) && !s.exit(now):
		return "told to stop, and still there after the last moment"
	case s.stopping && s.phase != draining && s.phase != forgotten && !s.exit(now) && len(pod.up) == 0 && !pod.unseen:
		return "told to stop, nothing listens, and it neither drains nor forgets"
	// 2. Nothing stays out of service that is alive.
	case s.phase == serving && want != wantIn:
		return "serving, and kept out"
	case s.phase == serving && slices.ContainsFunc(pod.up, func(p uint16) bool { return slices.Contains(s.target().dead, p) || slices.Contains(s.target().held, p) }):
		return "a port that listens is taken for dead or absent"
	case e.kind == eventResume && was.phase != forgotten && s.phase != serving && !(s.stopping && !pod.lives()):
		return "resume did not resume"
	case e.kind == eventSockets && was.app == appGone && s.app == appUp && was.phase != forgotten && want != wantIn:
		return "the app listens again, and is kept out"
	// 3. A live instance is never deleted.
	case want == wantGone && was.phase != forgotten && pod.lives():
		return "deletes what lives"
	// What drained means.
	case s.phase == drained && was.phase == draining && s.reachable() && now.Before(s.began.Add(p.floor())):
		return "drained before anybody could know"
	case s.phase == drained && was.phase == draining && s.reachable() && !p.callersStopped(s, now):
		return "drained while callers may go on"
	case s.phase == drained && was.phase == draining && !s.counted.none && s.counted.active > p.threshold:
		return "drained with connections in use"
	case s.phase == drained && was.phase == draining && !s.counted.none && s.counted.began.Before(later(s.told, s.began)):
		return "drained by a count from before the last report"
	// Facts belong to one target.
	case !s.target().equal(was.target()) && !s.every(func(r regState) bool { return r == regState{held: r.held} }):
		return "facts of another target are still believed"
	}
	return ""
}

// undone names what the effects of the step from was to s leave undone, or do wrongly; "" if nothing.
func undone(was, s state, effects []effect, pod known) string {
	has := map[effectKind]int{}
	for _, f := range effects {
		has[f.kind]++
		if f.kind == effectTarget && !f.target.equal(s.target()) {
			return "the registries are brought to another target than the state's"
		}
		if f.kind == effectTarget && f.target.want == wantGone && was.phase != forgotten && pod.lives() {
			return "deletes what lives"
		}
	}
	ends := was.phase == draining || s.drains != was.drains
	switch {
	case len(has) < len(effects):
		return "something is done twice"
	case s.drains != was.drains && effects[0].kind != effectBegin:
		return "something is done before the drain has begun"
	case !s.target().equal(was.target()) && has[effectTarget] == 0:
		return "the registries are not told of their target"
	case (has[effectEnd] > 0) != (ends && s.phase != draining):
		return "the hooks are answered at another moment than the drain's end"
	case s.phase != was.phase && has[effectPhase] == 0:
		return "the phase changes unnoticed"
	}
	return ""
}

// callersStopped reports whether the callers had their whole time, or were seen quiet for long
// enough since all of them knew.
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
	fmt.Fprint(&b, s.phase, near(s.since), s.app, near(s.appSince), near(s.began), near(s.deadline), near(s.told), s.stopping, near(s.stopBy),
		s.hooked, s.met, near(s.counted.began), near(s.counted.heard), s.counted.active, s.counted.none)
	for _, p := range s.ports {
		fmt.Fprint(&b, "/", p.number, p.sockets, p.atBegin, p.listened, p.stopped, p.registered, p.through, near(p.since))
	}
	for _, r := range s.regs {
		fmt.Fprint(&b, "|", near(r.left), near(r.published), near(r.gaveUp), r.blind, r.held, r.in, r.forgot)
	}
	return b.String()
}
