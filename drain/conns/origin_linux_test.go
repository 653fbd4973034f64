package conns

import (
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/connstest"
)

// The users of the processes in a Pod.
const (
	theApp     = 1000
	istioProxy = 1337
	linkerd    = 2102
	aSidecar   = 101
	theSidecar = 65534 // prestop
	anybody    = -1    // outside the Pod
)

// house is a Pod with an interface and somebody outside, whose sockets belong to whom the test wants.
type house struct {
	t       *testing.T
	outside *connstest.Outside
}

func newHouse(t *testing.T) *house {
	t.Helper()
	connstest.Pod(t)
	outside, err := connstest.NewOutside(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(outside.Close)
	return &house{t, outside}
}

// istio redirects what the Pod receives to 15006, and what it sends to 15001, as istio-init does.
func (h *house) istio() {
	h.t.Helper()
	for _, rule := range []string{
		"PREROUTING -p tcp --dport 8090 -j RETURN",
		"PREROUTING -p tcp -j REDIRECT --to-ports 15006",
		"OUTPUT -m owner --uid-owner 1337 -j RETURN",
		"OUTPUT -o lo -j RETURN",
		"OUTPUT -p tcp -j REDIRECT --to-ports 15001",
	} {
		out, err := exec.Command("sh", "-c", "exec iptables -w -t nat -A "+rule).CombinedOutput()
		if err != nil {
			h.t.Fatalf("iptables (of iptables): %v: %s", err, out)
		}
	}
}

// as runs f as a user: sockets that it opens or accepts are his.
func (h *house) as(uid int, f func()) {
	h.t.Helper()
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		h.t.Fatal(err)
	}
	defer unix.SetfsuidRetUid(0)
	f()
}

func (h *house) listen(uid int, address string) (l net.Listener) {
	h.t.Helper()
	h.as(uid, func() { l, _ = listen(h.t, "tcp", address) })
	return l
}

// pair is a connection to l, with the users that accept and open it. from is the client's address, "" any.
func (h *house) pair(l net.Listener, accepts, opens int, from, to string) (client, server net.Conn) {
	h.t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	var err error
	open := func() { client, err = d.Dial("tcp", to) }
	if opens == anybody {
		h.outside.Do(open)
	} else {
		h.as(opens, open)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { client.Close() })
	h.as(accepts, func() { server, err = l.Accept() })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { server.Close() })
	return client, server
}

// ask sends something and waits until it is there.
func (h *house) ask(from, to net.Conn) {
	h.t.Helper()
	write(h.t, from)
	if _, err := to.Read(make([]byte, 100)); err != nil {
		h.t.Fatal(err)
	}
}

// counter opens a source in the Pod's namespace, and lists the listeners as a drain does before a count.
func (h *house) counter(source string, rule Rule) Counter {
	h.t.Helper()
	var c Counter
	var err error
	if source == Netlink {
		c = counter(h.t, Netlink, rule)
	} else if c, err = openProcIn("/proc/thread-self/net", rule); err != nil {
		h.t.Fatal(err)
	}
	listeners(h.t, c)
	return c
}

// wants fails unless so many connections to ports are in use, by every source.
func (h *house) wants(what string, rule Rule, n int, ports ...uint16) {
	h.t.Helper()
	for _, source := range sources {
		tally := count(h.t, h.counter(source, rule), ports...)
		if tally.Active != n {
			h.t.Errorf("%s, by %s of ports %d: %d in use, want %d; %+v", what, source, ports, tally.Active, n, tally)
		}
	}
}

var longIdle = Rule{IdleAfter: time.Minute, RequestTimeout: time.Hour}

func TestInAMeshARequestCountsOnceAndNothingElse(t *testing.T) {
	h := newHouse(t)
	h.istio()
	app, in, out := h.listen(theApp, ":8080"), h.listen(istioProxy, ":15006"), h.listen(istioProxy, ":15001")
	var kafka net.Listener
	h.outside.Do(func() { kafka, _ = listen(t, "tcp", ":9092") })
	const backend = "10.0.0.2:9092"
	every := []uint16{8080, 15001, 15006}
	for _, uid := range []int{theApp, theApp, theSidecar, aSidecar} { // Kafka, a database, prestop's registry, another
		client, server := h.pair(out, istioProxy, uid, "", backend)
		h.ask(client, server)
		onward, there := h.pair(kafka, 0, istioProxy, "", backend)
		h.ask(onward, there)
	}
	wants := func(what string, n int) {
		t.Helper()
		h.wants(what, longIdle, n, 8080)
		h.wants(what, longIdle, n, every...)
		without := longIdle
		without.ExcludePorts = []uint16{15001, 15006}
		h.wants(what+", with the proxy's ports excluded", without, n, every...)
	}
	wants("nobody calls", 0)
	tally := count(t, h.counter(Netlink, longIdle), every...)
	if want := []LeftOut{{Inside, 15001, 4}}; !slices.Equal(tally.LeftOut, want) {
		t.Errorf("left out are %+v, want %+v", tally.LeftOut, want)
	}

	client, server := h.pair(in, istioProxy, anybody, "", "10.0.0.1:8080")
	h.ask(client, server)
	leg, end := h.pair(app, theApp, istioProxy, "127.0.0.6", "10.0.0.1:8080")
	h.ask(leg, end)
	wants("a request", 1)

	leg.Close()
	end.Close()
	client.Close()
	server.Close()
	wants("after its end", 0)

	// The proxy keeps its connection to the app, and checks it.
	h.ask(h.pair(app, theApp, istioProxy, "127.0.0.6", "10.0.0.1:8080"))
	wants("what the proxy says for itself", 0)
}

func TestInLinkerdsMeshARequestCountsOnce(t *testing.T) {
	h := newHouse(t)
	app, in := h.listen(theApp, "127.0.0.1:8080"), h.listen(linkerd, ":4143")
	wants := func(what string, n int) {
		t.Helper()
		h.wants(what, longIdle, n, 8080)
		h.wants(what, longIdle, n, 8080, 4143)
	}
	h.ask(h.pair(app, theApp, linkerd, "127.0.0.1", "127.0.0.1:8080"))
	wants("nobody calls", 0)
	client, server := h.pair(in, linkerd, anybody, "", "10.0.0.1:4143")
	h.ask(client, server)
	wants("a client whose request is at the app", 1)
	client.Close()
	server.Close()
	wants("he is gone", 0)
}

func TestAnAppThatPollsItsSidecarHasNoClient(t *testing.T) {
	for name, uid := range map[string]int{"a user of its own": aSidecar, "the app's user": theApp, "root": 0} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			app, sql := h.listen(theApp, ":8080"), h.listen(uid, "127.0.0.1:5432")
			for range 3 {
				h.ask(h.pair(sql, uid, theApp, "", "127.0.0.1:5432"))
			}
			h.wants("it polls", longIdle, 0, 8080, 5432)
			// Its client has a connection, which counts there.
			h.pair(app, theApp, anybody, "", "10.0.0.1:8080")
			h.wants("it polls, with a client", longIdle, 1, 8080, 5432)
		})
	}
}

// Outside → nginx → the app; also where both have one user, and where another proxy is in between.
func TestARequestThroughNginxCountsOnce(t *testing.T) {
	for name, nginx := range map[string]int{"a user of its own": aSidecar, "the app's user": theApp} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			const third = 4711
			app, front := h.listen(theApp, "127.0.0.1:8080"), h.listen(0, ":80")
			middle := h.listen(third, "127.0.0.1:9000")
			client, server := h.pair(front, nginx, anybody, "", "10.0.0.1:80")
			h.ask(client, server)
			leg, end := h.pair(app, theApp, nginx, "", "127.0.0.1:8080")
			h.ask(leg, end)
			h.wants("a request", longIdle, 1, 80, 8080)
			h.wants("a request", longIdle, 1, 8080)
			h.wants("a request", longIdle, 1, 80)
			leg.Close()
			end.Close()
			h.ask(h.pair(middle, third, nginx, "", "127.0.0.1:9000"))
			h.ask(h.pair(app, theApp, third, "", "127.0.0.1:8080"))
			h.wants("by way of another", longIdle, 1, 80, 8080, 9000)
			h.wants("by way of another", longIdle, 1, 8080)
			client.Close()
			server.Close()
			h.wants("its client is gone", longIdle, 0, 8080)
		})
	}
}

// The kubelet's probes come from the node's address, which is none of the Pod's.
func TestAClientOnTheNodeCounts(t *testing.T) {
	h := newHouse(t)
	app := h.listen(theApp, ":8080")
	h.pair(app, theApp, anybody, "", "10.0.0.1:8080")
	h.wants("a probe", longIdle, 1, 8080)
}

// What prestop opens, to a registry in the Pod or by a proxy, does not count; nor who is connected to it.
func TestPrestopsOwnConnectionsDoNotCount(t *testing.T) {
	h := newHouse(t)
	h.istio()
	own, out, nacos := h.listen(theSidecar, ":8090"), h.listen(istioProxy, ":15001"), h.listen(theApp, ":8848")
	h.pair(own, theSidecar, anybody, "", "10.0.0.1:8090")
	h.ask(h.pair(out, istioProxy, theSidecar, "", "10.0.0.2:8848"))
	h.ask(h.pair(nacos, theApp, theSidecar, "", "127.0.0.1:8848"))
	rule := longIdle
	rule.Own, rule.ExcludePorts = 8090, []uint16{8090}
	h.wants("prestop asks", rule, 0, 8090, 8848, 15001)
	tally := count(t, h.counter(Netlink, rule), 8090, 8848, 15001)
	if want := []LeftOut{{Own, 8848, 1}, {Own, 15001, 1}}; !slices.Equal(tally.LeftOut, want) {
		t.Errorf("left out are %+v, want %+v", tally.LeftOut, want)
	}
	rule.Shared = true
	h.wants("prestop asks, with hostNetwork", rule, 0, 8090, 8848, 15001)
}

// With hostNetwork a client at an address of the machine may be another Pod.
func TestWithHostNetworkEverybodyIsAClient(t *testing.T) {
	h := newHouse(t)
	app := h.listen(theApp, ":8080")
	h.ask(h.pair(app, theApp, aSidecar, "", "127.0.0.1:8080"))
	h.wants("in the Pod's own namespace", longIdle, 0, 8080)
	shared := longIdle
	shared.Shared = true
	h.wants("with hostNetwork", shared, 1, 8080)
}

// RMI and FTP listen on ports that the kernel lends to the app's own connections later.
func TestAConnectionThatTheAppOpensNeverCounts(t *testing.T) {
	h := newHouse(t)
	var backend net.Listener
	h.outside.Do(func() { backend, _ = listen(t, "tcp", ":9092") })
	once := h.listen(theApp, "10.0.0.1:0")
	port := portOf(once.Addr())
	client, server := h.pair(once, theApp, anybody, "", once.Addr().String())
	h.ask(client, server)
	once.Close() // as an app does that stops: what it has accepted goes on
	h.wants("one that was accepted", longIdle, 1, port)
	h.wants("one that was accepted, where each open one counts", Rule{}, 1, port)
	client.Close()
	server.Close()
	d := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: int(port)},
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return err
		},
	}
	client, err := d.Dial("tcp", "10.0.0.2:9092")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if server, err = backend.Accept(); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	counters := map[string]Counter{"clocks": h.counter(Netlink, longIdle), "each open one": h.counter(Netlink, Rule{})}
	for _, said := range []string{"nothing was said", "the app asked", "it was answered"} {
		for name, c := range counters {
			if tally := count(t, c, port); tally.Open != 0 || !slices.Equal(tally.LeftOut, []LeftOut{{Outgoing, port, 1}}) {
				t.Errorf("%s, by %s: %+v", said, name, tally)
			}
		}
		if said == "nothing was said" {
			h.ask(client, server) // which is not acknowledged for a while
		} else {
			h.ask(server, client)
		}
	}
}

func TestAListenerTellsItsUserAndAddress(t *testing.T) {
	h := newHouse(t)
	h.listen(istioProxy, "127.0.0.1:15000")
	h.listen(theApp, ":8080")
	h.listen(theApp, "10.0.0.1:8081")
	ids := map[uint16]uint64{}
	for _, source := range sources {
		for _, l := range listeners(t, h.counter(source, Rule{})) {
			want := map[uint16]Listener{
				15000: {UID: istioProxy, Address: netip.MustParseAddr("127.0.0.1")},
				8080:  {UID: theApp, Address: netip.MustParseAddr("::")},
				8081:  {UID: theApp, Address: netip.MustParseAddr("10.0.0.1")},
			}[l.Port]
			if !l.HasUID || l.UID != want.UID || l.Address != want.Address {
				t.Errorf("%s: %+v, want %+v", source, l, want)
			}
			if id := ids[l.Port]; id != 0 && id != l.ID {
				t.Errorf("the sources call one socket %d and %d", id, l.ID)
			}
			ids[l.Port] = l.ID
		}
	}
	if len(ids) != 3 {
		t.Errorf("listed %v", ids)
	}
}
