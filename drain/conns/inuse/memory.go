package inuse

import (
	"runtime/debug"
	"time"
)

// base says what is known of the moment since when the client's segments are counted.
type base uint8

const (
	noBase base = iota
	// mayWait: the server had sent data last, and then both were quiet for --idle-after.
	mayWait
	// nothingWaits: nothing was unanswered.
	nothingWaits
)

// Memory is what the looks have learnt of a connection so far. The zero Memory knows nothing.
type Memory struct {
	known bool
	// The counters at the last look, the lowest bits of the bytes'.
	in, out, bytesIn, bytesOut uint32
	bareACKs                   uint16
	// last is who sent the last data, as of these counters.
	last side
	// bareACK: the server's kernel has, or may have, sent a bare ACK since the look before the last
	// change.
	bareACK bool
	// idle: the last look called it so.
	idle bool
	// opened: the opening of the protocol is over. Until then, inPause: the connection is quiet for
	// --idle-after at these counters; pausedBefore: it was so at others.
	opened, inPause, pausedBefore bool
	// base, and since then: how many segments the client sent, 2 for more, and whether the server
	// sent more bytes than control frames have.
	base  base
	asked uint8
	told  bool
	// dataAt is when the last data came that is no control frame, in milliseconds of Sample.At,
	// which wrap. controls: control frames came since.
	dataAt   uint32
	controls bool
}

// after is the memory after one more look.
func (m Memory) after(s *Sample) Memory {
	if !s.HasSegments {
		return m
	}
	in, out := s.SegmentsReceived, s.SegmentsSent
	changed := m.known && (m.in != in || m.out != out)
	switch {
	case changed && m.pings(s):
		m.controls = true
		m.count(s)
		return m // who sent the last data before them is remembered
	case changed:
		m.change(s)
	case !m.known:
		m.bareACK, m.dataAt = true, millis(s.At-s.silent())
	default:
		m.bareACK = m.bareACK || m.bareACKs != s.BareACKs
	}
	if m.last == nobody {
		m.last = m.lastSender(s)
	}
	m.known = true
	m.count(s)
	m.opened = m.opened || s.pastOpening() || m.last == server && s.noOpening()
	return m
}

// change takes what was sent since the last look.
func (m *Memory) change(s *Sample) {
	in, out := s.SegmentsReceived, s.SegmentsSent
	if !m.idle && m.windowUpdates(s) {
		m.controls = true
	} else {
		m.dataAt, m.controls = millis(s.At-s.silent()), false
	}
	m.pausedBefore = m.pausedBefore || m.inPause
	m.idle, m.inPause = false, false
	m.bareACK = m.bareACKs != s.BareACKs
	switch {
	case m.in == in:
		m.last = server
	case m.out == out:
		m.last = client
	default:
		m.last = nobody
	}
	m.asked = uint8(min(uint32(m.asked)+min(in-m.in, 2), 2))
	m.told = m.told || uint32(s.BytesSent)-m.bytesOut >= leastAnswer
}

// count keeps the counters.
func (m *Memory) count(s *Sample) {
	m.in, m.out, m.bareACKs = s.SegmentsReceived, s.SegmentsSent, s.BareACKs
	m.bytesIn, m.bytesOut = uint32(s.BytesReceived), uint32(s.BytesSent)
}

// silent is the time since the last byte either way, control frames aside.
func (m Memory) silent(s *Sample) time.Duration {
	if !m.controls {
		return s.silent()
	}
	return max(s.silent(), time.Duration(millis(s.At)-m.dataAt)*time.Millisecond)
}

func millis(d time.Duration) uint32 { return uint32(d / time.Millisecond) }

// answered is the memory of a connection on which nothing waits.
func (m Memory) answered() Memory {
	if m.opened {
		m.base, m.asked, m.told = nothingWaits, 0, false
	}
	return m
}

// settled is the memory of one that is idle.
func (m Memory) settled() Memory {
	if m.known {
		m.idle, m.last = true, server
	}
	return m.answered()
}

// givenUp is the memory of one on which no request is believed any more, whatever began it.
func (m Memory) givenUp() Memory {
	m.opened = m.known
	return m.settled()
}

// paused is the memory of one of which is not known whether a request waits, and that was quiet for
// --idle-after.
func (m Memory) paused(s *Sample) Memory {
	if !m.known || m.last != server {
		return m
	}
	m.inPause = true
	m.opened = m.opened || m.pausedBefore
	// With more of the client's segments than of the server's one of them probably waits. Short
	// ones may be of HTTP/2, whose requests do not wait for each other.
	if m.opened && s.text() && int32(s.SegmentsReceived-s.SegmentsSent) <= 0 {
		m.base, m.asked, m.told = mayWait, 0, false
	}
	return m
}

const (
	// slotsMin and slotsMax bound the slots of a Table: at 32 bytes each, 4 MiB at most.
	slotsMin = 1 << 8
	slotsMax = 1 << 17
	// worthReturning is how many slots are worth giving back to the system when they were outgrown.
	worthReturning = 1 << 14
	// lookBits is how much of a look's number a slot keeps.
	lookBits = 3
)

// Table keeps the Memory of connections by the kernel's cookie of the socket, which no other has in
// the life of the machine. When it is full it keeps no more: what it does not know is judged by the
// sample alone.
type Table struct {
	slots []slot // open addressing; a power of two
	used  int
	look  uint32 // number of the present look
	full  uint32 // the look in which there was no more room
}

// slot is a socket and its Memory, in little space.
type slot struct {
	cookie                     [2]uint32 // both 0: free
	in, out, bytesIn, bytesOut uint32
	dataAt                     uint32
	bareACKs                   uint16
	flags                      uint16
}

// The flags of a slot: last in two bits, base and asked in two each, the last look that found it in
// the highest three.
const (
	flagBareACK uint16 = 1 << (iota + 6)
	flagIdle
	flagOpened
	flagInPause
	flagPausedBefore
	flagTold
	flagControls

	baseAt, askedAt, lookAt = 2, 4, 16 - lookBits
)

func pack(cookie [2]uint32, m Memory, look uint32) slot {
	flags := uint16(m.last) | uint16(m.base)<<baseAt | uint16(m.asked)<<askedAt | uint16(look<<lookAt)
	set := func(flag uint16, is bool) {
		if is {
			flags |= flag
		}
	}
	set(flagBareACK, m.bareACK)
	set(flagIdle, m.idle)
	set(flagOpened, m.opened)
	set(flagInPause, m.inPause)
	set(flagPausedBefore, m.pausedBefore)
	set(flagTold, m.told)
	set(flagControls, m.controls)
	return slot{cookie, m.in, m.out, m.bytesIn, m.bytesOut, m.dataAt, m.bareACKs, flags}
}

func (r *slot) unpack() Memory {
	is := func(flag uint16) bool { return r.flags&flag != 0 }
	return Memory{
		known: true, in: r.in, out: r.out, bytesIn: r.bytesIn, bytesOut: r.bytesOut, bareACKs: r.bareACKs,
		last: side(r.flags & 3), base: base(r.flags >> baseAt & 3), asked: uint8(r.flags >> askedAt & 3),
		bareACK: is(flagBareACK), idle: is(flagIdle), opened: is(flagOpened), inPause: is(flagInPause),
		pausedBefore: is(flagPausedBefore), told: is(flagTold), dataAt: r.dataAt, controls: is(flagControls),
	}
}

func (r *slot) free() bool { return r.cookie == [2]uint32{} }

// saw notes that the look found the socket.
func (r *slot) saw(look uint32) { r.flags = r.flags&(1<<lookAt-1) | uint16(look<<lookAt) }

// Begin begins a look.
func (t *Table) Begin() { t.look++ }

// Find returns what is known of a socket.
func (t *Table) Find(cookie uint64) Memory {
	if len(t.slots) == 0 || cookie == 0 {
		return Memory{}
	}
	r := t.slot(split(cookie))
	if r.free() {
		return Memory{}
	}
	r.saw(t.look)
	return r.unpack()
}

// StillIdle reports whether nothing was sent on a socket since a look found it idle: what the rule
// would say of it, and remember, is known then. Most connections of a large look are such, and the
// rule would be most of its cost.
func (t *Table) StillIdle(cookie uint64, s *Sample) bool {
	if len(t.slots) == 0 || cookie == 0 || s.State != Established || s.Unread|s.Unacked != 0 {
		return false
	}
	r := t.slot(split(cookie))
	if r.flags&flagIdle == 0 || r.in != s.SegmentsReceived || r.out != s.SegmentsSent ||
		r.bareACKs != s.BareACKs {
		return false
	}
	r.saw(t.look)
	return true
}

// Keep keeps what is known of a socket.
func (t *Table) Keep(cookie uint64, m Memory) {
	if cookie == 0 || !m.known {
		return
	}
	if t.used >= len(t.slots)/8*7 && !t.makeRoom() {
		return
	}
	r := t.slot(split(cookie))
	if r.free() {
		t.used++
	}
	*r = pack(split(cookie), m, t.look)
}

func split(cookie uint64) [2]uint32 { return [2]uint32{uint32(cookie), uint32(cookie >> 32)} }

// slot returns the socket's slot, or the free one that it would take.
func (t *Table) slot(cookie [2]uint32) *slot {
	mask := uint64(len(t.slots) - 1)
	// Cookies are handed out in sequence, in batches for each processor; Fibonacci hashing spreads
	// them.
	whole := uint64(cookie[1])<<32 | uint64(cookie[0])
	for i := whole * 0x9E3779B97F4A7C15 >> 20; ; i++ {
		if r := &t.slots[i&mask]; r.cookie == cookie || r.free() {
			return r
		}
	}
}

// makeRoom forgets the sockets that neither this look nor the last found, and grows where that is
// not enough.
func (t *Table) makeRoom() bool {
	if t.full == t.look {
		return false // to go through all of them again for each would take minutes
	}
	living := func(r slot) bool { return !r.free() && (t.look-uint32(r.flags>>lookAt))%(1<<lookBits) <= 1 }
	kept := 0
	for _, r := range t.slots {
		if living(r) {
			kept++
		}
	}
	size := max(len(t.slots), slotsMin)
	for kept >= size/4*3 && size < slotsMax {
		size = min(8*size, slotsMax)
	}
	if size == slotsMax {
		t.full = t.look
	}
	if kept >= size/8*7 {
		return false
	}
	old := t.slots
	t.slots, t.used = make([]slot, size), kept
	for _, r := range old {
		if living(r) {
			*t.slot(r.cookie) = r
		}
	}
	if len(old) >= worthReturning {
		old = nil
		debug.FreeOSMemory() // the Pod pays for what was outgrown until it is given back
	}
	return true
}
