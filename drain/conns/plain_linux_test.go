package conns

import (
	"io"
	"net"
	"testing"
	"time"
)

// asks has the client send n requests of one segment, each after the answer to the one before.
func asks(t *testing.T, client, server net.Conn, n int) {
	t.Helper()
	request, answer := make([]byte, 200), make([]byte, 160)
	for range n {
		for _, step := range []error{
			second(client.Write(request)), second(io.ReadFull(server, request)),
			second(server.Write(answer)), second(io.ReadFull(client, answer)),
		} {
			if step != nil {
				t.Fatal(step)
			}
		}
	}
}

func second(_ int, err error) error { return err }

// Three requests look like a TLS handshake with a request behind it, until it is known that nobody speaks TLS there.
func TestAFewQuickRequestsAreIdleWhereOthersShowThatNobodySpeaksTLS(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	c := counter(t, Netlink, Rule{IdleAfter: 100 * time.Millisecond, RequestTimeout: time.Hour})
	c.Watch([]uint16{port})
	client, server := accepted(t, l, l.Addr().String())
	asks(t, client, server, 3)
	eventually(t, "it stays in doubt", func() bool {
		tally := count(t, c, port)
		return tally.Active == 1 && tally.Peers[0].Since > 2*delayedAck
	})
	for range plainEnough {
		if tally := count(t, c, port); tally.Active != 1 {
			t.Fatalf("%+v: no longer in doubt", tally)
		}
		probe, probed := accepted(t, l, l.Addr().String())
		asks(t, probe, probed, 1)
		probe.Close()
		probed.Close()
	}
	eventually(t, "it is idle", func() bool { return count(t, c, port).Idle == 1 })
}
