package drain

import (
	"slices"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// This file says what the Pod's ports tell of the app. It is pure: what listens now, what listened
// before and what the registries hold go in; which port is up, gone or another one, and what that
// means for the app, comes out. It never depends on the step between two looks.

// socket is one listening socket of the Pod, as a look shows it.
type socket struct {
	port uint16
	// id tells this socket from a later one on the same port.
	id uint64
	// foreign: it is a mesh's proxy, or one that nobody outside the Pod can reach.
	foreign bool
}

// proxies are the users that a mesh's proxy runs as: Istio's and Linkerd's. Each mesh's iptables
// leave the traffic of that user alone, so no app runs as one of them.
var proxies = []uint32{1337, 2102}

// isForeign reports whether a listener cannot be the app's way in: it is a mesh's proxy, or it
// listens on the loopback alone, as an admin port or a database proxy does. With loopback the
// callers are on this machine too, so the latter may be the app.
func isForeign(l conns.Listener, loopback bool) bool {
	return l.HasUID && slices.Contains(proxies, l.UID) || !loopback && l.Address.IsLoopback()
}

// port is what is known of one port.
type port struct {
	number uint16
	// sockets listen on it now, by their ids, sorted.
	sockets []uint64
	// listened: somebody has listened on it since the process started.
	listened bool
	// since is when it began to listen, or stopped; of one that never listened, when it became
	// known.
	since time.Time
	// began is when it last began to listen; zero if it never has.
	began time.Time
	// before is when it was last seen not to listen before it began to; zero if it listened at the
	// first look.
	before time.Time
	// given by --port; registered: an instance was found on it, now or earlier. That outlives the
	// instance's record.
	given, registered bool
	// through: an instance on it was seen in service although nobody had ever listened on it, while
	// the app was up. Callers reach the app through it (NAT, a NodePort).
	through bool
	// foreign: every socket that listened on it last was foreign. Unless the port is given or
	// registered, it says nothing of the app.
	foreign bool
	// unmissed: it has been gone for so long, while others listen, that it was not the app's.
	unmissed bool
	// atBegin are the sockets that listened when the drain began; stopped: since then it was seen
	// without one.
	atBegin []uint64
	stopped bool
}

func (p port) up() bool   { return len(p.sockets) > 0 }
func (p port) gone() bool { return p.listened && !p.up() }

// another reports whether other sockets listen on the port than when the drain began. While the
// drain runs, only a port that was seen closed counts: the kubelet restarts no container whose hook
// runs, and an app that opens its socket anew while it drains must not end the drain.
func (p port) another(running bool) bool {
	switch {
	case !p.up():
		return false
	case p.stopped || running:
		return p.stopped
	}
	return !overlap(p.sockets, p.atBegin)
}

// overlap reports whether a and b have an id in common.
func overlap(a, b []uint64) bool {
	return slices.ContainsFunc(a, func(id uint64) bool { return slices.Contains(b, id) })
}

// ephemeral reports whether the port is one that Linux gives to outgoing connections, or to a
// listener that asked for any (RMI, FTP): net.ipv4.ip_local_port_range begins at 32768. Such a
// listener says nothing of the app when there are others.
func (p port) ephemeral() bool { return p.number >= 32768 }

// mayServe reports whether the port may be one of the app's: given, registered, or found and
// neither ephemeral nor foreign.
func (p port) mayServe() bool {
	return p.given || p.registered || !p.ephemeral() && !p.foreign
}

// appState is what the ports say of the app as a whole.
type appState int

const (
	// appAbsent: it has not listened yet.
	appAbsent appState = iota
	appUp
	// appPartly: one of its ports is gone, others listen.
	appPartly
	// appGone: it listened and does not any more.
	appGone
	// appUnseen: the kernel's tables cannot be read, so nothing is known of it and it is taken to
	// be there.
	appUnseen
)

func (a appState) String() string {
	return [...]string{"absent", "up", "partly", "gone", "unseen"}[a]
}

// ports are those of the Pod, sorted by number. Its methods return changed copies.
type ports []port

// newPorts returns the given ones.
func newPorts(given []uint16, now time.Time) ports {
	var ps ports
	for _, n := range given {
		ps = ps.with(n, now, func(p *port) { p.given = true })
	}
	return ps
}

// with changes the port n, which is added if it is new. ps must be the caller's own.
func (ps ports) with(n uint16, now time.Time, change func(*port)) ports {
	byNumber := func(p port, n uint16) int { return int(p.number) - int(n) }
	i, known := slices.BinarySearchFunc(ps, n, byNumber)
	if !known {
		ps = slices.Insert(ps, i, port{number: n, since: now})
	}
	change(&ps[i])
	return ps
}

// see takes what a look shows at now. looked is when the one before was made; zero: there was none.
func (ps ports) see(sockets []socket, looked, now time.Time) ports {
	ps = slices.Clone(ps)
	for _, s := range sockets {
		ps = ps.with(s.port, now, func(*port) {})
	}
	for i := range ps {
		p := &ps[i]
		var ids []uint64
		foreign := true
		for _, s := range sockets {
			if s.port == p.number {
				ids = append(ids, s.id)
				foreign = foreign && s.foreign
			}
		}
		if len(ids) > 0 {
			p.foreign = foreign
		}
		slices.Sort(ids)
		switch other := !overlap(ids, p.sockets); {
		case len(ids) == 0:
			if p.up() {
				p.since = now
			}
			p.stopped = true
		case !p.up() || other:
			p.since, p.began, p.before = now, now, looked
			p.listened, p.unmissed = true, false
		}
		p.sockets = ids
	}
	return ps.giveUp(now)
}

// missedFor is how long a port that is gone and known to nobody is missed while others listen: then
// it was no app's, but somebody's who looked into the Pod.
const missedFor = 10 * time.Minute

// giveUp no longer waits for the ports that have been gone for missedFor. ps must be the caller's
// own.
func (ps ports) giveUp(now time.Time) ports {
	if ps.state() != appPartly || ps.identified() {
		return ps
	}
	for i := range ps {
		if p := &ps[i]; p.gone() && now.Sub(p.since) >= missedFor {
			p.unmissed = true
		}
	}
	return ps
}

// register takes the instances that a registry holds of the Pod.
func (ps ports) register(found []registry.Instance, now time.Time) ports {
	ps = slices.Clone(ps)
	up := ps.state() == appUp || ps.state() == appPartly
	for _, i := range found {
		ps = ps.with(i.Port, now, func(p *port) {
			p.registered = true
			if up && !p.listened && i.State == registry.In {
				p.through = true
			}
		})
	}
	return ps
}

// begin notes who listens as a drain begins.
func (ps ports) begin() ports {
	ps = slices.Clone(ps)
	for i := range ps {
		ps[i].atBegin, ps[i].stopped = ps[i].sockets, false
	}
	return ps
}

// identified reports whether the app's ports are known by more than that somebody listens: given,
// or registered.
func (ps ports) identified() bool {
	return slices.ContainsFunc(ps, func(p port) bool { return p.given || p.registered && p.listened })
}

// deciding are the ports that say whether the app lives: those given and those registered. Without
// any, or where the given ones are only a way to others, they are those that were found; and of
// these no ephemeral ones if there are others.
func (ps ports) deciding() ports {
	var known, found, fleeting ports
	through, listened := false, false
	for _, p := range ps {
		switch {
		case p.given || p.registered && p.listened:
			known = append(known, p)
			listened = listened || p.listened
			through = through || p.through
		case p.unmissed || !p.listened || p.foreign:
		case p.ephemeral():
			fleeting = append(fleeting, p)
		default:
			found = append(found, p)
		}
	}
	switch {
	case len(known) > 0 && (listened || !through):
		return known
	case len(found) > 0:
		return found
	}
	return fleeting
}

// state is what the deciding ports say together.
func (ps ports) state() appState {
	up, gone := false, false
	for _, p := range ps.deciding() {
		up = up || p.up()
		gone = gone || p.gone()
	}
	switch {
	case up && gone:
		return appPartly
	case up:
		return appUp
	case gone:
		return appGone
	}
	return appAbsent
}

// afterDeadline is how long after the deadline of a drain a deleted Pod is surely gone: what is
// there still, lives.
const afterDeadline = time.Minute

// returned reports whether the app, or one of its containers, listens anew at now since the drain
// began; running says that it is not over, ended and deadline are its own. A port on which nobody
// listened when it began can only tell of a return if there was nothing of the app then, if it
// began to listen after the drain, or if the Pod should long be gone.
func (ps ports) returned(running bool, ended, deadline, now time.Time) bool {
	deciding := ps.deciding()
	none := !slices.ContainsFunc(deciding, func(p port) bool { return len(p.atBegin) > 0 })
	return slices.ContainsFunc(deciding, func(p port) bool {
		if len(p.atBegin) > 0 {
			return p.another(running)
		}
		over := p.since.After(ended) || !now.Before(deadline.Add(afterDeadline))
		return p.up() && (none || !running && over)
	})
}

// newcomer reports whether a port listens on which nobody did when the drain began.
func (ps ports) newcomer() bool {
	return slices.ContainsFunc(ps.deciding(), func(p port) bool {
		return p.up() && len(p.atBegin) == 0
	})
}

// dead are the ports whose instances nobody can reach any more.
func (ps ports) dead() []uint16 {
	gone := ps.state() == appGone
	return ps.numbers(func(p port) bool { return p.gone() || p.through && !p.listened && gone })
}

// held are the ports on which nobody has listened yet: an instance there is what an earlier life of
// the Pod left, or what another Pod left that had the address before, so it is not put in.
func (ps ports) held() []uint16 {
	return ps.numbers(func(p port) bool { return !p.listened })
}

// live are the ports that are listened on now, by whomever.
func (ps ports) live() []uint16 { return ps.numbers(port.up) }

// listening are the app's ports that are listened on now.
func (ps ports) listening() []uint16 {
	return ps.numbers(func(p port) bool { return p.up() && (p.given || p.registered || !p.foreign) })
}

// since tells of each port that may be one of the app's, and that listens, since when.
func (ps ports) since() map[uint16]time.Time {
	all := map[uint16]time.Time{}
	for _, p := range ps {
		if p.up() && p.mayServe() {
			all[p.number] = p.since
		}
	}
	for _, p := range ps.deciding() { // an app with a random port has none but ephemeral ones
		if p.up() {
			all[p.number] = p.since
		}
	}
	return all
}

// past tells of each port that may be one of the app's, and that is gone, since when it is.
func (ps ports) past() map[uint16]time.Time {
	all := map[uint16]time.Time{}
	for _, p := range ps {
		if p.gone() && p.mayServe() {
			all[p.number] = p.since
		}
	}
	return all
}

// known are the ports by which an instance is the Pod's: those given, and those on which somebody
// listens or has listened.
func (ps ports) known() []uint16 {
	return ps.numbers(func(p port) bool { return p.given || p.listened })
}

// counted are the ports whose connections count: those given and those registered if there are
// given ones and somebody listened there, else every one that was found.
func (ps ports) counted() []uint16 {
	narrow := slices.ContainsFunc(ps, func(p port) bool { return p.given && p.listened })
	return ps.numbers(func(p port) bool {
		if narrow {
			return p.given || p.registered
		}
		return p.given || p.listened
	})
}

func (ps ports) numbers(of func(port) bool) []uint16 {
	var n []uint16
	for _, p := range ps {
		if of(p) {
			n = append(n, p.number)
		}
	}
	return n
}

// shown are the ports that people are told of: those that decide, and those where an instance is.
func (ps ports) shown() ports {
	deciding := ps.deciding()
	return slices.DeleteFunc(slices.Clone(ps), func(p port) bool {
		same := func(d port) bool { return d.number == p.number }
		return !p.registered && !slices.ContainsFunc(deciding, same)
	})
}
