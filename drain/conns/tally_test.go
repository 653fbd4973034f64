package conns

import (
	"testing"

	"prestop/drain/conns/inuse"
)

func TestPeersAreBounded(t *testing.T) {
	var l look
	l.begin("test", []uint16{80})
	open := inuse.Sample{State: inuse.Established}
	for i := range 20_000 {
		from := connection{remote: mapped([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
		l.add(from, &open, 0)
		if i%100 == 0 {
			for heavy := range 3 {
				l.add(connection{remote: mapped([4]byte{192, 0, 2, byte(heavy)})}, &open, 0)
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
