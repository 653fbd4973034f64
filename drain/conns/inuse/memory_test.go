package inuse

import "testing"

// at is a Memory that no other cookie has.
func at(cookie uint64) Memory {
	n := uint32(cookie)
	m := Memory{known: true, in: n, out: ^n, bytesIn: n + 1, bytesOut: n + 2, bareACKs: uint16(cookie), dataAt: n + 3,
		last: side(cookie % 3), base: base(cookie % 3), asked: uint8(cookie % 3)}
	for i, flag := range []*bool{&m.bareACK, &m.idle, &m.opened, &m.inPause, &m.pausedBefore, &m.told, &m.controls} {
		*flag = cookie>>i&1 == 1
	}
	return m
}

func TestTableRemembersAsManyAsItMay(t *testing.T) {
	var h Table
	if h.Find(1).known {
		t.Fatal("an empty table knows a socket")
	}
	h.Begin()
	for cookie := uint64(1); cookie <= 2*slotsMax; cookie++ {
		h.Keep(cookie, at(cookie))
	}
	if len(h.slots) != slotsMax {
		t.Errorf("%d slots, want %d", len(h.slots), slotsMax)
	}
	if h.used < 100_000 {
		t.Errorf("%d sockets remembered, want 100,000 and more", h.used)
	}
	known := 0
	for cookie := uint64(1); cookie <= 2*slotsMax; cookie++ {
		if m := h.Find(cookie); m.known {
			known++
			if m != at(cookie) {
				t.Fatalf("socket %d has the memory %+v", cookie, m)
			}
		}
	}
	if known != h.used {
		t.Errorf("%d sockets are found of %d", known, h.used)
	}
}

func TestTableForgetsTheSocketsThatAreGone(t *testing.T) {
	var h Table
	const each = 100
	for cookie := uint64(1); cookie <= 1000*each; cookie++ {
		if cookie%each == 1 {
			h.Begin()
		}
		h.Keep(cookie, at(cookie))
		if m := h.Find(cookie); m != at(cookie) {
			t.Fatalf("socket %d is not remembered: %+v", cookie, m)
		}
	}
	if len(h.slots) > 4*slotsMin {
		t.Errorf("%d slots for %d sockets at a time", len(h.slots), each)
	}
	if h.Find(1).known {
		t.Error("a socket of the first look is remembered after a thousand")
	}
}

func TestTableKnowsNothingOfASocketWithoutACookie(t *testing.T) {
	var h Table
	h.Begin()
	h.Keep(0, at(7))
	if h.Find(0).known {
		t.Error("found")
	}
}
