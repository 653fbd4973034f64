package conns

import "testing"

// at is a mark that no other cookie has.
func at(cookie uint64) mark {
	m := mark{known: true, in: uint32(cookie), out: ^uint32(cookie), acknowledgements: uint16(cookie), last: side(cookie % 3)}
	switch cookie % 4 {
	case 0:
		m.rest, m.based, m.bytesIn, m.bytesOut, m.baseIn, m.baseOut = true, true, 7, 8, m.in, m.out
	case 1:
		m.waiting, m.based, m.baseIn, m.baseOut = true, true, 9, 10
	case 2:
		m.settled, m.begun, m.acknowledged = true, true, true
	}
	return m
}

func TestHistoryRemembersAsManyAsItMay(t *testing.T) {
	var h history
	if h.find(1).known {
		t.Fatal("an empty history knows a socket")
	}
	h.begin()
	for cookie := uint64(1); cookie <= 2*rememberedMax; cookie++ {
		h.note(cookie, at(cookie))
	}
	if len(h.slots) != rememberedMax {
		t.Errorf("%d slots, want %d", len(h.slots), rememberedMax)
	}
	if h.used < 100_000 {
		t.Errorf("%d sockets remembered, want 100,000 and more", h.used)
	}
	known := 0
	for cookie := uint64(1); cookie <= 2*rememberedMax; cookie++ {
		if m := h.find(cookie); m.known {
			known++
			if m != at(cookie) {
				t.Fatalf("socket %d has the mark %+v", cookie, m)
			}
		}
	}
	if known != h.used {
		t.Errorf("%d sockets are found of %d", known, h.used)
	}
}

func TestHistoryForgetsTheSocketsThatAreGone(t *testing.T) {
	var h history
	const each = 100
	for cookie := uint64(1); cookie <= 1000*each; cookie++ {
		if cookie%each == 1 {
			h.begin()
		}
		h.note(cookie, at(cookie))
		if m := h.find(cookie); m != at(cookie) {
			t.Fatalf("socket %d is not remembered: %+v", cookie, m)
		}
	}
	if len(h.slots) > 4*rememberedMin {
		t.Errorf("%d slots for %d sockets at a time", len(h.slots), each)
	}
	if h.find(1).known {
		t.Error("a socket of the first look is remembered after a thousand")
	}
}

func TestHistoryKnowsNothingOfASocketWithoutACookie(t *testing.T) {
	var h history
	h.begin()
	h.note(0, at(7))
	if h.find(0).known {
		t.Error("found")
	}
}

func TestPeersAreBounded(t *testing.T) {
	var l look
	l.begin("test", []uint16{80})
	open := sample{state: stateEstablished}
	for i := range 20_000 {
		from := connection{remote: mapped([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
		l.add(from, open, 0)
		if i%100 == 0 {
			for heavy := range 3 {
				l.add(connection{remote: mapped([4]byte{192, 0, 2, byte(heavy)})}, open, 0)
			}
		}
		if len(l.peers) > knownPeers {
			t.Fatalf("%d peers are kept apart, want at most %d", len(l.peers), knownPeers)
		}
	}
	tally := l.end()
	if tally.Active != 20_600 || len(tally.Peers) != MaxPeers {
		t.Errorf("%d connections, %d peers told; want 20,600 and %d", tally.Active, len(tally.Peers), MaxPeers)
	}
	for i, p := range tally.Peers {
		if heavy := p.Active > 100; heavy != (i < 3) {
			t.Errorf("peer %d is %+v: want the three with many connections first", i, p)
		}
	}
}
