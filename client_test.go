//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestop/drain"
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

func TestTheStatusPageIsForPeople(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil, "--linger=1m")
	a.call(t)
	p.says("the app listens")
	p.hook()
	p.inUse(1)
	r := command(t, nil, "status", "--listen", p.listen)
	for _, want := range []string{"draining for ", "may go on for ", "deadline", "1 in use, 0 idle (netlink)", "1 from 127.0.0.1"} {
		if r.code != exitOK || !strings.Contains(r.out, want) {
			t.Errorf("%q is not on the page, exit %d:\n%s%s", want, r.code, r.out, r.errOut)
		}
	}
}

func TestThePageOfEachState(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *time.Time { t := now.Add(d); return &t }
	for sentence, c := range map[string]struct {
		status drain.Status
		want   string
	}{
		"serving without a registry": {
			drain.Status{State: "serving", Since: now.Add(-90 * time.Second), Connections: drain.Connections{Open: 3, Active: 1, Idle: 2, Source: "proc"}},
			"state        serving for 1m30s\nconnections  1 in use, 2 idle (proc)\n",
		},
		"draining": {
			drain.Status{State: "draining", Since: now.Add(-time.Second), Deadline: in(20 * time.Second), LingerUntil: in(5 * time.Second),
				Connections: drain.Connections{Active: 2, Source: "netlink", Peers: []drain.PeerStatus{{Address: "10.0.0.9", Active: 2}, {Address: "10.0.0.8"}}},
				Registries:  []drain.RegistryStatus{{Kind: "eureka", URL: "http://e/eureka", Instances: []drain.InstanceStatus{{ID: "a:1", Service: "ORDERS", Status: "OUT_OF_SERVICE"}}}}},
			"state        draining for 1s\ncallers      may go on for 5s\ndeadline     in 20s\nconnections  2 in use, 0 idle (netlink)\n             2 from 10.0.0.9\n" +
				"eureka       http://e/eureka\n             ORDERS a:1: OUT_OF_SERVICE\n",
		},
		"drained, with trouble": {
			drain.Status{State: "drained", Since: now, Deadline: in(9 * time.Second), Result: "OK drained in 1s", Registries: []drain.RegistryStatus{{Kind: "nacos", URL: "http://n", Error: "it hangs"}}},
			"state        drained for 0s\nconnections  0 in use, 0 idle ()\nnacos        http://n\n             no instance of this Pod\n             trouble: it hangs\nlast drain   OK drained in 1s\n",
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			var b bytes.Buffer
			page(c.status, &b, now)
			var lines []string
			for line := range strings.Lines(b.String()) {
				lines = append(lines, strings.TrimRight(line, " \n")+"\n")
			}
			if got := strings.Join(lines, ""); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
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
