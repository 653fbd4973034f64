//go:build linux

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestop/drain"
	"prestop/drain/conns/connstest"
)

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	bad := []string{"PRESTOP_GRACE_PERIOD=soon"}
	for sentence, c := range map[string]struct {
		env  []string
		args []string
		code int
		out  string // on standard output
		errs string // on standard error
	}{
		"help":                                  {bad, []string{"--help"}, 0, "--grace-period", ""},
		"help as a command":                     {bad, []string{"help"}, 0, "--grace-period", ""},
		"help on a command":                     {bad, []string{"shutdown", "--help"}, 0, "--token-file", ""},
		"help on installing":                    {bad, []string{"install", "--help"}, 0, "prestop install FOLDER", ""},
		"help on the status":                    {bad, []string{"status", "--help"}, 0, "--watch", ""},
		"help of a command by its name":         {bad, []string{"help", "check"}, 0, "where no sidecar runs", ""},
		"help behind a flag of a command":       {bad, []string{"status", "--watch", "--help"}, 0, "--watch", ""},
		"version as a flag":                     {bad, []string{"--version"}, 0, "prestop 1.2.3 (commit abc1234, go1.", ""},
		"version":                               {bad, []string{"version"}, 0, "prestop 1.2.3 (commit abc1234, go1.", ""},
		"an unknown flag":                       {nil, []string{"--grace-perod", "3"}, 64, "", "is --grace-period meant?"},
		"an unknown flag of a command":          {nil, []string{"shutdown", "--grace", "3"}, 64, "", "--grace"},
		"an unknown command":                    {nil, []string{"stop"}, 64, "", `unknown command "stop"; is shutdown meant?`},
		"a command that is mistyped":            {nil, []string{"statsu"}, 64, "", "is status meant?"},
		"a command behind the flags":            {nil, []string{"--port=80", "shutdown"}, 64, "", "before the flags"},
		"a bad configuration":                   {bad, nil, 64, "", `PRESTOP_GRACE_PERIOD="soon"`},
		"a bad configuration of no sidecar":     {bad, []string{"check", "--listen", deadAddress(t)}, 64, "", `PRESTOP_GRACE_PERIOD="soon"`},
		"a command without a sidecar's setting": {bad, []string{"shutdown", "--listen", deadAddress(t)}, 1, "", "not reached"},
		"a sidecar's flag on a command":         {nil, []string{"shutdown", "--port=1", "--listen", deadAddress(t)}, 1, "", "belongs to the sidecar"},
		"a short grace period":                  {nil, []string{"--grace-period=1", "--listen", taken.Addr().String()}, 1, "", "--listen"},
		"two problems":                          {bad, []string{"--count=guess"}, 64, "", `--count="guess"`},
		"hostNetwork without --port":            {[]string{"HOST_IP=10.0.0.1", "POD_IP=10.0.0.1"}, nil, 64, "", "hostNetwork"},
		"a port that is taken":                  {nil, []string{"--listen", taken.Addr().String()}, 1, "", "--listen"},
		"a hook without a sidecar":              {nil, []string{"shutdown", "--listen", deadAddress(t)}, 1, "", "not reached"},
		"resume without a sidecar":              {nil, []string{"resume", "--listen", deadAddress(t)}, 1, "", "not reached"},
		"status without a sidecar":              {nil, []string{"status", "--listen", deadAddress(t)}, 1, "", "not reached"},
		"a token file that is gone is no start": {nil, []string{"shutdown", "--token-file", "/none"}, 64, "", "/none"},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			r := command(t, c.env, c.args...)
			if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.errOut, c.errs) {
				t.Errorf("exit %d, out %q, err %q; want exit %d, out %q, err %q", r.code, r.out, r.errOut, c.code, c.out, c.errs)
			}
			if r.code == 0 && r.errOut != "" || r.code == 64 && r.out != "" {
				t.Errorf("the wrong stream: exit %d, out %q, err %q", r.code, r.out, r.errOut)
			}
		})
	}
}

func TestABadConfigurationStartsNothing(t *testing.T) {
	address := freeAddress(t)
	ready := filepath.Join(t.TempDir(), "ready")
	r := command(t, nil, "--listen", address, "--ready-file", ready, "--reserve=60")
	if r.code != exitUsage || strings.Contains(r.errOut, "started") {
		t.Errorf("exit %d: %s", r.code, r.errOut)
	}
	if l, err := net.Listen("tcp", address); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}

func TestASidecarServesAndStopsInOrderWhenTheAppIsGone(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	p.must("/healthz", 200, "OK")
	p.must("/readyz", 200, "")
	p.must("/ok", 503, "serving")
	p.must("/nothing", 404, "")
	p.must("/metrics", 200, `prestop_build_info{version="1.2.3"} 1`)
	p.says("the app listens")
	a.die()
	p.says("the app does not listen any more")
	p.must("/readyz", 503, "does not listen")
	p.signal(syscall.SIGTERM)
	p.exits(exitOK)
	p.says("stopped")
}

func TestAnAppThatNeverListensHasNothingToWaitFor(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.die()
	p := sidecarOf(t, a, nil)
	if line := p.says("the app does not listen yet; until it does, a drain has no connections to wait for"); line["ports"] != "["+a.port+"]" {
		t.Errorf("the ports are %v", line["ports"])
	}
	p.is(p.hook(), 200, "0 connections in use")
	p.signal(syscall.SIGTERM)
	p.exits(exitOK)
}

func TestTheHookWaitsForTheLastConnection(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	answered := a.call(t)
	p.says("the app listens")
	h := p.hook()
	p.inUse(1)
	eventually(t, "it waits for the connection", func() error {
		if got := p.get(t.Context(), "/ok"); got.code != 503 || !strings.Contains(got.body, "1 connections in use") {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	p.must("/healthz", 200, "")
	select {
	case got := <-h:
		t.Fatalf("the hook returned while a request was in flight: %+v", got)
	default:
	}
	a.release()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	p.is(h, 200, "OK drained in ")
	p.reaches("drained")
	p.must("/ok", 200, "OK")
	a.die()
	p.signal(syscall.SIGTERM)
	p.exits(exitOK)
}

// In the drain the app opens another port, and gives up the first: its connections count wherever they are.
func TestPortsAreFoundAndFollowed(t *testing.T) {
	t.Parallel()
	connstest.Pod(t) // where nobody else listens
	first, second := listenHere(t), listenHere(t)
	second.Close()
	p := launch(t, nil, nil, "--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--linger=0", "--idle-after=1", "--grace-period=60", "--reserve=0", "--termination-log=")
	p.says("the app listens")
	one, oneEnd := connected(t, first)
	var line bytes.Buffer
	hook := exec.Command(binary, "shutdown", "--listen="+p.listen) // a process, which is in this namespace too
	hook.Stdout = &line
	if err := hook.Start(); err != nil {
		t.Fatal(err)
	}
	inUse := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " connections in use, and the drain goes on"), func() error {
			var s drain.Status
			if err := json.Unmarshal([]byte(command(t, nil, "status", "--output=json", "--listen="+p.listen).out), &s); err != nil {
				return err
			}
			if s.State != "draining" || s.Connections.Active != n {
				return fmt.Errorf("%s, %+v", s.State, s.Connections)
			}
			return nil
		})
	}
	inUse(1)
	again, err := net.Listen("tcp", second.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() }) // and not when the garbage collector finds that nothing uses it any more
	two, twoEnd := connected(t, again)
	inUse(2)
	first.Close() // the app's listener moves; its clients stay
	two.Close()
	twoEnd.Close()
	inUse(1)
	one.Close()
	oneEnd.Close()
	if err := hook.Wait(); err != nil || !strings.Contains(line.String(), "0 connections in use") {
		t.Errorf("%v: %s", err, line.String())
	}
}

// Where the kernel's socket diagnosis is denied, /proc counts: one line says so, and what is lost.
func TestADrainWithoutTheKernelsDiagnosis(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := launch(t, withoutDiagnosis(t), nil, "--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--port="+a.port, "--linger=0", "--quiet-period=1", "--grace-period=60", "--termination-log=")
	answered := a.call(t)
	p.says("the app listens")
	h := p.hook()
	p.inUse(1)
	a.release()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	p.is(h, 200, "0 connections in use")
	said := 0
	for line := range strings.Lines(p.logs.String()) {
		if strings.Contains(line, "/proc") {
			said++
			if !strings.Contains(line, "--quiet-period does nothing") || !strings.Contains(line, "operation not permitted") {
				t.Errorf("it says %s", line)
			}
		}
	}
	if said != 1 {
		t.Errorf("%d lines tell of /proc:\n%s", said, p.logs)
	}
}

// listenHere listens on loopback, in the calling goroutine's namespace.
func listenHere(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connected opens a connection with a request that is not answered.
func connected(t *testing.T, l net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	if _, err := fmt.Fprint(client, "a request"); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// Callers that know sooner than the linger is long, as those whose list is pushed to them.
func TestAQuietPeriodEndsTheLingerAfterTheLastCaller(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil, "--linger=50", "--idle-after=1", "--quiet-period=2")
	p.says("the app listens")
	h := p.hook()
	p.reaches("draining")
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	calls := 0
	var last time.Time
	for ; ctx.Err() == nil; calls++ { // each on a connection of its own, which is gone before anybody looks
		last = time.Now()
		resp, err := oneShot.Get(a.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		select {
		case got := <-h:
			if time.Since(last) < 1900*time.Millisecond { // else the machine has made the pause
				t.Fatalf("the hook returned after %d calls, in the midst of them: %+v", calls, got)
			}
			answered := make(chan answer, 1)
			answered <- got
			h = answered
			stop()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if heard := p.status().Connections.LastHeard; heard == nil || heard.Address != "127.0.0.1" || heard.At.After(time.Now()) {
		t.Errorf("after %d calls: %+v", calls, heard)
	}
	line := p.is(h, 200, "early, as no client said anything")
	if since := time.Since(last); since < 1900*time.Millisecond {
		t.Errorf("the hook returned %v after the last call: %s", since, line)
	}
	if early, err := seconds(p.says("the drain is over")["linger_early"]); err != nil || early < 10*time.Second {
		t.Errorf("the log says that %v (%v) were saved", early, err)
	}
}

func TestTheHookReturnsAtTheDeadlineAndNamesWhoIsLeft(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	log := filepath.Join(t.TempDir(), "termination-log")
	p := sidecarOf(t, a, nil, "--grace-period=3", "--reserve=1", "--termination-log="+log)
	a.call(t)
	p.says("the app listens")
	p.is(p.hook(), 504, "127.0.0.1×1")
	p.reaches("expired")
	p.must("/ok", 503, "deadline")
	line := p.says("the drain is over")
	if line["level"] != "ERROR" || line["in_use"] != 1.0 || !regexp.MustCompile(`^\[127\.0\.0\.1×1 \(to `+a.port+` from \d+, silent for .*s\)\]$`).MatchString(fmt.Sprint(line["peers"])) {
		t.Errorf("the last line is %v", line)
	}
	eventually(t, "the termination log", func() error {
		b, err := os.ReadFile(log)
		if err == nil && !bytes.HasPrefix(b, []byte("EXPIRED after ")) {
			err = fmt.Errorf("it says %q", b)
		}
		return err
	})
}

// In an old-style Pod both containers get SIGTERM at once, or the sidecar even before the hook arrives.
func TestSIGTERMBeforeTheHookKeepsServingItAndExitsAfterTheApp(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	answered := a.call(t)
	p.says("the app listens")
	p.signal(syscall.SIGTERM)
	p.reaches("draining")
	h := p.hook()
	p.inUse(1)
	a.release()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	p.is(h, 200, "OK drained in ")
	p.reaches("drained")
	p.must("/healthz", 200, "") // still there: the app is
	p.is(p.hook(), 200, "OK")
	a.die()
	p.exits(exitOK)
	if line := p.says("draining"); line["cause"] != "SIGTERM" {
		t.Errorf("the drain began by %v", line["cause"])
	}
}

func TestASecondSignalEndsItNow(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			a := newApp(t)
			p := sidecarOf(t, a, nil)
			a.call(t)
			p.says("the app listens")
			p.signal(syscall.SIGTERM)
			p.says("draining")
			p.signal(s)
			p.exits(exitFailed)
			p.says("stopped before the end")
		})
	}
}

func TestACallerThatGoesAwayCancelsNothing(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	answered := a.call(t)
	p.says("the app listens")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan answer)
	go func() { gone <- p.get(ctx, "/shutdown") }()
	p.reaches("draining")
	cancel()
	if got := <-gone; got.err == nil {
		t.Errorf("answered %+v", got)
	}
	p.says("a caller of the hook went away; the drain goes on")
	p.reaches("draining")
	again := p.hook() // the kubelet was restarted
	p.inUse(1)
	a.release()
	<-answered
	p.is(again, 200, "OK drained in ")
	if n := strings.Count(p.logs.String(), `"msg":"draining"`); n != 1 {
		t.Errorf("%d drains", n)
	}
}

func TestResumeCancelsAndTheAppThatComesBackIsServedAgain(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	a.call(t)
	p.says("the app listens")
	h := p.hook()
	p.reaches("draining")
	p.must("/resume", 200, "OK")
	p.is(h, 503, "CANCELLED after ")
	p.reaches("serving")
	if line := p.says("serving"); line["cause"] != "resume" {
		t.Errorf("serving again by %v", line["cause"])
	}
}

func TestTheTokenIsAskedFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("from-the-file\n")
	for sentence, c := range map[string]struct {
		args []string
		env  []string
		good string
	}{
		"by the flag":     {[]string{"--token=by-flag"}, nil, "by-flag"},
		"by the variable": {nil, []string{"PRESTOP_TOKEN=by-variable"}, "by-variable"},
		"by the file":     {[]string{"--token-file=" + file}, nil, "from-the-file"},
	} {
		t.Run(sentence, func(t *testing.T) {
			p := sidecarOf(t, newApp(t), c.env, c.args...)
			for _, path := range []string{"/shutdown", "/resume"} {
				for _, token := range []string{"", "Bearer ", "Bearer wrong", c.good} {
					if got := p.get(t.Context(), path, "Authorization", token); got.code != 401 {
						t.Errorf("%s with %q is answered %d", path, token, got.code)
					}
				}
			}
			p.must("/status", 200, `"serving"`)
			p.must("/healthz", 200, "")
			if got := p.get(t.Context(), "/shutdown", "Authorization", "Bearer "+c.good); got.code != 200 {
				t.Errorf("with the token: %+v", got)
			}
			if strings.Contains(p.logs.String(), c.good) {
				t.Error("the token is in the log")
			}
		})
	}
	t.Run("by a file that is rotated", func(t *testing.T) {
		p := sidecarOf(t, newApp(t), nil, "--token-file="+file)
		for _, c := range []struct {
			text, token string
			code        int
		}{
			{"new", "new", 200}, {"new", "from-the-file", 200}, {"new", "", 401}, {"new", "wrong", 401},
			{"", "", 401}, {"", "new", 200}, {"newer", "newer", 200}, {"newer", "from-the-file", 200},
		} {
			write(c.text)
			if got := p.get(t.Context(), "/resume", "Authorization", "Bearer "+c.token); got.code != c.code {
				t.Errorf("the file holds %q, the call %q: answered %d; want %d", c.text, c.token, got.code, c.code)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		for token, code := range map[string]int{"": 401, "wrong": 401, "new": 200} {
			if got := p.get(t.Context(), "/shutdown", "Authorization", "Bearer "+token); got.code != code {
				t.Errorf("without the file, with %q: answered %d; want %d", token, got.code, code)
			}
		}
		if text := p.logs.String(); strings.Contains(text, "from-the-file") || strings.Contains(text, "newer") {
			t.Error("a token is in the log")
		}
	})
}

func TestTheLogIsJSONAndItsLastLineTellsWhereTheTimeWent(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil, "--linger=300ms")
	p.says("the app listens")
	p.is(p.hook(), 200, "OK")
	p.says("the drain is over")
	a.die()
	p.signal(syscall.SIGTERM)
	p.exits(exitOK)
	messages := map[string]int{}
	for line := range strings.Lines(p.logs.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%v in %q", err, line)
			continue
		}
		if v["time"] == nil || v["level"] == nil || v["msg"] == "" {
			t.Errorf("no time, level or message in %q", line)
		}
		messages[fmt.Sprint(v["msg"])]++
	}
	for _, once := range []string{"prestop started", "the app listens", "hook called", "draining", "the drain is over", "told to stop", "stopped"} {
		if messages[once] != 1 {
			t.Errorf("%q is said %d times", once, messages[once])
		}
	}
	last := p.says("the drain is over")
	var sum, took time.Duration
	for _, part := range []string{"leave", "linger", "count", "took"} {
		d, err := seconds(last[part])
		if err != nil {
			t.Errorf("%s is %v", part, last[part])
		}
		if part == "took" {
			took = d
		} else {
			sum += d
		}
	}
	if off := took - sum; off.Abs() > 3*time.Millisecond || took < 300*time.Millisecond { // each is rounded
		t.Errorf("the parts are %v, the whole %v: %v", sum, took, last)
	}
	for _, key := range []string{"result", "in_use", "idle", "source"} {
		if last[key] == nil {
			t.Errorf("%s is not told: %v", key, last)
		}
	}
}

// TestAStartTellsWhatWasFoundAndWhatWillBeDone has the two starts of a newcomer: in a Pod with its address alone, and on a
// laptop with nothing.
func TestAStartTellsWhatWasFoundAndWhatWillBeDone(t *testing.T) {
	const plan = "on the hook a drain will leave the registries, let the callers' caches run out, and wait until no connection is in use"
	const hint = "this looks like a first try"
	for sentence, c := range map[string]struct {
		env  []string
		hint bool
		say  []string
	}{
		"nothing but POD_IP": {[]string{"POD_IP=127.0.0.1", "KUBERNETES_SERVICE_HOST=10.96.0.1"}, false,
			[]string{`"addresses":["127.0.0.1"]`, "up to 3s (no registry", `"at_most":"25s"`, "any port that the app listens on", "no registry is set; set --eureka-url or --nacos-url"}},
		"nothing, in a Pod": {[]string{"KUBERNETES_SERVICE_HOST=10.96.0.1"}, false, []string{plan}},
		"nothing at all":    {nil, true, []string{plan}},
	} {
		t.Run(sentence, func(t *testing.T) {
			var out bytes.Buffer
			p := launch(t, func(c *exec.Cmd) {
				c.Stdout = &out
				c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // where nobody else has the port of the contract
			}, c.env)
			p.says(plan)
			p.says("the app does not listen yet; until it does, a drain has no connections to wait for") // the last of a start
			for _, want := range c.say {
				if !strings.Contains(p.logs.String(), want) {
					t.Errorf("%q is not said:\n%s", want, p.logs)
				}
			}
			p.signal(syscall.SIGKILL)
			<-p.ended
			if got := strings.Contains(out.String(), hint); got != c.hint {
				t.Errorf("how to try it is told: %v; want %v: %q", got, c.hint, out.String())
			}
		})
	}
}

func TestTextLogs(t *testing.T) {
	t.Parallel()
	c := exec.Command(binary, "--listen=127.0.0.1:0", "--log-format=text", "--instance-ip=127.0.0.1", "--port=1")
	c.Env = []string{}
	out, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }() // it is done with
	first := make([]byte, 5)
	if _, err := io.ReadFull(out, first); err != nil || string(first) != "time=" {
		t.Errorf("the log begins with %q, %v", first, err)
	}
}

func TestTheReadyFileIsThereWhileDrained(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ok")
	p := sidecarOf(t, newApp(t), nil, "--ready-file="+file)
	p.says("the app listens")
	there := func() bool { _, err := os.Stat(file); return err == nil }
	if there() {
		t.Error("it is there before the drain")
	}
	p.is(p.hook(), 200, "OK")
	eventually(t, "the file", func() error { _, err := os.Stat(file); return err })
	p.must("/resume", 200, "OK")
	eventually(t, "no file", func() error {
		if there() {
			return os.ErrExist
		}
		return nil
	})
}

func TestStatusOfTheProcessHasTheKeysOfTheContract(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), nil)
	var got map[string]any
	if err := json.Unmarshal([]byte(p.must("/status", 200, "{")), &got); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for k := range got {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if want := []string{"app", "connections", "deadline", "lingerUntil", "registries", "result", "settings", "since", "state"}; !slices.Equal(keys, want) {
		t.Errorf("the keys are %q; want %q", keys, want)
	}
}
