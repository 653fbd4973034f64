package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unread is a sidecar whose log goes into a pipe that the test holds, and may not read.
type unread struct {
	*process
	log *os.File
}

// withLog starts the binary with a log of 4 KiB that nobody reads. On its port, which is found first,
// nobody else listens.
func withLog(t *testing.T, args ...string) *unread {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	listen := freeAddress(t)
	u := &unread{&process{t: t, listen: listen, url: "http://" + listen, logs: &logText{}, ended: make(chan struct{})}, r}
	u.cmd = exec.Command(binary, append([]string{"--listen=" + listen, "--instance-ip=127.0.0.1", "--linger=0", "--termination-log=", "--log-level=debug"}, args...)...)
	u.cmd.Env, u.cmd.Stderr = []string{}, w
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() { _ = u.cmd.Wait(); close(u.ended) }() // exits tells its code
	t.Cleanup(func() { _ = u.cmd.Process.Kill(); <-u.ended })
	eventually(t, "it listens", func() error { return u.get(t.Context(), "/healthz").err })
	return u
}

// fill makes more lines than the pipe and the process hold.
func (u *unread) fill() {
	u.t.Helper()
	for range 100 {
		u.must("/resume", 200, "OK")
	}
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 100 {
				u.get(u.t.Context(), "/stopping")
				u.get(u.t.Context(), "/resume")
			}
		})
	}
	callers.Wait()
}

// exitsSoon fails unless the process ends with the code within a time that only hanging exceeds.
func (p *process) exitsSoon(code int) {
	p.t.Helper()
	began := time.Now()
	p.exits(code)
	if took := time.Since(began); took > 10*time.Second {
		p.t.Errorf("it took %v", took)
	}
}

func TestALogThatNobodyReadsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	u := withLog(t, "--port="+a.port, "--grace-period=60", "--reserve=0")
	u.fill()
	u.must("/healthz", 200, "OK")
	answered := a.call(t)
	eventually(t, "the app is seen", func() error {
		if s := u.status(); len(s.App) == 0 || !s.App[0].Listening {
			return fmt.Errorf("%+v", s.App)
		}
		return nil
	})
	h := u.hook()
	u.inUse(1)
	a.release()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	u.is(h, 200, "OK drained in ")
	a.die()
	u.signal(syscall.SIGTERM)
	u.exitsSoon(exitOK)
}

func TestLinesThatNobodyReadAreCounted(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	u := withLog(t, "--port="+a.port)
	for i := range 2000 { // a kind each, or they were one line
		u.get(t.Context(), fmt.Sprintf("/nothing-%c%c%c", 'a'+i%26, 'a'+i/26%26, 'a'+i/26/26), "User-Agent", "kube-lifecycle/1.34")
	}
	lines := make(chan string, 1)
	go func() {
		for r := bufio.NewScanner(u.log); r.Scan(); {
			if strings.Contains(r.Text(), "lines of the log were dropped") {
				lines <- r.Text()
				return
			}
		}
		close(lines)
	}()
	u.must("/resume", 200, "OK") // the line that comes next tells
	select {
	case line := <-lines:
		var v struct{ Lines int }
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Lines < 100 {
			t.Errorf("%v: %q", err, line)
		}
	case <-time.After(patience):
		t.Error("nothing tells that lines are missing")
	}
}

func TestASecondSignalEndsItNowWhateverHangs(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			hang := make(chan struct{})
			silent := serveHere(t, func(http.ResponseWriter, *http.Request) { <-hang })
			t.Cleanup(func() { close(hang) })
			a := newApp(t)
			fifo := filepath.Join(t.TempDir(), "termination-log")
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			u := withLog(t, "--port="+a.port, "--grace-period=600", "--registry-timeout=500s", "--eureka-url="+silent+"/eureka", "--nacos-url="+silent,
				"--drain-call=POST "+silent, "--termination-log="+fifo)
			a.call(t)
			u.fill()
			h := u.hook()
			u.reaches("draining")
			u.signal(syscall.SIGTERM)
			eventually(t, "it exits", func() error { // of two signals at once the kernel makes one
				select {
				case <-u.ended:
					return nil
				case <-time.After(100 * time.Millisecond):
					_ = u.cmd.Process.Signal(s) // it may have exited
					return errors.New("not yet")
				}
			})
			u.exitsSoon(exitFailed)
			if got := <-h; got.code == 200 {
				t.Errorf("the hook was told %+v", got)
			}
		})
	}
}

func TestALogWhoseReaderHasGoneEndsNothing(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	u := withLog(t, "--port="+a.port, "--grace-period=60", "--reserve=0")
	u.log.Close()
	u.fill()
	u.is(u.hook(), 200, "OK drained in ")
	a.die()
	u.signal(syscall.SIGTERM)
	u.exitsSoon(exitOK)
}

func TestACommandWhoseReaderHasGoneEnds(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), nil)
	for _, name := range []string{"status", "check", "shutdown", "help"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		c := exec.Command(binary, name, "--listen="+p.listen)
		if name == "help" {
			c.Args = c.Args[:2]
		}
		c.Env, c.Stdout = []string{}, w
		done := make(chan error, 1)
		go func() { done <- c.Run() }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("%s goes on", name)
		}
		w.Close()
	}
}

func TestLinesThatRepeatAreFolded(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), []string{"PRESTOP_TOKEN=sesame"})
	for range 500 {
		if got := p.get(t.Context(), "/shutdown"); got.code != 401 {
			t.Fatalf("%+v", got)
		}
	}
	p.signal(syscall.SIGTERM)
	p.says("told to stop")
	p.signal(syscall.SIGTERM)
	p.exits(exitFailed)
	n, last := 0, ""
	for line := range strings.Lines(p.logs.String()) {
		if strings.Contains(line, "refused a call without the token") {
			n, last = n+1, line
		}
	}
	if n != 2 || !strings.Contains(last, `"times":499`) {
		t.Errorf("%d lines tell of 500 refused calls, the last: %s", n, last)
	}
}

// A second signal comes while thousands wait at the hook: each of them is answered.
func TestCallersThatWaitAreAnsweredWhenTheProcessEnds(t *testing.T) {
	const callers = 4000
	raiseFiles(t, callers+500)
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	a.call(t)
	p.says("the app listens")
	h := p.hook()
	p.inUse(1)
	conns := make([]net.Conn, 0, callers)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range callers {
		c, err := net.Dial("tcp", p.listen)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET /shutdown HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	p.must("/healthz", 200, "OK") // it has taken them all: connections are accepted in their order
	p.signal(syscall.SIGTERM)
	p.says("told to stop")
	p.signal(syscall.SIGTERM)
	p.is(h, 503, "CANCELLED after ")
	told := 0
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if b, _ := io.ReadAll(c); bytes.HasPrefix(b, []byte("HTTP/1.1 503 ")) && bytes.Contains(b, []byte("CANCELLED")) {
			told++
		}
	}
	if told != callers {
		t.Errorf("%d of %d callers were told", told, callers)
	}
	p.exits(exitFailed)
}

func TestTheReadyFileOfAnEarlierLifeIsRemoved(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ok")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := sidecarOf(t, newApp(t), nil, "--ready-file="+file)
	eventually(t, "the file is gone", func() error {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	p.must("/ok", 503, "")
}

func TestAFileThatCannotBeWrittenHoldsNothingUp(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for sentence, path := range map[string]string{
		"a pipe that nobody reads": fifo, "a folder that is not there": dir + "/none/log", "a folder": dir, "a device": "/dev/full",
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			a := newApp(t)
			p := sidecarOf(t, a, nil, "--termination-log="+path, "--ready-file="+path)
			p.says("the app listens")
			p.is(p.hook(), 200, "OK drained in ")
			a.die()
			p.signal(syscall.SIGTERM)
			p.exitsSoon(exitOK)
		})
	}
}

func TestAHookThatIsNearlyRightIsToldLoudly(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), nil)
	p.says("the app listens")
	for path, right := range map[string]string{"/shutdwon": "/shutdown", "/": "/shutdown", "/healthz": "/shutdown", "/prestop/resumee": "/resume", "/stop": "/shutdown"} {
		if got := p.get(t.Context(), path, "User-Agent", "kube-lifecycle/1.34"); got.err != nil {
			t.Fatal(got.err)
		}
		eventually(t, "a warning names "+path, func() error {
			for line := range strings.Lines(p.logs.String()) {
				var v struct{ Level, Path, Right string }
				if json.Unmarshal([]byte(line), &v) == nil && v.Level == "WARN" && v.Path == path && v.Right == right {
					return nil
				}
			}
			return errors.New(p.logs.String())
		})
	}
	if got := p.get(t.Context(), "/readz", "User-Agent", "kube-probe/1.34"); got.code != 404 {
		t.Errorf("a probe of no path: %+v", got)
	}
	if line := p.says("the kubelet probes a path that does not exist, so the probe fails: correct the path of the probe"); line["path"] != "/readz" || line["level"] != "WARN" {
		t.Errorf("the log says %v", line)
	}
	if got := p.get(t.Context(), "/shutdown/", "User-Agent", "kube-lifecycle/1.34"); got.code != 200 || !strings.HasPrefix(got.body, "OK drained") {
		t.Errorf("with a slash at the end: %+v", got)
	}
	list := p.must("/", 200, "")
	for _, path := range []string{"/shutdown", "/stopping", "/resume", "/ok", "/healthz", "/readyz", "/status", "/metrics"} {
		if !strings.Contains(list, " "+path+" ") {
			t.Errorf("%s is not listed:\n%s", path, list)
		}
	}
}

// serveHere serves on a free port and returns the URL.
func serveHere(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}
