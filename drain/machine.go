package drain

import (
	"maps"
	"slices"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// This file is the state machine: what is known, what may happen, and what follows. Nothing in it
// waits, calls or logs; every decision is a function of a state and the time. machine_test.go walks
// it exhaustively.

// phase is where the drain stands; its String is the state in /status.
type phase int

const (
	serving phase = iota
	draining
	drained
	expired
	// forgotten: told to stop, the app is dead; what the registries still hold of it is being
	// deleted.
	forgotten
)

func (p phase) String() string {
	return [...]string{"serving", "draining", "drained", "expired", "forgotten"}[p]
}

// want is what the registries shall be made to say.
type want int

const (
	wantIn   want = iota
	wantOut       // disabled
	wantGone      // deleted: only ever for a dead app
)

// target is what a registry shall be made to say of the Pod's instances.
type target struct {
	want want
	// dead are ports on which nobody listens any more: with wantIn their instances are kept out.
	// held are ports on which nobody has listened yet: with wantIn their instances are left as they
	// are.
	dead, held []uint16
	// since tells of each port that listens since when; with wantIn. nil: the sockets cannot be
	// seen.
	since map[uint16]time.Time
	// past tells of each port that is gone when it had begun to listen; with wantIn.
	past map[uint16]time.Time
	// serving is since when the Pod has been serving; with wantIn.
	serving time.Time
}

func (t target) equal(o target) bool {
	return t.want == o.want && slices.Equal(t.dead, o.dead) && slices.Equal(t.held, o.held) && maps.Equal(t.since, o.since) &&
		maps.Equal(t.past, o.past) && t.serving.Equal(o.serving)
}

// regState is what was reported of one registry since its target changed last.
type regState struct {
	// left is when every server that answers was read back as out; zero while it is not.
	left time.Time
	// published is when what callers read was seen to show it; zero while it is not.
	published time.Time
	// gaveUp is when the time to try to leave was over; zero before and after it worked in the end.
	gaveUp time.Time
	// blind: publication cannot be seen at this registry, so the longest time counts from left.
	blind bool
	// held: it was seen to hold an instance of the Pod, now or earlier, so that callers may know
	// it. It outlives the target.
	held bool
	// in: every instance found in it is as the target wants it.
	in bool
	// forgot: nothing of the Pod is left in it, or the attempt is over.
	forgot bool
}

// regView is what was last seen of one registry, whatever its target.
type regView struct {
	instances []registry.Instance
	// err is what is wrong with it; nil while all is well.
	err error
	// reached: it has answered since the process started.
	reached bool
	// undone is how often it put the Pod back in during a drain.
	undone int
}

// state is all that decisions are made from, and all that others may read.
type state struct {
	phase phase
	since time.Time // of the phase
	// ports of the Pod; looked is when they were last looked at, zero before the first look.
	// unseen: they cannot be.
	ports  ports
	looked time.Time
	unseen bool
	// app is what the ports say together, and appSince when it became so.
	app      appState
	appSince time.Time
	// drains is how many have begun; began, deadline and cause belong to the newest of them.
	drains          int
	began, deadline time.Time
	cause           cause
	// result is how that drain ended; "" while it runs and before the first.
	result Result
	// joined: a hook belongs to that drain. unhooked: SIGTERM began it, and no hook came within
	// hookSoon.
	joined, unhooked bool
	// told is when the newest report of a registry arrived: what a count from before shows was not
	// known to be enough.
	told time.Time
	// hooked: somebody has called the hook. met: a connection was open during the drain.
	hooked, met bool
	// stopping: SIGTERM has arrived. stopBy is when the process ends whatever else is true.
	stopping bool
	stopBy   time.Time
	// counted is the newest tally; a zero Began means that there is none.
	counted tally
	// last is the newest count, of this drain or before; busy the newest with a connection in use.
	last, busy conns.Tally
	regs       []regState
	views      []regView
}

// tally is what the machine needs of a count.
type tally struct {
	began        time.Time
	open, active int
	// heard is the last moment at which a client may have sent data; zero while that is not known.
	heard time.Time
	// none: there is no source that can count.
	none bool
	// whole is the count itself, for those who read the state.
	whole conns.Tally
}

// cause is what started a drain.
type cause string

const (
	causeHook    cause = "hook"
	causeSIGTERM cause = "SIGTERM"
	// causePod: prestop's own hook was called, so the Pod goes and not just a container.
	causePod cause = "pod"
)

// eventKind is what happened.
type eventKind int

const (
	// eventHook: somebody called /shutdown.
	eventHook eventKind = iota
	// eventStopping: prestop's own preStop hook was called.
	eventStopping
	// eventSIGTERM: SIGTERM or SIGINT arrived.
	eventSIGTERM
	// eventResume: somebody called /resume.
	eventResume
	// eventSockets: the listening sockets were looked at.
	eventSockets
	// eventCount: the connections were counted.
	eventCount
	// eventInstances: a registry was looked at. eventTrouble: what is wrong with it changed.
	eventInstances
	eventTrouble
	// The next ones report how far a registry is with its target. eventOut: every instance was read
	// back as out.
	eventOut
	// eventEmpty: it holds no instance of the Pod.
	eventEmpty
	// eventPublished: what callers read shows the change.
	eventPublished
	// eventBlind: publication cannot be observed.
	eventBlind
	// eventUndone: something put the Pod back in. eventLate: an instance of the Pod has registered
	// since.
	eventUndone
	eventLate
	// eventGaveUp: the time to try to leave is over.
	eventGaveUp
	// eventIn: every instance is as it shall be, or there is none yet.
	eventIn
	// eventForgotten: nothing of the Pod is left, or the attempt is over.
	eventForgotten
	// eventTick: time went by.
	eventTick
)

// event is one thing that happened, with what was seen.
type event struct {
	kind eventKind
	// reg is the index of the registry, for the kinds that tell of one.
	reg int
	// sockets and looked (when the look before was made) belong to eventSockets.
	sockets []socket
	looked  time.Time
	// tally belongs to eventCount.
	tally tally
	// instances belong to eventInstances, err to eventTrouble.
	instances []registry.Instance
	err       error
}

// policy is the settings that decisions depend on.
type policy struct {
	// budget is the time from the beginning of a drain to its deadline.
	budget time.Duration
	// linger is --linger; negative means by registry.
	linger time.Duration
	// quiet is --quiet-period; 0 means that nothing ends the linger early.
	quiet time.Duration
	// afterPublished and afterLeave are each registry's Linger.
	afterPublished, afterLeave []time.Duration
	// threshold is the number of connections in use at which the drain is over.
	threshold int
}

// start is the state of a Drain that has seen nothing yet.
func start(given []uint16, unseen bool, registries int, now time.Time) state {
	s := state{
		since: now, appSince: now, ports: newPorts(given, now), unseen: unseen,
		regs: make([]regState, registries), views: make([]regView, registries),
	}
	s.app = s.appNow()
	return s
}

func (s state) appNow() appState {
	if s.unseen {
		return appUnseen
	}
	return s.ports.state()
}

// next is the transition function: the state after e happened at now.
func (p policy) next(s state, e event, now time.Time) state {
	s.regs, s.views = slices.Clone(s.regs), slices.Clone(s.views) // the caller keeps the old state to compare
	was := s.target()
	s = p.take(s, e, now)
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

// take notes what happened.
func (p policy) take(s state, e event, now time.Time) state {
	switch e.kind { // facts first: they are true whatever the phase
	case eventSockets:
		s.ports, s.looked = s.ports.see(e.sockets, e.looked, now), now
	case eventInstances:
		v := &s.views[e.reg]
		v.instances, v.reached = e.instances, true
		s.ports = s.ports.register(e.instances, now)
	case eventTrouble:
		s.views[e.reg].err = e.err
	case eventCount:
		if !e.tally.began.Before(s.counted.began) {
			s.counted = e.tally
		}
		if !e.tally.none {
			s.last = e.tally.whole
		}
		if e.tally.active > 0 {
			s.busy = e.tally.whole
		}
		s.met = s.met || e.tally.open > 0
	case eventUndone:
		s.views[e.reg].undone++
	}
	if s.phase == forgotten { // nothing but the end can follow
		if e.kind == eventForgotten {
			s.regs[e.reg].forgot = true
		}
		return s
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
	case eventOut, eventEmpty, eventPublished, eventBlind, eventUndone, eventLate, eventGaveUp, eventIn, eventForgotten:
		s.regs[e.reg], s.told = s.regs[e.reg].hear(e.kind, now), now
	}
	return s
}

// hear notes what is reported of one registry.
func (r regState) hear(k eventKind, now time.Time) regState {
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
	s.joined, s.unhooked = false, false
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

// stale reports whether the last drain ended so long ago that a hook is about another stop.
func (s state) stale(now time.Time) bool {
	return (s.phase == drained || s.phase == expired) && !now.Before(s.since.Add(rehook))
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
