package drain

import (
	"context"
	"slices"
	"time"

	"prestop/registry"
)

// This file keeps the Pod out of a registry: while it drains and after.

// departure is one order to keep the Pod out, as far as it has come.
type departure struct {
	order
	began time.Time
	// trying ends when the time to try to leave is over.
	trying context.Context
	done   context.CancelFunc
	// left is when it was reported as out; read while out.
	left        time.Time
	out, gaveUp bool
	// watched: publication was reported, or nobody asked for it. glance is the wait before the next
	// look at it, and unseen since when the callers' view could not be read.
	watched bool
	glance  time.Duration
	unseen  time.Time
	// ports are those that were searched for; another one that listens since is searched for anew.
	ports    []uint16
	searched bool
	checked  bool // what is held has been looked at since the order came
}

// keepOut leaves, reports when that is read back and when callers can see it, and leaves again when
// it was undone.
func (k *reconciler) keepOut(o order) {
	clear(k.wasIn)
	k.registry.Only(nil)
	d := &departure{order: o, began: time.Now()}
	d.try(k.timeout)
	defer func() { d.done() }()
	for o.ctx.Err() == nil {
		k.keepOutOnce(d)
	}
}

// try begins the time in which the registry must be left.
func (d *departure) try(timeout time.Duration) {
	if d.done != nil {
		d.done()
	}
	d.out, d.gaveUp, d.watched, d.glance = false, false, !d.observe, observeFirst
	d.trying, d.done = context.WithTimeout(d.ctx, timeout)
}

// keepOutOnce is one round: take out what is in, look what callers see, and wait.
func (k *reconciler) keepOutOnce(d *departure) {
	ctx, cancel := d.trying, context.CancelFunc(func() {})
	if d.out || d.gaveUp {
		ctx, cancel = context.WithTimeout(d.ctx, k.timeout)
	}
	err := k.takeOut(ctx, d)
	k.note(err)
	switch {
	case err == nil && !d.out:
		d.out, d.left = true, time.Now()
		k.reportOut(d)
	case err != nil && !d.out && !d.gaveUp && d.ctx.Err() == nil && (registry.IsFinal(err) || d.trying.Err() != nil):
		d.gaveUp = true
		k.log.Error("could not take the instance out of the registry; going on without", "after", time.Since(d.began), "error", err)
		d.report(eventGaveUp)
	}
	if d.out && !d.watched {
		k.watch(ctx, d)
	}
	cancel()
	switch {
	case !d.out && d.gaveUp:
		k.pause(d.ctx, reassert)
	case !d.out:
		k.pause(d.trying, time.Second)
	case !d.watched, k.mayRegister(0):
		k.pause(d.ctx, d.glance)
		d.glance = min(2*d.glance, observe)
	case time.Since(d.began) > reassertFor:
		k.pause(d.ctx, idleLook)
	default:
		k.pause(d.ctx, reassert)
	}
}

// takeOut brings every instance out. What is known is left at once, without asking before; then the
// registry is searched, so that one that has registered meanwhile is out before the linger begins.
func (k *reconciler) takeOut(ctx context.Context, d *departure) error {
	if len(k.found) > 0 && !d.checked {
		if err := k.leave(ctx); err != nil {
			return err
		}
		d.checked = true
	}
	known := map[string]bool{}
	for _, i := range k.found {
		known[i.ID] = true
	}
	err := k.look(ctx, d)
	if err != nil && d.checked && !d.searched && !d.out && (registry.IsFinal(err) || time.Since(d.began) >= searchPatience) {
		k.log.Warn("cannot search the registry for further instances; those that are known are out", "error", err)
		d.searched, d.ports, err = true, k.pod().Ports, nil
	}
	if err != nil {
		return err
	}
	d.checked = true
	if !k.any(registry.In) {
		return nil
	}
	if d.out {
		k.reportIn(d, known)
		d.try(k.timeout)
	}
	return k.leave(ctx)
}

// reportIn tells that instances are in service after the Pod was out: known ones were put back by
// somebody, others have registered since.
func (k *reconciler) reportIn(d *departure, known map[string]bool) {
	again := func(i registry.Instance) bool { return i.State == registry.In && known[i.ID] }
	if slices.ContainsFunc(k.found, again) {
		k.log.Warn("the registry shows the instance in service again; taking it out once more",
			"instances", k.names(registry.In))
		d.report(eventUndone)
		return
	}
	k.log.Info("an instance has registered since; taking it out too", "instances", k.names(registry.In))
	d.report(eventLate)
}

// look learns what the registry holds: by a search at first, and where it was empty, another port
// listens since, or an instance may still come; else by asking for what is known.
func (k *reconciler) look(ctx context.Context, d *departure) error {
	pod := k.pod()
	again := emptySearch
	if time.Since(d.began) > reassertFor {
		again = rareSearch
	}
	switch {
	case !d.searched, !slices.Equal(pod.Ports, d.ports), k.mayRegister(min(again, reassert)),
		len(k.found) == 0 && time.Since(k.searched) > again:
		err := k.search(ctx)
		if err == nil {
			d.searched, d.ports = true, pod.Ports
		}
		return err
	case len(k.found) == 0:
		return nil
	}
	return k.check(ctx)
}

// mayRegister reports whether the registry is worth another search: a port began to listen since
// the last one, or so lately that its instance may still come.
func (k *reconciler) mayRegister(again time.Duration) bool {
	for port, since := range k.since() {
		known := slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.Port == port })
		late := time.Since(since) < rejoinWindow && time.Since(k.searched) > again
		if !known && (late || k.searched.Before(since)) {
			return true
		}
	}
	return false
}

func (k *reconciler) leave(ctx context.Context) error {
	for _, i := range k.found {
		if i.State == registry.In {
			k.took[i.ID] = true
		}
	}
	if err := k.registry.Leave(ctx); err != nil {
		return err
	}
	return k.check(ctx)
}

func (k *reconciler) reportOut(d *departure) {
	took := time.Since(d.began)
	if len(k.found) > 0 {
		k.log.Info("left the registry", "took", took, "instances", k.names(registry.Out))
		d.report(eventOut)
		return
	}
	k.log.Info("the registry holds no instance of this Pod; nothing to leave", "took", took, "address", k.pod().Addresses, "ports", k.pod().Ports)
	d.report(eventEmpty)
	if d.serves {
		k.warnOfNothing(d.ctx)
	}
}

// watch looks once at the callers' view, and ends that when it shows the change or cannot be read.
// Its last word says what was observed and what is assumed.
func (k *reconciler) watch(ctx context.Context, d *departure) {
	seen, err := k.registry.Published(ctx)
	afterPublished, afterLeave := k.registry.Linger()
	switch {
	case err == nil && seen:
		k.log.Info("what callers read shows that the instance left", "observed", time.Since(d.left).Round(time.Millisecond).String()+" after the leave, on every server that answers",
			"servers", k.registry.URL(), "assumed", "callers' own caches: "+afterPublished.String()+" from now")
		d.report(eventPublished)
		d.watched = true
		return
	case err == nil:
		d.unseen = time.Time{}
		return
	case d.ctx.Err() != nil:
		return
	case d.unseen.IsZero():
		d.unseen = time.Now()
	}
	if registry.IsFinal(err) || time.Since(d.unseen) >= k.timeout {
		k.log.Warn("cannot see what callers read; waiting the longest time that it can take", "servers", k.registry.URL(),
			"assumed", "the servers' and the callers' caches: "+afterLeave.String()+" from the leave", "error", err)
		d.report(eventBlind)
		d.watched = true
	}
}
