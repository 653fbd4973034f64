package conns

import (
	"log/slog"
	"net"
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

// second is the error of a call that returns something else as well.
func second(_ int, err error) error { return err }
