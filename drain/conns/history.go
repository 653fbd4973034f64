package conns

const (
	// rememberedMin and rememberedMax bound the slots of a history: at 20 bytes each, 2.5 MiB at most.
	rememberedMin = 1 << 8
	rememberedMax = 1 << 17
)

// mark is what a connection's counters of data segments were when a look last learnt something of it. They wrap.
type mark struct {
	segmentsReceived, segmentsSent uint32
	// waiting: a request was waiting for its answer. Otherwise the connection was idle.
	waiting bool
}

func markOf(s sample, waiting bool) mark { return mark{s.segmentsReceived, s.segmentsSent, waiting} }

// history remembers marks of connections over the looks, by the kernel's cookie of the socket, which no other has in the
// life of the machine. When it is full it remembers no more; what it does not know is judged by the sample alone.
type history struct {
	slots []remembered // open addressing; a power of two
	used  int
	look  uint32 // number of the present look, even
	full  uint32 // the look in which there was no more room
}

// remembered is a socket and its mark, in little space.
type remembered struct {
	cookie                         [2]uint32 // both 0: free
	segmentsReceived, segmentsSent uint32
	seen                           uint32 // the last look that found it, and in the lowest bit whether it was waiting
}

func (r *remembered) free() bool { return r.cookie == [2]uint32{} }

// begin begins a look.
func (h *history) begin() { h.look += 2 }

// find returns what is known of a socket.
func (h *history) find(cookie uint64) (m mark, known bool) {
	if len(h.slots) == 0 || cookie == 0 {
		return mark{}, false
	}
	r := h.slot(split(cookie))
	if r.free() {
		return mark{}, false
	}
	r.seen = h.look | r.seen&1
	return mark{r.segmentsReceived, r.segmentsSent, r.seen&1 != 0}, true
}

// note remembers a mark of a socket.
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
	*r = remembered{split(cookie), m.segmentsReceived, m.segmentsSent, h.look}
	if m.waiting {
		r.seen |= 1
	}
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
	living := func(r remembered) bool { return !r.free() && h.look-r.seen&^1 <= 2 }
	kept := 0
	for _, r := range h.slots {
		if living(r) {
			kept++
		}
	}
	size := max(len(h.slots), rememberedMin)
	for kept >= size/4*3 && size < rememberedMax {
		size = min(4*size, rememberedMax)
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
	return true
}
