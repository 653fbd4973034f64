package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"prestop/drain"
	"prestop/drain/conns/connstest"
)

// In a mesh the app's connections to its backends are open to the proxy in the Pod for as long as the app lives: the
// drain waits for the client's request and not for them.
func TestInAMeshADrainWaitsForTheRequestAlone(t *testing.T) {
	t.Parallel()
	for name, ports := range map[string][]string{"every port": nil, "the app's port": {"--port=8080"}} {
		t.Run(name, func(t *testing.T) {
			connstest.Pod(t)
			outside, err := connstest.NewOutside(0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(outside.Close)
			for _, rule := range []string{
				"PREROUTING -p tcp -j REDIRECT --to-ports 15006", "OUTPUT -m owner --uid-owner 1337 -j RETURN",
				"OUTPUT -o lo -j RETURN", "OUTPUT -p tcp -j REDIRECT --to-ports 15001",
			} {
				if out, err := exec.Command("sh", "-c", "exec iptables -w -t nat -A "+rule).CombinedOutput(); err != nil {
					t.Fatalf("iptables (of iptables): %v: %s", err, out)
				}
			}
			const proxy, app = 1337, 1000
			as := func(uid int, f func() (net.Conn, error)) net.Conn {
				t.Helper()
				if _, err := unix.SetfsuidRetUid(uid); err != nil {
					t.Fatal(err)
				}
				c, err := f()
				unix.SetfsuidRetUid(0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			listen := func(uid int, port int) (l net.Listener) {
				t.Helper()
				unix.SetfsuidRetUid(uid)
				l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
				unix.SetfsuidRetUid(0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				return l
			}
			serves, in, out := listen(app, 8080), listen(proxy, 15006), listen(proxy, 15001)
			admin, err := net.Listen("tcp", "127.0.0.1:5432") // a database proxy's
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { admin.Close() })
			dial := func(from, to string) func() (net.Conn, error) {
				return func() (net.Conn, error) {
					d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
					return d.Dial("tcp", to)
				}
			}
			kafka := as(app, dial("10.0.0.1", "10.0.0.2:9092"))
			as(proxy, out.Accept)
			say(t, kafka)

			p := launch(t, nil, nil, append(ports, "--listen=127.0.0.1:0", "--instance-ip=10.0.0.1", "--linger=0",
				"--grace-period=60", "--reserve=0", "--termination-log=")...)
			p.says("the app listens")
			status := func() (s drain.Status) { // by a process, which is in the Pod as we are
				t.Helper()
				out := command(t, nil, "status", "--output=json", "--listen="+p.listen).out
				if err := json.Unmarshal([]byte(out), &s); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return s
			}
			drained := func() string {
				t.Helper()
				line, err := exec.Command(binary, "shutdown", "--listen="+p.listen).Output()
				if err != nil {
					t.Fatalf("the hook: %v: %s", err, line)
				}
				return string(line)
			}
			if line := drained(); !strings.Contains(line, "; 0 connections in use, 0 idle") {
				t.Errorf("nobody calls: %s", line)
			}
			if got := command(t, nil, "resume", "--listen="+p.listen); got.code != exitOK {
				t.Fatalf("resume: %+v", got)
			}

			var client net.Conn
			outside.Do(func() { client, err = net.Dial("tcp", "10.0.0.1:8080") })
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			front := as(proxy, in.Accept)
			leg := as(proxy, dial("127.0.0.6", "10.0.0.1:8080"))
			end := as(app, serves.Accept)
			say(t, client)
			say(t, leg)
			hook := exec.Command(binary, "shutdown", "--listen="+p.listen)
			var line strings.Builder
			hook.Stdout = &line
			if err := hook.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the drain waits for one request", func() error {
				s := status()
				left := slices.ContainsFunc(s.Connections.LeftOut, func(l drain.LeftOutStatus) bool {
					return l.Reason == "inside" && l.Port == 15001 && l.Open == 1
				})
				if s.State != "draining" || s.Connections.Open != 1 || s.Connections.Active != 1 || left != (ports == nil) {
					return fmt.Errorf("%s, %+v", s.State, s.Connections)
				}
				return nil
			})
			for _, c := range []net.Conn{client, front, leg, end} {
				c.Close()
			}
			if err := hook.Wait(); err != nil || !strings.Contains(line.String(), "; 0 connections in use") {
				t.Errorf("%v: %s", err, line.String())
			}

			// The app is the port that it listens on, and nobody else's keeps the process from its end.
			if app := status().App; len(app) != 1 || app[0].Port != 8080 || !app[0].Listening {
				t.Errorf("the app is %+v", app)
			}
			serves.Close()
			eventually(t, "the app is gone", func() error {
				if app := status().App; len(app) != 1 || app[0].Port != 8080 || app[0].Listening {
					return fmt.Errorf("%+v", app)
				}
				return nil
			})
			p.signal(syscall.SIGTERM)
			p.exits(exitOK)
			p.says("told to stop and the app is gone; deleting what the registries still hold of it")
		})
	}
}

func say(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
}
