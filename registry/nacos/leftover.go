package nacos

import (
	"strings"
	"time"
)

// noteDisabled remembers that this process disables rec on the servers, and reports whether it was
// known to be disabled before. Safe for concurrent use.
func (r *Registry) noteDisabled(rec record) (known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known = r.disabled[rec.key]
	r.disabled[rec.key] = rec
	delete(r.leftover, rec.key)
	return known
}

// isDisabled reports whether k is disabled on the servers and ours to enable. Safe for concurrent
// use.
func (r *Registry) isDisabled(k key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.disabled[k]
	return ok
}

// dropDisabled takes a note back: there was nothing to disable. Safe for concurrent use.
func (r *Registry) dropDisabled(k key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.disabled, k)
}

// learn takes over what the servers say of the remembered records.
func (r *Registry) learn(views []view) {
	for k := range r.records {
		if h := merged(views, k); h != nil {
			r.records[k] = *h
			r.read = time.Now()
		}
	}
	for k, h := range r.records {
		if merged(views, k) == nil {
			continue
		}
		disabled := !h.enabled || anyDisabled(views, k)
		_, ours := r.disabled[k]
		switch {
		case ours && r.leftover[k] && disabled && r.strange(k):
			delete(r.disabled, k)
			delete(r.leftover, k)
		case ours:
			// The weight may have changed. Whether it stays enabled is not known before it is written.
			r.disabled[k] = h
		case disabled && !r.heldBack && !r.strange(k):
			r.disabled[k], r.leftover[k] = h, true
		}
	}
}

// strange reports whether the record of k, which was found disabled, may be a dead Pod's.
func (r *Registry) strange(k key) bool {
	f := r.first[k]
	f.persistent = r.records[k].persistent
	for other, rec := range r.records {
		if other.ip != k.ip || other.port != k.port || strings.EqualFold(other.name, k.name) {
			continue
		}
		_, disabled := r.disabled[other]
		leftByUs := disabled && !r.leftover[other]
		f.beside = f.beside || leftByUs || rec.enabled && rec.healthy
	}
	return f.strange(r.pod.Since, time.Now())
}

// stale is how long the record of a dead Pod can stay: 30 s after its last heartbeat, or some 27 s
// where its connection broke without a word.
const stale = 35 * time.Second

// finding is how a disabled record came to be known.
type finding struct {
	// at is when it was found.
	at time.Time
	// registeredSince: an earlier look did not show it, so it was registered while this process
	// ran.
	registeredSince bool
	// persistent records stay for ever.
	persistent bool
	// beside: callers are sent to another service at the same address and port, or were until we
	// disabled that.
	beside bool
}

// strange reports whether a record that was found disabled may be one of a dead Pod that had our
// address before us, since when we have it. Enabling that would send another app's callers to ours.
// Nacos does not tell when an instance was registered or was heard of last. So a record is taken
// for ours if it was registered since we began, or has lasted longer than a dead Pod's can, or if
// it is alone at an address that has long been ours.
func (f finding) strange(since, now time.Time) bool {
	switch {
	case f.registeredSince:
		return false
	case f.beside && f.persistent:
		return true
	case now.Sub(f.at) >= stale:
		return false
	}
	return f.beside || !since.IsZero() && f.at.Sub(since) < stale
}
