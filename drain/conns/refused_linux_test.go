package conns

import (
	"fmt"
	"net"
	"os/exec"
	"testing"

	"prestop/drain/conns/connstest"
)

// An app that calls a dead backend over and over, and one that asks for sockets and connects none.
func TestFailingOutgoingConnectionsWakeNobody(t *testing.T) {
	connstest.Pod(t) // where no other process's listeners end
	dead, port := listen(t, "tcp", "127.0.0.1:0")
	dead.Close()
	counter := counter(t, Netlink, Rule{}).(*netlinkCounter)
	quiet(t, counter)
	before := counter.events.wakes.Load()
	for range 50 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			t.Fatal("somebody listens")
		}
	}
	// Blocking, as a C or Java client does it.
	out, err := exec.CommandContext(t.Context(), "python3", "-c", fmt.Sprintf(`
import socket
for i in range(50):
    s = socket.socket()
    try: s.connect(("127.0.0.1", %d))
    except ConnectionRefusedError: pass
    s.close()
    socket.socket().close()
`, port)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	quiet(t, counter)
	if wakes := counter.events.wakes.Load() - before; wakes != 0 {
		t.Errorf("woken %d times", wakes)
	}
}
