package conns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"prestop/drain/conns/sockdiag"
)

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
				{[]uint16{two, two}, 2}, {slices.Concat(manyPorts(sockdiag.FilteredPorts), []uint16{one, two}), 3},
				{append(manyPorts(sockdiag.FilteredPorts-1), one), 1},
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

// The client has closed its side first, as after its last request with "Connection: close"; the app's close waits for its data.
func TestAnAnswerOnItsWayCountsAfterTheCloseOfBoth(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			l, port := listen(t, "tcp", "127.0.0.1:0")
			client, server := accepted(t, l, l.Addr().String())
			fill(t, server)
			if err := client.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := server.Read(make([]byte, 1)); err != io.EOF {
				t.Fatal(err)
			}
			server.Close() // LAST_ACK
			counter := counter(t, source, Rule{IdleAfter: time.Nanosecond, RequestTimeout: time.Hour})
			if got := count(t, counter, port); got.Active != 1 {
				t.Fatalf("closed by both with the send buffer full: %+v", got)
			}
			if _, err := io.Copy(io.Discard, client); err != nil {
				t.Fatal(err)
			}
			eventually(t, "nothing counts once the answer is delivered", func() bool { return count(t, counter, port).Open == 0 })
		})
	}
}

// The app closed first, and everything was delivered: what is left of it for a minute is nobody's.
func TestAConnectionInTimeWaitDoesNotCount(t *testing.T) {
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			l, port := listen(t, "tcp", "127.0.0.1:0")
			client, server := accepted(t, l, l.Addr().String())
			local := fmt.Sprintf(":%04X", port)
			server.Close()
			client.Close()
			eventually(t, "it is in TIME_WAIT", func() bool {
				table, err := os.ReadFile("/proc/net/tcp")
				if err != nil {
					t.Fatal(err)
				}
				return slices.ContainsFunc(strings.Split(string(table), "\n"), func(line string) bool {
					f := strings.Fields(line)
					return len(f) > 3 && strings.HasSuffix(f[1], local) && f[3] == "06"
				})
			})
			if got := count(t, counter(t, source, Rule{}), port); got.Open != 0 {
				t.Errorf("counted as %+v", got)
			}
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

// A request that nobody answers is in use until --request-timeout, and the look that gives it up says so, once.
func TestARequestIsGivenUpAfterTheLongestSilence(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	c := counter(t, Netlink, Rule{IdleAfter: 50 * time.Millisecond, RequestTimeout: 500 * time.Millisecond})
	client, _ := accepted(t, l, l.Addr().String())
	if _, err := client.Write([]byte("a request")); err != nil {
		t.Fatal(err)
	}
	expired := 0
	eventually(t, "it is given up", func() bool {
		tally := count(t, c, port)
		expired += tally.Expired
		return tally.Idle == 1
	})
	if tally := count(t, c, port); expired != 1 || tally.Expired != 0 || tally.Idle != 1 {
		t.Errorf("%d were told to be given up, then %+v", expired, tally)
	}
}
