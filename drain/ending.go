package drain

import (
	"slices"
	"time"
)

// This file says how a process that was told to stop ends. It is pure.

const (
	// hookSoon is how long after SIGTERM a hook may come: the kubelet calls the hooks of a Pod's
	// containers as it sends SIGTERM to those without.
	hookSoon = 500 * time.Millisecond
	// forgetFor bounds the deletion of a dead app's leftovers: after SIGTERM the kubelet may give
	// no more than 2 s.
	forgetFor = 1500 * time.Millisecond
)

// stop takes SIGTERM. In an old-style Pod it comes at the beginning, maybe before the hook, so it
// begins the drain too; to a native sidecar it comes when the app is gone, and settle goes on to
// the end.
func (p policy) stop(s state, now time.Time) state {
	if s.stopping {
		return s
	}
	s.stopping = true
	unsure := s.app == appPartly && s.phase == serving // a hook may come yet, which tells
	if !s.dead() && (s.phase == serving || s.stale(now)) || unsure {
		s = p.begin(s, causeSIGTERM, now)
	}
	s.stopBy = now.Add(p.budget)
	if s.phase != serving && s.deadline.Before(s.stopBy) {
		s.stopBy = s.deadline
	}
	return s
}

// dead reports whether nothing of the app is there any more, for one who was told to stop. Where
// its ports are known only by who listened, one of them that is gone is enough: what listens still
// is another container's, which ends after us. But not while a hook waits, or may come: it is
// called for a container that lives.
func (s state) dead() bool {
	waits := s.phase == draining && s.joined && s.othersListen()
	switch s.app {
	case appGone, appAbsent:
		return !waits
	case appPartly:
		awaited := s.phase == draining && !s.unhooked
		return !s.ports.identified() && !waits && !awaited
	}
	return false
}

// exit reports whether the process may end.
func (s state) exit(now time.Time) bool {
	if !s.stopping {
		return false
	}
	switch s.phase {
	case forgotten:
		return s.every(func(r regState) bool { return r.forgot }) || !now.Before(s.since.Add(forgetFor))
	case serving: // resumed, or the app came back: see it back in before leaving it alone
		return s.every(func(r regState) bool { return r.in }) || !now.Before(s.stopBy)
	case drained:
		return s.app == appUnseen || s.bystanders() || !now.Before(s.stopBy)
	case expired:
		return true
	}
	return false
}

// bystanders reports whether nothing says that what listens is an app: it has no known port,
// listened before we did, nobody called a hook for it, and no client was connected to it. It may be
// another sidecar beside a Job that has ended.
func (s state) bystanders() bool {
	return !s.hooked && !s.met && !s.ports.identified() &&
		!slices.ContainsFunc(s.ports.deciding(), func(p port) bool { return !p.before.IsZero() })
}
