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
func (k *reconciler) keepIn(o order) {
	defer k.registry.Only(nil)
	began, wait := time.Now(), firstLook
	registered := false
	for o.ctx.Err() == nil {
		if !k.pod().Known() {
			o.report(eventIn)
			<-o.ctx.Done() // the app has never listened: nothing can be ours yet, and another order comes when it does
			return
		}
		ctx, cancel := context.WithTimeout(o.ctx, k.timeout)
		changed, err := k.keepInOnce(ctx, o)
		cancel()
		k.note(err)
		if err == nil {
			if !registered && k.any(registry.In) {
				registered = true
				k.log.Info("registered", "instances", k.names(registry.In, registry.Down))
			}
			o.report(eventIn)
			k.remember(o)
		}
		switch {
		case changed:
			wait = firstLook // see that it lasts
		case err == nil && (k.any(registry.In) || !o.awaits()):
			wait = max(wait, lateLook) // all is as it shall be
		}
		k.pause(o.ctx, wait)
		wait = min(2*wait, idleLook)
		if len(k.found) == 0 && o.awaits() || err != nil && time.Since(began) < rejoinWindow {
			wait = min(wait, lateLook) // an app that starts slowly registers late, and a registry's trouble passes
		}
		if len(k.found) == 0 && o.serves && o.listensFor(elsewhereAfter) {
			k.warnOfNothing(o.ctx)
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
func (k *reconciler) keepInOnce(ctx context.Context, o order) (changed bool, err error) {
	if err := k.lookIn(ctx, o); err != nil {
		return false, err
	}
	if dead := k.portsOf(registry.In, o.dead); len(dead) > 0 {
		k.registry.Only(dead)
		if err := k.leave(ctx); err != nil {
			return false, err
		}
		k.log.Info("took the instances out whose port is not listened on any more", "ports", dead)
		changed = true
	}
	back := k.portsOf(registry.Out, o.ours(k))
	if len(back) > 0 {
		if err := k.rejoin(ctx, back); err != nil {
			return changed, err
		}
		changed = true
	}
	if len(k.portsOf(registry.Out, func(i registry.Instance) bool { return k.wants(o, i) && k.wasIn[i.ID] && !o.lately(i) })) > 0 {
		return changed, errDisabled
	}
	return changed, nil
}

// errDisabled is shown as the registry's state when somebody else disabled the instance.
var errDisabled = errors.New("the instance is disabled, and not by prestop; enable it in the registry's console, or call /resume")

func (o order) dead(i registry.Instance) bool { return slices.Contains(o.target.dead, i.Port) }

// wants reports whether the instance shall be in: somebody listens on its port, or it was in
// service until we took it out, so that the app is reached through it.
func (k *reconciler) wants(o order, i registry.Instance) bool {
	return !o.dead(i) && (k.took[i.ID] || !slices.Contains(o.target.held, i.Port))
}

// lately reports whether the instance's port, or the Pod, began to serve within rejoinWindow.
func (o order) lately(i registry.Instance) bool {
	return time.Since(later(o.target.serving, o.target.since[i.Port])) < rejoinWindow
}

// ours tells which disabled instances are ours to put in: leftovers, and those that we took out
// ourselves.
func (o order) ours(k *reconciler) func(registry.Instance) bool {
	return func(i registry.Instance) bool { return k.wants(o, i) && (!k.wasIn[i.ID] || o.lately(i)) }
}

// portsOf returns the ports of the instances in the state for which ok holds.
func (k *reconciler) portsOf(s registry.State, ok func(registry.Instance) bool) []uint16 {
	var ports []uint16
	for _, i := range k.found {
		if i.State == s && ok(i) && !slices.Contains(ports, i.Port) {
			ports = append(ports, i.Port)
		}
	}
	return ports
}

// remember notes which instances are in service, and which we have taken out.
func (k *reconciler) remember(o order) {
	for _, i := range k.found {
		switch {
		case i.State == registry.In:
			k.wasIn[i.ID] = true
			delete(k.took, i.ID)
		case o.dead(i):
			delete(k.wasIn, i.ID)
		}
	}
}

// lookIn searches for the instances until they were found, and then asks for just these: a search
// may be megabytes.
func (k *reconciler) lookIn(ctx context.Context, o order) error {
	if k.searchIn(o) {
		return k.search(ctx)
	}
	if len(k.found) == 0 {
		return nil
	}
	return k.check(ctx)
}

// searchIn reports whether the registry is to be searched: nothing is known yet; a port began to
// listen a short while ago that no instance is known of; or one has vanished and the last search is
// long ago. While nothing listens, nothing can have registered but what did before the port was
// gone.
func (k *reconciler) searchIn(o order) bool {
	since := time.Since(k.searched)
	switch {
	case k.searched.IsZero():
		return true
	case len(o.target.since) == 0 && o.target.since != nil && !k.pod().AnyPort:
		return since >= rareSearch && len(k.found) == 0 || k.missed(o)
	case k.missed(o), len(k.found) == 0 && !k.ever:
		return true
	}
	for port, began := range o.target.since {
		if slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.Port == port }) {
			delete(k.fruitless, port)
			continue
		}
		switch {
		case k.fruitless[port]: // it listened before, and was never registered
		case time.Since(began) < rejoinWindow || k.searched.Before(began):
			return true
		default:
			k.fruitless[port] = true
		}
	}
	vanished := func(i registry.Instance) bool {
		return i.State == registry.Absent && !o.dead(i) && !o.lately(i) // else it comes back by itself, or never
	}
	return since >= rareSearch && (len(k.found) == 0 || slices.ContainsFunc(k.found, vanished))
}

// missed reports whether a port has come and gone since the last search: its instance may be left.
func (k *reconciler) missed(o order) bool {
	for port, began := range o.target.past {
		known := slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.Port == port })
		if !known && k.searched.Before(began) {
			return true
		}
	}
	return false
}

func (k *reconciler) rejoin(ctx context.Context, ports []uint16) error {
	names := k.names(registry.Out)
	began := time.Now()
	k.registry.Only(ports)
	if err := k.registry.Rejoin(ctx); err != nil {
		return err
	}
	if err := k.check(ctx); err != nil {
		return err
	}
	k.log.Info("rejoined the registry", "took", time.Since(began), "instances", names)
	return nil
}

// warnOfNothing says, once until something is found, that the registry holds nothing of an app that
// serves, and what it holds at the Pod's address instead.
func (k *reconciler) warnOfNothing(ctx context.Context) {
	if k.warned || !k.reached {
		return
	}
	k.warned = true
	pod := k.pod()
	args := []any{"address", pod.Addresses, "names", pod.Names, "ports", pod.Ports}
	if k.elsewhere != nil {
		ctx, cancel := context.WithTimeout(ctx, k.timeout)
		defer cancel()
		if others, err := k.elsewhere(ctx, k.index); err == nil && len(others) > 0 {
			var names []string
			for _, i := range others[:min(len(others), shownNames)] {
				names = append(names, i.Service+"/"+i.ID)
			}
			k.log.Warn("the app serves, and the registry holds it under no port that it listens on: callers are not told of a drain; set --port to the registered port beside the app's", append(args, "registered", names)...)
			return
		}
	}
	k.log.Warn("the app serves, and the registry holds nothing at the Pod's address: callers are not told of a drain; see prestop check", args...)
}
