package drain

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"prestop/registry"
)

const (
	// reassert is how often a registry is looked at while the Pod shall stay out of it: whatever undid the leave (a
	// restarted server, an app that registered again) is noticed before many callers have fetched the list.
	reassert = 4 * time.Second
	// The callers' view is looked at until it shows that the Pod left: soon, since Nacos' changes in half a second, and
	// then less often, since Eureka's takes up to half a minute and a fleet may be asking.
	observeFirst, observe = 700 * time.Millisecond, 3 * time.Second
	// findAgain is how many of these looks come between two searches for instances that have registered meanwhile; the
	// first search follows at once on a leave of what was known.
	findAgain = 5
	// rejoinWindow is how long after the app began to serve an instance found disabled is taken for a leftover of ours:
	// Nacos keeps the mark for some 65 s after the instance went, Eureka for as long as the new one heartbeats. Later it is
	// somebody's decision, and not ours to undo.
	rejoinWindow = 2 * time.Minute
	// idleLook is how often a registry is looked at while all is well; with jitter.
	idleLook = time.Minute
)

// order is what a keeper shall bring about, and keep so, until its context ends.
type order struct {
	ctx  context.Context
	want want
	// tell reports to the machine; reports of an order that another replaced are dropped there.
	tell func(kind)
	// observe: the end of the linger depends on when the registry's callers can see the change.
	observe bool
}

// keeper brings one registry to the side that the machine wants, and keeps it there. It is the only one that uses it.
type keeper struct {
	registry registry.Registry
	pod      func() registry.Pod
	timeout  time.Duration
	log      *slog.Logger
	orders   chan order

	// found and err are what the last look showed; changed is called when either is new.
	found   atomic.Pointer[[]registry.Instance]
	err     atomic.Pointer[error]
	changed func()
	undone  atomic.Int64
}

func newKeeper(r registry.Registry, o Options, pod func() registry.Pod, changed func()) *keeper {
	k := &keeper{
		registry: r, pod: pod, timeout: o.RegistryTimeout, changed: changed, orders: make(chan order, 1),
		log: o.Log.With("registry", r.Kind()),
	}
	if slices.ContainsFunc(o.Registries, func(other registry.Registry) bool { return other != r && other.Kind() == r.Kind() }) {
		k.log = k.log.With("url", r.URL())
	}
	k.found.Store(new([]registry.Instance))
	k.err.Store(new(error))
	return k
}

// give replaces the order that waits, if any. The caller has ended the context of the one that is being obeyed.
func (k *keeper) give(o order) {
	select {
	case <-k.orders:
	default:
	}
	k.orders <- o
}

// run obeys orders until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-k.orders:
			switch o.want {
			case wantIn:
				k.keepIn(o)
			case wantOut:
				k.keepOut(o)
			case wantGone:
				k.forget(o)
			}
		}
	}
}

// keepOut leaves, tells when that is read back and when callers can see it, and leaves again when it was undone.
func (k *keeper) keepOut(o order) {
	var (
		began   = time.Now()
		left    time.Time // when it was told as left; read while out
		out     bool
		gaveUp  bool
		watched = !o.observe // publication is told, or not asked for
		glance  = observeFirst
		blind   time.Time // since when the callers' view could not be read
	)
	trying, done := context.WithTimeout(o.ctx, k.timeout)
	defer done()
	for round := 0; o.ctx.Err() == nil; round++ {
		ctx, cancel := trying, context.CancelFunc(func() {})
		if out || gaveUp {
			ctx, cancel = context.WithTimeout(o.ctx, k.timeout)
		}
		err := k.lookOut(ctx, round)
		if err == nil && (!out || k.any(registry.In)) {
			if out {
				k.undone.Add(1)
				k.log.Warn("the registry shows the instance in service again; taking it out once more", "instances", k.names(registry.In))
				o.tell(sawUndone)
				out, watched, glance = false, !o.observe, observeFirst
			}
			err = k.leave(ctx)
		}
		k.note(err)
		switch {
		case err == nil && !out:
			out, left = true, time.Now()
			k.tellLeft(o, time.Since(began))
		case err != nil && !out && !gaveUp && o.ctx.Err() == nil && (registry.IsFinal(err) || trying.Err() != nil):
			gaveUp = true
			k.log.Error("could not take the instance out of the registry; going on without", "after", time.Since(began), "error", err)
			o.tell(sawGaveUp)
		}
		if out && !watched {
			watched = k.watch(ctx, o, left, &blind)
		}
		cancel()
		switch {
		case !out && gaveUp:
			pause(o.ctx, reassert)
		case !out:
			pause(trying, time.Second)
		case !watched:
			pause(o.ctx, glance)
			glance = min(2*glance, observe)
		default:
			pause(o.ctx, reassert)
		}
	}
}

// lookOut learns what the registry holds. The first round leaves what is known at once, without asking before.
func (k *keeper) lookOut(ctx context.Context, round int) error {
	known := len(*k.found.Load()) > 0
	switch {
	case known && round == 0:
		return nil
	case known && round%findAgain != 1:
		return k.check(ctx)
	}
	return k.find(ctx)
}

func (k *keeper) leave(ctx context.Context) error {
	if err := k.registry.Leave(ctx); err != nil {
		return err
	}
	return k.check(ctx)
}

func (k *keeper) tellLeft(o order, took time.Duration) {
	if len(*k.found.Load()) == 0 {
		k.log.Info("the registry holds no instance of this Pod; nothing to leave", "took", took, "address", k.pod().Addresses, "ports", k.pod().Ports)
		o.tell(sawEmpty)
		return
	}
	k.log.Info("left the registry", "took", took, "instances", k.names(registry.Out))
	o.tell(sawLeft)
}

// watch looks once at the callers' view and reports whether there is nothing more to look for. Its last word says what was
// observed and what is assumed.
func (k *keeper) watch(ctx context.Context, o order, left time.Time, blind *time.Time) bool {
	seen, err := k.registry.Published(ctx)
	afterPublished, afterLeave := k.registry.Linger()
	switch {
	case err == nil && seen:
		k.log.Info("what callers read shows that the instance left", "observed", time.Since(left).Round(time.Millisecond).String()+" after the leave, on every server that answers",
			"servers", k.registry.URL(), "assumed", "callers' own caches: "+afterPublished.String()+" from now")
		o.tell(sawPublished)
		return true
	case err == nil:
		*blind = time.Time{}
		return false
	case o.ctx.Err() != nil:
		return false
	case blind.IsZero():
		*blind = time.Now()
	}
	if registry.IsFinal(err) || time.Since(*blind) >= k.timeout {
		k.log.Warn("cannot see what callers read; waiting the longest time that it can take", "servers", k.registry.URL(),
			"assumed", "the servers' and the callers' caches: "+afterLeave.String()+" from the leave", "error", err)
		o.tell(sawUnseen)
		return true
	}
	return false
}

// keepIn finds the instances, puts back what an earlier incarnation or a drain left disabled, and then looks now and then.
func (k *keeper) keepIn(o order) {
	var (
		began   = time.Now()
		settled bool
		wait    = 500 * time.Millisecond
	)
	for look := 0; o.ctx.Err() == nil; look++ {
		if len(k.pod().Ports) == 0 {
			o.tell(sawIn)
			<-o.ctx.Done() // the app has never listened: nothing can be ours yet, and another order comes when it does
			return
		}
		ctx, cancel := context.WithTimeout(o.ctx, k.timeout)
		err := k.lookIn(ctx, settled)
		switch {
		case err != nil || !k.any(registry.Out):
		case !settled || time.Since(began) < rejoinWindow:
			err = k.rejoin(ctx)
			wait = 500 * time.Millisecond // see that it lasts
		default:
			err = errDisabled
		}
		cancel()
		k.note(err)
		if err == nil {
			if !settled && len(*k.found.Load()) > 0 {
				settled = true
				k.log.Info("registered", "instances", k.names(registry.In, registry.Down))
			}
			o.tell(sawIn)
		}
		pause(o.ctx, wait)
		wait = min(2*wait, idleLook)
		if !settled && time.Since(began) < rejoinWindow {
			wait = min(wait, 10*time.Second) // an app that starts slowly registers late
		}
	}
}

// errDisabled is shown as the registry's state when somebody else disabled the instance.
var errDisabled = errors.New("the instance is disabled, and not by prestop; enable it in the registry's console, or call /resume")

// lookIn searches for the instances until they were found, and then asks for just these: a search may be megabytes.
func (k *keeper) lookIn(ctx context.Context, settled bool) error {
	if settled && len(*k.found.Load()) > 0 && !k.any(registry.Absent) {
		return k.check(ctx)
	}
	return k.find(ctx)
}

func (k *keeper) rejoin(ctx context.Context) error {
	names := k.names(registry.Out)
	began := time.Now()
	if err := k.registry.Rejoin(ctx); err != nil {
		return err
	}
	if err := k.check(ctx); err != nil {
		return err
	}
	k.log.Info("rejoined the registry", "took", time.Since(began), "instances", names)
	return nil
}

// forget deletes what is left of a dead app. It is over when it was tried: the process is about to end.
func (k *keeper) forget(o order) {
	defer o.tell(sawForgot)
	ctx, cancel := context.WithTimeout(o.ctx, forgetFor)
	defer cancel()
	var err error
	if len(*k.found.Load()) == 0 {
		err = k.find(ctx)
	}
	if err == nil && len(*k.found.Load()) > 0 {
		if err = k.registry.Forget(ctx); err == nil {
			k.log.Info("nothing of the Pod is left in the registry")
		}
	}
	k.note(err)
}

func (k *keeper) find(ctx context.Context) error {
	found, err := k.registry.Find(ctx, k.pod())
	return k.saw(found, err)
}

func (k *keeper) check(ctx context.Context) error {
	found, err := k.registry.Check(ctx)
	return k.saw(found, err)
}

func (k *keeper) saw(found []registry.Instance, err error) error {
	if err != nil {
		return err
	}
	if !slices.Equal(found, *k.found.Load()) {
		k.found.Store(&found)
		k.changed()
	}
	return nil
}

// note keeps the last error for /status and logs it when it is a new one; a nil error ends it.
func (k *keeper) note(err error) {
	if err != nil && (errors.Is(err, context.Canceled)) {
		return // another order came
	}
	old := *k.err.Load()
	switch {
	case err == nil && old == nil:
		return
	case err == nil:
		k.log.Info("the trouble with the registry is over")
	case old != nil && old.Error() == err.Error():
		return
	default:
		k.log.Warn("trouble with the registry", "error", err)
	}
	k.err.Store(&err)
	k.changed()
}

func (k *keeper) any(s registry.State) bool {
	return slices.ContainsFunc(*k.found.Load(), func(i registry.Instance) bool { return i.State == s })
}

// names lists the instances in one of the states, as service/ID.
func (k *keeper) names(states ...registry.State) []string {
	var n []string
	for _, i := range *k.found.Load() {
		if slices.Contains(states, i.State) && len(n) < 10 {
			n = append(n, i.Service+"/"+i.ID)
		}
	}
	return n
}

// pause waits for d, give or take a quarter so that a fleet does not move in step, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d*3/4 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
