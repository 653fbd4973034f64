package drain

import (
	"slices"
	"time"
)

// This file is the state machine: what is known, what may happen, and what follows. Nothing in it
// waits, calls or logs; every decision is a function of a state and the time. machine_test.go walks
// it exhaustively.

// effectKind is what is to be done when a state follows from another.
type effectKind int

const (
	// effectBegin: a drain has begun; hooks join it, and the drain calls are made.
	effectBegin effectKind = iota
	// effectApp: the app has changed, which is worth a line.
	effectApp
	// effectEnd: the newest drain has ended with state.result; its hooks are answered.
	effectEnd
	// effectPhase: the phase is another, or the same of another drain.
	effectPhase
	// effectTarget: every registry is to be brought to the effect's target.
	effectTarget
	// effectCount: what was counted before proves nothing; count at once.
	effectCount
)

// effect is one thing to be done.
type effect struct {
	kind   effectKind
	target target
}

// next is the transition function: the state after e happened at now, and what is to be done, in this
// order.
func (p policy) next(was state, e event, now time.Time) (state, []effect) {
	s := p.after(was, e, now)
	var all []effect
	do := func(k effectKind, is bool) {
		if is {
			all = append(all, effect{kind: k})
		}
	}
	begun := s.drains != was.drains // a drain with nothing to wait for begins and ends in one step
	do(effectBegin, begun)
	do(effectApp, s.app != was.app)
	do(effectEnd, s.result != "" && (begun || was.result == ""))
	do(effectPhase, begun || s.phase != was.phase)
	resumed := e.kind == eventResume && s.phase == serving
	if t := s.target(); begun || resumed || !t.equal(was.target()) {
		all = append(all, effect{effectTarget, t})
	}
	do(effectCount, s.told.After(was.told) && p.urgent(s, now))
	return s, all
}

// after is the state after e happened at now.
func (p policy) after(s state, e event, now time.Time) state {
	// The caller keeps the old state to compare.
	s.regs, s.views = slices.Clone(s.regs), slices.Clone(s.views)
	was := s.target()
	s = p.take(s.learn(e, now), e, now)
	if app := s.appNow(); app != s.app {
		s.app, s.appSince = app, now
	}
	if t := s.target(); !t.equal(was) {
		was = t
		s.changeTarget()
	}
	s = p.settle(s, now)
	if !s.target().equal(was) {
		s.changeTarget()
	}
	return s
}

// learn notes what was seen. It is true whatever the phase.
func (s state) learn(e event, now time.Time) state {
	switch e.kind {
	case eventSockets:
		s.ports, s.looked = s.ports.see(e.sockets, e.looked, now), now
	case eventInstances:
		v := &s.views[e.reg]
		v.instances, v.reached = e.instances, true
		s.ports = s.ports.register(e.instances, now)
	case eventTrouble:
		s.views[e.reg].err = e.err
	case eventUndone:
		s.views[e.reg].undone++
	case eventForgotten:
		s.regs[e.reg].forgot = true
	case eventCount:
		s = s.count(e.tally)
	}
	return s
}

// count notes a tally.
func (s state) count(t tally) state {
	if !t.began.Before(s.counted.began) {
		s.counted = t
	}
	if !t.none {
		s.last = t.whole
	}
	if t.active > 0 {
		s.busy = t.whole
	}
	s.met = s.met || t.open > 0
	return s
}

// take says what follows from what happened.
func (p policy) take(s state, e event, now time.Time) state {
	if s.phase == forgotten {
		return s // nothing but the end can follow
	}
	switch e.kind {
	case eventHook, eventStopping:
		if s.phase == serving || s.stale(now) && !s.stopping {
			s = p.begin(s, causeHook, now)
		}
		if e.kind == eventStopping {
			s.cause = causePod
		} else {
			s.hooked, s.joined, s.unhooked = true, true, false
		}
	case eventSIGTERM:
		s = p.stop(s, now)
	case eventResume:
		s = s.serve(now)
	case eventSockets, eventInstances, eventTick:
		if s.phase != serving && s.returned(now) {
			s = s.serve(now)
		}
	case eventOut, eventEmpty, eventPublished, eventBlind, eventUndone, eventLate, eventGaveUp,
		eventIn, eventForgotten:
		s.regs[e.reg], s.told = s.regs[e.reg].apply(e.kind, now), now
		s.relapsed = s.relapsed || s.phase == drained && (e.kind == eventUndone || e.kind == eventLate)
	}
	return s
}

// apply notes what is reported of one registry.
func (r regState) apply(k eventKind, now time.Time) regState {
	switch k {
	case eventOut:
		r.left, r.gaveUp, r.held = now, time.Time{}, true
	case eventEmpty:
		r.left, r.gaveUp = now, time.Time{}
	case eventPublished:
		r.published = now
	case eventBlind:
		r.blind = true
	case eventUndone, eventLate:
		r = regState{held: true} // callers may learn of it again: its linger starts anew
	case eventGaveUp:
		r.gaveUp = now
	case eventIn:
		r.in = true
	case eventForgotten:
		r.forgot = true
	}
	return r
}

// returned reports whether something of the app listens anew since the drain began.
func (s state) returned(now time.Time) bool {
	return !s.unseen && s.ports.returned(s.phase == draining, s.since, s.deadline, now)
}

// reachable reports whether callers may reach something of the app. Beside a registered port that
// is gone another container may serve that has not registered yet, or is called by a Service alone:
// only SIGTERM tells that it is no app, since it comes when the apps have ended.
func (s state) reachable() bool {
	switch {
	case s.stopping && s.dead():
		return false
	case s.app == appUp || s.app == appPartly || s.app == appUnseen:
		return true
	}
	return s.othersListen()
}

// countedPorts are the ports whose connections count. Once nothing of the app is there any more
// they are those that it listened on, where it may still answer: what listens is another
// container's.
func (s state) countedPorts() []uint16 {
	if s.stopping && s.dead() {
		return s.ports.deciding().numbers(port.gone)
	}
	return s.ports.counted()
}

// othersListen reports whether somebody listens on a port that may be the app's.
func (s state) othersListen() bool {
	return slices.ContainsFunc(s.ports, func(p port) bool { return p.up() && p.mayServe() })
}

// settle moves on to the phase that the state calls for.
func (p policy) settle(s state, now time.Time) state {
	if s.phase == draining {
		s.unhooked = !s.joined && s.cause == causeSIGTERM && !now.Before(s.began.Add(hookSoon))
		if p.done(s, now) {
			s = s.enter(drained, now)
		} else if !now.Before(s.deadline) {
			s = s.enter(expired, now)
		}
	}
	if s.stopping && s.dead() && s.phase != draining && s.phase != forgotten {
		s = s.enter(forgotten, now)
	}
	return s
}

// begin starts a drain. It counts anew: what an earlier count showed, or that there was none, says
// nothing of now. The registries are searched anew too, for what has registered since.
func (p policy) begin(s state, c cause, now time.Time) state {
	s.drains++
	s.began, s.deadline, s.cause, s.told = now, now.Add(p.budget), c, now
	if s.stopping && !s.stopBy.IsZero() && s.stopBy.Before(s.deadline) {
		s.deadline = s.stopBy
	}
	s.counted, s.met, s.result = tally{}, false, ""
	s.joined, s.unhooked, s.relapsed = false, false, false
	s.ports = s.ports.begin()
	s.changeTarget()
	return s.enter(draining, now)
}

// serve goes back to serving, whatever was going on.
func (s state) serve(now time.Time) state {
	if s.phase == serving {
		return s
	}
	return s.enter(serving, now)
}

// changeTarget forgets what was reported of the old target. That callers may know an instance stays
// true.
func (s state) changeTarget() {
	for i, r := range s.regs {
		s.regs[i] = regState{held: r.held}
	}
}

func (s state) enter(p phase, now time.Time) state {
	if s.phase == draining {
		switch p {
		case drained:
			s.result = Drained
		case expired:
			s.result = Expired
		default:
			s.result = Cancelled
		}
	}
	s.phase, s.since = p, now
	return s
}

// rehook is how long after the end of a drain another call gets the same answer. A later hook is
// about a new stop: clients may have come since, by a Service, so it drains anew.
const rehook = 10 * time.Second

// stale reports whether the last drain ended so long ago that a hook is about another stop, or what
// it had reached was undone since.
func (s state) stale(now time.Time) bool {
	return s.phase == drained && s.relapsed || (s.phase == drained || s.phase == expired) && !now.Before(s.since.Add(rehook))
}

// target is what the registries shall be made to say in s.
func (s state) target() target {
	switch s.phase {
	case forgotten:
		return target{want: wantGone}
	case serving:
		t := target{want: wantIn, serving: s.since}
		if s.unseen {
			return t
		}
		t.dead, t.held = s.ports.dead(), s.ports.held()
		t.since, t.past = s.ports.since(), s.ports.past()
		return t
	}
	return target{want: wantOut}
}

// wake is the next time at which something follows from nothing but time; zero if there is none.
func (p policy) wake(s state, now time.Time) time.Time {
	var next time.Time
	soonest := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if s.phase == draining {
		soonest(s.deadline)
		if s.stopping && s.app == appPartly {
			soonest(s.began.Add(hookSoon))
		}
		if until, known := p.lingerUntil(s); known {
			soonest(until)
		}
	}
	if s.phase == forgotten {
		soonest(s.since.Add(forgetFor))
	}
	if s.phase == drained || s.phase == expired {
		if s.returned(now) { // it came back unseen while the drain ran
			soonest(now.Add(time.Millisecond))
		} else if s.ports.newcomer() {
			soonest(s.deadline.Add(afterDeadline))
		}
	}
	if s.stopping {
		soonest(s.stopBy)
	}
	return next
}

func (s state) every(ok func(regState) bool) bool {
	return !slices.ContainsFunc(s.regs, func(r regState) bool { return !ok(r) })
}
