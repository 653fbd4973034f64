package conns

import "runtime/debug"

const (
	// rememberedMin and rememberedMax bound the slots of a history: at 32 bytes each, 4 MiB at most.
	rememberedMin = 1 << 8
	rememberedMax = 1 << 17
	// gaveBack is how many slots are worth giving back to the system when they were outgrown.
	gaveBack = 1 << 14
)

// history remembers marks of connections over the looks, by the kernel's cookie of the socket, which no other has in the
// life of the machine. When it is full it remembers no more; what it does not know is judged by the sample alone.
type history struct {
	slots []remembered // open addressing; a power of two
	used  int
	look  uint32 // number of the present look
	full  uint32 // the look in which there was no more room
}

// remembered is a socket and its mark, in little space.
type remembered struct {
	cookie           [2]uint32 // both 0: free
	in, out          uint32
	baseIn, baseOut  uint32 // at rest the bytes: the base is in and out then
	acknowledgements uint16
	flags            uint16
	seen             uint32 // the last look that found it
}

// The flags of a remembered mark. The two lowest bits are its last.
const (
	flagAcknowledged uint16 = 4 << iota
	flagSettled
	flagBegun
	flagRest
	flagBased
	flagWaiting
)

// pack is a known mark in little space.
func pack(cookie [2]uint32, m mark, look uint32) remembered {
	r := remembered{cookie, m.in, m.out, m.baseIn, m.baseOut, m.acknowledgements, uint16(m.last), look}
	if m.rest {
		r.baseIn, r.baseOut = m.bytesIn, m.bytesOut
	}
	set := func(flag uint16, is bool) {
		if is {
			r.flags |= flag
		}
	}
	set(flagAcknowledged, m.acknowledged)
	set(flagSettled, m.settled)
	set(flagBegun, m.begun)
	set(flagRest, m.rest)
	set(flagBased, m.based)
	set(flagWaiting, m.waiting)
	return r
}

func (r *remembered) unpack() mark {
	is := func(flag uint16) bool { return r.flags&flag != 0 }
	m := mark{
		known: true, in: r.in, out: r.out, acknowledgements: r.acknowledgements, last: side(r.flags & 3),
		acknowledged: is(flagAcknowledged), settled: is(flagSettled), begun: is(flagBegun), rest: is(flagRest),
		based: is(flagBased), waiting: is(flagWaiting), baseIn: r.baseIn, baseOut: r.baseOut,
	}
	if m.rest {
		m.bytesIn, m.bytesOut, m.baseIn, m.baseOut = r.baseIn, r.baseOut, r.in, r.out
	}
	return m
}

func (r *remembered) free() bool { return r.cookie == [2]uint32{} }

// begin begins a look.
func (h *history) begin() { h.look++ }

// find returns what is known of a socket.
func (h *history) find(cookie uint64) mark {
	if len(h.slots) == 0 || cookie == 0 {
		return mark{}
	}
	r := h.slot(split(cookie))
	if r.free() {
		return mark{}
	}
	r.seen = h.look
	return r.unpack()
}

// resting reports whether nothing was said on a socket since a look found it at rest: what the rule would say of it, and
// remember, is known then. Most connections of a large look are such, and the rule would be most of our cost.
func (h *history) resting(cookie uint64, s *sample) bool {
	if len(h.slots) == 0 || cookie == 0 || s.state != stateEstablished || s.unread|s.unsent != 0 {
		return false
	}
	r := h.slot(split(cookie))
	if r.flags&flagRest == 0 || r.in != s.segmentsReceived || r.out != s.segmentsSent || r.acknowledgements != s.acknowledgements {
		return false
	}
	r.seen = h.look
	return true
}

// note remembers a known mark of a socket.
func (h *history) note(cookie uint64, m mark) {
	if cookie == 0 {
		return
	}
	if h.used >= len(h.slots)/8*7 && !h.makeRoom() {
		return
	}
	r := h.slot(split(cookie))
	if r.free() {
		h.used++
	}
	*r = pack(split(cookie), m, h.look)
}

func split(cookie uint64) [2]uint32 { return [2]uint32{uint32(cookie), uint32(cookie >> 32)} }

// slot returns the socket's slot, or the free one that it would take.
func (h *history) slot(cookie [2]uint32) *remembered {
	mask := uint64(len(h.slots) - 1)
	// Cookies are handed out in sequence, in batches for each processor; Fibonacci hashing spreads them.
	whole := uint64(cookie[1])<<32 | uint64(cookie[0])
	for i := whole * 0x9E3779B97F4A7C15 >> 20; ; i++ {
		if r := &h.slots[i&mask]; r.cookie == cookie || r.free() {
			return r
		}
	}
}

// makeRoom forgets the sockets that neither this look nor the last found, and grows where that is not enough.
func (h *history) makeRoom() bool {
	if h.full == h.look {
		return false // to go through all of them again for each would take minutes
	}
	living := func(r remembered) bool { return !r.free() && h.look-r.seen <= 1 }
	kept := 0
	for _, r := range h.slots {
		if living(r) {
			kept++
		}
	}
	size := max(len(h.slots), rememberedMin)
	for kept >= size/4*3 && size < rememberedMax {
		size = min(8*size, rememberedMax)
	}
	if size == rememberedMax {
		h.full = h.look
	}
	if kept >= size/8*7 {
		return false
	}
	old := h.slots
	h.slots, h.used = make([]remembered, size), kept
	for _, r := range old {
		if living(r) {
			*h.slot(r.cookie) = r
		}
	}
	if len(old) >= gaveBack {
		old = nil
		debug.FreeOSMemory() // the Pod pays for what was outgrown until it is given back
	}
	return true
}
