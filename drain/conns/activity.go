package conns

import (
	"net/netip"
	"time"

	"prestop/drain/conns/inuse"
)

// activity is when a client was last heard: connected or sent a byte. What the app sends does not count, nor what acknowledges
// it, nor the end of a connection.
type activity struct {
	at   time.Time // zero: never
	from [16]byte  // whom; zero: unknown
	// unknown: something was there of which the kernel does not tell when it was heard.
	unknown bool
}

// add takes a connection as it was at now, of which the rule says class.
func (h *activity) add(c connection, s *inuse.Sample, now time.Time, class inuse.Class) {
	switch {
	case s.HasClocks:
		// The clock starts when the connection is opened, so one on which nothing was said yet counts as well.
		now = now.Add(-s.SinceReceived)
	case class == inuse.Gone:
		return // a SYN that nobody follows up
	case s.State != inuse.SynRecv && s.State != inuse.NewSynRecv:
		h.unknown = true
		return
	}
	if now.After(h.at) {
		h.at, h.from = now, c.remote
	}
}

// join takes what another has heard.
func (h *activity) join(other activity) {
	if other.at.After(h.at) {
		h.at, h.from = other.at, other.from
	}
	h.unknown = h.unknown || other.unknown
}

// told is what is known; zero where that is not enough.
func (h *activity) told() (time.Time, netip.Addr) {
	switch {
	case h.unknown:
		return time.Time{}, netip.Addr{}
	case h.from == [16]byte{}:
		return h.at, netip.Addr{}
	}
	return h.at, netip.AddrFrom16(h.from).Unmap()
}
