package world

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// This file says what was wrong with a history, by what users feel. It asks the registries, the
// callers and the processes, never the sidecar.

// neighbour is the address of another Pod with the same apps.
const neighbour = "10.0.0.9"

// strangers registers a neighbour's instances, which live until ctx ends.
func (w *world) strangers(ctx context.Context, all *sync.WaitGroup) {
	for _, s := range w.servers {
		for _, c := range w.containers {
			if !c.app {
				continue
			}
			id := c.identity()
			id.address = neighbour
			all.Go(func() {
				cl := newClient(s, w.dialOut)
				defer cl.close()
				dirty := time.Now()
				for known := false; ; {
					if !known || cl.beat(ctx, id, dirty) == errUnknown {
						known = cl.register(ctx, id, "UP", dirty) == nil
					}
					if wait(ctx, beatEvery) != nil {
						return
					}
				}
			})
		}
	}
}

// leftover puts the record of a dead stranger, which was taken out of service, at the container's
// address and port. Only Eureka tells such a one from a record of the container itself.
func (w *world) leftover(c *container) {
	for _, s := range w.servers {
		if s.kind != eurekaKind || s.sick() {
			continue
		}
		id := identity{strangerService, podAddress, c.port, 20 * time.Second}
		cl := newClient(s, w.dialOut)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := cl.register(ctx, id, "OUT_OF_SERVICE", time.Now())
		cancel()
		cl.close()
		w.say("a dead stranger's record at %s: %v", c.name, err)
	}
}

// reassert is how often the sidecar looks at a registry while it drains, and a while for what follows.
const reassert = 6 * time.Second

const strangerService = "payments"

// wrote judges a request of the sidecar that changes something.
func (w *world) wrote(s *server, r request) {
	uri, err := url.QueryUnescape(r.uri)
	if err != nil {
		uri = r.uri
	}
	if strings.Contains(uri, neighbour) {
		w.problem("the sidecar changes a stranger's record: %s %s", r.method, uri)
	}
	if r.method != "DELETE" || strings.Contains(uri, "/status") || s.kind == eurekaKind && !w.sidecar.stopping() {
		return // on Eureka a rejoin may delete, since the next heartbeat registers the app again
	}
	for _, c := range w.containers {
		id := c.identity()
		if !strings.Contains(uri, id.service) && !strings.Contains(uri, strings.ToUpper(id.service)) {
			continue
		}
		if since, up := c.isUp(); up && time.Since(since) > time.Second {
			w.problem("the sidecar deletes the instance of %s, which has listened for %v: %s", c.name, time.Since(since), uri)
		}
	}
}

// watch looks at the world until ctx ends.
func (w *world) watch(ctx context.Context) {
	type pair struct {
		c *container
		s *server
	}
	dead := map[pair]int{}
	told := map[pair]bool{}
	up := false
	tick := time.NewTicker(sample)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		runs := w.sidecar.running().is() && !w.deleted.Load() && (w.mesh == nil || !w.mesh.isDown())
		for _, s := range w.servers {
			if s.kind == eurekaKind && !up {
				for _, c := range w.containers {
					if s.in(identity{strangerService, podAddress, c.port, 20 * time.Second}) {
						up = true
						w.problem("a dead stranger's record was put in service")
					}
				}
			}
			for _, c := range w.containers {
				p := pair{c, s}
				if _, listens := c.isUp(); listens || !runs || s.sick() || !s.in(c.identity()) || c.brief() {
					dead[p] = 0
					continue
				}
				if dead[p]++; dead[p] > outWithin && !told[p] {
					told[p] = true
					w.problem("callers of %s are sent to %s, which does not listen: %s", s.kind, c.name, s.shows(c.identity()))
				}
			}
		}
	}
}

// settle waits until all that lives is in service.
func (w *world) settle() {
	for _, s := range w.servers {
		s.set(well)
	}
	w.until(4*inWithin, "harness: the apps do not listen and register", func() string {
		for _, c := range w.containers {
			if _, up := c.isUp(); !up || c.app && !c.isRegistered() {
				return c.name
			}
		}
		return ""
	})
	w.sidecar.started()
	w.say("everything is started")
	w.until(inWithin, "a live app is out of service", func() string {
		for _, s := range w.servers {
			for _, c := range w.containers {
				if c.app && !s.in(c.identity()) {
					return fmt.Sprintf("%s in %s: %s", c.name, s.kind, s.shows(c.identity()))
				}
			}
		}
		return ""
	})
	w.say("everything is in service")
}

// until waits for a number of looks until what says nothing more.
func (w *world) until(looks int, problem string, what func() string) {
	last := ""
	for range looks {
		if last = what(); last == "" {
			return
		}
		_ = wait(context.Background(), sample)
	}
	w.problem("%s: %s", problem, last)
}

// hooked judges a hook's end.
func (w *world) hooked(h *hook) {
	w.mu.Lock()
	w.hooks = append(w.hooks, h)
	w.mu.Unlock()
	if h.path != "/shutdown" || h.err != nil || h.code != 200 {
		return
	}
	if w.disturbed(h, time.Now()) != "" {
		return
	}
	for _, s := range w.servers {
		for _, c := range w.containers {
			_, up := c.isUp()
			_, _, said := c.facts()
			anew := slices.ContainsFunc(said, func(at time.Time) bool { return h.ended.Sub(at) < reassert })
			if up && !anew && s.in(c.identity()) && w.disturbed(h, time.Now()) == "" {
				w.problem("the hook is back, and callers of %s are sent to %s: %s", s.kind, c.name, s.shows(c.identity()))
			}
		}
	}
}

// disturbed is what happened from the beginning of a hook to a time that may end its drain early, or
// keep it from leaving; "" if nothing did.
func (w *world) disturbed(h *hook, to time.Time) string {
	const slack = 200 * time.Millisecond
	up := w.sidecar.running()
	if !slices.ContainsFunc(up, func(s span) bool { return !s.from.After(h.began) && (s.to.IsZero() || !s.to.Before(to)) }) {
		return "the sidecar was not there"
	}
	for _, s := range w.servers {
		if s.trouble().touches(h.began.Add(-time.Second), to) {
			return s.kind + " was in trouble"
		}
	}
	if w.mesh != nil && w.mesh.wasDown(h.began.Add(-time.Second), to) {
		return "the mesh's proxy was down"
	}
	for _, s := range w.servers {
		for _, at := range s.restarted() {
			if at.After(h.ended.Add(-reassert)) && at.Before(to) {
				return s.kind + " was restarted empty"
			}
		}
	}
	// What cancels a drain: one that was drained as its hook came back can only be cancelled later.
	from := h.began.Add(-slack)
	if h.code == 200 {
		from = h.ended.Add(-slack)
	}
	w.mu.Lock()
	resumes := slices.Clone(w.resumes)
	w.mu.Unlock()
	if slices.ContainsFunc(resumes, func(at time.Time) bool { return at.After(from) && at.Before(to) }) {
		return "resumed"
	}
	for _, c := range w.containers {
		up, _, _ := c.facts()
		if slices.ContainsFunc(up, func(s span) bool { return s.from.After(from) && s.from.Before(to) }) {
			return fmt.Sprintf("another container listened anew (%d)", h.code)
		}
	}
	return ""
}

// brief reports whether a container's last life was too short for the sidecar to learn that it had
// registered: the lists that it searches come from a cache, and it searches every few seconds at most.
func (c *container) brief() bool {
	up, _, said := c.facts()
	if len(up) == 0 || up.is() {
		return false
	}
	last := up[len(up)-1].to
	return last.Sub(up[len(up)-1].from) < time.Second ||
		slices.ContainsFunc(said, func(at time.Time) bool { return last.Sub(at) < reassert })
}

// gone judges what is left of a deleted Pod.
func (w *world) gone() {
	told := w.sidecar.toldAt()
	if told.Before(*w.deletedAt.Load()) || w.sidecar.endedDeaf() {
		return // it was not there
	}
	for _, s := range w.servers {
		began := *w.deletedAt.Load()
		if s.trouble().touches(began, time.Now()) || w.mesh != nil && w.mesh.wasDown(began, w.sidecar.endedAt()) {
			continue
		}
		for _, c := range w.containers {
			if c.app && s.in(c.identity()) && !c.brief() {
				w.problem("the Pod is gone, and callers of %s are sent to %s: %s", s.kind, c.name, s.shows(c.identity()))
			}
		}
	}
}

// judge judges the calls and the hooks of a history that is over.
func (w *world) judge() {
	lost := map[string]int{}
	first := map[string]string{}
	for _, r := range w.calls {
		if r.err == nil {
			continue
		}
		if why := w.excuse(r); why == "" {
			w.lost++
			key := r.to.name
			if lost[key]++; lost[key] == 1 {
				first[key] = w.tell(r)
			}
		} else {
			w.excused[why]++
		}
	}
	for name, n := range lost {
		w.problem("%d requests to %s were lost; the first: %s", n, name, first[name])
	}
	for _, h := range w.hooks {
		w.judgeHook(h)
	}
	for _, s := range w.servers {
		w.judgeRequests(s)
	}
	w.say("%d calls, %d lost, excused: %v", len(w.calls), w.lost, w.excused)
}

// at is a time in the story.
func (w *world) at(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return fmt.Sprintf("%.3fs", t.Sub(w.began).Seconds())
}

func (w *world) tell(r call) string {
	_, endings, _ := r.to.facts()
	text := fmt.Sprintf("list of %s, began %s, sent %s, ended %s, HTTP/2 %v: %v",
		w.at(r.listed), w.at(r.began), w.at(r.sent), w.at(r.ended), r.http2, r.err)
	for _, e := range endings {
		text += fmt.Sprintf("; ended at %s (%s, hooks %v)", w.at(e.at), e.why, e.hooks)
	}
	return text
}

// excuse says why a request was lost that the sidecar could not save; "" if it should have.
func (w *world) excuse(r call) string {
	if r.late() {
		return "the caller was late"
	}
	if r.ended.Sub(r.began) > requestTimeout-200*time.Millisecond {
		return "it took longer than --request-timeout"
	}
	if w.mesh != nil && w.mesh.wasDown(r.began.Add(-time.Second), r.ended) {
		return "the mesh's proxy ended"
	}
	up, endings, _ := r.to.facts()
	for _, e := range endings {
		back := time.Time{}
		for _, s := range up {
			if s.from.After(e.at) {
				back = s.from
				break
			}
		}
		if r.ended.Before(e.at.Add(-200*time.Millisecond)) || !back.IsZero() && r.began.After(back.Add(time.Second)) {
			continue
		}
		if why := w.forgives(r, e); why != "" {
			return why
		}
	}
	return ""
}

// forgives says why the sidecar could not save a request from an ending; "" if it should have.
func (w *world) forgives(r call, e ending) string {
	if len(e.hooks) == 0 {
		return e.why
	}
	if len(w.servers) == 0 && !w.deleted.Load() {
		return "a Service knows of no hook"
	}
	last := e.hooks[len(e.hooks)-1]
	if last.err != nil {
		return "the hook failed"
	}
	if why := w.disturbed(last, e.at); why != "" {
		return why
	}
	_, _, said := r.to.facts()
	if slices.ContainsFunc(said, func(at time.Time) bool { return at.After(last.ended.Add(-reassert)) && at.Before(e.at) }) {
		return "it registered anew in the drain's last seconds"
	}
	if w.longDrain(last) {
		return "the deadline came first"
	}
	return ""
}

// longDrain reports whether the drain that a hook belongs to took all its time.
func (w *world) longDrain(h *hook) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.hooks, func(o *hook) bool {
		return !o.began.After(h.ended) && h.ended.Sub(o.began) >= grace-reserve-500*time.Millisecond && h.code == 504
	})
}

// judgeHook judges whether a hook was held although nothing was in flight.
func (w *world) judgeHook(h *hook) {
	if h.path != "/shutdown" || h.err != nil || w.disturbed(h, h.ended) != "" {
		return
	}
	last := h.began.Add(linger + 2*time.Second) // leaving, and the callers' time
	for _, r := range w.calls {
		if r.began.Before(h.ended) && r.ended.After(last) {
			last = r.ended
			if last.After(h.ended) {
				last = h.ended
			}
		}
	}
	if held := h.ended.Sub(last); held > requestTimeout+2*time.Second {
		w.problem("the hook was held for %v with nothing in flight: %v", held, h)
	}
}

// judgeRequests judges how much the sidecar asked of a registry: a look that repeats becomes rare, and
// what happens to the Pod costs some requests each.
func (w *world) judgeRequests(s *server) {
	all := s.requests()
	w.requests += len(all)
	writes := 0
	for _, r := range all {
		if r.write() {
			writes++
		}
	}
	w.say("%d requests to %s, %d of them change something; %d turns", len(all), s.kind, writes, w.turns())
	for _, r := range all {
		w.asked = append(w.asked, fmt.Sprintf("%8s %s %s %s", w.at(r.at), s.kind, r.method, r.uri))
	}
	if most := 20 + 6*w.turns(); len(all) > most {
		w.problem("%d requests to %s, %d of them change something; want %d at the most", len(all), s.kind, writes, most)
	}
}

// turns is how much has happened to the Pod.
func (w *world) turns() int {
	n := len(w.hooks) + len(w.resumes) + len(w.sidecar.running())
	for _, s := range w.servers {
		n += 2*len(s.trouble()) + 2*len(s.restarted())
	}
	for _, c := range w.containers {
		up, endings, said := c.facts()
		n += len(up) + len(endings) + len(said)
	}
	return n
}
