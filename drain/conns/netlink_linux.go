package conns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"prestop/drain/conns/inuse"
	"prestop/drain/conns/sockdiag"
)

// netlinkCounter asks the kernel by NETLINK_SOCK_DIAG, which needs no privilege. Its memory does not grow with the number of
// connections: one datagram is parsed before the next is received.
type netlinkCounter struct {
	turn   turn // guards the fields below
	dumper sockdiag.Dumper
	look   look
	msg    message
	log    *slog.Logger

	origins  origins
	backlog  backlog
	listened portSet // the ports that were listened on at the last list

	events    *destroyEvents // nil without events
	closed    *closedConns   // nil without events
	shortlist shortlist
}

// openNetlink looks at the listeners once, so that a kernel that refuses is known now.
func openNetlink(rule Rule, log *slog.Logger) (Counter, error) {
	n := &netlinkCounter{turn: newTurn(), look: look{rule: rule}, log: log, shortlist: shortlist{slow: slowLook}}
	n.backlog.open("/proc/thread-self/net/netstat")
	events, eventsErr := openDestroyEvents(log)
	if eventsErr == nil {
		n.events, n.closed = events, newClosedConns(&n.look)
		n.closed.origins = &n.origins
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := n.Listeners(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if eventsErr != nil {
		log.Warn("the kernel does not tell when connections end: they are looked at from time to time"+withoutActivity(rule), "reason", eventsErr)
	}
	return n, nil
}

func (n *netlinkCounter) Source() string { return Netlink }

func (n *netlinkCounter) Listeners(ctx context.Context) ([]Listener, error) {
	if err := n.turn.take(ctx); err != nil {
		return nil, fmt.Errorf("list listening sockets: %w", err)
	}
	defer n.turn.release()
	var excluded portSet
	excluded.set(n.look.rule.ExcludePorts, nil)
	for {
		var listeners []Listener
		var ports portSet
		restart := func() { listeners, ports, n.listened = nil, portSet{}, portSet{} }
		restart()
		err := n.dump(ctx, 1<<stateListen, false, nil, restart, func(m *message) {
			n.listened.add(m.localPort)
			if m.localPort == n.look.rule.Own {
				n.origins.container = m.owner.cgroup
			}
			if !excluded.has(m.localPort) {
				listeners = append(listeners, m.listener())
				ports.add(m.localPort)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list listening sockets by netlink: %w", err)
		}
		if n.events == nil || !n.events.watchListeners(&ports) {
			return listeners, nil
		}
		// One that is listed has its end told from now on, so it must not have ended before.
	}
}

func (n *netlinkCounter) Count(ctx context.Context, ports []uint16) (Tally, error) {
	if err := n.turn.take(ctx); err != nil {
		return Tally{}, fmt.Errorf("count connections: %w", err)
	}
	defer n.turn.release()
	l := &n.look
	l.begin(Netlink, ports)
	wanted := l.ports.list()
	if len(wanted) == 0 {
		return l.end(), nil
	}
	l.heard = n.hear() // before the dump: what ended later is in it, or happened after it began
	n.shortlist.begin(ports)
	o := &n.origins
	o.begin(&l.rule)
	n.backlog.begin()
	restart := func() { l.restart(); n.shortlist.restart(); o.restart() }
	// Without tcp_info, which is most of the cost, nothing is idle, and nothing tells who opened a connection
	// to a port that nobody listens on: else do not ask for it.
	info := l.rule.IdleAfter > 0 || l.rule.Hear || !n.listened.contains(&l.ports)
	err := n.dump(ctx, openStates|1<<stateListen, info, wanted, restart, func(m *message) {
		if !l.ports.has(m.localPort) {
			return
		}
		if m.State == stateListen {
			o.listening.add(m.localPort)
			n.backlog.note(m.localPort, m.Unread, m.Unacked, l.at)
			return
		}
		if counts, why := o.admit(m, l.at); counts {
			n.count(m)
		} else if why != "" && m.open() {
			l.leaveOut(m.localPort, why)
		}
	})
	if err == nil {
		err = o.resolve(func(restart func(), each func(*message)) error {
			return n.dump(ctx, openStates|1<<stateListen|1<<stateSynSent, false, nil, restart, each)
		}, &l.ports)
	}
	if err != nil {
		n.shortlist.forget()
		return Tally{}, fmt.Errorf("count connections by netlink: %w", err)
	}
	for i := range o.suspects {
		s := &o.suspects[i]
		if l.at = s.at; s.counts {
			n.count(&s.message)
		} else if s.open() {
			l.leaveOut(s.localPort, Inside)
		}
	}
	t := l.end()
	t.Expired, n.shortlist.expired = t.Expired+n.shortlist.expired, 0
	n.shortlist.end(t, l.heard)
	if n.shortlist.few && n.closed != nil {
		n.closed.keep(n.shortlist.all)
	}
	return t, nil
}

// count counts a connection of a whole look.
func (n *netlinkCounter) count(m *message) {
	if m.SynAckRetransmits > 0 && m.opening() && n.backlog.held(m.localPort, m.SynAckRetransmits, n.look.at) {
		m.SynAckRetransmits = 0 // the client is there
	}
	if n.look.add(m.connection, &m.Sample, m.cookie) == inuse.InUse {
		n.shortlist.add(m)
	}
}

// hear returns what was heard on connections that have ended.
func (n *netlinkCounter) hear() activity {
	if n.closed == nil {
		return activity{unknown: true}
	}
	h := n.closed.hear()
	if err := n.closed.broken; err != nil {
		n.closed.broken = nil
		n.log.Warn("the kernel does not tell any more what was said on connections that end"+withoutActivity(n.look.rule), "error", err)
	}
	return h
}

func (n *netlinkCounter) Watch(ports []uint16) {
	if n.events != nil {
		n.events.watch(ports)
	}
	if n.closed == nil || n.turn.take(context.Background()) != nil {
		return
	}
	defer n.turn.release()
	n.shortlist.forget()
	if err := n.closed.listen(ports); err != nil {
		n.log.Warn("the kernel does not tell what was said on connections that end"+withoutActivity(n.look.rule), "error", err)
	}
}

func (n *netlinkCounter) Ended() <-chan struct{} {
	if n.events == nil || n.events.broken.Load() {
		return nil
	}
	return n.events.told
}

func (n *netlinkCounter) Close() error {
	if n.events == nil {
		return nil
	}
	if n.closed != nil && n.turn.take(context.Background()) == nil {
		n.closed.close()
		n.turn.release()
	}
	return n.events.close()
}

// dump calls each for the TCP sockets in states, with tcp_info if info, and with ports only those that have
// one as their own. The message is reused between calls.
func (n *netlinkCounter) dump(ctx context.Context, states uint32, info bool, ports []uint16, restart func(), each func(*message)) error {
	return n.dumper.Dump(ctx, sockdiag.Request{States: states, Info: info, Ports: ports}, restart, func(at time.Time, d *sockdiag.Message) {
		n.look.at = at
		n.msg.from(d)
		each(&n.msg)
	})
}
