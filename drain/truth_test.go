package drain

import (
	"context"
	"fmt"
	"slices"
	"time"

	"prestop/registry"
)

// This file is the oracle of the histories: what must be true of a Pod, judged by what its world
// knows, which is who listened when, who called, and what the registries hold. It asks the drain
// nothing.

const (
	budget = time.Minute // of every world
	// soon is how long the sidecar may take to notice what no event tells of: a new socket.
	soon = servingInterval + 10*time.Second
	// rarely is how long it may take to look at a registry again that nothing happens at.
	rarely = idleLook*5/4 + 10*time.Second
	// moment is how long it may take to act on an event.
	moment = 3 * time.Second
)

// hook calls Shutdown, and sends and judges what came of it.
func (w *world) hook(ctx context.Context) <-chan ended {
	c := make(chan ended, 1)
	began := time.Now()
	w.stops(began)
	d := w.drain
	w.note(func(p *past) { p.waiting++ })
	go func() {
		out, err := d.Shutdown(ctx)
		w.note(func(p *past) { p.waiting-- })
		if ctx.Err() == nil {
			w.judge(d, began, out, err)
		}
		c <- ended{out, err, time.Since(began)}
	}()
	return c
}

// stops notes a call to stop.
func (w *world) stops(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.past.stops = append(w.past.stops, at)
	for _, c := range w.containers {
		c.atStop, c.missed = c.up, false
	}
}

// isApp reports whether callers come to the container: it registers, or it is no foreigner and
// there is nothing better. Beside the ports that the sidecar was told of, it is one that a registry
// holds.
func (w *world) isApp(c *container) bool {
	o := w.drain.options
	if len(o.Ports) > 0 && !slices.Contains(o.Ports, c.port) {
		found := func(r *fakeRegistry) bool { return r.hasFound(c.port) }
		return !o.OnlyPorts && c.registers && slices.ContainsFunc(w.regs, found)
	}
	return c.registers || c.uid == 0 && !c.loopback && c.port < 32768
}

// judge compares what a hook was told with what the world knows, as it is told.
func (w *world) judge(d *Drain, called time.Time, out Outcome, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d != w.drain || w.past.killed {
		return
	}
	if took := time.Since(called); took > budget+scanTimeout {
		w.wrong("a hook returned after %v", took)
	}
	switch {
	case err != nil || out.Result == Cancelled:
		w.judgeCancelled(called, err)
	case out.Result == Drained && time.Since(out.Ended) == 0:
		w.judgeDrained(out)
	}
}

// judgeCancelled: a hook is cancelled only by /resume, by an app that was started, or at the end of
// the process, which does not come while its app lives.
func (w *world) judgeCancelled(called time.Time, err error) {
	if !w.past.resumed.Before(called) {
		return
	}
	for _, c := range w.containers {
		if !c.started.Before(called.Add(-soon)) || !w.past.termed.IsZero() && !c.started.Before(w.past.termed.Add(-soon)) {
			return // it may have been noticed now
		}
	}
	late := !w.past.exited.IsZero() && time.Since(w.past.termed) > 400*time.Millisecond
	for _, c := range w.containers {
		if w.isApp(c) && c.registers && c.up && !late {
			w.wrong("a hook was told %q while port %d lives", fmt.Sprint(err), c.port)
		}
	}
}

// judgeDrained: no connection is in use, and callers had their time.
func (w *world) judgeDrained(out Outcome) {
	for _, c := range w.containers {
		// A request that came in this very moment cannot have been seen.
		if w.isApp(c) && c.up && c.seen && c.active > 0 && !out.Uncounted && time.Since(c.connected) > 5*time.Millisecond {
			w.wrong("drained with %d connections to %d in use, the last one since %v", c.active, c.port, time.Since(c.connected))
		}
		if !w.isApp(c) || !c.up || !c.seen || !c.changed.Before(out.Began.Add(-moment)) {
			continue
		}
		if !c.registers && !w.past.termed.IsZero() && w.registeredGone() {
			continue // it is taken for another sidecar, which ends after prestop
		}
		if took := time.Since(out.Began); took < endpointLinger {
			w.wrong("drained after %v while port %d listens", took, c.port)
		}
		if !c.registers {
			continue
		}
		for _, r := range w.regs {
			w.judgeLinger(r, c, out)
		}
	}
	if silent := time.Since(w.heard); out.Early > 0 && silent > 0 && silent-out.Count < w.drain.options.QuietPeriod {
		w.wrong("the linger ended early, with a client heard %v before", silent-out.Count)
	}
}

// registeredGone reports whether what registers has ended, all of it. w.mu is held.
func (w *world) registeredGone() bool {
	return !slices.ContainsFunc(w.containers, func(c *container) bool { return c.registers && c.up })
}

// judgeLinger: callers of a registry that answers know of each instance, and had their time since.
func (w *world) judgeLinger(r *fakeRegistry, c *container, out Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[c.port]
	if r.broken || r.hanging || r.locked || r.healed.After(out.Began) || rec == nil || !rec.registered {
		return
	}
	if !rec.since.Before(out.Began) || time.Since(r.undid) < reassert*5/4+time.Second {
		return // nobody can have known
	}
	lasts := fakePublish + 5*time.Second
	if out.Early > 0 {
		lasts = fakePublish + w.drain.options.QuietPeriod
	}
	switch since := time.Since(rec.changed); {
	case !rec.disabled:
		w.wrong("drained while %s sends callers to %d", r.name, c.port)
	case since < lasts:
		w.wrong("drained %v after %s was left", since, r.name)
	}
}

// wrong notes an invariant that was seen broken. w.mu is held.
func (w *world) wrong(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// inspect judges what the registries hold of each container now.
func (w *world) inspect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inspectEnd()
	if !w.past.exited.IsZero() || w.past.killed {
		return
	}
	for _, c := range w.containers {
		for _, r := range w.regs {
			if c.registers && w.isApp(c) {
				w.inspectOne(c, r)
			}
		}
	}
}

func (w *world) inspectOne(c *container, r *fakeRegistry) {
	well := r.well(rarely)
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[c.port]
	if rec == nil || !rec.registered || !well || time.Since(r.undid) < rarely {
		return
	}
	switch {
	case !c.up:
		late := rec.since.After(c.started) // it may not have been found yet
		if c.seen && !late && time.Since(c.changed) > moment && !rec.disabled && w.past.termed.IsZero() {
			w.wrong("%s sends callers to %d, where nobody has listened for %v", r.name, c.port, time.Since(c.changed))
		}
	case w.mustBeIn(c, rec):
		if rec.disabled {
			w.wrong("%s keeps %d out, which has listened for %v", r.name, c.port, time.Since(c.started))
		}
	case w.mustBeOut(c, rec):
		if !rec.disabled {
			w.wrong("%s sends callers to %d in a drain", r.name, c.port)
		}
	}
}

// mustBeIn reports whether a live container has to be in service by now.
func (w *world) mustBeIn(c *container, rec *fakeRecord) bool {
	if !w.past.termed.IsZero() {
		return false // it may be about to end
	}
	lasts := soon
	if !rec.left || rec.since.Sub(c.started) > time.Second {
		lasts = rarely // it is found later
	}
	since := later(later(c.started, rec.since), w.past.began)
	if len(w.past.stops) == 0 {
		return time.Since(later(since, w.past.resumed)) > lasts
	}
	last := w.past.stops[len(w.past.stops)-1]
	switch {
	case w.drain.options.Counter == nil || !c.started.After(last):
		return false // it was told to stop, and nothing tells that it lives anew
	case c.atStop && c.missed && c.ended.After(last.Add(scanTimeout)):
		return time.Since(since) > lasts
	}
	return time.Since(later(since, last.Add(budget+afterDeadline))) > lasts
}

// mustBeOut reports whether a container that was told to stop has to be out of service by now.
func (w *world) mustBeOut(c *container, rec *fakeRecord) bool {
	if len(w.past.stops) == 0 || !w.past.termed.IsZero() {
		return false
	}
	first, last := w.past.stops[0], w.past.stops[len(w.past.stops)-1]
	quiet := !slices.ContainsFunc(w.containers, func(o *container) bool { return !o.changed.Before(first.Add(-soon)) })
	lasts := moment
	if rec.since.After(last) {
		lasts = emptySearch + 10*time.Second // it is searched for now and then
	}
	return quiet && c.seen && time.Since(later(last, rec.since)) > lasts
}

// inspectEnd judges whether a process that was told to stop is still there.
func (w *world) inspectEnd() {
	if w.past.termed.IsZero() || !w.past.exited.IsZero() || w.past.killed {
		return
	}
	since := w.past.termed
	lasts := budget + forgetFor + time.Second
	ended := true
	for _, c := range w.appsThatDecide() {
		ended = ended && !c.up
		since = later(since, c.ended)
	}
	others := slices.ContainsFunc(w.containers, func(c *container) bool { return c.up && c.uid == 0 && !c.loopback })
	if !ended || w.past.waiting > 0 && others { // a hook waits for one that lives
		since = w.past.termed
	} else if w.drain.options.Counter != nil && !w.blind && !slices.ContainsFunc(w.regs, func(r *fakeRegistry) bool { return !r.well(budget) }) {
		lasts = moment
	}
	if time.Since(since) > lasts {
		w.wrong("told to stop %v ago, and still there; the apps have ended: %t", time.Since(since), ended)
	}
}

// appsThatDecide are the containers of which one that lives keeps the process from its end: those
// that are known to be the app's, by --port or by a registry; else whoever can be reached. w.mu is
// held.
func (w *world) appsThatDecide() []*container {
	var known, others []*container
	for _, c := range w.containers {
		given := slices.Contains(w.drain.options.Ports, c.port)
		if given || c.registers && c.seen && slices.ContainsFunc(w.regs, func(r *fakeRegistry) bool { return r.hasFound(c.port) }) {
			known = append(known, c)
		}
		if c.seen && c.uid == 0 && !c.loopback {
			others = append(others, c)
		}
	}
	switch {
	case w.drain.options.Counter == nil:
		return w.containers // nobody sees who listens
	case len(known) > 0:
		return known
	}
	return others
}

// strangers are records of others at the Pod's address, on ports of which nobody in the Pod knows.
var strangers = map[uint16]bool{40555: false, 40556: true}

// putStrangers puts them into every registry.
func (w *world) putStrangers() {
	for _, r := range w.regs {
		for port, disabled := range strangers {
			r.register(port)
			r.mu.Lock()
			r.rec(port).disabled = disabled
			r.mu.Unlock()
		}
	}
}

// inspectStrangers: nobody has touched them.
func (w *world) inspectStrangers() {
	for _, r := range w.regs {
		r.mu.Lock()
		for port, disabled := range strangers {
			if rec := r.records[port]; rec == nil || !rec.registered || rec.disabled != disabled {
				w.problem(fmt.Sprintf("%s: the record of a stranger on %d was changed", r.name, port))
			}
		}
		r.mu.Unlock()
	}
}

var _ registry.Registry = (*fakeRegistry)(nil)
