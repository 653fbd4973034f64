//go:build linux

package cli

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestTheHookAsACommand(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil, "--grace-period=3", "--reserve=1")
	a.call(t)
	p.says("the app listens")
	r := command(t, nil, "shutdown", "--listen", p.listen)
	if r.code != exitExpired || !strings.HasPrefix(r.out, "EXPIRED after ") {
		t.Errorf("with a connection in use to the deadline: %+v", r)
	}
	if r := command(t, nil, "resume", "--listen", p.listen); r.code != exitOK || r.out != "OK\n" {
		t.Errorf("resume: %+v", r)
	}
	p.reaches("serving")
	a.release()
	p.inUse(0)
	if r := command(t, nil, "shutdown", "--listen", p.listen); r.code != exitOK || !strings.HasPrefix(r.out, "OK drained in ") {
		t.Errorf("with no connection in use: %+v", r)
	}
	if r := command(t, []string{"PRESTOP_LISTEN=" + p.listen}, "shutdown"); r.code != exitOK {
		t.Errorf("when drained, with the address from the environment: %+v", r)
	}
}

func TestTheCommandsSendTheToken(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), []string{"PRESTOP_TOKEN=sesame"})
	for _, name := range []string{"shutdown", "resume"} {
		if r := command(t, nil, name, "--listen", p.listen); r.code != exitFailed || !strings.Contains(r.out, "token") {
			t.Errorf("%s without the token: %+v", name, r)
		}
		if r := command(t, []string{"PRESTOP_TOKEN=sesame"}, name, "--listen", p.listen); r.code != exitOK {
			t.Errorf("%s with the token: %+v", name, r)
		}
	}
}

func TestTheHookAsACommandEndsWithItsSidecar(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	a.call(t)
	p.says("the app listens")
	ended := make(chan result, 1)
	go func() { ended <- command(t, nil, "shutdown", "--listen", p.listen) }()
	p.reaches("draining")
	p.signal(syscall.SIGKILL)
	if r := <-ended; r.code != exitFailed || !strings.Contains(r.errOut, "not reached") {
		t.Errorf("%+v", r)
	}
}

func TestASidecarIsReachedFromInsideThePod(t *testing.T) {
	for listen, want := range map[string]string{
		":8090": "127.0.0.1:8090", "0.0.0.0:1": "127.0.0.1:1", "[::]:2": "[::1]:2", "10.0.0.1:3": "10.0.0.1:3", "[fd00::1]:4": "[fd00::1]:4",
	} {
		if got := local(listen); got != want {
			t.Errorf("one that listens on %s is reached at %s; want %s", listen, got, want)
		}
	}
}

// TestAServerThatIsNoSidecar: another program may have the port.
func TestAServerThatIsNoSidecar(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n")
			c.Close()
		}
	}()
	if r := command(t, nil, "status", "--listen", l.Addr().String()); r.code != exitFailed || r.errOut == "" {
		t.Errorf("%+v", r)
	}
}
