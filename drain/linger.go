package drain

import (
	"time"

	"prestop/drain/conns"
)

// This file says when callers have stopped: how long each registry's callers may go on, and when a
// drain is over. It is pure.

// endpointLinger is how long clients behind a Service keep coming: kube-proxy needs 2-3 s to drop
// an endpoint.
const endpointLinger = 3 * time.Second

// done reports whether no request can be lost any more: callers have had their time and no
// connection is in use.
func (p policy) done(s state, now time.Time) bool {
	for _, r := range s.regs {
		if r.left.IsZero() && r.gaveUp.IsZero() && !(s.stopping && s.dead()) {
			return false
		}
	}
	// Nobody can reach an app that does not listen: no linger, and the count from then on decides.
	from := s.appSince
	if s.reachable() {
		until, known := p.lingerUntil(s)
		if !known || now.Before(until) {
			return false
		}
		from = until
	}
	from = later(later(from, s.told), s.began)
	c := s.counted
	return c.none || !c.began.IsZero() && !c.began.Before(from) && c.active <= p.threshold
}

// lingerUntil is when callers have stopped: their time is over or, if nothing is heard of them from
// now on, they have been quiet for long enough. It is not known before every registry was left or
// given up, and seen to have told its callers where that can be seen.
func (p policy) lingerUntil(s state) (time.Time, bool) {
	until, known := p.lingerWhole(s)
	if early, quiet := p.quietUntil(s); quiet && early.Before(until) {
		until = early
	}
	return until, known
}

// lingerWhole is when callers have had their time, whatever is heard of them.
func (p policy) lingerWhole(s state) (time.Time, bool) {
	until := s.began.Add(p.atLeast())
	for i, r := range s.regs {
		t, known := p.registryLinger(s, i, r)
		if !known {
			return time.Time{}, false
		}
		if t.After(until) {
			until = t
		}
	}
	return until, true
}

func (p policy) registryLinger(s state, i int, r regState) (until time.Time, known bool) {
	from, last := r.left, p.afterLeave[i]
	if !r.gaveUp.IsZero() {
		from = r.gaveUp
	}
	switch {
	case from.IsZero():
		return time.Time{}, false
	case p.linger >= 0:
		return from.Add(p.linger), true
	case !r.gaveUp.IsZero() || r.blind:
		return from.Add(last), true
	case !r.held:
		return s.began, true // nobody can have learned of it here
	case r.published.IsZero():
		return time.Time{}, false
	}
	return r.published.Add(p.afterPublished[i]), true
}

// quietUntil is when callers will have been quiet for --quiet-period, if nothing is heard of them
// from the newest tally on. Only the time counts in which they know: from when every registry was
// seen to have told them, or must have. One that was given up never does. What endpoints need is
// waited for in any case.
func (p policy) quietUntil(s state) (time.Time, bool) {
	if p.quiet == 0 || s.counted.none || s.counted.heard.IsZero() {
		return time.Time{}, false
	}
	from := s.began
	for i, r := range s.regs {
		at := r.published
		switch {
		case r.left.IsZero() || !r.gaveUp.IsZero():
			return time.Time{}, false
		case r.blind:
			at = r.left.Add(p.afterLeave[i] - p.afterPublished[i])
		case !r.held:
			continue // nobody can have learned of it here
		case r.published.IsZero():
			return time.Time{}, false
		}
		from = later(from, at)
	}
	early := later(from, s.counted.heard).Add(p.quiet + conns.WordLag)
	return later(early, s.began.Add(p.floor())), true
}

func (p policy) atLeast() time.Duration {
	switch {
	case p.linger < 0:
		return endpointLinger
	case len(p.afterLeave) == 0:
		return p.linger
	}
	return min(p.linger, endpointLinger)
}

// floor is how long a drain lingers at the least, quiet or not.
func (p policy) floor() time.Duration {
	if p.linger < 0 {
		return endpointLinger
	}
	return min(p.linger, endpointLinger)
}

// urgent reports whether nothing but the count keeps the drain from its end, so that a look is
// worth its cost now.
func (p policy) urgent(s state, now time.Time) bool {
	if s.phase != draining {
		return false
	}
	if !s.reachable() {
		return true
	}
	until, known := p.lingerUntil(s)
	return known && !now.Before(until)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
