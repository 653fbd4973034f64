package conns

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lose has the kernel drop what c receives until it is told to stop: a network that loses segments.
func lose(t *testing.T, c net.Conn) (stop func()) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	control := func(do func(fd int) error) {
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	})
	return func() {
		control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
	}
}

// Two requests are in flight at once, and one is answered, in a segment that is lost and sent again: a count of segments
// alone takes them for two answers.
func TestAnAnswerThatIsLostAndRepeatedIsOne(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	c := counter(t, Netlink, Rule{IdleAfter: 100 * time.Millisecond, RequestTimeout: time.Hour})
	client, server := accepted(t, l, l.Addr().String())
	request, answer := make([]byte, 40), make([]byte, 160)
	for _, step := range []error{
		second(client.Write(request)), second(io.ReadFull(server, request)),
		second(server.Write(answer)), second(io.ReadFull(client, answer)),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	eventually(t, "it is idle before", func() bool { return count(t, c, port).Idle == 1 })
	for range 2 {
		for _, step := range []error{second(client.Write(request)), second(io.ReadFull(server, request))} {
			if step != nil {
				t.Fatal(step)
			}
		}
	}
	arrive := lose(t, client)
	if _, err := server.Write(answer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the answer is sent again", func() bool { return repeated(t, server) > 0 })
	arrive()
	if _, err := io.ReadFull(client, answer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is silent", func() bool {
		tally := count(t, c, port)
		return tally.Open == 1 && (tally.Idle == 1 || tally.Peers[0].Since > 400*time.Millisecond)
	})
	if tally := count(t, c, port); tally.Active != 1 {
		t.Errorf("a request waits for its answer, and it is counted as %+v", tally)
	}
	if _, err := server.Write(answer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is idle", func() bool { return count(t, c, port).Idle == 1 })
}

// repeated is how many segments the kernel has sent again.
func repeated(t *testing.T, c net.Conn) uint32 {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return info.Total_retrans
}
