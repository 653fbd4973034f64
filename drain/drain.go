// Package drain stops a Pod without losing a request: it takes the Pod's instances out of the
// service registries, waits until their callers know, waits until no connection is in use, and says
// so to whoever called the hook.
//
// A [Drain] is one goroutine (owner.go) that owns a state machine. What decides is pure: state.go,
// machine.go, app.go (which ports are the app's), linger.go (when callers have stopped), ending.go
// (how the process ends), pace.go (when the sockets are scanned). Around it, one goroutine for each
// registry brings it to its target (reconciler.go, keepin.go, keepout.go), and one scans the
// sockets (watcher.go). They report; it decides; everybody else reads its snapshot (status.go).
package drain

import (
	"context"
	"errors"
	"log/slog"
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
	// Counter looks at the sockets; nil where the kernel cannot be asked: the drain then ends with
	// the linger.
	Counter conns.Counter
	// Pod tells which instances are ours. Its ports are set from what the app listens on.
	Pod registry.Pod
	// Ports are the app's, as given; nil: found.
	Ports []uint16
	// OnlyPorts: no port but Ports is looked at, since others' look like ours (hostNetwork, several
	// apps on one host).
	OnlyPorts bool
	// Loopback: callers are on this machine, not outside a Pod, so that what listens on the
	// loopback alone may be the app too.
	Loopback bool
	// Budget is the longest that a drain may take: grace period less reserve.
	Budget time.Duration
	// Linger is how long callers may go on after the read-back; negative means by registry.
	Linger time.Duration
	// QuietPeriod ends the linger early once no client has said anything for this long; 0: nothing
	// does.
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
	// Elsewhere, if not nil, looks what Registries[i] holds at the Pod's address on any port: told
	// where nothing is found.
	Elsewhere func(ctx context.Context, i int) ([]registry.Instance, error)
	// Seed makes the jitter of the registries' looks repeatable, for tests; 0: it differs in each
	// process.
	Seed uint64
	Log  *slog.Logger
}

// Drain takes the Pod out of its registries before it stops, and puts it back when it serves again.
// A process has one. Its methods may be called by any goroutine, before and while Run runs.
//
// It is in one of five states:
//
//   - serving: every instance of the Pod whose port is listened on is in service. One whose port is
//     gone is taken out alone, and is put back when the port is listened on again.
//   - draining: a call to [Drain.Shutdown] or [Drain.Stopping], or SIGTERM, began a drain. Every
//     registry is told to take the Pod out, and asked until it says so. Then the callers' caches run
//     out: that is the linger. Meanwhile the connections are counted.
//   - drained: the linger is over, and a count that began after it has found no more connections in
//     use than Options.MinOpen. Without a counter the end of the linger is enough.
//   - expired: Options.Budget was over before that.
//   - forgotten: the process was told to stop and the app is gone. What the registries still hold of
//     it is being deleted.
//
// Shutdown returns when the drain ends, at the latest when its budget is over, whatever the
// registries, the app or the kernel do. Its result is [Drained], [Expired] or [Cancelled]. All
// callers share one drain. Who calls within 10 s after its end gets the same result; who calls
// later begins another drain. A caller that goes away cancels nothing.
//
// A drain is undone by [Drain.Resume], and when the app is listened on anew: by a container that
// was restarted in the same Pod. The Pod is put back into every registry then. While draining and
// after, the registries are looked at again, and what somebody put back in is taken out once more.
//
// A live instance is never deleted, only disabled. The app's own word about itself is never
// changed.
type Drain struct {
	policy      policy
	options     Options
	log         *slog.Logger
	inbox       chan message
	reconcilers []*reconciler
	watcher     *watcher
	calls       *calls
	status      atomic.Pointer[snapshot]
	ended       chan struct{} // closed when Run returns
}

// message is what arrives at the owner: an event, or a call that wants to join the drain.
type message struct {
	event  event
	order  uint64         // that a registry's report belongs to; 0 for what is true whatever the order
	join   chan *drainRun // for a hook: the drain that it belongs to
	answer chan struct{}  // closed when it was taken
}

// drainRun is one drain that hooks wait for. outcome may be read once done is closed.
type drainRun struct {
	done    chan struct{}
	outcome Outcome
	undone  []int // how often each registry had put the Pod back in before it began
}

// New returns a Drain that serves.
func New(o Options) *Drain {
	d := &Drain{options: o, log: o.Log, inbox: make(chan message, 64), ended: make(chan struct{})}
	d.policy = policy{budget: o.Budget, linger: o.Linger, quiet: o.QuietPeriod, threshold: o.MinOpen}
	d.watcher = newWatcher(o, func(e event) { d.send(message{event: e}) })
	d.calls = &calls{all: o.Calls, log: o.Log}
	for i, r := range o.Registries {
		afterPublished, afterLeave := r.Linger()
		d.policy.afterPublished = append(d.policy.afterPublished, afterPublished)
		d.policy.afterLeave = append(d.policy.afterLeave, afterLeave)
		d.reconcilers = append(d.reconcilers, newReconciler(i, d))
	}
	first := start(o.Ports, o.Counter == nil, len(o.Registries), time.Now())
	d.status.Store(&snapshot{state: first})
	return d
}

// pod is who we are, with the ports that the app listens on or has listened on.
func (d *Drain) pod() registry.Pod {
	s := d.status.Load().state
	p := d.options.Pod
	p.Ports = s.ports.known()
	p.AnyPort = s.unseen && len(d.options.Ports) == 0
	return p
}

// since tells of each port that may be one of the app's, and that listens, since when.
func (d *Drain) since() map[uint16]time.Time { return d.status.Load().state.ports.since() }

// send hands a message to the owner, unless that has ended.
func (d *Drain) send(m message) { _ = d.sendWithin(context.Background(), m) }

// sendWithin hands a message to the owner; the error tells that it has ended, or that ctx did
// first.
func (d *Drain) sendWithin(ctx context.Context, m message) error {
	select {
	case d.inbox <- m:
		return nil
	case <-d.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errEnded = errors.New("prestop has ended")

// Shutdown starts the drain or joins the one that runs, and waits for its end. It returns ctx's
// error if that ends first, which cancels nothing.
func (d *Drain) Shutdown(ctx context.Context) (Outcome, error) {
	if d.status.Load().state.phase == serving {
		d.scanFirst(ctx)
	}
	join := make(chan *drainRun, 1)
	if err := d.sendWithin(ctx, message{event: event{kind: eventHook}, join: join}); err != nil {
		return d.last(err)
	}
	var run *drainRun
	select {
	case run = <-join:
	case <-d.ended:
		return d.last(errEnded)
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
	select {
	case <-run.done:
		return run.outcome, nil
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
}

// last is the outcome of the last drain for one who called as the process ended, or err if there
// was none.
func (d *Drain) last(err error) (Outcome, error) {
	now := d.status.Load()
	if errors.Is(err, errEnded) && now.state.phase != serving && now.run.over() {
		return now.run.outcome, nil
	}
	return Outcome{}, err
}

// Stopping says that the Pod goes, not just a container: it starts the drain or joins it, and
// returns when that is known.
func (d *Drain) Stopping() {
	if d.status.Load().state.phase == serving {
		d.scanFirst(context.Background())
	}
	d.deliver(eventStopping)
}

// Resume cancels a drain and has every registry rejoined, without waiting for that.
func (d *Drain) Resume() { d.deliver(eventResume) }

// Terminate is SIGTERM: Run returns once nothing is left to do for the app.
func (d *Drain) Terminate() {
	d.scanFirst(context.Background())
	d.send(message{event: event{kind: eventSIGTERM}})
}

// deliver sends an event and returns when it was taken.
func (d *Drain) deliver(k eventKind) {
	answer := make(chan struct{})
	d.send(message{event: event{kind: k}, answer: answer})
	select {
	case <-answer:
	case <-d.ended:
	}
}

// scanFirst looks at the listening sockets before a decision: an app that was started or restarted
// a moment ago may not have been seen yet, and a live one must not be taken for dead.
func (d *Drain) scanFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	d.watcher.scanNow(ctx)
}

// scanTimeout bounds the look that comes before a decision; a look takes milliseconds.
const scanTimeout = 500 * time.Millisecond

// Alive returns nil once the owner has answered, or why it has not.
func (d *Drain) Alive(ctx context.Context) error {
	answer := make(chan struct{})
	err := d.sendWithin(ctx, message{event: event{kind: eventTick}, answer: answer})
	if err == nil {
		select {
		case <-answer:
			return nil
		case <-d.ended:
			return errEnded
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if errors.Is(err, errEnded) {
		return err
	}
	return errors.Join(errors.New("the drain does not answer"), err)
}

// Run owns the drain until it was told to terminate and nothing is left to do, or ctx ends. Every
// goroutine that it started has ended when it returns. It returns in these ways:
//
//  1. SIGTERM, and the app is gone: to a native sidecar it comes after the app's end, in a Job's Pod
//     and with RestartAllContainers too. What the registries still hold is deleted, in 1.5 s at most.
//     Where the app's ports are known only by who listened, and others listen still, a hook may come
//     within 0.5 s, which tells that a container lives.
//  2. SIGTERM before the app ever listened: as 1.
//  3. SIGTERM while the app listens: an ordinary container gets it together with the app. The drain
//     begins, or goes on, and hooks are served. Run returns when the drain is over and the app is
//     gone, as 1, or at the deadline.
//  4. SIGTERM after the deadline: at once.
//  5. SIGTERM where the sockets cannot be seen: when the drain is over.
//  6. SIGTERM where all that listens was there before us, is in no registry, and had no client: when
//     the drain is over. It is a sidecar beside a Job that has ended.
//  7. SIGTERM, and then the drain was cancelled (/resume, the app listens anew): when every registry
//     has the app back, or at the deadline.
//  8. ctx ends (a second signal): at once.
//
// Nothing but a mesh's proxy and listeners on the loopback alone listens: that is an app that is
// gone, or never came. Whoever waits for a drain has its outcome when Run returns: cancelled, if it
// was not over.
func (d *Drain) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer d.calls.wait()
	defer cancel()
	defer close(d.ended)
	removeStale(d.options.ReadyFile, d.log)
	wg.Go(func() { d.watcher.run(ctx) })
	for _, r := range d.reconcilers {
		wg.Go(func() { r.run(ctx) })
	}
	o := &owner{Drain: d, state: d.status.Load().state, ended: map[Result]int{}, ctx: ctx}
	o.appSince = o.state.appSince
	o.run()
}
