package world

import (
	"slices"
	"time"
)

// span is a time in which something was so; a zero to says that it still is.
type span struct{ from, to time.Time }

// spans are the times in which something was so, in their order.
type spans []span

// set notes that it is so from now on, or no longer.
func (s *spans) set(so bool) {
	is := s.is()
	switch {
	case so && !is:
		*s = append(*s, span{from: time.Now()})
	case !so && is:
		(*s)[len(*s)-1].to = time.Now()
	}
}

// is reports whether it is so now.
func (s spans) is() bool { return len(s) > 0 && s[len(s)-1].to.IsZero() }

// touches reports whether it was so at some time between from and to.
func (s spans) touches(from, to time.Time) bool {
	return slices.ContainsFunc(s, func(p span) bool {
		return !p.from.After(to) && (p.to.IsZero() || !p.to.Before(from))
	})
}

// since is the time from which on it has been so; the second result tells that it is so.
func (s spans) since() (time.Time, bool) {
	if !s.is() {
		return time.Time{}, false
	}
	return s[len(s)-1].from, true
}
