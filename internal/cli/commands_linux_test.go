package cli

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestop/registry/registrytest"
)

func TestACancelledDrainHasItsLineAndItsExitCode(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	a.call(t)
	p.says("the app listens")
	ended := make(chan result, 1)
	go func() { ended <- command(t, nil, "shutdown", "--listen="+p.listen) }()
	p.reaches("draining")
	if r := command(t, nil, "resume", "--listen="+p.listen); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	if r := <-ended; r.code != exitCancelled || !strings.HasPrefix(r.out, "CANCELLED after ") || r.errOut != "" {
		t.Errorf("%+v", r)
	}
	line := p.says("the drain is over")
	if line["result"] != "cancelled" || line["took"] == nil || line["cause"] != "hook" {
		t.Errorf("the last line is %v", line)
	}
	if s := p.status(); s.LastDrain == nil || s.LastDrain.Result != "cancelled" {
		t.Errorf("%+v", s.LastDrain)
	}
}

// interrupted starts a command, interrupts it once ready returns, and returns how it ended.
func interrupted(t *testing.T, ready func(), args ...string) result {
	t.Helper()
	c := exec.Command(binary, args...)
	c.Env = []string{}
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ready()
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func TestAnInterruptSaysWhatIsStillWaitedFor(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	answered := a.call(t)
	p.says("the app listens")
	r := interrupted(t, func() { p.reaches("draining"); p.inUse(1) }, "shutdown", "--listen="+p.listen)
	for _, want := range []string{"interrupted, but the drain goes on", "1 connections in use", "prestop resume"} {
		if r.code != exitFailed || !strings.Contains(r.errOut, want) {
			t.Errorf("%q is not told: %+v", want, r)
		}
	}
	p.signal(syscall.SIGINT)
	line := p.says("not stopped yet; a second signal ends it now")
	if line["state"] != "draining" || line["waits_for"] != "1 connections in use" || line["deadline"] == nil {
		t.Errorf("the log says %v", line)
	}
	a.release()
	<-answered
	p.reaches("drained")
	a.die()
	p.exits(exitOK)
}

func TestAStopThatWaitsForNothingSaysNothingOfIt(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	p := sidecarOf(t, a, nil)
	p.says("the app listens")
	p.is(p.hook(), 200, "OK")
	a.die()
	p.says("the app does not listen any more")
	p.signal(syscall.SIGTERM)
	p.exits(exitOK)
	if strings.Contains(p.logs.String(), "not stopped yet") {
		t.Error("it says that it has not stopped yet")
	}
}

// The registry holds the port of a Service or of NAT, and the app listens on another one.
func TestCheckOfAPortThatIsNotTheAppsOwn(t *testing.T) {
	if !alone(t) {
		return
	}
	other := newApp(t)
	h := holds(t, "nacos", other)
	h.run.Stop(t)
	other.die()
	flag := strings.Replace(h.flag, "prestop:"+hush+"@", "", 1)
	a := newApp(t)
	h.world.Start(t, registrytest.App{Service: "orders", Address: netip.MustParseAddrPort("127.0.0.1:80")})
	exclude := "--exclude-port="
	for _, server := range append(h.world.URLs(), h.front.URL) {
		u, err := url.Parse(server)
		if err != nil {
			t.Fatal(err)
		}
		exclude += u.Port() + ","
	}
	p := launch(t, nil, nil, "--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--linger=0", "--grace-period=60", "--termination-log=", exclude, flag)
	p.says("the app listens")
	var r result
	eventually(t, "check gives the remedy", func() error {
		r = command(t, nil, "check", "--listen="+p.listen)
		if problems := problemsOf(t, r); r.code != exitFailed || len(problems) != 1 || !strings.Contains(problems[0], "--port=80,"+a.port) {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	p.signal(syscall.SIGKILL)
	<-p.ended
	q := launch(t, nil, nil, "--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--linger=0", "--grace-period=60", "--termination-log=", exclude, flag, "--port=80,"+a.port)
	q.says("registered")
	if r := command(t, nil, "check", "--listen="+q.listen); r.code != exitOK || !strings.Contains(r.out, "the app listens on ["+a.port+"]") {
		t.Errorf("once it is set: %+v", r)
	}
	q.is(q.hook(), 200, "OK drained")
	h.becomesNobody(t)
}

// becomesNobody waits until no caller is sent anywhere.
func (h *held) becomesNobody(t *testing.T) {
	t.Helper()
	eventually(t, "callers are sent to nobody", func() error {
		if seen := h.world.Callers(t, "orders")[0]; len(seen) > 0 {
			return fmt.Errorf("%v", seen)
		}
		return nil
	})
}

func TestCheckOfAnAppOnAnotherPortThanIsSet(t *testing.T) {
	t.Parallel()
	a, wrong := newApp(t), newApp(t)
	wrong.die()
	p := sidecarOf(t, a, nil, "--port="+wrong.port)
	for sentence, args := range map[string][]string{
		"beside a sidecar": {"--listen=" + p.listen}, "without one": {"--listen=" + deadAddress(t), "--instance-ip=127.0.0.1", "--port=" + wrong.port, "--linger=0"},
	} {
		r := command(t, nil, append([]string{"check"}, args...)...)
		var about string
		for _, problem := range problemsOf(t, r) {
			if strings.Contains(problem, "the app does not listen") {
				about = problem
			}
		}
		for _, want := range []string{wrong.port, "--port", "kubectl logs"} {
			if r.code != exitFailed || !strings.Contains(about, want) {
				t.Errorf("%s, %q is not told: %q", sentence, want, about)
			}
		}
	}
}

func TestStatusOfARegistryThatWasNeverReached(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	for kind, flag := range map[string]string{"eureka": "--eureka-url=http://127.0.0.1:1/eureka", "nacos": "--nacos-url=127.0.0.1:1"} {
		p := sidecarOf(t, a, nil, flag, "--registry-timeout=500ms")
		p.says("the app listens")
		eventually(t, kind+" is not reached", func() error {
			r := command(t, nil, "status", "--listen="+p.listen)
			if r.code != exitOK || !strings.Contains(r.out, "not reached yet: connection refused") || strings.Contains(r.out, "no instance") {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		if line := fmt.Sprint(p.says("trouble with the registry")["error"]); strings.Contains(line, "dial tcp") || strings.Contains(line, "context") {
			t.Errorf("the log has an error of Go's: %s", line)
		}
	}
}

// TestAnErrorOfACommandIsASentenceWithARemedy: none is Go's.
func TestAnErrorOfACommandIsASentenceWithARemedy(t *testing.T) {
	t.Parallel()
	page := serveHere(t, says(200, "text/html", "<html>"))
	hangs := listenHere(t)
	for sentence, c := range map[string]struct {
		args []string
		want string
	}{
		"nobody there":        {[]string{"status", "--listen=" + deadAddress(t)}, "is it running"},
		"another program":     {[]string{"status", "--listen=" + strings.TrimPrefix(page, "http://")}, "is not prestop"},
		"another, in a hook":  {[]string{"shutdown", "--listen=" + strings.TrimPrefix(page, "http://")}, "is not prestop"},
		"another, to resume":  {[]string{"resume", "--listen=" + strings.TrimPrefix(page, "http://")}, "is not prestop"},
		"one that hangs":      {[]string{"status", "--listen=" + hangs.Addr().String()}, "no answer"},
		"no name":             {[]string{"shutdown", "--listen=no-such-host.invalid:1"}, "no-such-host.invalid"},
		"a folder that isn't": {[]string{"install", "/no/such/folder"}, "is a volume mounted there"},
	} {
		r := command(t, nil, c.args...)
		if r.code != exitFailed || !strings.Contains(r.errOut, c.want) {
			t.Errorf("%s: %+v", sentence, r)
		}
		for _, raw := range []string{"dial tcp", "context ", "EOF", "invalid character", "syscall", "lookup "} {
			if strings.Contains(r.errOut, raw) {
				t.Errorf("%s: %q is in %s", sentence, raw, r.errOut)
			}
		}
	}
}

// A given port restricts nothing: the app's other one, which is registered too, is looked at as well.
func TestAGivenPortIsAddedToThoseThatAreRegistered(t *testing.T) {
	if !alone(t) {
		return
	}
	if out, err := exec.Command("ip", "address", "add", "10.0.0.1/24", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	nacos := registrytest.NewNacos(registrytest.NacosConfig{})
	serve(t, "127.0.0.1:8848", nacos)
	world := &registrytest.NacosWorld{Servers: []string{"http://127.0.0.1:8848/nacos"}, Heartbeat: 200 * time.Millisecond, Major: 2}
	for service, address := range map[string]string{"orders": "10.0.0.1:8080", "orders-dubbo": "10.0.0.1:20880"} {
		serve(t, address, http.NotFoundHandler())
		world.Start(t, registrytest.App{Service: service, Address: netip.MustParseAddrPort(address)})
	}
	flags := []string{"--nacos-url=127.0.0.1:8848", "--instance-ip=10.0.0.1", "--port=8080", "--linger=0", "--grace-period=60"}
	r := command(t, nil, append([]string{"check", "--listen=" + deadAddress(t)}, flags...)...)
	if !strings.Contains(r.out, "orders-dubbo") {
		t.Errorf("check without a sidecar tells of %s%s", r.out, r.errOut)
	}
	p := launch(t, nil, nil, append(flags, "--listen=10.0.0.1:0", "--termination-log=")...)
	eventually(t, "both are found", func() error {
		for _, r := range p.status().Registries {
			if len(r.Instances) == 2 {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.status().Registries)
	})
	r = command(t, nil, "check", "--listen="+p.listen)
	if r.code != exitOK || !strings.Contains(r.out, "listens on [8080 20880]") || !strings.Contains(r.out, "orders-dubbo") {
		t.Errorf("check tells of %s%s", r.out, r.errOut)
	}
	p.is(p.hook(), 200, "OK drained in ")
	for _, service := range []string{"orders", "orders-dubbo"} {
		if seen := world.Callers(t, service)[0]; len(seen) > 0 {
			t.Errorf("callers are sent to %s", service)
		}
	}
}
