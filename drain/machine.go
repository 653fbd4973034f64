package drain

import (
	"slices"
	"time"

	"prestop/drain/conns"
)

// This file is the state machine: what is known, what may happen, and what follows. Nothing in it waits, calls or logs;
// every decision is a function of a state and the time. machine_test.go walks it exhaustively.

// phase is where the drain stands; its String is the state in /status.
type phase int

const (
	serving phase = iota
	draining
	drained
	expired
	// forgotten: told to stop, the app is dead; what the registries still hold of it is being deleted.
	forgotten
)

func (p phase) String() string {
	return [...]string{"serving", "draining", "drained", "expired", "forgotten"}[p]
}

// appState is what the sockets say of the app.
type appState int

const (
	// appAbsent: it has not listened yet.
	appAbsent appState = iota
	appUp
	// appGone: it listened and does not any more.
	appGone
	// appUnseen: the kernel's tables cannot be read, so nothing is known of it and it is taken to be there.
	appUnseen
)

// want is what the registries shall be made to say.
type want int

const (
	wantIn   want = iota
	wantOut       // disabled
	wantGone      // deleted: only ever for a dead app
)

// regState is what is known of one registry since it was last told to change sides.
type regState struct {
	// left is when every server that answers was read back as out; zero while it is not.
	left time.Time
	// published is when what callers read was seen to show it; zero while it is not.
	published time.Time
	// gaveUp is when the time to try to leave was over; zero before and after it worked in the end.
	gaveUp time.Time
	// blind: publication cannot be seen at this registry, so the longest time counts from left.
	blind bool
	// held: it was seen to hold an instance of the Pod, now or earlier, so that callers may know it.
	held bool
	// in: every instance found in it is up, or down by the app's own word.
	in bool
	// forgot: nothing of the Pod is left in it, or the attempt is over.
	forgot bool
}

// state is all that decisions are made from.
type state struct {
	phase phase
	since time.Time // of the phase
	app   appState
	// appSince is when app became what it is.
	appSince time.Time
	// began and deadline belong to the current or the last drain.
	began, deadline time.Time
	// stopping: SIGTERM has arrived. stopBy is when the process ends whatever else is true.
	stopping bool
	stopBy   time.Time
	// counted is the newest tally; a zero Began means that there is none.
	counted tally
	regs    []regState
}

// tally is what the machine needs of a count.
type tally struct {
	began  time.Time
	active int
	// heard is the last moment at which a client may have said something; zero while that is not known.
	heard time.Time
	// none: there is no source that can count.
	none bool
}

// kind is what happened.
type kind int

const (
	// sawHook: somebody called /shutdown.
	sawHook kind = iota
	// sawTerm: SIGTERM.
	sawTerm
	// sawResume: somebody called /resume.
	sawResume
	// sawListen: the app began to listen, or listens again on a new socket.
	sawListen
	// sawVanish: the last listening socket of the app closed.
	sawVanish
	// sawCount: a tally arrived.
	sawCount
	// The rest tell of one registry. sawLeft: read back as out; sawEmpty: it holds nothing of the Pod.
	sawLeft
	sawEmpty
	sawPublished
	// sawUnseen: publication cannot be observed.
	sawUnseen
	// sawUndone: something put the Pod back in.
	sawUndone
	// sawGaveUp: the time to try to leave is over.
	sawGaveUp
	// sawIn: every instance is back, or there is none yet.
	sawIn
	sawForgot
	// sawTime: time went by.
	sawTime
)

// event is one thing that happened.
type event struct {
	kind  kind
	reg   int   // for the kinds that tell of a registry
	tally tally // for counted
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

const (
	// endpointLinger is how long callers that are no registry's go on: an endpoint takes 2-3 s to leave every kube-proxy.
	endpointLinger = 3 * time.Second
	// rehook is how long after the end of a drain another call gets the same answer. Later, a hook is about a new stop:
	// clients may have come since, by a Service, so it drains anew.
	rehook = 10 * time.Second
	// forgetFor bounds the deletion of a dead app's leftovers: after SIGTERM the kubelet may give no more than 2 s.
	forgetFor = 1500 * time.Millisecond
)

// next is the transition function: the state after e happened at now.
func (p policy) next(s state, e event, now time.Time) state {
	s.regs = slices.Clone(s.regs) // the caller keeps the old state to compare
	was := s.want()
	s = p.take(s, e, now)
	if s.want() != was {
		was = s.want()
		s.changeSides()
	}
	s = p.settle(s, now)
	if s.want() != was {
		s.changeSides()
	}
	return s
}

// take notes what happened.
func (p policy) take(s state, e event, now time.Time) state {
	if s.phase == forgotten { // nothing but the end can follow
		if e.kind == sawForgot {
			s.regs[e.reg].forgot = true
		}
		return s
	}
	switch e.kind {
	case sawHook:
		if s.phase == serving || s.stale(now) {
			s = p.begin(s, now)
		}
	case sawTerm:
		s = p.stop(s, now)
	case sawResume:
		s = s.serve(now)
	case sawListen:
		// While draining, only an app that was seen gone is another one: the kubelet restarts no container whose hook
		// runs, and an app that opens its socket anew while it drains must not end the drain.
		another := s.app == appGone || s.app == appUp && s.phase != draining
		s.app, s.appSince = appUp, now
		if another {
			s = s.serve(now)
		}
	case sawVanish:
		s.app, s.appSince = appGone, now
	case sawCount:
		if !e.tally.began.Before(s.counted.began) {
			s.counted = e.tally
		}
	case sawTime:
	default:
		s.regs[e.reg] = s.regs[e.reg].hear(e.kind, now)
	}
	return s
}

// hear notes what is told of one registry.
func (r regState) hear(k kind, now time.Time) regState {
	switch k {
	case sawLeft:
		r.left, r.gaveUp, r.held = now, time.Time{}, true
	case sawEmpty:
		r.left, r.gaveUp = now, time.Time{}
	case sawPublished:
		r.published = now
	case sawUnseen:
		r.blind = true
	case sawUndone:
		r = regState{held: true} // callers may learn of it again: its linger starts anew
	case sawGaveUp:
		r.gaveUp = now
	case sawIn:
		r.in = true
	}
	return r
}

// stop takes SIGTERM. In an old-style Pod it comes at the beginning, maybe before the hook, so it begins the drain too;
// to a native sidecar it comes when the app is gone, and settle goes on to the end.
func (p policy) stop(s state, now time.Time) state {
	if s.stopping {
		return s
	}
	s.stopping = true
	alive := s.app == appUp || s.app == appUnseen
	if alive && (s.phase == serving || s.stale(now)) {
		s = p.begin(s, now)
	}
	s.stopBy = now.Add(p.budget)
	if s.phase != serving && s.deadline.Before(s.stopBy) {
		s.stopBy = s.deadline
	}
	return s
}

// settle moves on to the phase that the state calls for.
func (p policy) settle(s state, now time.Time) state {
	if s.phase == draining {
		if p.done(s, now) {
			s = s.enter(drained, now)
		} else if !now.Before(s.deadline) {
			s = s.enter(expired, now)
		}
	}
	dead := s.app == appGone || s.app == appAbsent
	if s.stopping && dead && s.phase != draining && s.phase != forgotten {
		s = s.enter(forgotten, now)
	}
	return s
}

// begin starts a drain. What an earlier one, or a crash, achieved still holds.
func (p policy) begin(s state, now time.Time) state {
	s.began, s.deadline = now, now.Add(p.budget)
	return s.enter(draining, now)
}

// serve goes back to serving, whatever was going on.
func (s state) serve(now time.Time) state {
	if s.phase == serving {
		return s
	}
	return s.enter(serving, now)
}

// changeSides forgets what was true of the side that is left. That callers may know an instance stays true.
func (s state) changeSides() {
	for i, r := range s.regs {
		s.regs[i] = regState{held: r.held}
	}
}

func (s state) enter(p phase, now time.Time) state {
	s.phase, s.since = p, now
	return s
}

// stale reports whether the last drain ended so long ago that a hook is about another stop.
func (s state) stale(now time.Time) bool {
	return (s.phase == drained || s.phase == expired) && !now.Before(s.since.Add(rehook))
}

// want is what the registries shall be made to say in s.
func (s state) want() want {
	switch {
	case s.phase == forgotten:
		return wantGone
	case s.phase == serving && s.app != appGone:
		return wantIn
	}
	return wantOut
}

// done reports whether no request can be lost any more: callers have had their time and no connection is in use.
func (p policy) done(s state, now time.Time) bool {
	for _, r := range s.regs {
		if r.left.IsZero() && r.gaveUp.IsZero() {
			return false
		}
	}
	from := s.appSince // nobody can reach an app that does not listen: no linger, and the count from then on decides
	if s.app != appGone {
		until, known := p.lingerUntil(s)
		if !known || now.Before(until) {
			return false
		}
		from = until
	}
	return s.counted.none || !s.counted.began.IsZero() && !s.counted.began.Before(from) && s.counted.active <= p.threshold
}

// lingerUntil is when callers have stopped: their time is over or, if nothing is heard of them from now on, they have been
// quiet for long enough. It is not known before every registry was left or given up, and seen to have told its callers where
// that can be seen.
func (p policy) lingerUntil(s state) (time.Time, bool) {
	until, known := p.lingerWhole(s)
	if early, quiet := p.quietUntil(s); quiet && early.Before(until) {
		until = early
	}
	return until, known
}

// lingerWhole is when callers have had their time, whatever is heard of them.
func (p policy) lingerWhole(s state) (time.Time, bool) {
	until := s.began.Add(p.atLeast())
	for i, r := range s.regs {
		t, known := p.registryLinger(s, i, r)
		if !known {
			return time.Time{}, false
		}
		if t.After(until) {
			until = t
		}
	}
	return until, true
}

func (p policy) atLeast() time.Duration {
	switch {
	case p.linger < 0:
		return endpointLinger
	case len(p.afterLeave) == 0:
		return p.linger
	}
	return min(p.linger, endpointLinger)
}

// quietUntil is when callers will have been quiet for --quiet-period, if nothing is heard of them from the newest tally on.
// Only the time counts in which they know: from when every registry was seen to have told them, or must have. One that was
// given up never does. What endpoints need is waited for in any case.
func (p policy) quietUntil(s state) (time.Time, bool) {
	if p.quiet == 0 || s.counted.none || s.counted.heard.IsZero() {
		return time.Time{}, false
	}
	from := s.began
	for i, r := range s.regs {
		at := r.published
		switch {
		case r.left.IsZero() || !r.gaveUp.IsZero():
			return time.Time{}, false
		case r.blind:
			at = r.left.Add(p.afterLeave[i] - p.afterPublished[i])
		case !r.held:
			continue // nobody can have learned of it here
		case r.published.IsZero():
			return time.Time{}, false
		}
		from = later(from, at)
	}
	early := later(from, s.counted.heard).Add(p.quiet + conns.WordLag)
	return later(early, s.began.Add(p.floor())), true
}

// floor is how long a drain lingers at the least, quiet or not.
func (p policy) floor() time.Duration {
	if p.linger < 0 {
		return endpointLinger
	}
	return min(p.linger, endpointLinger)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (p policy) registryLinger(s state, i int, r regState) (until time.Time, known bool) {
	from, last := r.left, p.afterLeave[i]
	if !r.gaveUp.IsZero() {
		from = r.gaveUp
	}
	switch {
	case from.IsZero():
		return time.Time{}, false
	case p.linger >= 0:
		return from.Add(p.linger), true
	case !r.gaveUp.IsZero() || r.blind:
		return from.Add(last), true
	case !r.held:
		return s.began, true // nobody can have learned of it here
	case r.published.IsZero():
		return time.Time{}, false
	}
	return r.published.Add(p.afterPublished[i]), true
}

// exit reports whether the process may end.
func (s state) exit(now time.Time) bool {
	if !s.stopping {
		return false
	}
	switch s.phase {
	case forgotten:
		return s.every(func(r regState) bool { return r.forgot }) || !now.Before(s.since.Add(forgetFor))
	case serving: // resumed, or the app came back: see it back in before leaving it alone
		return s.every(func(r regState) bool { return r.in }) || !now.Before(s.stopBy)
	case drained:
		return s.app == appUnseen || !now.Before(s.stopBy)
	case expired:
		return true
	}
	return false
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
		if until, known := p.lingerUntil(s); known {
			soonest(until)
		}
	}
	if s.phase == forgotten {
		soonest(s.since.Add(forgetFor))
	}
	if s.stopping {
		soonest(s.stopBy)
	}
	return next
}

// urgent reports whether nothing but the count keeps the drain from its end, so that a look is worth its cost now.
func (p policy) urgent(s state, now time.Time) bool {
	if s.phase != draining {
		return false
	}
	if s.app == appGone {
		return true
	}
	until, known := p.lingerUntil(s)
	return known && !now.Before(until)
}

func (s state) every(ok func(regState) bool) bool {
	return !slices.ContainsFunc(s.regs, func(r regState) bool { return !ok(r) })
}
