//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain"
)

func TestTheStatusPageIsForPeople(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil, "--linger=1m", "--grace-period=90")
	a.call(t)
	p.says("the app listens")
	p.hook()
	p.inUse(1)
	r := command(t, nil, "status", "--listen", p.listen)
	for _, want := range []string{"draining for ", "waits for    the callers' caches, for another ", "deadline", "1 in use, 0 idle (netlink)", "1 from 127.0.0.1"} {
		if r.code != exitOK || !strings.Contains(r.out, want) {
			t.Errorf("%q is not on the page, exit %d:\n%s%s", want, r.code, r.out, r.errOut)
		}
	}
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("colours, and no terminal: %q", r.out)
	}
	var s drain.Status
	if r := command(t, nil, "status", "--output=json", "--listen", p.listen); r.code != exitOK || json.Unmarshal([]byte(r.out), &s) != nil || s.State != "draining" {
		t.Errorf("as JSON: %+v", r)
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
			"state        serving for 1m30s\napp          has not listened yet\nconnections  1 in use, 2 idle (proc)\n",
		},
		"draining, the registries": {
			drain.Status{State: "draining", Since: now, Deadline: in(20 * time.Second), Connections: drain.Connections{Source: "netlink"}},
			"state        draining for 0s\nwaits for    the registries, until each shows callers that the instance is gone\ndeadline     in 20s\napp          has not listened yet\nconnections  0 in use, 0 idle (netlink)\n",
		},
		"draining, the callers": {
			drain.Status{State: "draining", Since: now.Add(-time.Second), Deadline: in(20 * time.Second), LingerUntil: in(5 * time.Second),
				Connections: drain.Connections{Active: 2, Source: "netlink", Peers: []drain.PeerStatus{{Address: "10.0.0.9", Active: 2}, {Address: "10.0.0.8"}}},
				Registries:  []drain.RegistryStatus{{Kind: "eureka", URL: "http://e/eureka", Reached: true, Instances: []drain.InstanceStatus{{ID: "a:1", Service: "ORDERS", Status: "OUT_OF_SERVICE"}}}}},
			"state        draining for 1s\nwaits for    the callers' caches, for another 5s\ndeadline     in 20s\napp          has not listened yet\nconnections  2 in use, 0 idle (netlink)\n             2 from 10.0.0.9\n" +
				"eureka       http://e/eureka\n             ORDERS a:1: OUT_OF_SERVICE\n",
		},
		"draining, the connections": {
			drain.Status{State: "draining", Since: now, Deadline: in(time.Second), LingerUntil: in(-time.Second), Connections: drain.Connections{Active: 3, Idle: 1, Source: "netlink"}},
			"state        draining for 0s\nwaits for    3 connections in use\ndeadline     in 1s\napp          has not listened yet\nconnections  3 in use, 1 idle (netlink)\n",
		},
		"an app of two ports, of which one is dead": {
			drain.Status{State: "serving", Since: now, Connections: drain.Connections{Source: "netlink"}, App: []drain.PortStatus{
				{Port: 8080, Listening: true, Since: now.Add(-time.Hour)}, {Port: 9090, Since: now.Add(-3 * time.Second)}, {Port: 20880, Listening: true}}},
			"state        serving for 0s\napp          listens on 8080, 20880\n             not listening on 9090 for 3s\nconnections  0 in use, 0 idle (netlink)\n",
		},
		"an app that died": {
			drain.Status{State: "serving", Since: now, Connections: drain.Connections{Source: "netlink"}, App: []drain.PortStatus{{Port: 8080, Since: now.Add(-3 * time.Second)}}},
			"state        serving for 0s\napp          not listening on 8080 for 3s\nconnections  0 in use, 0 idle (netlink)\n",
		},
		"registries that were not reached": {
			drain.Status{State: "serving", Since: now, Connections: drain.Connections{Source: "netlink"}, Registries: []drain.RegistryStatus{
				{Kind: "eureka", URL: "http://e"}, {Kind: "nacos", URL: "http://n", Error: "list at http://n: context deadline exceeded, last: dial tcp 10.0.0.9:8848: connect: connection refused"},
				{Kind: "nacos", URL: "http://m", Reached: true}}},
			"state        serving for 0s\napp          has not listened yet\nconnections  0 in use, 0 idle (netlink)\neureka       http://e\n             not reached yet\n" +
				"nacos        http://n\n             not reached yet: connection refused by 10.0.0.9:8848\n" +
				"nacos        http://m\n             no instance of this Pod\n",
		},
		"a drain that the Pod's own hook began": {
			drain.Status{State: "drained", Since: now, Result: "OK drained in 1s", Connections: drain.Connections{Source: "netlink"}, LastDrain: &drain.DrainStatus{Cause: "pod", Ended: now.Add(-5 * time.Second)}},
			"state        drained for 0s\napp          has not listened yet\nconnections  0 in use, 0 idle (netlink)\nlast drain   OK drained in 1s\n             the Pod was to stop (/stopping), 5s ago\n",
		},
		"drained, with trouble": {
			drain.Status{State: "drained", Since: now, Deadline: in(9 * time.Second), Result: "OK drained in 1s", Connections: drain.Connections{Source: "none"}, Registries: []drain.RegistryStatus{{Kind: "nacos", URL: "http://n", Reached: true, Error: "it hangs"}}},
			"state        drained for 0s\nconnections  cannot be counted here\nnacos        http://n\n             trouble: it hangs\nlast drain   OK drained in 1s\n",
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			var b bytes.Buffer
			page(c.status, &b, paint{}, now)
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

// terminal is a pseudo-terminal: what is written to the second is read from the first.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

func TestColoursAreForTerminalsAlone(t *testing.T) {
	p := sidecarOf(t, newApp(t), nil)
	for sentence, c := range map[string]struct {
		env      []string
		coloured bool
	}{
		"a terminal":                {[]string{"TERM=xterm"}, true},
		"NO_COLOR":                  {[]string{"TERM=xterm", "NO_COLOR=1"}, false},
		"a terminal without escape": {[]string{"TERM=dumb"}, false},
	} {
		for _, name := range []string{"status", "check"} {
			t.Run(sentence+" "+name, func(t *testing.T) {
				ours, theirs := terminal(t)
				c2 := exec.Command(binary, name, "--listen="+p.listen)
				c2.Env, c2.Stdout = c.env, theirs
				if err := c2.Start(); err != nil {
					t.Fatal(err)
				}
				_ = c2.Wait() // check may find problems; the page counts
				theirs.Close()
				page, _ := io.ReadAll(ours) // ends with an error when nobody holds the other side
				if got := bytes.Contains(page, []byte("\x1b[")); got != c.coloured || len(page) == 0 {
					t.Errorf("coloured: %v; want %v: %q", got, c.coloured, page)
				}
			})
		}
	}
}

// TestWatchShowsThePageAgain reads two pages, between which the state changes, and interrupts it.
func TestWatchShowsThePageAgain(t *testing.T) {
	for sentence, c := range map[string]struct {
		args     []string
		terminal bool
		again    string // what begins another page
	}{
		"over the last one in a terminal":   {nil, true, "\x1b[H"},
		"below the last one in a file":      {nil, false, "\n"},
		"as one line of JSON, for a stream": {[]string{"--output=json"}, false, `{"state":`},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			p := sidecarOf(t, newApp(t), nil)
			p.says("the app listens")
			cmd := exec.Command(binary, append([]string{"status", "--watch", "--listen=" + p.listen}, c.args...)...)
			cmd.Env = []string{"TERM=xterm"}
			from, to, err := os.Pipe()
			if c.terminal {
				from, to = terminal(t)
			} else if err != nil {
				t.Fatal(err)
			}
			cmd.Stdout = to
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			to.Close()
			r := bufio.NewReader(from)
			read := ""
			until := func(text string) {
				for !strings.Contains(read, text) {
					line, err := r.ReadString('\n')
					if read += line; err != nil {
						t.Fatalf("%v before %q in %q", err, text, read)
					}
				}
			}
			until("serving")
			p.is(p.hook(), 200, "OK")
			until("drained")
			if !strings.Contains(read[1:], c.again) {
				t.Errorf("%q begins no page of %q", c.again, read)
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, r) }()
			if err := cmd.Wait(); err != nil {
				t.Errorf("interrupted, it ends with %v", err)
			}
		})
	}
}

func TestWatchEndsWithItsSidecar(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), nil)
	ended := make(chan result, 1)
	go func() { ended <- command(t, nil, "status", "--watch", "--listen="+p.listen) }()
	p.signal(syscall.SIGKILL)
	if r := <-ended; r.code != exitFailed || !strings.Contains(r.errOut, "not reached") {
		t.Errorf("%+v", r)
	}
}

func TestFlagsOfACommandAreRefusedElsewhere(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--watch", "--watch=\"true\": is no flag here; it belongs to prestop status"},
		{"check --watch", "it belongs to prestop status"},
		{"shutdown --output=json", "it belongs to prestop status and prestop check"},
		{"--output=json", "it belongs to prestop status and prestop check"},
		{"check --output=xml", "give text, json"},
	} {
		r := command(t, []string{"PRESTOP_OUTPUT=yaml", "PRESTOP_WATCH=x"}, strings.Fields(c.args)...)
		if r.code != exitUsage || !strings.Contains(r.errOut, c.want) {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
}
