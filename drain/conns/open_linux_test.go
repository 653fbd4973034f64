package conns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestALookEndsWithItsContext(t *testing.T) {
	cause := errors.New("that is enough")
	for _, source := range sources {
		counter := counter(t, source, Rule{})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := counter.Count(ctx, []uint16{1}); !errors.Is(err, cause) {
			t.Errorf("%s: Count returned %v", source, err)
		}
		if _, err := counter.Listeners(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: Listeners returned %v", source, err)
		}
		if _, err := counter.Count(t.Context(), []uint16{1}); err != nil {
			t.Errorf("%s: the next Count returned %v", source, err)
		}
	}
}

func TestCloseMayBeCalledTwice(t *testing.T) {
	for _, source := range sources {
		c := counter(t, source, Rule{})
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func TestAutoIsNetlinkWhereThatWorks(t *testing.T) {
	c := counter(t, Auto, Rule{})
	if c.Source() != Netlink {
		t.Errorf("auto chose %s", c.Source())
	}
}

func TestAutoFallsBackAndSaysWhatIsLost(t *testing.T) {
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(&lines, nil))
	denied := func(Rule, *slog.Logger) (Counter, error) { return nil, fmt.Errorf("ask: %w", syscall.EPERM) }
	c, err := open(Auto, Rule{}, log, denied, openProc)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Source() != Proc || c.Ended() != nil {
		t.Errorf("fell back to %s, with events: %t", c.Source(), c.Ended() != nil)
	}
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "operation not permitted") || !strings.Contains(got, "every open one counts as in use") {
		t.Errorf("logged %q: want one line with the reason and what is lost", got)
	}
	if _, err := open(Netlink, Rule{}, log, denied, openProc); !errors.Is(err, syscall.EPERM) {
		t.Errorf("netlink, which was asked for, is denied and the error is %v", err)
	}
	if _, err := open(Auto, Rule{}, log, denied, denied); !errors.Is(err, syscall.EPERM) {
		t.Errorf("both are denied and the error is %v", err)
	}
	if _, err := Open("procfs", Rule{}, log); err == nil || !strings.Contains(err.Error(), "procfs") {
		t.Errorf("an unknown source: %v", err)
	}
}

// deniedCounter is one that the kernel denies from some moment on.
type deniedCounter struct {
	Counter
	err    error
	closed bool
}

func (d *deniedCounter) Count(ctx context.Context, ports []uint16) (Tally, error) {
	if d.err != nil {
		return Tally{}, fmt.Errorf("ask: %w", d.err)
	}
	return d.Counter.Count(ctx, ports)
}

func (d *deniedCounter) Close() error { d.closed = true; return d.Counter.Close() }

func TestAutoGoesOnByProcWhereNetlinkIsDeniedMidWay(t *testing.T) {
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(&lines, nil))
	var under *deniedCounter
	c, err := open(Auto, Rule{}, log, func(r Rule, l *slog.Logger) (Counter, error) {
		n, err := openNetlink(r, l)
		under = &deniedCounter{Counter: n}
		return under, err
	}, openProc)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port := listen(t, "tcp", "127.0.0.1:0")
	dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	c.Watch([]uint16{port})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Count(ctx, []uint16{port}); err == nil || c.Source() != Netlink {
		t.Errorf("a context that ended: %v, then counted by %s", err, c.Source())
	}
	under.err = syscall.EPERM
	for range 2 {
		if tally := count(t, c, port); tally.Open != 1 || tally.Source != Proc {
			t.Errorf("denied, and counted as %+v", tally)
		}
	}
	if got := lines.String(); c.Source() != Proc || c.Ended() != nil || !under.closed || strings.Count(got, "\n") != 1 ||
		!strings.Contains(got, "operation not permitted") {
		t.Errorf("counted by %s, events %t, closed %t, logged %q", c.Source(), c.Ended() != nil, under.closed, got)
	}
}

// asNobody makes the test's own binary count in another process.
const asNobody = "PRESTOP_TEST_COUNT_PORT"

// As in a Pod under restricted Pod Security: another user than the app's, no capability, no new privileges.
func TestCountWithoutPrivileges(t *testing.T) {
	if port := os.Getenv(asNobody); port != "" {
		countAsNobody(t, port)
		return
	}
	if os.Getuid() != 0 {
		t.Fatal("run as root: this test drops privileges, and needs them first")
	}
	l, port := listen(t, "tcp", "127.0.0.1:0")
	accepted(t, l, l.Addr().String())
	// The binary's directory is root's alone; an open file is run all the same.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	run := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run=^TestCountWithoutPrivileges$", "-test.v")
	run.ExtraFiles = []*os.File{self}
	run.Dir = "/"
	run.Env = []string{fmt.Sprintf("%s=%d", asNobody, port)}
	run.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := run.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "counted as 65534") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func countAsNobody(t *testing.T, port string) {
	var p uint16
	if _, err := fmt.Sscan(port, &p); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "CapEff:\t0000000000000000") {
		t.Fatalf("this process has capabilities:\n%s", status)
	}
	for _, source := range sources {
		c := counter(t, source, Rule{IdleAfter: time.Hour, RequestTimeout: time.Hour})
		if tally := count(t, c, p); tally.Active != 1 {
			t.Errorf("%s: %+v", source, tally)
		}
		if source == Netlink && c.Ended() == nil {
			t.Error("no events")
		}
	}
	t.Logf("counted as %d", os.Getuid())
}
