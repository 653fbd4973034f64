package conns

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/connstest"
	"prestop/drain/conns/sockdiag"
)

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
			connstest.Pod(t) // where no other process's listeners end
			l, port := listen(t, "tcp", "127.0.0.1:0")
			counter := counter(t, Netlink, Rule{}).(*netlinkCounter)
			counter.Watch(watch(port))
			quiet(t, counter)
			before := counter.events.wakes.Load()
			churn(t, l, 200)
			// The end of a listener comes last in the same queue.
			last, _ := listen(t, "tcp", "127.0.0.1:0")
			listeners(t, counter)
			last.Close()
			told(t, counter)
			if wakes := counter.events.wakes.Load() - before; wakes != 1 {
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
	counter.events.conn.SetReceiveBuffer(1)
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
	raw, err := n.events.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
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

// deafened is a socket from which nothing can be received, as where a seccomp profile denies it from some moment on.
func deafened(t *testing.T) *os.File {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	w := os.NewFile(uintptr(p[1]), "pipe")
	t.Cleanup(func() { w.Close() })
	if _, err := w.Write([]byte("x")); err != nil { // there is something to read
		t.Fatal(err)
	}
	return os.NewFile(uintptr(p[0]), "pipe")
}

func TestAnErrorThatStaysEndsTheEvents(t *testing.T) {
	var lines strings.Builder
	conn, err := sockdiag.FromFile(deafened(t))
	if err != nil {
		t.Fatal(err)
	}
	e := &destroyEvents{told: make(chan struct{}), closed: make(chan struct{}), conn: conn, log: slog.New(slog.NewTextHandler(&lines, nil))}
	e.choose(&chosenSockets{})
	n := &netlinkCounter{events: e}
	told := n.Ended()
	if told == nil {
		t.Fatal("there are no events from the start")
	}
	e.running.Go(e.listen)
	<-told // once more, so that whoever waits looks
	if n.Ended() != nil {
		t.Error("there are events still: nobody looks from time to time")
	}
	e.running.Wait()
	if err := e.close(); err != nil {
		t.Error(err)
	}
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "non-socket") {
		t.Errorf("logged %q, want one line with the reason", got)
	}
}

func TestAnErrorThatStaysEndsTheHearing(t *testing.T) {
	var lines strings.Builder
	n := counter(t, Netlink, Rule{Hear: true}).(*netlinkCounter)
	n.log = slog.New(slog.NewTextHandler(&lines, nil))
	_, port := listen(t, "tcp", "127.0.0.1:0")
	n.Watch([]uint16{port})
	if tally := count(t, n, port); tally.Heard.IsZero() {
		t.Fatalf("nothing is heard from the start: %+v", tally)
	}
	broken, err := sockdiag.FromFile(deafened(t))
	if err != nil {
		t.Fatal(err)
	}
	n.closed.conn.Close()
	n.closed.conn = broken
	for range 3 {
		if tally := count(t, n, port); !tally.Heard.IsZero() {
			t.Errorf("nothing tells what clients said, and %v is told", tally.Heard)
		}
	}
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "non-socket") {
		t.Errorf("logged %q, want one line with the reason", got)
	}
}
