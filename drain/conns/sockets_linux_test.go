package conns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sources are the counters that the kernel feeds.
var sources = []string{Netlink, Proc}

// counter opens a source for a test.
func counter(t testing.TB, source string, rule Rule) Counter {
	t.Helper()
	c, err := Open(source, rule, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func count(t testing.TB, c Counter, ports ...uint16) Tally {
	t.Helper()
	tally, err := c.Count(t.Context(), ports)
	if err != nil {
		t.Fatal(err)
	}
	if tally.Open != tally.Active+tally.Idle {
		t.Fatalf("open is not active + idle: %+v", tally)
	}
	return tally
}

func listeners(t testing.TB, c Counter) []Listener {
	t.Helper()
	all, err := c.Listeners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// eventually waits for what the kernel does in its own time: a handshake, a close.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	late := time.After(10 * time.Second)
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

// listen listens until the test ends. Nothing is accepted: the kernel completes connections all the same.
func listen(t testing.TB, network, address string) (*net.TCPListener, uint16) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), portOf(l.Addr())
}

func portOf(a net.Addr) uint16 { return a.(*net.TCPAddr).AddrPort().Port() }

// dial connects until the test ends.
func dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// accepted returns both ends of a connection to l.
func accepted(t testing.TB, l net.Listener, address string) (client, server net.Conn) {
	t.Helper()
	client = dial(t, "tcp", address)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func TestCountSeesClientsOfEachFamily(t *testing.T) {
	for _, source := range sources {
		for name, c := range map[string]struct{ listenOn, dialTo, peer string }{
			"IPv4":                          {"127.0.0.1", "127.0.0.1", "127.0.0.1"},
			"IPv6":                          {"::1", "::1", "::1"},
			"IPv4 to a dual-stack listener": {"", "127.0.0.1", "127.0.0.1"},
			"IPv6 to a dual-stack listener": {"", "::1", "::1"},
		} {
			t.Run(source+"/"+name, func(t *testing.T) {
				_, port := listen(t, "tcp", net.JoinHostPort(c.listenOn, "0"))
				counter := counter(t, source, Rule{})
				if tally := count(t, counter, port); tally.Open != 0 {
					t.Fatalf("before anybody connected: %+v", tally)
				}
				for range 3 {
					dial(t, "tcp", net.JoinHostPort(c.dialTo, fmt.Sprint(port)))
				}
				tally := count(t, counter, port)
				if tally.Active != 3 || tally.Source != source {
					t.Errorf("3 clients are counted as %+v", tally)
				}
				if want := []Peer{{Address: netip.MustParseAddr(c.peer), Active: 3, Open: 3}}; !slices.EqualFunc(tally.Peers, want, samePeer) {
					t.Errorf("peers are %+v, want %+v", tally.Peers, want)
				}
			})
		}
	}
}

// samePeer compares all but the time.
func samePeer(a, b Peer) bool {
	return a.Address == b.Address && a.Active == b.Active && a.Open == b.Open
}

func TestCountTakesTheGivenPortsOnly(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			_, one := listen(t, "tcp", "127.0.0.1:0")
			_, two := listen(t, "tcp", "[::]:0")
			_, other := listen(t, "tcp", "127.0.0.1:0")
			for i, port := range []uint16{one, two, other} {
				for range i + 1 {
					dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
				}
			}
			counter := counter(t, source, Rule{})
			for _, c := range []struct {
				ports []uint16
				want  int
			}{
				{nil, 0}, {[]uint16{one}, 1}, {[]uint16{two}, 2}, {[]uint16{other, one}, 4}, {[]uint16{one, two, other}, 6},
				{[]uint16{two, two}, 2}, {slices.Concat(manyPorts(filteredPorts), []uint16{one, two}), 3},
				{append(manyPorts(filteredPorts-1), one), 1},
			} {
				if got := count(t, counter, c.ports...).Open; got != c.want {
					t.Errorf("%d connections to ports %d, want %d", got, c.ports, c.want)
				}
			}
		})
	}
}

// manyPorts returns n ports on which nobody listens.
func manyPorts(n int) []uint16 {
	ports := make([]uint16, n)
	for i := range ports {
		ports[i] = uint16(i + 1)
	}
	return ports
}

// An outgoing connection has its own port from the ephemeral range, and the app's port at the other end is another's.
func TestCountLeavesOutOutgoingConnections(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			backend, backendPort := listen(t, "tcp", "127.0.0.1:0")
			_, port := listen(t, "tcp", "127.0.0.1:0")
			for range 5 {
				accepted(t, backend, fmt.Sprintf("127.0.0.1:%d", backendPort))
			}
			counter := counter(t, source, Rule{})
			if got := count(t, counter, port).Open; got != 0 {
				t.Errorf("%d connections, want none: all five are the app's own", got)
			}
			if got := count(t, counter, backendPort).Open; got != 5 {
				t.Errorf("%d connections to the other end, want 5: of both ends in one namespace one counts", got)
			}
		})
	}
}

// A client that redials a port of its own host on which nobody listens gets itself in the end.
func TestCountLeavesOutASocketConnectedToItself(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			l, port := listen(t, "tcp", "127.0.0.1:0")
			l.Close()
			address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}
			self, err := net.DialTCP("tcp", address, address)
			if err != nil {
				t.Fatal(err)
			}
			defer self.Close()
			if got := count(t, counter(t, source, Rule{}), port).Open; got != 0 {
				t.Errorf("%d connections, want none", got)
			}
		})
	}
}

func TestCountLeavesOutWhatIsExcluded(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			_, port := listen(t, "tcp", "[::]:0")
			_, excluded := listen(t, "tcp", "127.0.0.1:0")
			dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", excluded))
			dial(t, "tcp", fmt.Sprintf("[::1]:%d", port))
			for _, from := range []byte{1, 2, 2, 9} {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
				c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
			}
			counter := counter(t, source, Rule{ExcludePorts: []uint16{excluded},
				ExcludePeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.8/29"), netip.MustParsePrefix("::1/128")}})
			tally := count(t, counter, port, excluded)
			want := []Peer{{Address: netip.MustParseAddr("127.0.0.2"), Active: 2, Open: 2}, {Address: netip.MustParseAddr("127.0.0.1"), Active: 1, Open: 1}}
			if tally.Open != 3 || !slices.EqualFunc(tally.Peers, want, samePeer) {
				t.Errorf("counted %+v, want %+v", tally, want)
			}
			if all := listeners(t, counter); !listensOn(all, port) || listensOn(all, excluded) {
				t.Errorf("listeners are %v: want %d and not %d", all, port, excluded)
			}
		})
	}
}

func listensOn(listeners []Listener, port uint16) bool {
	return slices.ContainsFunc(listeners, func(l Listener) bool { return l.Port == port })
}

func TestAListenersIDChangesWithTheSocket(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			counter := counter(t, source, Rule{})
			find := func(port uint16) uint64 {
				all := listeners(t, counter)
				i := slices.IndexFunc(all, func(l Listener) bool { return l.Port == port })
				if i < 0 {
					return 0
				}
				return all[i].ID
			}
			l, port := listen(t, "tcp", "127.0.0.1:0")
			first := find(port)
			if first == 0 || find(port) != first {
				t.Fatalf("the listener's ID is %d, then %d", first, find(port))
			}
			l.Close()
			if find(port) != 0 {
				t.Fatal("a closed listener is listed")
			}
			listen(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if second := find(port); second == 0 || second == first {
				t.Errorf("the next listener's ID is %d, after %d", second, first)
			}
		})
	}
}

// The answer's tail is in the kernel when the app has closed; TIME_WAIT, which follows, is nobody's.
func TestAnAnswerOnItsWayCountsAfterTheClose(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			l, port := listen(t, "tcp", "127.0.0.1:0")
			client, server := accepted(t, l, l.Addr().String())
			fill(t, server)
			server.Close()
			counter := counter(t, source, Rule{IdleAfter: time.Nanosecond, RequestTimeout: time.Hour})
			if got := count(t, counter, port); got.Active != 1 {
				t.Fatalf("closed with the send buffer full: %+v", got)
			}
			if _, err := io.Copy(io.Discard, client); err != nil {
				t.Fatal(err)
			}
			eventually(t, "nothing counts once the answer is delivered", func() bool { return count(t, counter, port).Open == 0 })
		})
	}
}

// fill writes until the peer's and the own buffers take no more.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	chunk := make([]byte, 1<<20)
	for {
		c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Write(chunk); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return
		}
	}
}

func TestTheEndOfAConnectionIsTold(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, port := listen(t, "tcp", address)
		counter := counter(t, Netlink, Rule{})
		for _, closer := range []string{"client", "server"} {
			client, server := accepted(t, l, l.Addr().String())
			counter.Watch([]uint16{port})
			if count(t, counter, port).Open != 1 {
				t.Fatal("the connection does not count")
			}
			if closer == "client" {
				client.Close()
				server.Close()
			} else {
				server.Close()
				client.Close()
			}
			told(t, counter)
			eventually(t, "nobody is connected", func() bool { return count(t, counter, port).Open == 0 })
			counter.Watch(nil)
			quiet(t, counter)
		}
	}
}

// The kernel's filter jumps over at most 255 operations; what has more ports does without.
func TestTheEndOfAConnectionToOneOfManyPortsIsTold(t *testing.T) {
	for _, n := range []int{0, 1, 7, 100, 1000} {
		l, port := listen(t, "tcp", "127.0.0.1:0")
		counter := counter(t, Netlink, Rule{})
		client, server := accepted(t, l, l.Addr().String())
		counter.Watch(append(manyPorts(n), port))
		quiet(t, counter)
		client.Close()
		server.Close()
		told(t, counter)
		counter.Watch(manyPorts(n + 1))
		quiet(t, counter)
		l.Close()
		told(t, counter)
	}
}

func TestTheEndOfAListenerIsTold(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::]:0"} {
		for _, watched := range []bool{false, true} {
			l, port := listen(t, "tcp", address)
			counter := counter(t, Netlink, Rule{})
			if watched {
				counter.Watch([]uint16{port})
			}
			if !listensOn(listeners(t, counter), port) {
				t.Fatal("the listener is not listed")
			}
			l.Close()
			told(t, counter)
			if listensOn(listeners(t, counter), port) {
				t.Error("the listener is still listed")
			}
		}
	}
}

// told waits for Ended.
func told(t *testing.T, c Counter) {
	t.Helper()
	select {
	case <-c.Ended():
	case <-time.After(10 * time.Second):
		t.Fatal("the end of a watched socket was not told within 10s")
	}
}

// quiet takes what is told of the past, until nothing is for a while.
func quiet(t *testing.T, c Counter) {
	t.Helper()
	for {
		select {
		case <-c.Ended():
		case <-time.After(20 * time.Millisecond):
			return
		}
	}
}

// churn makes and ends n connections to l, which end at the server.
func churn(t testing.TB, l *net.TCPListener, n int) {
	t.Helper()
	for range n {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
		server.Close()
	}
}

// While only listeners are watched, a busy app costs the sidecar no wake-up: the kernel drops what is not for it.
func TestConnectionsThatComeAndGoWakeNobody(t *testing.T) {
	for name, watch := range map[string]func(port uint16) []uint16{
		"only listeners are watched":      func(uint16) []uint16 { return nil },
		"connections to another port are": func(port uint16) []uint16 { return []uint16{port + 1} },
	} {
		t.Run(name, func(t *testing.T) {
			l, port := listen(t, "tcp", "127.0.0.1:0")
			counter := counter(t, Netlink, Rule{}).(*netlinkCounter)
			counter.Watch(watch(port))
			quiet(t, counter)
			before := counter.ends.wakes.Load()
			churn(t, l, 200)
			// The end of a listener comes last in the same queue.
			last, _ := listen(t, "tcp", "127.0.0.1:0")
			listeners(t, counter)
			last.Close()
			told(t, counter)
			if wakes := counter.ends.wakes.Load() - before; wakes != 1 {
				t.Errorf("200 connections and one listener ended: woken %d times, want once", wakes)
			}
		})
	}
}

// A receiver that looks late loses nothing: the kernel's queue overflows, and that is told too.
func TestMoreEndsThanTheKernelQueuesAreTold(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	counter := counter(t, Netlink, Rule{}).(*netlinkCounter)
	counter.Watch([]uint16{port})
	if err := counter.ends.raw.Control(func(fd uintptr) {
		if err := syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	churn(t, l, 100)
	eventually(t, "the queue overflows", func() bool { return drops(t, counter) > 0 })
	told(t, counter)
	listeners(t, counter)
	quiet(t, counter)
	l.Close()
	told(t, counter)
}

// drops is how many messages the kernel could not queue for the counter, from /proc/net/netlink.
func drops(t *testing.T, n *netlinkCounter) (dropped int) {
	t.Helper()
	var stat syscall.Stat_t
	if err := n.ends.raw.Control(func(fd uintptr) {
		if err := syscall.Fstat(int(fd), &stat); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if fields[9] == fmt.Sprint(stat.Ino) {
			if _, err := fmt.Sscan(fields[8], &dropped); err != nil {
				t.Fatal(err)
			}
			return dropped
		}
	}
	t.Fatal("our socket is not in /proc/net/netlink")
	return 0
}

func TestALookEndsWithItsContext(t *testing.T) {
	cause := errors.New("that is enough")
	for _, source := range sources {
		counter := counter(t, source, Rule{})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := counter.Count(ctx, []uint16{1}); !errors.Is(err, cause) {
			t.Errorf("%s: Count returned %v", source, err)
		}
		if _, err := counter.Listeners(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: Listeners returned %v", source, err)
		}
		if _, err := counter.Count(t.Context(), []uint16{1}); err != nil {
			t.Errorf("%s: the next Count returned %v", source, err)
		}
	}
}

func TestCloseMayBeCalledTwice(t *testing.T) {
	for _, source := range sources {
		c := counter(t, source, Rule{})
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func TestAutoIsNetlinkWhereThatWorks(t *testing.T) {
	c := counter(t, Auto, Rule{})
	if c.Source() != Netlink {
		t.Errorf("auto chose %s", c.Source())
	}
}

func TestAutoFallsBackAndSaysWhatIsLost(t *testing.T) {
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(&lines, nil))
	denied := func(Rule, *slog.Logger) (Counter, error) { return nil, fmt.Errorf("ask: %w", syscall.EPERM) }
	c, err := open(Auto, Rule{}, log, denied, openProc)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Source() != Proc || c.Ended() != nil {
		t.Errorf("fell back to %s, with events: %t", c.Source(), c.Ended() != nil)
	}
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "operation not permitted") || !strings.Contains(got, "every open one counts as in use") {
		t.Errorf("logged %q: want one line with the reason and what is lost", got)
	}
	if _, err := open(Netlink, Rule{}, log, denied, openProc); !errors.Is(err, syscall.EPERM) {
		t.Errorf("netlink, which was asked for, is denied and the error is %v", err)
	}
	if _, err := open(Auto, Rule{}, log, denied, denied); !errors.Is(err, syscall.EPERM) {
		t.Errorf("both are denied and the error is %v", err)
	}
	if _, err := Open("procfs", Rule{}, log); err == nil || !strings.Contains(err.Error(), "procfs") {
		t.Errorf("an unknown source: %v", err)
	}
}

// asNobody makes the test's own binary count in another process.
const asNobody = "PRESTOP_TEST_COUNT_PORT"

// As in a Pod under restricted Pod Security: another user than the app's, no capability, no new privileges.
func TestCountWithoutPrivileges(t *testing.T) {
	if port := os.Getenv(asNobody); port != "" {
		countAsNobody(t, port)
		return
	}
	if os.Getuid() != 0 {
		t.Fatal("run as root: this test drops privileges, and needs them first")
	}
	l, port := listen(t, "tcp", "127.0.0.1:0")
	accepted(t, l, l.Addr().String())
	// The binary's directory is root's alone; an open file is run all the same.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	run := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run=^TestCountWithoutPrivileges$", "-test.v")
	run.ExtraFiles = []*os.File{self}
	run.Dir = "/"
	run.Env = []string{fmt.Sprintf("%s=%d", asNobody, port)}
	run.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := run.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "counted as 65534") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func countAsNobody(t *testing.T, port string) {
	var p uint16
	if _, err := fmt.Sscan(port, &p); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "CapEff:\t0000000000000000") {
		t.Fatalf("this process has capabilities:\n%s", status)
	}
	for _, source := range sources {
		c := counter(t, source, Rule{IdleAfter: time.Hour, RequestTimeout: time.Hour})
		if tally := count(t, c, p); tally.Active != 1 {
			t.Errorf("%s: %+v", source, tally)
		}
		if source == Netlink && c.Ended() == nil {
			t.Error("no events")
		}
	}
	t.Logf("counted as %d", os.Getuid())
}
