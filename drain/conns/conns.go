// Package conns counts who is still connected to the Pod's applications, from the kernel's socket tables.
//
// All containers of a Pod share one network namespace, so the sidecar sees every socket of the app without being in the
// data path. Facts behind the code: Linux include/uapi/linux/{inet_diag,sock_diag,tcp}.h.
package conns

import (
	"context"
	"net/netip"
	"time"
)

// Counter looks at the TCP sockets of the Pod. netlink_linux.go and proc_linux.go implement it, and
// drain/scrape.
// Its methods may be called by several goroutines; looks are made one after the other.
type Counter interface {
	// Source names where the figures come from: "netlink", "proc" or "prometheus".
	Source() string
	// Listeners returns the listening sockets of the Pod but those of the excluded ports, without order.
	Listeners(ctx context.Context) ([]Listener, error)
	// Count counts the connections that clients have opened to ports. The app's outgoing connections never count, nor
	// do connections to excluded ports or from excluded peers. No ports: no connections.
	Count(ctx context.Context, ports []uint16) (Tally, error)
	// CountFew asks for no more than the few connections that the last Count found in use, which costs next to nothing and so
	// needs no pace. It reports whether that proves what all connections do. Where it does not, Active is how many of those
	// are in use still, and NextIdle theirs; the rest of the tally means nothing.
	CountFew(ctx context.Context, ports []uint16) (t Tally, proved bool)
	// Watch chooses what Ended tells: the end of the sockets that Listeners last returned always; with ports also that of
	// connections to them.
	Watch(ports []uint16)
	// Ended receives, within a millisecond, after a watched socket ended or events may have been lost; several ends may
	// be told as one. What ends while nobody receives is told to the next receive and costs nothing until then, so a
	// receiver that paces its looks receives only when it is ready to look. nil if the source has no events: then look
	// again from time to time.
	Ended() <-chan struct{}
	// Close frees what the counter holds and ends its goroutines, and waits for them.
	Close() error
}

// Listener is one listening socket.
type Listener struct {
	Port uint16
	// ID tells this socket from a later one on the same port: the socket's inode, whatever the source.
	ID uint64
	// Address is the local address that it is bound to: unspecified for all of a family, loopback for
	// one that nobody outside the Pod reaches but through a proxy.
	Address netip.Addr
	// UID is the user of the process that opened it, where HasUID. A mesh's proxy has one of its own:
	// 1337 (Istio), 2102 (linkerd).
	UID    uint32
	HasUID bool
	// Cgroup is the same for the sockets of one container, and another for each, on a machine with
	// cgroup v2; 0 where the kernel does not tell (before Linux 5.8, and in /proc).
	Cgroup uint64
}

// MaxPeers bounds Tally.Peers, so that what is told of it stays small however many are connected.
const MaxPeers = 20

// Tally is one count.
type Tally struct {
	// Source is the counter's.
	Source string
	// Began is when the look began: what happened before is in the tally.
	Began time.Time
	// Took is how long it took, without what the counter waited for others.
	Took time.Duration
	// Open connections are in use (Active) or not (Idle): Open = Active + Idle.
	Open, Active, Idle int
	// Expired of the idle ones are so because nothing was said for Rule.RequestTimeout: a request may be in flight, and is not believed
	// to be any more. They are told once, when it is found out; never by a source without clocks.
	Expired int
	// NextIdle is the time from Began before which no active connection can be idle, unless it ends: one that is quiet
	// gets there by itself, one in flight may be answered now. 0 when none can: only ends matter. A source that cannot
	// know says when to ask it again.
	NextIdle time.Duration
	// LeftOut are the connections to the ports that are not in Open, by port and reason, at most
	// MaxLeftOut: of those with the most connections.
	LeftOut []LeftOut
	// Peers are the clients with the most active connections, those first, at most MaxPeers.
	Peers []Peer
	// Heard is the last moment at which a client may have connected or sent a byte since the ports are watched, also on a
	// connection that came and went between two looks; of one that ended in the last moments before Began the kernel's
	// word may be missing yet (WordLag). Zero without Rule.Hear, and if the source cannot tell.
	Heard time.Time
	// HeardFrom is that client, if it is known.
	HeardFrom netip.Addr
}

// MaxLeftOut bounds Tally.LeftOut.
const MaxLeftOut = 20

// Reason is why a connection is left out of a count.
type Reason string

// The reasons.
const (
	// Own: prestop opened it.
	Own Reason = "own"
	// Inside: it was opened inside the Pod, and no client outside is behind it, or only one whose
	// connection counts where it comes in.
	Inside Reason = "inside"
	// Outgoing: the app opened it, from a port that it listened on once.
	Outgoing Reason = "outgoing"
	// Excluded: Rule.ExcludePeers has its client.
	Excluded Reason = "excluded"
)

// LeftOut is how many open connections to a port are left out for one reason.
type LeftOut struct {
	Reason Reason
	Port   uint16
	Open   int
}

// WordLag bounds how long after the end of a connection the kernel's word of it comes: measured 40 to 300 us, and a few
// milliseconds where the machine has no time.
const WordLag = 50 * time.Millisecond

// Peer is one client address, with its connections to one port of the app.
type Peer struct {
	Address netip.Addr
	Port    uint16
	// Active and Open count its connections; among thousands, idle ones may be missing.
	Active, Open int
	// Since is for how long the longest-waiting of the active ones has been silent; 0 when the source cannot tell.
	Since time.Duration
	// ClientPort is the client's port of that one; 0 when none is active.
	ClientPort uint16
}

// Rule says which connections do not count, and when an open one is not in use.
type Rule struct {
	// IdleAfter: a connection that was answered and then quiet for this long is not in use. 0: every open one is in use.
	IdleAfter time.Duration
	// RequestTimeout: a request without a byte either way for longer than this is not believed in flight any more.
	RequestTimeout time.Duration
	// Hear: Tally.Heard is wanted. It costs what the idleness of connections costs.
	Hear bool
	// ExcludePorts do not count and are not listeners of the app.
	ExcludePorts []uint16
	// Own is the sidecar's port: who is connected to it makes no proxy of prestop, and what this process
	// opens does not count. 0: this process is no sidecar.
	Own uint16
	// Shared: other Pods are in the same network namespace (hostNetwork), so that a client inside it
	// may be one of another Pod. It is known without being said of the machine's own namespace.
	Shared bool
	// ExcludePeers are client addresses that do not count.
	ExcludePeers []netip.Prefix
}
