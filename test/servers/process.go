package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// readyWithin is how long a Java server may take on a busy machine with two cores.
const readyWithin = 3 * time.Minute

// Spec says how to start a Java program.
type Spec struct {
	// Name is for the log file and errors.
	Name string
	// Args are java's arguments.
	Args []string
	// Env is added to the test's environment.
	Env []string
	// Dir is the working directory and where the log goes; "" makes a temporary one that is kept.
	Dir string
	// Ready is a URL that answers 200 once the program can be used; "" does not wait.
	Ready string
	// User and Password are sent to Ready as basic auth unless User is "".
	User, Password string
}

// Process is a running Java program.
type Process struct {
	// Name is the Spec's.
	Name string
	// Log is the path of its output.
	Log string

	cmd   *exec.Cmd
	ended *Ended
}

// Ended tells of a program's end.
type Ended struct {
	done chan struct{}
	err  error // read after done
}

// Done is closed when the program has ended.
func (e *Ended) Done() <-chan struct{} { return e.done }

// Err waits for the program's end and returns what exec.Cmd's Wait says of it.
func (e *Ended) Err() error {
	<-e.done
	return e.err
}

// StartBound starts a program that dies with the test's process, however that ends; nobody else is to call cmd.Wait.
//
// The kernel binds the program to the thread that started it, not to the process. So the thread is kept for as long as the
// program lives; and it is given back afterwards, not ended, since other programs may have been started on it before.
func StartBound(cmd *exec.Cmd) (*Ended, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	e := &Ended{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(e.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			e.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return e, nil
}

// starts lets two programs start at a time: a JVM takes a core for some seconds then, and tests that run beside a dozen
// of them wait for everything longer than they may.
var starts = make(chan struct{}, 2)

// Start starts the program, when it is its turn, and returns when it is ready. When it ends before, or is not ready within three minutes or
// before ctx ends, it is ended and the error holds the tail of its output. The program dies with the test's process.
func Start(ctx context.Context, s Spec) (*Process, error) {
	java, err := Java()
	if err != nil {
		return nil, err
	}
	select {
	case starts <- struct{}{}:
		defer func() { <-starts }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to start %s: %w", s.Name, ctx.Err())
	}
	if s.Dir == "" {
		if s.Dir, err = os.MkdirTemp("", "prestop-"+s.Name+"-"); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(filepath.Join(s.Dir, s.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the program has its own
	p := &Process{Name: s.Name, Log: log.Name(), cmd: exec.Command(java, s.Args...)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.Dir, log, log
	p.cmd.Env = append(os.Environ(), s.Env...)
	if p.ended, err = StartBound(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	if s.Ready != "" {
		ctx, cancel := context.WithTimeout(ctx, readyWithin)
		defer cancel()
		if err := p.ready(ctx, s); err != nil {
			return nil, errors.Join(fmt.Errorf("%s at %s: %w; the end of %s:\n%s", s.Name, s.Ready, err, p.Log, p.Tail()), p.Kill())
		}
	}
	return p, nil
}

// Run is Start for one test: it ends the program with the test, and logs the tail of its output when the test failed.
func Run(t testing.TB, s Spec) *Process {
	t.Helper()
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
	p, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of %s's output:\n%s", p.Name, p.Tail())
		}
		if err := p.Stop(); err != nil {
			t.Errorf("stop %s: %v", p.Name, err)
		}
	})
	return p
}

func (p *Process) ready(ctx context.Context, s Spec) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		select {
		case <-p.Done():
			return fmt.Errorf("ended before it was ready: %w", p.howEnded())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w, last: %w", ctx.Err(), last)
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Ready, nil)
		if err != nil {
			return err
		}
		if s.User != "" {
			req.SetBasicAuth(s.User, s.Password)
		}
		resp, err := client.Do(req)
		if err != nil {
			last = err
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = errors.New(resp.Status)
	}
}

// Stop sends SIGTERM, after 20 s SIGKILL, and waits for the end. Stopping an ended program does nothing; having had to
// kill is not an error.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM, 20*time.Second) }

// Kill sends SIGKILL, the way in which a container without grace ends, and waits for the end.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL, 20*time.Second) }

func (p *Process) end(sig syscall.Signal, patience time.Duration) error {
	select {
	case <-p.Done():
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.Name, err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.Done():
		return nil
	case <-timer.C:
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.Done()
	return nil
}

// Signal sends sig, e.g. SIGSTOP and SIGCONT for a program that hangs.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.ended.Done() }

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

func (p *Process) howEnded() error {
	if err := p.ended.Err(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

// Tail is the end of the program's output.
func (p *Process) Tail() string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(tail(text, 6000)))
}

// FreePort returns a port p of loopback such that p and p plus each of offsets are free. It is below 32768, where the
// ephemeral ports begin: no connection takes it before the server does. None is given to anybody else while this process
// runs, by none that asks here, since a server that waits for its turn to start takes it much later.
func FreePort(offsets ...int) (int, error) {
	for range 200 {
		port := 11000 + rand.IntN(20000)
		if taken := take(port, offsets); taken != nil {
			given.Lock()
			defer given.Unlock()
			given.ports = append(given.ports, taken...)
			return port, nil
		}
	}
	return 0, errors.New("find a free port between 11000 and 31000: none in 200 tries")
}

// given holds the ports that FreePort has returned.
var given struct {
	sync.Mutex
	ports []net.Listener
}

// take keeps port and port plus each of offsets from other callers of FreePort, in whatever process, by a name that the kernel
// gives to one socket alone; nil if one of them is not free.
func take(port int, offsets []int) (taken []net.Listener) {
	for _, o := range slices.Compact(slices.Sorted(slices.Values(append([]int{0}, offsets...)))) {
		l, err := net.Listen("unix", fmt.Sprintf("@prestop-test-port-%d", port+o))
		if err == nil {
			taken = append(taken, l)
		}
		if err != nil || !free(port+o) {
			for _, l := range taken {
				l.Close()
			}
			return nil
		}
	}
	return taken
}

func free(port int) bool {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
