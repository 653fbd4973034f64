// Package drain stops a Pod without losing a request: it takes the Pod's instances out of the service registries, waits
// until their callers know, waits until no connection is in use, and says so to whoever called the hook.
//
// A [Drain] is one goroutine that owns a state machine (machine.go). Around it, one goroutine for each registry brings it
// to the side that the machine wants (keeper.go), and one looks at the sockets (lookout.go). They report; it decides.
package drain

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// Options are a Drain's settings. Durations of zero are zero, not defaults.
type Options struct {
	// Registries that hold the Pod; may be empty. The Drain is their only user from Run on.
	Registries []registry.Registry
	// Counter looks at the sockets; nil where the kernel cannot be asked: the drain then ends with the linger.
	Counter conns.Counter
	// Pod tells which instances are ours. Its Ports are set from what the app listens on.
	Pod registry.Pod
	// Ports are the app's; nil means every port that the Pod listens on.
	Ports []uint16
	// Budget is the longest that a drain may take: grace period less reserve.
	Budget time.Duration
	// Linger is how long callers may go on after the read-back; negative means by registry.
	Linger time.Duration
	// QuietPeriod ends the linger early once no client has said anything for this long; 0: nothing does.
	QuietPeriod time.Duration
	// RegistryTimeout is the longest time to try to leave before going on without.
	RegistryTimeout time.Duration
	// MinOpen is the number of connections in use at which the drain is over.
	MinOpen int
	// ReadyFile is created while drained and removed while not; "" means none.
	ReadyFile string
	// Calls are made, in their order, when a drain begins; nothing waits for them.
	Calls []Call
	// TerminationLog gets the outcome in a line if it can be written; "" means none.
	TerminationLog string
	// Traffic is the requests to the registries, by their kind; for /metrics.
	Traffic map[string]*registry.Traffic
	Log     *slog.Logger
}

// Drain is the one drain of this process. Its methods may be called by any goroutine, before and while Run runs.
type Drain struct {
	policy  policy
	options Options
	log     *slog.Logger
	inbox   chan message
	keepers []*keeper
	lookout *lookout
	calls   *calls
	status  atomic.Pointer[snapshot]
	ended   chan struct{} // closed when Run returns
	history history
}

// message is what arrives at the owner: an event, or a call that wants to join the drain.
type message struct {
	event  event
	order  uint64         // the order that a registry's event belongs to; 0 for other events
	join   chan *waitable // for a hook: the drain that it belongs to
	answer chan struct{}  // closed when it was taken
}

// waitable is one drain that hooks wait for. outcome may be read once done is closed.
type waitable struct {
	done    chan struct{}
	outcome Outcome
	cause   string  // "hook" or "SIGTERM"
	undone  []int64 // how often each registry had put the Pod back in before it began
}

// New returns a Drain that serves.
func New(o Options) *Drain {
	d := &Drain{options: o, log: o.Log, inbox: make(chan message, 64), ended: make(chan struct{})}
	d.policy = policy{budget: o.Budget, linger: o.Linger, quiet: o.QuietPeriod, threshold: o.MinOpen}
	d.lookout = newLookout(o, func(e event) { d.tell(message{event: e}) })
	d.calls = &calls{all: o.Calls, log: o.Log}
	for _, r := range o.Registries {
		afterPublished, afterLeave := r.Linger()
		d.policy.afterPublished = append(d.policy.afterPublished, afterPublished)
		d.policy.afterLeave = append(d.policy.afterLeave, afterLeave)
		d.keepers = append(d.keepers, newKeeper(r, o, d.pod, d.lookAgain))
	}
	d.publish(d.initial(), nil)
	return d
}

func (d *Drain) initial() state {
	s := state{since: time.Now(), appSince: time.Now(), regs: make([]regState, len(d.keepers))}
	if d.options.Counter == nil {
		s.app = appUnseen
	}
	return s
}

// pod is who we are, with the ports that the app listens on or has listened on.
func (d *Drain) pod() registry.Pod {
	p := d.options.Pod
	p.Ports = d.lookout.ports()
	return p
}

// tell hands a message to the owner, unless that has ended.
func (d *Drain) tell(m message) {
	select {
	case d.inbox <- m:
	case <-d.ended:
	}
}

// lookAgain makes the owner take notice of what a keeper has found.
func (d *Drain) lookAgain() { d.tell(message{event: event{kind: sawTime}}) }

// Shutdown starts the drain or joins the one that runs, and waits for its end. It returns ctx's error if that ends first,
// which cancels nothing.
func (d *Drain) Shutdown(ctx context.Context) (Outcome, error) {
	join := make(chan *waitable, 1)
	d.tell(message{event: event{kind: sawHook}, join: join})
	var w *waitable
	select {
	case w = <-join:
	case <-d.ended:
		return Outcome{}, errEnded
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
	select {
	case <-w.done:
		return w.outcome, nil
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
}

var errEnded = fmt.Errorf("prestop has ended")

// Resume cancels a drain and has every registry rejoined, without waiting for that.
func (d *Drain) Resume() {
	answer := make(chan struct{})
	d.tell(message{event: event{kind: sawResume}, answer: answer})
	select {
	case <-answer:
	case <-d.ended:
	}
}

// Terminate is SIGTERM: Run returns once nothing is left to do for the app.
func (d *Drain) Terminate() {
	// An app that was restarted a moment ago may not have been seen yet, and a live one must not be taken for dead.
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	d.lookout.lookNow(ctx)
	d.tell(message{event: event{kind: sawTerm}})
}

// lookTimeout bounds the look that comes before a decision; a look takes milliseconds.
const lookTimeout = 500 * time.Millisecond

// Alive returns nil once the owner has answered, or why it has not.
func (d *Drain) Alive(ctx context.Context) error {
	answer := make(chan struct{})
	select {
	case d.inbox <- message{event: event{kind: sawTime}, answer: answer}:
	case <-d.ended:
		return errEnded
	case <-ctx.Done():
		return fmt.Errorf("the drain does not answer: %w", ctx.Err())
	}
	select {
	case <-answer:
		return nil
	case <-d.ended:
		return errEnded
	case <-ctx.Done():
		return fmt.Errorf("the drain does not answer: %w", ctx.Err())
	}
}

// Run owns the drain until it was told to terminate and nothing is left to do, or ctx ends. Every goroutine that it
// started has ended when it returns.
func (d *Drain) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer d.calls.wait()
	defer cancel()
	defer close(d.ended)
	wg.Go(func() { d.lookout.run(ctx) })
	for _, k := range d.keepers {
		wg.Go(func() { k.run(ctx) })
	}
	o := &owner{Drain: d, state: d.initial(), ctx: ctx}
	o.run()
}

// owner is the goroutine that owns the state machine, and the effects at its edge.
type owner struct {
	*Drain
	ctx    context.Context
	state  state
	drain  *waitable          // of the current or the last drain; nil before the first
	order  uint64             // number of the current orders
	cancel context.CancelFunc // of the current orders
}

func (o *owner) run() {
	o.command()
	defer func() { o.cancel() }()
	defer o.release(Cancelled)
	for !o.state.exit(time.Now()) {
		timer := time.NewTimer(until(o.policy.wake(o.state, time.Now())))
		var m message
		select {
		case <-o.ctx.Done():
			timer.Stop()
			return
		case m = <-o.inbox:
		case <-timer.C:
			m = message{event: event{kind: sawTime}}
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
	if s.began != was.began {
		o.drain = &waitable{done: make(chan struct{}), cause: causeOf(e.kind)}
		for _, k := range o.keepers {
			o.drain.undone = append(o.drain.undone, k.undone.Load())
		}
		o.calls.begin(o.ctx, s.deadline)
		o.log.Info("draining", "cause", o.drain.cause, "deadline", s.deadline, "budget", o.policy.budget, "app", o.lookout.listening())
	}
	o.publish(s, o.drain) // before anybody is answered, so that what he asks next agrees with the answer
	if s.app != was.app || e.kind == sawListen {
		o.appChanged(was)
	}
	if s.phase != was.phase || s.began != was.began { // a drain with nothing to wait for begins and ends in one step
		o.phaseChanged(was, e, now)
	}
	again := s.phase == serving && (e.kind == sawListen || e.kind == sawResume)
	if s.want() != was.want() || again {
		o.command()
	}
	o.lookout.known(o.instancePorts())
	o.lookout.setPace(o.paceFor(now))
}

func causeOf(k kind) string {
	if k == sawTerm {
		return "SIGTERM"
	}
	return "hook"
}

// paceFor is how closely the sockets must be looked at.
func (o *owner) paceFor(now time.Time) pace {
	s := o.state
	switch {
	case o.policy.urgent(s, now):
		return paceLast
	case s.phase == draining:
		return paceLinger
	case s.app == appAbsent || s.app == appGone:
		return paceAwait
	}
	return paceServing
}

// instancePorts are the ports by which the registries know the Pod.
func (o *owner) instancePorts() []uint16 {
	var ports []uint16
	for _, k := range o.keepers {
		for _, i := range *k.found.Load() {
			ports = append(ports, i.Port)
		}
	}
	return ports
}

// command gives every keeper the order that the state calls for.
func (o *owner) command() {
	if o.cancel != nil {
		o.cancel()
	}
	o.order++
	ctx, cancel := context.WithCancel(o.ctx)
	o.cancel = cancel
	for i, k := range o.keepers {
		number := o.order
		k.give(order{ctx: ctx, want: o.state.want(), observe: o.policy.linger < 0 || o.policy.quiet > 0, tell: func(what kind) {
			o.tell(message{event: event{kind: what, reg: i}, order: number})
		}})
	}
}

func (o *owner) appChanged(was state) {
	switch o.state.app {
	case appUp:
		o.log.Info("the app listens", "ports", o.lookout.listening(), "after", time.Since(was.appSince))
	case appGone:
		o.log.Info("the app does not listen any more", "after", time.Since(was.appSince))
	}
}

// phaseChanged answers who waits, and leaves the traces that others read.
func (o *owner) phaseChanged(was state, e event, now time.Time) {
	switch s := o.state; s.phase {
	case drained, expired:
		o.finish(s, now)
	case serving:
		o.release(Cancelled)
		o.calls.end()
		o.readyFile(false)
		o.log.Info("serving", "cause", map[bool]string{true: "resume", false: "the app listens again"}[e.kind == sawResume])
		if e.kind == sawResume && len(o.options.Calls) > 0 {
			o.log.Warn("what --drain-call told the app is not taken back: if it does not serve again by itself, tell it, e.g. POST /healthcheck/ok to an Envoy")
		}
	case draining:
		o.readyFile(false)
	case forgotten:
		o.release(Cancelled)
		o.log.Info("told to stop and the app is gone; deleting what the registries still hold of it")
	}
}

// finish ends the drain with what came of it.
func (o *owner) finish(s state, now time.Time) {
	r, level := Drained, slog.LevelInfo
	if s.phase == expired {
		r, level = Expired, slog.LevelError
	}
	out := o.outcome(s, r, now)
	o.answer(out) // before anything that takes time
	o.log.LogAttrs(o.ctx, level, "the drain is over", append(out.attrs(), slog.Duration("budget", o.policy.budget), slog.String("cause", o.drain.cause))...)
	o.readyFile(s.phase == drained)
	if o.options.TerminationLog != "" {
		_ = os.WriteFile(o.options.TerminationLog, []byte(out.String()+"\n"), 0o644) // not there outside Kubernetes
	}
}

// release answers those who wait for a drain that will not come to its end.
func (o *owner) release(r Result) {
	if o.drain != nil {
		o.answer(o.outcome(o.state, r, time.Now()))
	}
}

// answer closes the current drain with its outcome, once.
func (o *owner) answer(out Outcome) {
	if !o.drain.over() {
		o.drain.outcome = out
		o.history.add(out)
		close(o.drain.done)
	}
}

// joined is what a hook waits for: the current drain, or, when the app is dead and there was none, one that is over.
func (o *owner) joined() *waitable {
	if o.drain != nil {
		return o.drain
	}
	w := &waitable{done: make(chan struct{}), outcome: o.outcome(o.state, Drained, time.Now())}
	close(w.done)
	return w
}

func (o *owner) readyFile(there bool) {
	if o.options.ReadyFile == "" {
		return
	}
	var err error
	if there {
		err = os.WriteFile(o.options.ReadyFile, nil, 0o644)
	} else if err = os.Remove(o.options.ReadyFile); os.IsNotExist(err) {
		err = nil
	}
	if err != nil {
		o.log.Error("--ready-file cannot be kept", "file", o.options.ReadyFile, "error", err)
	}
}
