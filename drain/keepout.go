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
	// watched: publication was reported, or nobody asked for it. watchPause is the wait before the next
	// look at it, and unseen since when the callers' view could not be read.
	watched    bool
	watchPause time.Duration
	unseen     time.Time
	// ports are those that were searched for; another one that listens since is searched for anew.
	ports    []uint16
	searched bool
	checked  bool // what is held has been looked at since the order came
}

// keepOut leaves, reports when that is read back and when callers can see it, and leaves again when
// it was undone.
func (r *reconciler) keepOut(o order) {
	clear(r.wasIn)
	r.registry.Only(nil)
	d := &departure{order: o, began: time.Now()}
	d.try(r.timeout)
	defer func() { d.done() }()
	for o.ctx.Err() == nil {
		r.keepOutOnce(d)
	}
}

// try begins the time in which the registry must be left.
func (d *departure) try(timeout time.Duration) {
	if d.done != nil {
		d.done()
	}
	d.out, d.gaveUp, d.watched, d.watchPause = false, false, !d.observe, observeFirst
	d.trying, d.done = context.WithTimeout(d.ctx, timeout)
}

// keepOutOnce is one round: take out what is in, look what callers see, and wait.
func (r *reconciler) keepOutOnce(d *departure) {
	ctx, cancel := d.trying, context.CancelFunc(func() {})
	if d.out || d.gaveUp {
		ctx, cancel = context.WithTimeout(d.ctx, r.timeout)
	}
	err := r.takeOut(ctx, d)
	r.note(err)
	tried := registry.IsFinal(err) || d.trying.Err() != nil
	switch {
	case err == nil && !d.out:
		d.out, d.left = true, time.Now()
		r.reportOut(d)
	case err != nil && !d.out && !d.gaveUp && d.ctx.Err() == nil && tried:
		d.gaveUp = true
		r.log.Error("could not take the instance out of the registry; going on without",
			"after", time.Since(d.began), "error", err)
		d.report(eventGaveUp)
	}
	if d.out && !d.watched {
		r.watch(ctx, d)
	}
	cancel()
	switch {
	case !d.out && d.gaveUp:
		r.pause(d.ctx, reassert)
	case !d.out:
		r.pause(d.trying, time.Second)
	case !d.watched, r.mayRegister(0):
		r.pause(d.ctx, d.watchPause)
		d.watchPause = min(2*d.watchPause, observe)
	case time.Since(d.began) > reassertFor:
		r.pause(d.ctx, idleLook)
	default:
		r.pause(d.ctx, reassert)
	}
}

// takeOut brings every instance out. What is known is left at once, without asking before; then the
// registry is searched, so that one that has registered meanwhile is out before the linger begins.
func (r *reconciler) takeOut(ctx context.Context, d *departure) error {
	if len(r.found) > 0 && !d.checked {
		if err := r.leave(ctx); err != nil {
			return err
		}
		d.checked = true
	}
	known := map[string]bool{}
	for _, i := range r.found {
		known[i.ID] = true
	}
	err := r.look(ctx, d)
	hopeless := registry.IsFinal(err) || time.Since(d.began) >= searchPatience
	if err != nil && hopeless && d.checked && !d.searched && !d.out {
		r.log.Warn("cannot search the registry for further instances; those that are known are out",
			"error", err)
		d.searched, d.ports, err = true, r.pod().Ports, nil
	}
	if err != nil {
		return err
	}
	d.checked = true
	if !r.any(registry.In) {
		return nil
	}
	if d.out {
		r.reportIn(d, known)
		d.try(r.timeout)
	}
	return r.leave(ctx)
}

// reportIn tells that instances are in service after the Pod was out: known ones were put back by
// somebody, others have registered since.
func (r *reconciler) reportIn(d *departure, known map[string]bool) {
	again := func(i registry.Instance) bool { return i.State == registry.In && known[i.ID] }
	if slices.ContainsFunc(r.found, again) {
		r.log.Warn("the registry shows the instance in service again; taking it out once more",
			"instances", r.names(registry.In))
		d.report(eventUndone)
		return
	}
	r.log.Info("an instance has registered since; taking it out too",
		"instances", r.names(registry.In))
	d.report(eventLate)
}

// look learns what the registry holds: by a search at first, and where it was empty, another port
// listens since, or an instance may still come; else by asking for what is known.
func (r *reconciler) look(ctx context.Context, d *departure) error {
	pod := r.pod()
	again := emptySearch
	if time.Since(d.began) > reassertFor {
		again = rareSearch
	}
	switch {
	case !d.searched, !slices.Equal(pod.Ports, d.ports), r.mayRegister(min(again, reassert)),
		len(r.found) == 0 && time.Since(r.searched) > again:
		err := r.search(ctx)
		if err == nil {
			d.searched, d.ports = true, pod.Ports
		}
		return err
	case len(r.found) == 0:
		return nil
	}
	return r.check(ctx)
}

// mayRegister reports whether the registry is worth another search: a port began to listen since
// the last one, or so lately that its instance may still come.
func (r *reconciler) mayRegister(again time.Duration) bool {
	for port, since := range r.since() {
		known := slices.ContainsFunc(r.found, func(i registry.Instance) bool { return i.Port == port })
		late := time.Since(since) < rejoinWindow && time.Since(r.searched) > again
		if !known && (late || r.searched.Before(since)) {
			return true
		}
	}
	return false
}

func (r *reconciler) leave(ctx context.Context) error {
	for _, i := range r.found {
		if i.State == registry.In {
			r.took[i.ID] = true
		}
	}
	if err := r.registry.Leave(ctx); err != nil {
		return err
	}
	return r.check(ctx)
}

func (r *reconciler) reportOut(d *departure) {
	took := time.Since(d.began)
	if len(r.found) > 0 {
		r.log.Info("left the registry", "took", took, "instances", r.names(registry.Out))
		d.report(eventOut)
		return
	}
	r.log.Info("the registry holds no instance of this Pod; nothing to leave",
		"took", took, "address", r.pod().Addresses, "ports", r.pod().Ports)
	d.report(eventEmpty)
	if d.serves {
		r.warnOfNothing(d.ctx)
	}
}

// watch looks once at the callers' view, and ends that when it shows the change or cannot be read.
// Its last word says what was observed and what is assumed.
func (r *reconciler) watch(ctx context.Context, d *departure) {
	seen, err := r.registry.Published(ctx)
	afterPublished, afterLeave := r.registry.Linger()
	switch {
	case err == nil && seen:
		r.log.Info("what callers read shows that the instance left",
			"observed", short(time.Since(d.left))+" after the leave, on every server that answers",
			"servers", r.registry.URL(),
			"assumed", "callers' own caches: "+afterPublished.String()+" from now")
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
	if registry.IsFinal(err) || time.Since(d.unseen) >= r.timeout {
		r.log.Warn("cannot see what callers read; waiting the longest time that it can take",
			"servers", r.registry.URL(), "error", err,
			"assumed", "the servers' and the callers' caches: "+afterLeave.String()+" from the leave")
		d.report(eventBlind)
		d.watched = true
	}
}
