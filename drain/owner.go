package drain

import (
	"context"
	"log/slog"
	"maps"
	"time"
)

// owner is the goroutine that owns the state machine, and the effects at its edge.
type owner struct {
	*Drain
	ctx    context.Context
	state  state
	runs   *drainRun          // the current or the last drain; nil before the first
	ended  map[Result]int     // drains that ended
	last   Outcome            // of the last of them
	order  uint64             // number of the current orders
	cancel context.CancelFunc // of the current orders
}

func (o *owner) run() {
	o.command()
	defer func() { o.cancel() }()
	defer o.release()
	for !o.state.exit(time.Now()) {
		timer := time.NewTimer(until(o.policy.wake(o.state, time.Now())))
		var m message
		select {
		case <-o.ctx.Done():
			timer.Stop()
			return
		case m = <-o.inbox:
		case <-timer.C:
			m = message{event: event{kind: eventTick}}
		}
		timer.Stop()
		o.handle(m)
	}
}

// until is the time to a wake-up; an hour where there is none.
func until(t time.Time) time.Duration {
	if t.IsZero() {
		return time.Hour
	}
	return time.Until(t)
}

func (o *owner) handle(m message) {
	if m.order != 0 && m.order != o.order {
		return // about an order that another has replaced
	}
	was, now := o.state, time.Now()
	o.state = o.policy.next(was, m.event, now)
	o.effects(was, m.event, now)
	if m.join != nil {
		m.join <- o.joined()
	}
	if m.answer != nil {
		close(m.answer)
	}
}

// effects brings the world in line with the state.
func (o *owner) effects(was state, e event, now time.Time) {
	s := o.state
	if s.drains != was.drains {
		o.begin()
	}
	o.publish() // before anybody is answered, so that what he asks next agrees with the answer
	if s.app != was.app {
		o.appChanged(was)
	}
	if s.result != "" && !o.runs.over() { // also of one that began in this very step
		o.answer(o.outcome(s, s.result, now)) // before anything that takes time
	}
	if s.phase != was.phase || s.drains != was.drains { // a drain with nothing to wait for begins and ends in one step
		o.phaseChanged(e, now)
	}
	again := s.drains != was.drains || e.kind == eventResume && s.phase == serving
	if again || !s.target().equal(was.target()) {
		o.command()
	}
	o.watcher.follow(o.paceFor(now), s.countedPorts())
	if s.told.After(was.told) && o.policy.urgent(s, now) {
		o.watcher.poke() // what was counted before a registry's report proves nothing
	}
}

// begin makes the drain that hooks join from now on.
func (o *owner) begin() {
	s := o.state
	o.runs = &drainRun{done: make(chan struct{})}
	for _, v := range s.views {
		o.runs.undone = append(o.runs.undone, v.undone)
	}
	o.calls.begin(o.ctx, s.deadline)
	o.log.Info("draining", "cause", string(s.cause), "deadline", s.deadline, "budget", o.policy.budget, "app", s.ports.listening())
}

// publish lets others read the state.
func (o *owner) publish() {
	o.status.Store(&snapshot{state: o.state, run: o.runs, ended: maps.Clone(o.ended), last: o.last})
}

// paceFor is how closely the sockets must be looked at.
func (o *owner) paceFor(now time.Time) pace {
	s := o.state
	switch {
	case o.policy.urgent(s, now):
		return paceLast
	case s.phase == draining:
		return paceLinger
	case s.awaited(len(o.reconcilers)):
		return paceAwait
	}
	return paceServing
}

// awaited reports whether a port may begin to listen that somebody waits for: one of the app is
// gone or has not come yet, or no port is known to be the app's although a registry should hold it.
func (s state) awaited(registries int) bool {
	return s.app == appAbsent || s.app == appGone || s.app == appPartly || registries > 0 && !s.ports.identified()
}

// command gives every reconciler the order that the state calls for.
func (o *owner) command() {
	if o.cancel != nil {
		o.cancel()
	}
	o.order++
	ctx, cancel := context.WithCancel(o.ctx)
	o.cancel = cancel
	for i, r := range o.reconcilers {
		number := o.order
		r.give(order{
			ctx: ctx, target: o.state.target(), live: o.state.ports.live(), serves: o.state.reachable(),
			observe: o.policy.linger < 0 || o.policy.quiet > 0,
			report:  func(k eventKind) { o.send(message{event: event{kind: k, reg: i}, order: number}) },
		})
	}
}

func (o *owner) appChanged(was state) {
	ports := o.state.ports.listening()
	after := time.Since(was.appSince)
	switch o.state.app {
	case appUp:
		o.log.Info("the app listens", "ports", ports, "after", after)
	case appPartly:
		o.log.Warn("a port of the app is not listened on any more; its instance is taken out, the others are left alone",
			"gone", o.state.ports.deciding().dead(), "ports", ports, "after", after)
	case appGone:
		o.log.Info("the app does not listen any more", "gone", o.state.ports.deciding().dead(), "after", after)
	}
}

// phaseChanged answers who waits, and leaves the traces that others read.
func (o *owner) phaseChanged(e event, now time.Time) {
	switch s := o.state; s.phase {
	case drained, expired:
		o.readyFile(s.phase == drained)
	case serving:
		o.calls.end()
		o.readyFile(false)
		o.log.Info("serving", "cause", map[bool]string{true: "resume", false: "the app listens again"}[e.kind == eventResume])
		if e.kind == eventResume && len(o.options.Calls) > 0 {
			o.log.Warn("what --drain-call told the app is not taken back: if it does not serve again by itself, tell it, e.g. POST /healthcheck/ok to an Envoy")
		}
	case draining:
		o.readyFile(false)
	case forgotten:
		o.log.Info("told to stop and the app is gone; deleting what the registries still hold of it")
	}
}

// release answers those who wait for a drain that the end of the process cuts off.
func (o *owner) release() {
	if o.runs != nil && !o.runs.over() {
		o.answer(o.outcome(o.state, Cancelled, time.Now()))
	}
}

// answer closes the current drain with its outcome, and tells of it.
func (o *owner) answer(out Outcome) {
	o.runs.outcome = out
	o.ended[out.Result]++
	o.last = out
	o.publish()
	close(o.runs.done)
	level := slog.LevelInfo
	if out.Result == Expired {
		level = slog.LevelError
	}
	o.log.LogAttrs(o.ctx, level, "the drain is over", append(out.attrs(), slog.Duration("budget", o.policy.budget), slog.String("cause", out.Cause))...)
	writeTerminationLog(o.options.TerminationLog, out.String(), o.log)
}

// joined is what a hook waits for: the current drain, or, when the app is dead and there was none,
// one that is over.
func (o *owner) joined() *drainRun {
	if o.runs != nil {
		return o.runs
	}
	run := &drainRun{done: make(chan struct{}), outcome: o.outcome(o.state, Drained, time.Now())}
	close(run.done)
	return run
}

func (o *owner) readyFile(there bool) { setReadyFile(o.options.ReadyFile, there, o.log) }
