package conns

import (
	"bufio"
	"cmp"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/inuse"
)

// mostSuspects bounds the connections of one look whose client is inside the Pod and that are kept until
// it is known who he is. What is beyond counts.
const mostSuspects = 4096

// owner is whom a socket belongs to, as far as the kernel tells.
type owner struct {
	cgroup uint64 // its container's, where cgroup v2 is
	uid    uint32
}

// place is an address and port.
type place struct {
	address [16]byte
	port    uint16
}

func (c *connection) localEnd() place  { return place{c.local, c.localPort} }
func (c *connection) remoteEnd() place { return place{c.remote, c.remotePort} }

// origins tells who opened the connections to the app's ports: a client outside the Pod, or somebody
// inside. Both ends of a connection inside the Pod are in the same table.
//
// One that was opened inside counts if its client is a proxy with a client outside that does not count
// already where it comes in. In a mesh that is the second leg of each request: the client connects to the
// proxy's 15006 (iptables redirects him there), the proxy to the app from 127.0.0.6 (Istio) or 127.0.0.1
// (linkerd). What the app and the sidecars send is redirected to the proxy's 15001: there the client's end
// tells the original destination and the proxy's end its own port, so that only the client's address and
// port are the same at both ends.
type origins struct {
	rule *Rule
	// apart: there is an inside, in which these addresses are.
	apart bool
	home  [][16]byte // few: a map of them would be most of our cost
	// sockets are our own, with what they are connected to, as of this look; nil: not looked up yet.
	sockets map[place]place
	// listening are the ports that are listened on at this look.
	listening portSet
	// container is that of our own listener; 0 if it is not known.
	container uint64
	suspects  []suspect
	// opened are the connections to ports that nobody listens on which are known to be the app's own, by
	// cookie: while something is under way the kernel's figures do not tell.
	opened map[uint64]struct{}
	// clients are the owners of the client ends that were found, by the inode or cookie of the other end, in
	// the last look and in this one.
	clients, before map[uint64]owner
	// proxied: a proxy had a client outside at the last look, so that what it says counts.
	proxied bool
}

// suspect is a connection to a port of the app whose client is inside the Pod.
type suspect struct {
	message
	at     time.Time
	owner  owner // the client's
	known  bool
	exact  bool // the client's end has the same addresses and ports
	counts bool
}

// begin begins a look. It finds the Pod's addresses.
func (o *origins) begin(rule *Rule) {
	o.rule = rule
	o.sockets = nil
	o.restart()
	o.clients, o.before = make(map[uint64]owner), o.clients
	var known, outside bool
	o.home, known, outside = addresses(o.home[:0])
	o.apart = known && outside && !rule.Shared && !machines()
}

// restart forgets what the look has seen.
func (o *origins) restart() { o.suspects, o.listening = o.suspects[:0], portSet{} }

// addresses appends the addresses of the network namespace. It reports whether they are known, and whether
// there is one besides the loopback interface's: else there is nobody outside.
func addresses(home [][16]byte) (all [][16]byte, known, outside bool) {
	found, err := net.InterfaceAddrs()
	for _, a := range found {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		home = append(home, ip.As16())
		ip = ip.Unmap()
		outside = outside || !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
	}
	return home, err == nil, outside
}

// machines reports whether the network namespace is the machine's own, in which other Pods may be: only
// there net.core has the settings that are not a namespace's (net/core/sysctl_net_core.c).
func machines() bool {
	_, err := os.Stat("/proc/sys/net/core/netdev_max_backlog")
	return err == nil
}

// inside reports whether an address is one of the Pod itself.
func (o *origins) inside(a [16]byte) bool {
	if a[10] == 0xff && a[11] == 0xff && a[12] == 127 && [10]byte(a[:10]) == [10]byte{} {
		return true
	}
	return slices.Contains(o.home, a)
}

// isOwn reports whether prestop itself is the client of a connection.
func (o *origins) isOwn(c *connection) bool {
	if o.rule.Own == 0 {
		return false
	}
	if o.sockets == nil {
		o.sockets = ownSockets()
	}
	to, own := o.sockets[c.remoteEnd()]
	// What was redirected went to somewhere outside. Else both ends have the same addresses: a port may be
	// lent to several clients, each to another destination.
	return own && (to == c.localEnd() || !o.inside(to.address))
}

// ownSockets returns the TCP sockets of this process, with what they are connected to.
func ownSockets() map[place]place {
	own := make(map[place]place)
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return own
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		to, err := unix.Getpeername(fd)
		if err != nil {
			continue // no socket, or not connected
		}
		from, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		if local, ok := endOf(from); ok {
			own[local], _ = endOf(to)
		}
	}
	return own
}

func endOf(a unix.Sockaddr) (place, bool) {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return place{mapped(a.Addr), uint16(a.Port)}, true
	case *unix.SockaddrInet6:
		return place{a.Addr, uint16(a.Port)}, true
	}
	return place{}, false
}

// admit says of a connection to a port of the app whether it counts; unless it is known why not, or whether
// it does is known only when the whole table was seen.
func (o *origins) admit(m *message, at time.Time) (counts bool, why Reason) {
	switch {
	case m.toItself():
		return false, Outgoing
	case o.rule.excludes(m.remote):
		return false, Excluded
	case !o.listening.has(m.localPort) && o.appOpened(m):
		return false, Outgoing // the port was free again, and the kernel lent it
	case !o.inside(m.remote):
		return true, ""
	case o.isOwn(&m.connection):
		return false, Own
	case !o.apart || len(o.suspects) == mostSuspects:
		return true, ""
	}
	o.suspects = append(o.suspects, suspect{message: *m, at: at})
	return false, ""
}

// appOpened reports whether the app opened a connection, of a port that nobody listens on.
func (o *origins) appOpened(m *message) bool {
	if _, known := o.opened[m.cookie]; known {
		return true
	}
	if m.opened {
		if o.opened == nil || len(o.opened) == mostSuspects {
			o.opened = make(map[uint64]struct{}) // those that live are found again
		}
		o.opened[m.cookie] = struct{}{}
	}
	return m.opened
}

// id names the app's end of a suspect between looks; 0 if nothing does.
func (s *suspect) id() uint64 { return cmp.Or(s.cookie, uint64(s.inode)) }

// table calls each for the sockets of the network namespace, listening ones first.
type table func(restart func(), each func(*message)) error

// resolve finds out which suspects count, from tables that are read after the one that had them: whatever
// was behind them then is seen.
func (o *origins) resolve(sockets table, counted *portSet) error {
	o.proxied = false
	if len(o.suspects) == 0 {
		return nil
	}
	w := web{origins: o, counted: counted}
	if err := sockets(w.restart, w.server); err != nil {
		return err
	}
	w.find()
	if err := sockets(w.restartClients, w.client); err != nil {
		return err
	}
	w.spread()
	for i := range o.suspects {
		s := &o.suspects[i]
		if !s.known {
			s.owner, s.known = o.before[s.id()] // the client has closed its end
		}
		if s.known && s.id() != 0 {
			o.clients[s.id()] = s.owner
		}
		// One that is connected to nobody was connected a moment ago: the next look will know.
		if s.counts = s.State == inuse.Established; s.known {
			_, s.counts = w.fronts[w.whose(s.owner)]
		}
	}
	o.proxied = len(w.fronts) > 0
	return nil
}

// web is who is connected to whom inside the Pod.
type web struct {
	*origins
	counted *portSet
	// listeners are the ports that are listened on, by whom.
	listeners map[uint16]owner
	// apps are the owners of listeners on counted ports.
	apps map[owner]struct{}
	// fronts are the owners that a client outside is connected to, which does not count there; set apart
	// those at excluded ports alone.
	fronts, hidden map[owner]struct{}
	// servers are the owners of connections that were opened inside the Pod, by the client's end, but those
	// that count may count.
	servers map[place]owner
	edges   map[[2]owner]struct{} // from client to server
	ends    map[place][]int       // the suspects, by the client's end
}

func (w *web) restart() {
	w.listeners = make(map[uint16]owner)
	w.apps, w.fronts, w.hidden = make(map[owner]struct{}), make(map[owner]struct{}), make(map[owner]struct{})
	w.servers = make(map[place]owner)
}

// whose is the owner that is told apart: a container, where those of the Pod have each its cgroup, else a
// user.
func (w *web) whose(o owner) owner {
	if o.cgroup != 0 && w.container != 0 && o.cgroup != w.container {
		return owner{cgroup: o.cgroup}
	}
	return owner{uid: o.uid}
}

// server takes the server's ends.
func (w *web) server(m *message) {
	if w.listeners == nil {
		w.restart()
	}
	port := m.localPort
	if m.State == stateListen {
		who := w.whose(m.owner)
		w.listeners[port] = who
		if w.counted.has(port) {
			w.apps[who] = struct{}{}
		}
		return
	}
	who, listens := w.listeners[port]
	if !listens || port == w.rule.Own && port != 0 || w.counted.has(port) || m.opened {
		return
	}
	if m.inode != 0 {
		who = w.whose(m.owner)
	}
	switch {
	case w.rule.excludes(m.remote):
	case w.inside(m.remote):
		if len(w.servers) < 2*mostSuspects {
			w.servers[m.remoteEnd()] = who
		}
	case slices.Contains(w.rule.ExcludePorts, port):
		w.hidden[who] = struct{}{}
	default:
		w.fronts[who] = struct{}{}
	}
}

// find prepares for the clients' ends.
func (w *web) find() {
	for who := range w.hidden {
		// An app's port that does not count makes no proxy of it. A proxy's does: its user wants each
		// request counted once.
		if _, app := w.apps[who]; !app {
			w.fronts[who] = struct{}{}
		}
	}
	w.ends = make(map[place][]int, len(w.suspects))
	for i := range w.suspects {
		end := w.suspects[i].remoteEnd()
		w.ends[end] = append(w.ends[end], i)
	}
	w.restartClients()
}

func (w *web) restartClients() {
	w.edges = make(map[[2]owner]struct{})
	for i := range w.suspects {
		w.suspects[i].known, w.suspects[i].exact = false, false
	}
}

// client takes the clients' ends.
func (w *web) client(m *message) {
	if m.State == stateListen || m.inode == 0 {
		return
	}
	end := m.localEnd()
	if server, found := w.servers[end]; found {
		w.edges[[2]owner{w.whose(m.owner), server}] = struct{}{}
	}
	for _, i := range w.ends[end] {
		s := &w.suspects[i]
		exact := s.localEnd() == m.remoteEnd()
		if exact || !s.exact {
			s.owner, s.known, s.exact = m.owner, true, exact
		}
	}
}

// spread finds who has a client outside by way of others.
func (w *web) spread() {
	for again := true; again; {
		again = false
		for e := range w.edges {
			_, from := w.fronts[e[0]]
			if _, to := w.fronts[e[1]]; from && !to {
				w.fronts[e[1]], again = struct{}{}, true
			}
		}
	}
}

// mayHear reports whether what was said on a connection to the app's ports that has ended is a client's
// word.
func (o *origins) mayHear(m *message) bool {
	if m.toItself() || o.rule == nil || o.rule.excludes(m.remote) {
		return false
	}
	if !o.inside(m.remote) {
		return true
	}
	return !o.isOwn(&m.connection) && (!o.apart || o.proxied)
}

// backlog knows the ports whose accept queue was full: then the kernel does not take a client's last word of
// the handshake, sends its SYN-ACK again, and the client, who is connected, sends its request again.
type backlog struct {
	file  string // /proc/net/netstat
	ports map[uint16]time.Time
	// overflows are how many clients the kernel could not queue on any port, and any is when more were seen.
	overflows uint64
	any       time.Time
	fresh     bool // read in this look
}

// open reads how many there have been.
func (b *backlog) open(file string) {
	b.file, b.ports = file, make(map[uint16]time.Time)
	b.overflows, _ = listenOverflows(file)
}

func (b *backlog) begin() { b.fresh = false }

// note takes a listening socket.
func (b *backlog) note(port uint16, queued, most uint32, now time.Time) {
	if queued > most {
		b.ports[port] = now
	}
}

// held reports whether a connection whose SYN-ACK was sent again so many times may wait behind a full queue.
// The kernel sends it after 1, 2, 4 … seconds: for so long the connection is there.
func (b *backlog) held(port uint16, again uint8, now time.Time) bool {
	if !b.fresh {
		b.fresh = true
		if n, err := listenOverflows(b.file); err == nil && n != b.overflows {
			b.overflows, b.any = n, now
		}
	}
	full := b.any
	if at := b.ports[port]; at.After(full) {
		full = at
	}
	age := time.Second<<(min(again, 8)+1) + time.Second
	return !full.IsZero() && now.Sub(full) <= age
}

// listenOverflows reads ListenOverflows of TcpExt: two lines for each protocol, names and values.
func listenOverflows(file string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var names []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "ListenOverflows"); i > 0 && i < len(fields) {
			return strconv.ParseUint(fields[i], 10, 64)
		}
	}
	return 0, os.ErrNotExist
}
