package drain

import (
	"context"
	"errors"
	"slices"
	"time"

	"prestop/registry"
)

// This file keeps the Pod in a registry: while the app serves.

// keepIn finds the instances, puts back what an earlier incarnation or a drain left disabled, takes
// out those whose port is gone, and then looks now and then.
func (r *reconciler) keepIn(o order) {
	defer r.registry.Only(nil)
	began, wait := time.Now(), firstLook
	registered := false
	for o.ctx.Err() == nil {
		if !r.pod().Known() {
			o.report(eventIn)
			// The app has never listened: nothing can be ours yet, and another order comes when it does.
			<-o.ctx.Done()
			return
		}
		ctx, cancel := context.WithTimeout(o.ctx, r.timeout)
		changed, err := r.keepInOnce(ctx, o)
		cancel()
		r.note(err)
		if err == nil {
			if !registered && r.any(registry.In) {
				registered = true
				r.log.Info("registered", "instances", r.names(registry.In, registry.Down))
			}
			o.report(eventIn)
			r.remember(o)
		}
		switch {
		case changed:
			wait = firstLook // see that it lasts
		case err == nil && (r.any(registry.In) || !o.awaits()):
			wait = max(wait, lateLook) // all is as it shall be
		}
		r.pause(o.ctx, wait)
		wait = min(2*wait, idleLook)
		if len(r.found) == 0 && o.awaits() || err != nil && time.Since(began) < rejoinWindow {
			// An app that starts slowly registers late, and a registry's trouble passes.
			wait = min(wait, lateLook)
		}
		if len(r.found) == 0 && o.serves && o.listensFor(elsewhereAfter) {
			r.warnOfNothing(o.ctx)
		}
	}
}

// awaits reports whether a port began to listen so lately that its instance may still register.
func (o order) awaits() bool {
	for _, since := range o.target.since {
		if time.Since(since) < rejoinWindow {
			return true
		}
	}
	return time.Since(o.target.serving) < rejoinWindow && o.target.since == nil
}

// listensFor reports whether the app has listened for so long.
func (o order) listensFor(d time.Duration) bool {
	for _, since := range o.target.since {
		if time.Since(since) >= d {
			return true
		}
	}
	return false
}

// keepInOnce looks once and changes what is not as it shall be.
func (r *reconciler) keepInOnce(ctx context.Context, o order) (changed bool, err error) {
	if err := r.lookIn(ctx, o); err != nil {
		return false, err
	}
	if dead := r.portsOf(registry.In, o.dead); len(dead) > 0 {
		r.registry.Only(dead)
		if err := r.leave(ctx); err != nil {
			return false, err
		}
		r.log.Info("took the instances out whose port is not listened on any more", "ports", dead)
		changed = true
	}
	back := r.portsOf(registry.Out, o.ours(r))
	if len(back) > 0 {
		if err := r.rejoin(ctx, back); err != nil {
			return changed, err
		}
		changed = true
	}
	disabled := func(i registry.Instance) bool {
		return r.wants(o, i) && r.wasIn[i.ID] && !o.lately(i)
	}
	if len(r.portsOf(registry.Out, disabled)) > 0 {
		return changed, errDisabled
	}
	return changed, nil
}

// errDisabled is shown as the registry's state when somebody else disabled the instance.
var errDisabled = errors.New("the instance is disabled, and not by prestop; " +
	"enable it in the registry's console, or call /resume")

func (o order) dead(i registry.Instance) bool { return slices.Contains(o.target.dead, i.Port) }

// wants reports whether the instance shall be in: somebody listens on its port, or it was in
// service until we took it out, so that the app is reached through it.
func (r *reconciler) wants(o order, i registry.Instance) bool {
	return !o.dead(i) && (r.took[i.ID] || !slices.Contains(o.target.held, i.Port))
}

// lately reports whether the instance's port, or the Pod, began to serve within rejoinWindow.
func (o order) lately(i registry.Instance) bool {
	return time.Since(later(o.target.serving, o.target.since[i.Port])) < rejoinWindow
}

// ours tells which disabled instances are ours to put in: leftovers, and those that we took out
// ourselves.
func (o order) ours(r *reconciler) func(registry.Instance) bool {
	return func(i registry.Instance) bool { return r.wants(o, i) && (!r.wasIn[i.ID] || o.lately(i)) }
}

// portsOf returns the ports of the instances in the state for which ok holds.
func (r *reconciler) portsOf(s registry.State, ok func(registry.Instance) bool) []uint16 {
	var ports []uint16
	for _, i := range r.found {
		if i.State == s && ok(i) && !slices.Contains(ports, i.Port) {
			ports = append(ports, i.Port)
		}
	}
	return ports
}

// remember notes which instances are in service, and which we have taken out.
func (r *reconciler) remember(o order) {
	for _, i := range r.found {
		switch {
		case i.State == registry.In:
			r.wasIn[i.ID] = true
			delete(r.took, i.ID)
		case o.dead(i):
			delete(r.wasIn, i.ID)
		}
	}
}

// lookIn searches for the instances until they were found, and then asks for just these: a search
// may be megabytes.
func (r *reconciler) lookIn(ctx context.Context, o order) error {
	if r.searchIn(o) {
		return r.search(ctx)
	}
	if len(r.found) == 0 {
		return nil
	}
	return r.check(ctx)
}

// searchIn reports whether the registry is to be searched: nothing is known yet; a port began to
// listen a short while ago that no instance is known of; or one has vanished and the last search is
// long ago. While nothing listens, nothing can have registered but what did before the port was
// gone.
func (r *reconciler) searchIn(o order) bool {
	since := time.Since(r.searched)
	switch {
	case r.searched.IsZero():
		return true
	case len(o.target.since) == 0 && o.target.since != nil && !r.pod().AnyPort:
		return since >= rareSearch && len(r.found) == 0 || r.missed(o)
	case r.missed(o), len(r.found) == 0 && !r.ever:
		return true
	}
	for port, began := range o.target.since {
		if slices.ContainsFunc(r.found, func(i registry.Instance) bool { return i.Port == port }) {
			delete(r.fruitless, port)
			continue
		}
		switch {
		case r.fruitless[port]: // it listened before, and was never registered
		case time.Since(began) < rejoinWindow || r.searched.Before(began):
			return true
		default:
			r.fruitless[port] = true
		}
	}
	vanished := func(i registry.Instance) bool {
		// One whose port is gone, or listens anew, comes back under its name or never.
		return i.State == registry.Absent && !o.dead(i) && !o.lately(i)
	}
	return since >= rareSearch && (len(r.found) == 0 || slices.ContainsFunc(r.found, vanished))
}

// missed reports whether a port is gone on which no instance was found, and the last search could not
// show one: it is older, or so is the list that it read. The instance may be left.
func (r *reconciler) missed(o order) bool {
	for port, gone := range o.target.past {
		known := slices.ContainsFunc(r.found, func(i registry.Instance) bool { return i.Port == port })
		if known || r.fruitless[port] {
			continue
		}
		shown := gone.Add(listAge)
		if r.searched.Before(gone) || r.searched.Before(shown) && time.Now().After(shown) {
			return true
		}
	}
	return false
}

func (r *reconciler) rejoin(ctx context.Context, ports []uint16) error {
	names := r.names(registry.Out)
	began := time.Now()
	r.registry.Only(ports)
	if err := r.registry.Rejoin(ctx); err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return err
	}
	r.log.Info("rejoined the registry", "took", time.Since(began), "instances", names)
	return nil
}

// warnOfNothing says, once until something is found, that the registry holds nothing of an app that
// serves, and what it holds at the Pod's address instead.
func (r *reconciler) warnOfNothing(ctx context.Context) {
	if r.warned || !r.reached {
		return
	}
	r.warned = true
	pod := r.pod()
	args := []any{"address", pod.Addresses, "names", pod.Names, "ports", pod.Ports}
	if r.elsewhere != nil {
		ctx, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		if others, err := r.elsewhere(ctx, r.index); err == nil && len(others) > 0 {
			var names []string
			for _, i := range others[:min(len(others), shownNames)] {
				names = append(names, i.Service+"/"+i.ID)
			}
			r.log.Warn("the app serves, and the registry holds it under no port that it listens on: "+
				"callers are not told of a drain; set --port to the registered port beside the app's",
				append(args, "registered", names)...)
			return
		}
	}
	r.log.Warn("the app serves, and the registry holds nothing at the Pod's address: "+
		"callers are not told of a drain; see prestop check", args...)
}
