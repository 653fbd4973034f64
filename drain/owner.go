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
	ctx   context.Context
	state state
	runs  *drainRun      // the current or the last drain; nil before the first
	ended map[Result]int // drains that ended
	last  Outcome        // of the last of them
	// appSince is when the app was told as what it is.
	appSince time.Time
	order    uint64             // number of the current orders
	cancel   context.CancelFunc // of the current orders
}

func (o *owner) run() {
	o.command(o.state.target())
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
	var effects []effect
	o.state, effects = o.policy.next(was, m.event, now)
	if len(effects) > 0 && effects[0].kind == effectBegin {
		o.begin()
	}
	o.publish() // before anybody is answered, so that what he asks next agrees with the answer
	for _, f := range effects {
		o.perform(f, m.event, now)
	}
	o.watcher.follow(o.paceFor(now), o.state.countedPorts())
	if m.join != nil {
		m.join <- o.joined()
	}
	if m.answer != nil {
		close(m.answer)
	}
}

// perform does what is to be done. It decides nothing.
func (o *owner) perform(f effect, e event, now time.Time) {
	switch f.kind {
	case effectApp:
		o.appChanged(now)
	case effectEnd:
		o.answer(o.outcome(o.state, o.state.result, now))
	case effectPhase:
		o.phaseChanged(e)
	case effectTarget:
		o.command(f.target)
	case effectCount:
		o.watcher.poke()
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
	o.log.Info("draining", "cause", string(s.cause), "deadline", s.deadline,
		"budget", o.policy.budget, "app", s.ports.listening())
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
	missing := s.app == appAbsent || s.app == appGone || s.app == appPartly
	return missing || registries > 0 && !s.ports.identified()
}

// command gives every reconciler the order that the state calls for.
func (o *owner) command(t target) {
	if o.cancel != nil {
		o.cancel()
	}
	o.order++
	ctx, cancel := context.WithCancel(o.ctx)
	o.cancel = cancel
	for i, r := range o.reconcilers {
		number := o.order
		r.give(order{
			ctx: ctx, target: t, live: o.state.ports.live(), serves: o.state.reachable(),
			observe: o.policy.linger < 0 || o.policy.quiet > 0,
			report:  func(k eventKind) { o.send(message{event: event{kind: k, reg: i}, order: number}) },
		})
	}
}

// appChanged says what became of the app.
func (o *owner) appChanged(now time.Time) {
	ports := o.state.ports.listening()
	after := now.Sub(o.appSince)
	o.appSince = now
	switch o.state.app {
	case appUp:
		o.log.Info("the app listens", "ports", ports, "after", after)
	case appPartly:
		o.log.Warn("a port of the app is not listened on any more; "+
			"its instance is taken out, the others are left alone",
			"gone", o.state.ports.deciding().dead(), "ports", ports, "after", after)
	case appGone:
		o.log.Info("the app does not listen any more",
			"gone", o.state.ports.deciding().dead(), "after", after)
	}
}

// phaseChanged leaves the traces that others read.
func (o *owner) phaseChanged(e event) {
	switch s := o.state; s.phase {
	case drained, expired:
		o.readyFile(s.phase == drained)
	case serving:
		o.calls.end()
		o.readyFile(false)
		cause := "the app listens again"
		if e.kind == eventResume {
			cause = "resume"
		}
		o.log.Info("serving", "cause", cause)
		if e.kind == eventResume && len(o.options.Calls) > 0 {
			o.log.Warn("what --drain-call told the app is not taken back: if it does not serve again " +
				"by itself, tell it, e.g. POST /healthcheck/ok to an Envoy")
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
	attrs := append(out.attrs(),
		slog.Duration("budget", o.policy.budget), slog.String("cause", out.Cause))
	o.log.LogAttrs(o.ctx, level, "the drain is over", attrs...)
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
