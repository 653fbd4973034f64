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

	ends *ends // nil without events
	ear  *ear  // nil without events
	rest rest
}

// openNetlink looks at the listeners once, so that a kernel that refuses is known now.
func openNetlink(rule Rule, log *slog.Logger) (Counter, error) {
	n := &netlinkCounter{turn: newTurn(), look: look{rule: rule}, log: log, rest: rest{slow: slowLook}}
	n.backlog.open("/proc/thread-self/net/netstat")
	ends, endsErr := openEnds(log)
	if endsErr == nil {
		n.ends, n.ear = ends, newEar(&n.look)
		n.ear.origins = &n.origins
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := n.Listeners(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if endsErr != nil {
		log.Warn("the kernel does not tell when connections end: they are looked at from time to time"+deafness(rule), "reason", endsErr)
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
		if n.ends == nil || !n.ends.watchListeners(&ports) {
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
	n.rest.begin(ports)
	o := &n.origins
	o.begin(&l.rule)
	n.backlog.begin()
	restart := func() { l.restart(); n.rest.restart(); o.restart() }
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
		n.rest.forget()
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
	t.Expired, n.rest.expired = t.Expired+n.rest.expired, 0
	n.rest.end(t, l.heard)
	if n.rest.few && n.ear != nil {
		n.ear.keep(n.rest.all)
	}
	return t, nil
}

// count counts a connection of a whole look.
func (n *netlinkCounter) count(m *message) {
	if m.SynAckRetransmits > 0 && m.opening() && n.backlog.held(m.localPort, m.SynAckRetransmits, n.look.at) {
		m.SynAckRetransmits = 0 // the client is there
	}
	if n.look.add(m.connection, &m.Sample, m.cookie) == inuse.InUse {
		n.rest.add(m)
	}
}

// hear returns what was heard on connections that have ended.
func (n *netlinkCounter) hear() heard {
	if n.ear == nil {
		return heard{deaf: true}
	}
	h := n.ear.hear()
	if err := n.ear.broken; err != nil {
		n.ear.broken = nil
		n.log.Warn("the kernel does not tell any more what was said on connections that end"+deafness(n.look.rule), "error", err)
	}
	return h
}

func (n *netlinkCounter) Watch(ports []uint16) {
	if n.ends != nil {
		n.ends.watch(ports)
	}
	if n.ear == nil || n.turn.take(context.Background()) != nil {
		return
	}
	defer n.turn.release()
	n.rest.forget()
	if err := n.ear.listen(ports); err != nil {
		n.log.Warn("the kernel does not tell what was said on connections that end"+deafness(n.look.rule), "error", err)
	}
}

func (n *netlinkCounter) Ended() <-chan struct{} {
	if n.ends == nil || n.ends.broken.Load() {
		return nil
	}
	return n.ends.told
}

func (n *netlinkCounter) Close() error {
	if n.ends == nil {
		return nil
	}
	if n.ear != nil && n.turn.take(context.Background()) == nil {
		n.ear.close()
		n.turn.release()
	}
	return n.ends.close()
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
