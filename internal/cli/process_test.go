//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain"
	"prestop/drain/conns/connstest"
	"prestop/internal/config"
)

// The tests in main_test.go, client_test.go, check_test.go and wrong_test.go run the binary as a process, with the flags
// that the image is built with. Everything around it, the app and the registries, lives in the test process.

// hush is a secret, which nothing may tell.
const hush = "hunter2"

// load loads a configuration that must be right.
func load(t *testing.T, env config.Environment, args ...string) config.Config {
	t.Helper()
	c, err := config.Load("", args, env)
	if err != nil {
		t.Fatalf("args %q, environment %v: %v", args, env, err)
	}
	return c
}

// binary is the path of the binary under test.
var binary string

func TestMain(m *testing.M) {
	if connstest.Main() { // for the benchmarks
		return
	}
	if len(os.Args) > 2 && os.Args[1] == deniedArg {
		panic(denied(os.Args[2:]))
	}
	// The tests wait for processes, which need little of a core. Before the command line is read, so that it can say otherwise.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(built(m))
}

func built(m *testing.M) int {
	if binary = os.Getenv(inside); binary != "" {
		return m.Run()
	}
	if err := os.Chdir("../.."); err != nil { // to the repository's root: some tests read its pages
		panic(err)
	}
	dir, err := os.MkdirTemp("", "prestop")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "prestop")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nethttpomithttp2", "-ldflags", "-s -w -X main.version=1.2.3 -X main.commit=abc1234", "-o", binary, "prestop")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}

// patience is how long a test waits for what must come true; it is generous, since no test is about speed.
const patience = 60 * time.Second

// eventually waits until f returns nil, and fails with its last error if that takes too long.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-end.C:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// app is an HTTP server in the test process: the app whose Pod is stopped. GET /hold is answered once release is called.
type app struct {
	*httptest.Server
	port    string
	release func()
}

func newApp(t *testing.T) *app {
	t.Helper()
	hold := make(chan struct{})
	a := &app{release: sync.OnceFunc(func() { close(hold) })}
	a.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-hold
		}
	}))
	_, a.port, _ = net.SplitHostPort(a.Listener.Addr().String())
	t.Cleanup(func() { a.release(); a.die() })
	return a
}

// die closes the app's sockets, as its death does.
func (a *app) die() {
	a.release()
	a.CloseClientConnections()
	a.Close()
}

// call begins a request that the app does not answer before it is released. The answer's error is sent.
func (a *app) call(t *testing.T) <-chan error {
	t.Helper()
	c, err := net.Dial("tcp", a.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := fmt.Fprint(c, "GET /hold HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		b, err := io.ReadAll(c)
		if err == nil && !bytes.HasPrefix(b, []byte("HTTP/1.1 200")) {
			err = fmt.Errorf("answered %q", b)
		}
		answered <- err
		c.Close()
	}()
	return answered
}

// process is the binary that runs as a sidecar.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	listen string
	logs   *logText
	ended  chan struct{} // closed when it has exited
}

// logText has the lines on standard error.
type logText struct {
	mu    sync.Mutex
	lines []string
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// line returns the first line with the message, decoded; nil if there is none yet.
func (l *logText) line(msg string) map[string]any {
	for line := range strings.Lines(l.String()) {
		var v map[string]any
		if json.Unmarshal([]byte(line), &v) == nil && v["msg"] == msg {
			return v
		}
	}
	return nil
}

// sidecarOf starts the binary beside the app, without a linger and on a port of its own, and returns once it is up. What args
// and env say comes last and so wins.
func sidecarOf(t *testing.T, a *app, env []string, args ...string) *process {
	t.Helper()
	return launch(t, nil, env, append([]string{"--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--port=" + a.port, "--linger=0", "--termination-log=",
		"--grace-period=60", "--reserve=0"}, args...)...)
}

func launch(t *testing.T, change func(*exec.Cmd), env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), logs: &logText{}, ended: make(chan struct{})}
	p.cmd.Env = append([]string{}, env...) // not nil, which is our own
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v (as root?)", err)
	}
	go func() {
		defer close(p.ended)
		r := bufio.NewReader(pipe)
		for {
			line, err := r.ReadBytes('\n')
			_, _ = p.logs.Write(line)
			if err != nil {
				break
			}
		}
		_ = p.cmd.Wait() // exitCode tells
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have exited
		<-p.ended
		if t.Failed() {
			t.Logf("the log of %v:\n%s", p.cmd.Args, p.logs)
		}
	})
	eventually(t, "the sidecar starts", func() error {
		if v := p.logs.line("prestop started"); v != nil {
			p.listen, _ = v["listen"].(string)
			p.url = "http://" + p.listen
			return nil
		}
		return errors.New("not yet: " + p.logs.String())
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exits waits for the end, and fails if the code is another.
func (p *process) exits(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("it does not exit")
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("exit %d; want %d", got, code)
	}
}

// says waits for a line of the log and returns it.
func (p *process) says(msg string) map[string]any {
	p.t.Helper()
	var line map[string]any
	eventually(p.t, "the log says "+strconv.Quote(msg), func() error {
		if line = p.logs.line(msg); line == nil {
			return errors.New("not yet")
		}
		return nil
	})
	return line
}

// answer is what came of a request.
type answer struct {
	code int
	body string
	err  error
}

var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (p *process) get(ctx context.Context, path string, header ...string) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return answer{err: err}
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := oneShot.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b), err}
}

// must makes a request whose answer has the code and the text in it.
func (p *process) must(path string, code int, text string) string {
	p.t.Helper()
	a := p.get(p.t.Context(), path)
	if a.err != nil || a.code != code || !strings.Contains(a.body, text) {
		p.t.Fatalf("%s is answered %d %q (%v); want %d with %q", path, a.code, a.body, a.err, code, text)
	}
	return a.body
}

// hook calls /shutdown like the kubelet and sends the answer.
func (p *process) hook() <-chan answer {
	c := make(chan answer, 1)
	go func() {
		c <- p.get(context.WithoutCancel(p.t.Context()), "/shutdown", "User-Agent", "kube-lifecycle/1.34")
	}()
	return c
}

// is waits for the answer of a hook.
func (p *process) is(hook <-chan answer, code int, text string) string {
	p.t.Helper()
	select {
	case a := <-hook:
		if a.err != nil || a.code != code || !strings.Contains(a.body, text) {
			p.t.Fatalf("the hook is answered %d %q (%v); want %d with %q", a.code, a.body, a.err, code, text)
		}
		return a.body
	case <-time.After(patience):
		p.t.Fatal("the hook does not return")
	}
	return ""
}

func (p *process) status() drain.Status {
	p.t.Helper()
	var s drain.Status
	if err := json.Unmarshal([]byte(p.must("/status", 200, "{")), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// reaches waits for a state.
func (p *process) reaches(state string) {
	p.t.Helper()
	eventually(p.t, "the state is "+state, func() error {
		if s := p.status(); s.State != state {
			return errors.New(s.State)
		}
		return nil
	})
}

// inUse waits until n connections are in use.
func (p *process) inUse(n int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprint(n, " connections in use"), func() error {
		if c := p.status().Connections; c.Active != n {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// memory reads a figure of /proc/PID/status, such as VmHWM, in KiB.
func (p *process) memory(name string) int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	m := regexp.MustCompile(name + `:\s*(\d+) kB`).FindSubmatch(b)
	if m == nil {
		p.t.Fatalf("no %s in %s", name, b)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// result is how a command that ran to its end ended.
type result struct {
	code        int
	out, errOut string
}

// command runs the binary to its end.
func command(t *testing.T, env []string, args ...string) result {
	t.Helper()
	return commandIn(t, nil, env, args...)
}

// commandIn runs the binary to its end in a world that change makes.
func commandIn(t *testing.T, change func(*exec.Cmd), env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = append([]string{}, env...)
	if change != nil {
		change(c)
	}
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// freeAddress is one on which nobody listens now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// deadAddress is one on which nobody listens before the end of the test: calls are refused there.
func deadAddress(t *testing.T) string {
	t.Helper()
	return "127.0.0.1:" + strconv.Itoa(occupy(t, 0))
}

// sharedListener listens on a port of 127.0.0.1 that occupy may take too.
func sharedListener(t *testing.T) net.Listener {
	t.Helper()
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		called := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(called, err)
	}}
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// occupy takes a port of 127.0.0.1, 0 being any, and does not listen on it. It returns the port. One of
// a sharedListener may be listened on as yet.
func occupy(t *testing.T, port int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return at.(*unix.SockaddrInet4).Port
}

func seconds(v any) (time.Duration, error) { return time.ParseDuration(cmp.Or(fmt.Sprint(v), "none")) }
