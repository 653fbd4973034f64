package conns

import (
	"cmp"
	"context"
	"math"
	"net/netip"
	"slices"
	"time"

	"prestop/drain/conns/inuse"
)

// knownPeers bounds the client addresses and ports that one look keeps apart.
const knownPeers = 4096

// look sums up one pass over the sockets. Its memory is reused and does not grow with the number of connections.
type look struct {
	rule  Rule
	ports portSet
	tally Tally
	peers map[client]peer
	past  inuse.Table
	// at is when the kernel told what is being added, epoch when the first look began.
	at, epoch time.Time
	heard     activity
	// left are the connections that are left out.
	left map[LeftOut]int
}

// inUse is the part of the rule that says when an open connection is not in use.
func (r *Rule) inUse() inuse.Rule {
	return inuse.Rule{IdleAfter: r.IdleAfter, RequestTimeout: r.RequestTimeout}
}

// client is a client address and the port of the app that it is connected to.
type client struct {
	address [16]byte
	port    uint16
}

// peer is a client's part of a look.
type peer struct {
	active, open int
	silent       time.Duration
	port         uint16 // of the longest silent connection in use, the client's
}

// connection names one end of a connection as the app's side sees it.
type connection struct {
	localPort, remotePort uint16
	local, remote         [16]byte // IPv4 is v4-mapped
}

// mapped is an IPv4 address as a v4-mapped one.
func mapped(a [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

// begin empties the look for connections to ports.
func (l *look) begin(source string, ports []uint16) {
	l.ports.set(ports, l.rule.ExcludePorts)
	l.past.Begin()
	l.beginPart(source)
}

// beginPart empties the look for some of the connections that the last look was at.
func (l *look) beginPart(source string) {
	l.tally = Tally{Source: source, Began: time.Now()}
	l.at, l.heard = l.tally.Began, activity{}
	if l.epoch.IsZero() {
		l.epoch = l.at
	}
	if l.peers == nil {
		l.peers = make(map[client]peer)
	}
	clear(l.peers)
	clear(l.left)
}

// restart forgets what the look has seen, but not when it began.
func (l *look) restart() {
	l.tally = Tally{Source: l.tally.Source, Began: l.tally.Began}
	clear(l.peers)
	clear(l.left)
}

// leaveOut leaves an open connection to a port out of the count.
func (l *look) leaveOut(port uint16, why Reason) {
	if l.left == nil {
		l.left = make(map[LeftOut]int)
	}
	key := LeftOut{Reason: why, Port: port}
	if _, known := l.left[key]; known || len(l.left) < knownPeers {
		l.left[key]++
	}
}

// fromClient reports whether the connection, to a port of the app, is one that a client opened to it.
//
// The app's outgoing connections have an ephemeral local port. The kernel does not lend a listener's port to one, so the
// port alone decides; the exception is a socket that was connected to itself, which a client that redials a dead port
// of its own host brings about (simultaneous open).
func (r *Rule) fromClient(c connection) bool { return !c.toItself() && !r.excludes(c.remote) }

// toItself reports whether the socket is connected to itself.
func (c *connection) toItself() bool { return c.localPort == c.remotePort && c.local == c.remote }

// excludes reports whether connections from the address do not count.
func (r *Rule) excludes(remote [16]byte) bool {
	if len(r.ExcludePeers) == 0 {
		return false
	}
	a := netip.AddrFrom16(remote).Unmap()
	return slices.ContainsFunc(r.ExcludePeers, func(p netip.Prefix) bool { return p.Contains(a) })
}

// add judges and counts one connection; cookie is its socket's, 0 if the source has none.
func (l *look) add(c connection, s *inuse.Sample, cookie uint64) inuse.Class {
	v := l.judge(s, cookie)
	l.heard.add(c, s, l.at, v.Class)
	if v.Class == inuse.Gone {
		return inuse.Gone
	}
	t := &l.tally
	t.Open++
	if v.Expired {
		t.Expired++
	}
	if v.Class == inuse.Idle && t.Open > knownPeers {
		t.Idle++ // whose it is would be most of our cost
		return inuse.Idle
	}
	who := client{c.remote, c.localPort}
	p, known := l.peers[who]
	p.open++
	if v.Class == inuse.InUse {
		t.Active++
		p.active++
		if p.active == 1 || v.Silent > p.silent {
			p.silent, p.port = v.Silent, c.remotePort
		}
		if v.Next > 0 && (t.NextIdle == 0 || v.Next < t.NextIdle) {
			// A long look sees its connections well after it began.
			t.NextIdle = min(l.at.Sub(t.Began)+v.Next, cmp.Or(t.NextIdle, math.MaxInt64))
		}
	} else {
		t.Idle++
	}
	if !known && len(l.peers) >= knownPeers {
		l.forgetPeers()
	}
	l.peers[who] = p
	return v.Class
}

// judge says what the rule does of a connection, and remembers what it shall of it.
func (l *look) judge(s *inuse.Sample, cookie uint64) inuse.Verdict {
	if l.past.StillIdle(cookie, s) {
		return inuse.Verdict{Class: inuse.Idle, Silent: min(s.SinceSent, s.SinceReceived)}
	}
	past := l.past.Find(cookie)
	s.At = l.at.Sub(l.epoch)
	v, now := l.rule.inUse().Judge(s, past)
	if v.Class != inuse.Gone && now != past {
		l.past.Keep(cookie, now)
	}
	return v
}

// forgetPeers makes room: the addresses with the fewest connections go, as they are the least likely to be told.
func (l *look) forgetPeers() {
	for least := 1; len(l.peers) > knownPeers/2; least *= 2 {
		for a, p := range l.peers {
			if p.active <= least {
				delete(l.peers, a)
			}
		}
	}
}

// end returns the tally.
func (l *look) end() Tally {
	t := l.tally
	t.Peers = l.foremost()
	for key, n := range l.left {
		key.Open = n
		t.LeftOut = append(t.LeftOut, key)
	}
	slices.SortFunc(t.LeftOut, func(a, b LeftOut) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Reason, b.Reason))
	})
	t.LeftOut = t.LeftOut[:min(len(t.LeftOut), MaxLeftOut)]
	t.Took = time.Since(t.Began)
	if l.rule.Hear {
		t.Heard, t.HeardFrom = l.heard.told()
	}
	return t
}

// foremost returns the peers to tell.
func (l *look) foremost() []Peer {
	foremost := make([]Peer, 0, MaxPeers+1)
	order := func(a, b Peer) int {
		return cmp.Or(cmp.Compare(b.Active, a.Active), cmp.Compare(b.Open, a.Open), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	}
	for a, p := range l.peers {
		if n := len(foremost); n == MaxPeers && p.active < foremost[n-1].Active {
			continue
		}
		told := Peer{netip.AddrFrom16(a.address).Unmap(), a.port, p.active, p.open, p.silent, p.port}
		at, _ := slices.BinarySearchFunc(foremost, told, order)
		foremost = slices.Insert(foremost, at, told)
		foremost = foremost[:min(len(foremost), MaxPeers)]
	}
	return foremost
}

// turn is held by whoever looks. A wait for it ends with the context.
type turn chan struct{}

func newTurn() turn {
	t := make(turn, 1)
	t.release()
	return t
}

func (t turn) take(ctx context.Context) error {
	select {
	case <-t:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) release() { t <- struct{}{} }

// portSet is a set of ports.
type portSet [1 << 16 / 64]uint64

// set makes it ports without but.
func (s *portSet) set(ports, but []uint16) {
	clear(s[:])
	for _, p := range ports {
		s.add(p)
	}
	for _, p := range but {
		s[p/64] &^= 1 << (p % 64)
	}
}

func (s *portSet) has(p uint16) bool { return s[p/64]&(1<<(p%64)) != 0 }

// contains reports whether every port of other is in s.
func (s *portSet) contains(other *portSet) bool {
	for i := range s {
		if other[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

func (s *portSet) add(p uint16) { s[p/64] |= 1 << (p % 64) }

func (s *portSet) empty() bool { return *s == portSet{} }

// list returns the ports in order.
func (s *portSet) list() []uint16 {
	var ports []uint16
	for p := range 1 << 16 {
		if s.has(uint16(p)) {
			ports = append(ports, uint16(p))
		}
	}
	return ports
}
