package conns

const (
	// rememberedMin and rememberedMax bound the slots of a history: at 32 bytes each, 4 MiB at most.
	rememberedMin = 1 << 8
	rememberedMax = 1 << 17
)

// mark is what a connection's counters were when a look last learnt something of it. They wrap.
type mark struct {
	bytesReceived, bytesSent       uint32
	segmentsReceived, segmentsSent uint32
	// waiting: a request was waiting for its answer. Otherwise the connection was idle.
	waiting bool
}

func markOf(s sample, waiting bool) mark {
	return mark{uint32(s.bytesReceived), uint32(s.bytesSent), s.segmentsReceived, s.segmentsSent, waiting}
}

// history remembers marks of connections over the looks, by the kernel's cookie of the socket, which no other has in the
// life of the machine. When it is full it remembers no more; what it does not know is judged by the sample alone.
type history struct {
	slots []remembered // open addressing; a power of two
	used  int
	look  uint32 // number of the present look
}

type remembered struct {
	cookie uint64 // 0: free
	seen   uint32 // the last look that found it
	mark
}

// begin begins a look.
func (h *history) begin() { h.look++ }

// find returns what is known of a socket; nil: nothing.
func (h *history) find(cookie uint64) *mark {
	if len(h.slots) == 0 || cookie == 0 {
		return nil
	}
	r := h.slot(cookie)
	if r.cookie == 0 {
		return nil
	}
	r.seen = h.look
	return &r.mark
}

// note remembers a mark of a socket.
func (h *history) note(cookie uint64, m mark) {
	if cookie == 0 {
		return
	}
	if h.used >= len(h.slots)/8*7 && !h.makeRoom() {
		return
	}
	r := h.slot(cookie)
	if r.cookie == 0 {
		h.used++
	}
	*r = remembered{cookie, h.look, m}
}

// slot returns the socket's slot, or the free one that it would take.
func (h *history) slot(cookie uint64) *remembered {
	mask := uint64(len(h.slots) - 1)
	// Cookies are handed out in sequence, in batches for each processor; Fibonacci hashing spreads them.
	for i := cookie * 0x9E3779B97F4A7C15 >> 20; ; i++ {
		if r := &h.slots[i&mask]; r.cookie == cookie || r.cookie == 0 {
			return r
		}
	}
}

// makeRoom forgets the sockets that neither this look nor the last found, and grows where that is not enough.
func (h *history) makeRoom() bool {
	living := func(r remembered) bool { return r.cookie != 0 && h.look-r.seen <= 1 }
	kept := 0
	for _, r := range h.slots {
		if living(r) {
			kept++
		}
	}
	size := max(len(h.slots), rememberedMin)
	for kept >= size/4*3 && size < rememberedMax {
		size *= 2
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
