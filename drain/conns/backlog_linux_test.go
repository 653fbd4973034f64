package conns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/connstest"
)

// deferred listens as a server that waits for a client's first word before it accepts (TCP_DEFER_ACCEPT, as nginx's
// «deferred» and Apache httpd's AcceptFilter). It makes the overflow of the queue certain: a client that has said
// something is queued, or stays half-open.
func deferred(t *testing.T, queue int) *net.TCPListener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, queue)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// scan begins a handshake and does not go on with it.
func scan(t *testing.T, with *net.TCPAddr) {
	t.Helper()
	out, err := exec.Command("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--sport", fmt.Sprint(with.Port), "-j", "DROP").CombinedOutput()
	if err != nil {
		t.Fatalf("iptables (of iptables): %v: %s", err, out)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: with.Port}); err != unix.EINPROGRESS {
		t.Fatal(err)
	}
}

// halfOpen is how many handshakes with port have had their SYN-ACK sent again.
func halfOpen(t *testing.T, c Counter, port uint16) (n int) {
	t.Helper()
	err := c.(*netlinkCounter).dump(t.Context(), openStates, false, []uint16{port}, func() { n = 0 }, func(m *message) {
		if m.opening() && m.SynAckRetransmits > 0 {
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestARequestBehindAFullAcceptQueueIsInUse(t *testing.T) {
	connstest.Pod(t)
	l, scanned := deferred(t, 4), deferred(t, 4)
	port, scannedPort := portOf(l.Addr()), portOf(scanned.Addr())
	looker := counter(t, Netlink, longIdle)
	scan(t, scanned.Addr().(*net.TCPAddr))
	eventually(t, "the kernel has sent its SYN-ACK again", func() bool { return halfOpen(t, looker, scannedPort) == 1 })
	counters := map[string]Counter{}
	for _, look := range []string{"", ", without a look meanwhile"} {
		counters[Netlink+look] = counter(t, Netlink, longIdle)
		proc, err := openProcIn("/proc/thread-self/net", longIdle)
		if err != nil {
			t.Fatal(err)
		}
		counters[Proc+look] = proc
	}
	for name, c := range counters {
		if tally := count(t, c, scannedPort); tally.Open != 0 {
			t.Errorf("%s: a scanner's handshake counts: %+v", name, tally)
		}
	}
	const queued, behind = 5, 2                       // the kernel queues one more than it was told
	for _, n := range []int{3, queued + behind - 3} { // it keeps no more than four half-open
		clients := make([]net.Conn, n)
		for i := range clients {
			clients[i] = dial(t, "tcp", l.Addr().String())
		}
		for _, c := range clients {
			write(t, c)
		}
	}
	eventually(t, "the others are behind the queue", func() bool { return halfOpen(t, looker, port) == behind })
	for _, source := range sources {
		if tally := count(t, counters[source], port); tally.Active != queued+behind {
			t.Errorf("%s: the app is busy: %+v, want %d in use", source, tally, queued+behind)
		}
	}
	l.SetDeadline(time.Now().Add(time.Minute))
	serve := func(n int) {
		t.Helper()
		for range n {
			served, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			served.Close()
		}
	}
	serve(queued)
	for name, c := range counters {
		if tally := count(t, c, port); tally.Active != behind {
			t.Errorf("%s: the queue is empty again: %+v, want %d in use", name, tally, behind)
		}
	}
	serve(behind) // they come: they would have been lost
}

func TestAFullQueueIsForgottenWithWhatMayWaitBehindIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "netstat")
	tell := func(overflows string) {
		t.Helper()
		text := "TcpExt: SyncookiesSent ListenOverflows X\nTcpExt: 7 " + overflows + " 9\nIpExt: A\nIpExt: 1\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tell("3")
	now := time.Now()
	var b backlog
	b.open(file)
	held := func(what string, want bool, again uint8, after time.Duration) {
		t.Helper()
		b.begin()
		if got := b.held(8080, again, now.Add(after)); got != want {
			t.Errorf("%s: held %t", what, got)
		}
	}
	held("no queue was full", false, 1, 0)
	tell("4")
	held("one is", true, 1, time.Second)
	held("its SYN-ACK was sent again once", false, 1, 7*time.Second)
	held("three times", true, 3, 15*time.Second)
	held("three times, long after", false, 3, 19*time.Second)
	b.note(8080, 5, 4, now.Add(20*time.Second))
	b.note(8081, 4, 4, now.Add(30*time.Second))
	held("the port's own queue is", true, 1, 21*time.Second)
	held("no more, and another's is not full", false, 1, 31*time.Second)
	tell("nonsense")
	held("nobody knows", false, 1, 32*time.Second)
}
