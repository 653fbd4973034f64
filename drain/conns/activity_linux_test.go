package conns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// jiffies is more than the step of the kernel's clocks.
const jiffies = 20 * time.Millisecond

// hearing is a counter that has listened to clients of a port for a while, in which nobody said anything.
func hearing(t *testing.T, rule Rule, port uint16) Counter {
	t.Helper()
	rule.Hear, rule.IdleAfter = true, time.Hour
	c := counter(t, Netlink, rule)
	c.Watch([]uint16{port})
	passes(t, c, port)
	return c
}

// passes lets so much time pass since a client was heard that another moment can be told from that one.
func passes(t *testing.T, c Counter, port uint16) {
	t.Helper()
	eventually(t, "time passes", func() bool {
		h := count(t, c, port).Heard
		return !h.IsZero() && time.Since(h) > 3*jiffies
	})
}

// hears waits until a client is told to have been heard after a moment.
func hears(t *testing.T, c Counter, port uint16, after time.Time) Tally {
	t.Helper()
	var tally Tally
	eventually(t, "the client is heard", func() bool {
		tally = count(t, c, port)
		return tally.Heard.After(after.Add(-jiffies))
	})
	return tally
}

func TestAClientIsHeardWhenItSpeaks(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, port := listen(t, "tcp", address)
		c := hearing(t, Rule{}, port)
		before := time.Now()
		client, server := accepted(t, l, l.Addr().String())
		tally := hears(t, c, port, before) // the connection itself
		if want := netip.MustParseAddrPort(client.LocalAddr().String()).Addr(); tally.HeardFrom != want {
			t.Errorf("heard from %v, want %v", tally.HeardFrom, want)
		}
		passes(t, c, port)
		before = time.Now()
		write(t, client)
		hears(t, c, port, before)
		passes(t, c, port)
		before = time.Now()
		write(t, server)
		if _, err := client.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "an answer, and its acknowledgement, is not taken for a word of the client", func() bool {
			return count(t, c, port).Heard.Before(before.Add(-jiffies))
		})
	}
}

func write(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := fmt.Fprint(c, "a word"); err != nil {
		t.Fatal(err)
	}
}

func TestAClientThatCameAndWentIsHeard(t *testing.T) {
	for name, visit := range map[string]func(client, server net.Conn){
		"the client closes": func(client, server net.Conn) { write(t, client); client.Close(); server.Close() },
		"the app closes": func(client, server net.Conn) {
			write(t, client)
			server.Read(make([]byte, 10))
			server.Close()
			client.Close()
		},
		"the app closes with bytes unread":    func(client, server net.Conn) { write(t, client); server.Close(); client.Close() },
		"the client resets":                   func(client, server net.Conn) { client.(*net.TCPConn).SetLinger(0); client.Close(); server.Close() },
		"nothing is said, as a probe does it": func(client, server net.Conn) { client.Close(); server.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l, port := listen(t, "tcp", "[::]:0")
			c := hearing(t, Rule{}, port)
			before := time.Now()
			visit(accepted(t, l, fmt.Sprintf("127.0.0.1:%d", port)))
			tally := hears(t, c, port, before)
			if tally.HeardFrom != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("heard from %v", tally.HeardFrom)
			}
			passes(t, c, port) // and not for ever
		})
	}
}

// A client may be gone before the app has accepted it; the kernel tells when the app has found out.
func TestAClientThatIsGoneBeforeItIsAcceptedIsHeard(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	c := hearing(t, Rule{}, port)
	before := time.Now()
	client, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	client.SetLinger(0)
	client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	hears(t, c, port, before)
}

func TestWhoIsExcludedIsNotHeard(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		l, port := listen(t, "tcp", "[::]:0")
		c := hearing(t, Rule{ExcludePeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}, port)
		before := time.Now()
		client, server := accepted(t, l, net.JoinHostPort(address, fmt.Sprint(port)))
		write(t, client)
		if h := count(t, c, port).Heard; !h.Before(before) {
			t.Errorf("%s is heard while it is connected: %v after", address, h.Sub(before))
		}
		quiet(t, c)
		client.Close()
		server.Close()
		told(t, c)
		if h := count(t, c, port).Heard; !h.Before(before) {
			t.Errorf("%s is heard when it has gone: %v after", address, h.Sub(before))
		}
	}
}

func TestTheAppsOwnCallsAreNotHeard(t *testing.T) {
	backend, _ := listen(t, "tcp", "127.0.0.1:0")
	_, port := listen(t, "tcp", "127.0.0.1:0")
	c := hearing(t, Rule{}, port)
	before := time.Now()
	client, server := accepted(t, backend, backend.Addr().String())
	write(t, server)
	client.Close()
	server.Close()
	if h := count(t, c, port).Heard; !h.Before(before) {
		t.Errorf("heard %v after", h.Sub(before))
	}
}

// Who could not be queued may have said something until now.
func TestWhatTheKernelCouldNotQueueIsHeard(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	c := hearing(t, Rule{}, port)
	c.(*netlinkCounter).closed.conn.SetReceiveBuffer(1)
	eventually(t, "the queue overflows", func() bool {
		churn(t, l, 20)
		passed := time.Now()
		return !count(t, c, port).Heard.Before(passed)
	})
}

// What was said before the counter listened is not known.
func TestBeforeItIsWatchedEverybodyMayHaveSpoken(t *testing.T) {
	_, port := listen(t, "tcp", "127.0.0.1:0")
	c := counter(t, Netlink, Rule{Hear: true})
	if tally := count(t, c, port); !tally.Heard.IsZero() {
		t.Errorf("nobody watches, and clients were heard last at %v", tally.Heard)
	}
	for range 2 {
		before := time.Now()
		c.Watch([]uint16{port})
		if tally := count(t, c, port); tally.Heard.Before(before) {
			t.Errorf("watched since %v, and heard last %v before", before, before.Sub(tally.Heard))
		}
		c.Watch(nil)
		if tally := count(t, c, port); !tally.Heard.IsZero() {
			t.Errorf("not watched any more, and clients were heard last at %v", tally.Heard)
		}
	}
}

func TestNobodyIsHeardWhere(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	accepted(t, l, l.Addr().String())
	for name, c := range map[string]Counter{
		"nobody asks":        counter(t, Netlink, Rule{}),
		"proc is the source": counter(t, Proc, Rule{Hear: true}),
	} {
		c.Watch([]uint16{port})
		if tally := count(t, c, port); !tally.Heard.IsZero() || tally.Active != 1 {
			t.Errorf("%s: %+v", name, tally)
		}
	}
}
