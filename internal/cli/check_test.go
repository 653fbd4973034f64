//go:build linux

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestop/drain"
	"prestop/internal/config"
	"prestop/registry"
)

// scene is a Pod that is checked: what is there, and how the command is called.
type scene struct {
	app    *app
	held   *held
	args   []string
	change func(*exec.Cmd)
}

func (s *scene) answers(f http.HandlerFunc) { s.held.wrong.Store(&f) }

// TestCheckNamesEachProblemWithItsRemedy runs `prestop check` beside a sidecar, with each fault in turn: it must be the only
// problem. The command has none of the sidecar's flags, as in kubectl exec.
func TestCheckNamesEachProblemWithItsRemedy(t *testing.T) {
	for sentence, c := range map[string]struct {
		sidecar []string // its flags, besides
		change  func(t *testing.T, s *scene)
		want    []string // of the problem and its remedy; none: all is well
	}{
		"all is well": {nil, nil, nil},
		"flags of the command, which are not the sidecar's": {nil, func(_ *testing.T, s *scene) {
			s.args = append(s.args, "--port=1", "--service=none", "--linger=1h", "--eureka-url=http://127.0.0.1:1/", "--nacos-url=127.0.0.1:1")
		}, nil},
		"another program has the sidecar's port": {nil, func(t *testing.T, s *scene) {
			other := httptest.NewServer(says(200, "text/html", "<html>"))
			t.Cleanup(other.Close)
			s.args = append(s.args, "--listen="+other.Listener.Addr().String(), "--port="+s.app.port, "--linger=0", s.held.flag)
		}, []string{"is not prestop", "free port"}},
		"a program that knows no such path has the sidecar's port": {nil, func(t *testing.T, s *scene) {
			other := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(other.Close)
			s.args = append(s.args, "--listen="+other.Listener.Addr().String(), "--port="+s.app.port, "--linger=0", s.held.flag)
		}, []string{"answers 404", "is that prestop?"}},
		"no sidecar": {nil, func(t *testing.T, s *scene) {
			s.args = append(s.args, "--listen="+deadAddress(t), "--port="+s.app.port, "--linger=0", s.held.flag)
		}, []string{"not reached", "start the sidecar"}},
		"a hook that the kubelet cannot reach": {[]string{"--instance-ip=127.0.0.2,127.0.0.1"}, nil,
			[]string{"the hook's port is not reached at 127.0.0.2:", "--listen="}},
		"the kernel's socket diagnosis is denied": {nil, func(t *testing.T, s *scene) { s.change = withoutDiagnosis(t) },
			[]string{"/proc is read instead", "operation not permitted", "--count proc"}},
		"the kernel's socket diagnosis is denied, and asked for": {[]string{"--count=netlink"},
			func(t *testing.T, s *scene) { s.change = withoutDiagnosis(t) }, []string{"connections cannot be counted", "seccomp"}},
		"a registry that is down": {[]string{"--registry-timeout=3s"}, func(t *testing.T, s *scene) {
			s.held.goesDown(t)
		}, []string{"connection refused", "nobody listens there"}},
		"a registry that hangs": {[]string{"--registry-timeout=1s"}, func(_ *testing.T, s *scene) {
			s.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, []string{"no answer in time", "NetworkPolicy"}},
		"a registry that wants a login": {[]string{"--registry-timeout=3s"}, func(_ *testing.T, s *scene) { s.answers(says(401, "text/plain", "who are you?")) },
			[]string{"401", "user"}},
		"a registry that refuses": {[]string{"--registry-timeout=3s"}, func(_ *testing.T, s *scene) { s.answers(says(403, "text/plain", "no")) },
			[]string{"403", "user"}},
		"a server that is no registry": {[]string{"--registry-timeout=5s"},
			func(_ *testing.T, s *scene) { s.answers(says(200, "text/html", "<!DOCTYPE html>")) }, []string{"eureka|nacos", "URL"}},
		"an app that is not registered": {nil, func(t *testing.T, s *scene) {
			s.held.run.Stop(t)
			s.held.becomes(t, false)
		}, []string{"holds no instance at 127.0.0.1", "has the app registered"}},
		"an app that registered by another name": {[]string{"--service=carts"}, nil,
			[]string{"of the services carts", "at that address it holds", "--service"}},
		"a deadline that is too short": {[]string{"--linger=60s", "--reserve=5", "--grace-period=60"}, nil,
			[]string{"60s  until the callers' caches have expired (--linger)", "the deadline is before it, after 55s", "--grace-period to 75 or more"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, kind string) {
				a := newApp(t)
				s := &scene{app: a, held: holds(t, kind, a)}
				s.held.flag = strings.Replace(s.held.flag, "prestop:"+hush+"@", "", 1) // a login is the sidecar's alone
				p := sidecarOf(t, a, nil, append([]string{s.held.flag, "--registry-timeout=60s"}, c.sidecar...)...)
				p.says("the app listens")
				if !slices.Contains(c.sidecar, "--service=carts") {
					p.says("registered")
				}
				s.args = []string{"check", "--listen=" + p.listen}
				if c.change != nil {
					c.change(t, s)
				}
				r := commandIn(t, s.change, []string{"POD_IP=127.0.0.1"}, s.args...)
				problems := problemsOf(t, r)
				if (r.code == exitOK) != (c.want == nil) || r.code != exitOK && r.code != exitFailed || len(problems) > 1 || (len(problems) == 1) != (c.want != nil) {
					t.Fatalf("exit %d, %d problems:\n%s%s", r.code, len(problems), r.out, r.errOut)
				}
				for _, want := range c.want {
					if want == "eureka|nacos" {
						want = kind
					}
					if !strings.Contains(problems[0], want) {
						t.Errorf("%q is not in %q", want, problems[0])
					}
				}
				for _, told := range []string{
					"the sidecar answers", "judged with the settings of the running sidecar", "the app listens on", "connections can be counted (netlink)", "in use",
					"answers and holds", "a Pod takes up to 60s to stop", "Everything is in place.",
				} {
					if c.want == nil && !strings.Contains(r.out, told) {
						t.Errorf("%q is not told:\n%s", told, r.out)
					}
				}
			})
		})
	}
}

// problemsOf are the problems of a page, each with its remedy.
func problemsOf(t *testing.T, r result) []string {
	t.Helper()
	var problems []string
	inProblem := false
	for line := range strings.Lines(r.out) {
		switch {
		case strings.HasPrefix(line, "PROBLEM  "):
			problems, inProblem = append(problems, line), true
		case strings.HasPrefix(line, "         ") && inProblem:
			problems[len(problems)-1] += line
		case strings.HasPrefix(line, "ok       "):
			inProblem = false
		}
	}
	if strings.Contains(r.out+r.errOut, hush) {
		t.Errorf("the password is told:\n%s%s", r.out, r.errOut)
	}
	return problems
}

// The command has no password: neither the sidecar's flags nor its status tell it.
func TestCheckWithoutTheSidecarsLoginSaysWhatTheSidecarSees(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil, h.flag)
		p.says("registered")
		r := command(t, nil, "check", "--listen="+p.listen)
		if problems := problemsOf(t, r); r.code != exitOK || len(problems) > 0 || !strings.Contains(r.out, "answers the sidecar and holds") {
			t.Errorf("%+v", r)
		}
		r = command(t, nil, "check", "--listen="+p.listen, h.flag) // and with it
		if problems := problemsOf(t, r); r.code != exitOK || len(problems) > 0 || !strings.Contains(r.out, " answers and holds") {
			t.Errorf("%+v", r)
		}
	})
}

// The sums that were wrong: the sidecar's flags are in its args, which kubectl exec does not pass on.
func TestCheckJudgesTheSettingsOfTheRunningSidecar(t *testing.T) {
	a := newApp(t)
	p := sidecarOf(t, a, []string{"PRESTOP_RESERVE=3"}, "--linger=5", "--grace-period=60", "--reserve=2", "--quiet-period=1")
	p.says("the app listens")
	r := command(t, []string{"PRESTOP_GRACE_PERIOD=soon", "SERVER_PORT=-1"}, "check", "--listen="+p.listen)
	for _, want := range []string{"60s to stop", "5s  until the callers' caches", "53s  for the requests", "2s  for the app's own stop", "after 58s", "said anything for 1s", "Everything is in place"} {
		if r.code != exitOK || !strings.Contains(r.out, want) {
			t.Errorf("%q is not told, exit %d:\n%s%s", want, r.code, r.out, r.errOut)
		}
	}
}

// A dead app's instance was taken out on purpose: nobody shall be told to enable it.
func TestCheckAndStatusOfAnAppThatDied(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil, strings.Replace(h.flag, "prestop:"+hush+"@", "", 1))
		p.says("registered")
		a.die()
		p.says("the app does not listen any more")
		h.becomes(t, false)
		r := command(t, nil, "check", "--listen="+p.listen)
		problems := problemsOf(t, r)
		if len(problems) == 0 || !strings.Contains(problems[0], "the app does not listen") || !strings.Contains(problems[0], "kubectl logs") ||
			strings.Contains(r.out, "enable it") || r.code != exitFailed {
			t.Errorf("%+v", r)
		}
		eventually(t, "the status says so", func() error {
			if r := command(t, nil, "status", "--listen="+p.listen); !strings.Contains(r.out, "app          not listening on "+a.port+" for ") {
				return errors.New(r.out)
			}
			return nil
		})
	})
}

func TestCheckWithoutAnySourceOfACount(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	// A copy would be busy while a process that another test starts has its file from the fork.
	if err := os.Link(binary, filepath.Join(root, "prestop")); err != nil {
		t.Fatal(err)
	}
	r := commandIn(t, func(c *exec.Cmd) {
		c.Path, c.Dir = "/prestop", "/"
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	}, nil, "check", "--listen="+deadAddress(t), "--instance-ip=127.0.0.1", "--count=proc", "--port=1")
	if r.code != exitFailed || !strings.Contains(r.out, "connections cannot be counted") || !strings.Contains(r.out, "a drain ends with its linger here") {
		t.Errorf("%+v", r)
	}
}

// TestCheckTellsAServerThatIsDownBesideOneThatWorks: retries over all servers would hide it.
func TestCheckTellsAServerThatIsDownBesideOneThatWorks(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		down := deadAddress(t)
		flag := h.flag + ",http://" + down + "/" + kind
		p := sidecarOf(t, a, nil, flag, "--registry-timeout=3s")
		r := command(t, nil, "check", "--listen="+p.listen, flag)
		if r.code != exitFailed || strings.Count(r.out, "PROBLEM") != 1 || !strings.Contains(r.out, down) || !strings.Contains(r.out, "answers and holds") {
			t.Errorf("%+v", r)
		}
	})
}

func TestCheckTellsAnInstanceThatIsDisabled(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		c := load(t, nil, h.flag, "--instance-ip=127.0.0.1", "--port="+a.port, "--registry-timeout=60s")
		p := pod(c.Pod)
		p.Ports = c.Ports
		registries, _ := newRegistries(c.Registry, "")
		if _, err := registries[0].Find(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := registries[0].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		for serving, text := range map[bool]string{true: "is disabled there", false: "answers and holds"} {
			f := checkRegistries(t.Context(), c, "", p, p.Ports, map[bool]*sidecarStatus{false: {Status: drain.Status{State: "drained"}}}[serving])
			if len(f) != 1 || f[0].OK == serving || !strings.Contains(f[0].Text, text) {
				t.Errorf("serving %v: %+v", serving, f)
			}
		}
	})
}

func TestCheckOfAnAppThatIsNotThereAtAll(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a, b := newApp(t), newApp(t)
		h := holds(t, kind, a)
		h.run.Stop(t)
		h.becomes(t, false)
		b.die()
		p := sidecarOf(t, b, nil, h.flag)
		r := command(t, nil, "check", "--listen="+p.listen, "--instance-ip=127.0.0.1", "--port="+b.port, "--linger=0", "--registry-timeout=60s", h.flag)
		if r.code != exitFailed || !strings.Contains(r.out, "2 problems.") || !strings.Contains(r.out, "the app does not listen") || len(r.out) > 4000 {
			t.Errorf("%+v", r)
		}
	})
}

func TestCheckTellsANameThatIsNotKnown(t *testing.T) {
	c := load(t, nil, "--eureka-url=http://eureka.invalid:8761/eureka", "--instance-ip=127.0.0.1", "--registry-timeout=2s")
	f := checkRegistries(t.Context(), c, "", pod(c.Pod), nil, nil)
	if len(f) != 1 || f[0].OK || !strings.Contains(f[0].Text, "eureka.invalid") || f[0].Remedy == "" {
		t.Errorf("%+v", f)
	}
}

func TestCheckForPrograms(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		for want, linger := range map[bool]string{true: "--linger=20", false: "--linger=90"} {
			p := sidecarOf(t, a, nil, h.flag, linger, "--reserve=5")
			p.says("registered")
			r := command(t, nil, "check", "--output=json", "--listen="+p.listen)
			var got checked
			if err := json.Unmarshal([]byte(r.out), &got); err != nil {
				t.Fatalf("%v in %s%s", err, r.out, r.errOut)
			}
			if got.OK != want || (r.code == exitOK) != want || got.Drain.Budget != 55 || got.Drain.Rest > 0 != want {
				t.Errorf("want all well: %v; exit %d, %+v", want, r.code, got)
			}
			about := map[string]bool{}
			for _, f := range got.Findings {
				about[f.About] = true
				if f.OK != (f.Remedy == "") || f.Text == "" {
					t.Errorf("an odd finding: %+v", f)
				}
			}
			for _, name := range []string{"sidecar", "settings", "hook", "app", "connections", "registry", "drain"} {
				if !about[name] {
					t.Errorf("nothing is told of %s:\n%s", name, r.out)
				}
			}
		}
	})
}

func TestCheckChangesNothing(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind string) {
		a := newApp(t)
		h := holds(t, kind, a)
		p := sidecarOf(t, a, nil)
		command(t, nil, "check", "--listen="+p.listen, "--instance-ip=127.0.0.1", "--port="+a.port, h.flag)
		if !h.called(t) || p.status().State != "serving" {
			t.Error("the app is not in service any more")
		}
	})
}

func TestTheSumOfADrain(t *testing.T) {
	for sentence, c := range map[string]struct {
		args []string
		want sum
		ok   bool
		text string
	}{
		"Nacos, Kubernetes' default": {[]string{"--nacos-url=nacos"}, sum{47, "callers of nacos", 10, 25, -22}, false, "62 or more"},
		"Nacos, long enough":         {[]string{"--nacos-url=nacos", "--grace-period=82"}, sum{47, "callers of nacos", 10, 77, 30}, true, "29s  for the requests"},
		"Eureka and Nacos":           {[]string{"--nacos-url=nacos", "--eureka-url=http://e/eureka", "--grace-period=127"}, sum{97, "callers of eureka", 10, 122, 25}, true, "callers of eureka"},
		"a linger of one's own":      {[]string{"--nacos-url=nacos", "--linger=5"}, sum{5, "--linger", 10, 25, 20}, true, "not set, so Kubernetes' default"},
		"no registry":                {nil, sum{3, "no registry: kube-proxies need this time to drop the Pod", 0, 25, 22}, true, "0s  to deregister"},
	} {
		t.Run(sentence, func(t *testing.T) {
			cfg := load(t, nil, c.args...)
			registries, _ := newRegistries(cfg.Registry, "")
			s := sumUp(cfg, registries)
			f := s.finding(cfg)
			if s != c.want || f.OK != c.ok || !strings.Contains(f.Text+f.Remedy, c.text) {
				t.Errorf("%+v, %+v", s, f)
			}
		})
	}
}

func TestExplainNamesWhatWouldHelp(t *testing.T) {
	for want, err := range map[string]error{
		"the remedy of the error": &registry.Error{Op: "ask", URL: "http://a", Code: 401, Remedy: "the remedy of the error"},
		"is the user right":       &registry.Error{Op: "ask", URL: "http://a", Code: 401},
		"nobody listens there":    &registry.Error{Op: "ask", URL: "http://a", Err: fmt.Errorf("dial: %w", syscall.ECONNREFUSED)},
		"is the URL right":        &registry.Error{Op: "ask", URL: "http://a", Code: 404},
	} {
		if text, remedy := explain(err, config.Kind{Login: "x"}); !strings.HasPrefix(remedy, want) || strings.Contains(text, remedy) {
			t.Errorf("%q, %q; want %q", text, remedy, want)
		}
	}
}

func TestCheckTellsAQuietPeriodThatIsOfNoUse(t *testing.T) {
	c := load(t, nil, "--nacos-url=nacos", "--grace-period=82", "--quiet-period=50", "--instance-ip=10.0.0.1")
	registries, _ := newRegistries(c.Registry, "")
	if f := sumUp(c, registries).finding(c); f.OK || !strings.Contains(f.Text, "quiet period of 50s") || !strings.Contains(f.Text, "linger of 47s") {
		t.Errorf("%+v", f)
	}
	if n := strings.Join(notes(c, registries), "\n"); !strings.Contains(n, "quiet period of 50s") {
		t.Errorf("at the start it says %q", n)
	}
	c.QuietPeriod = 5 * time.Second
	if f := sumUp(c, registries).finding(c); !f.OK || !strings.Contains(f.Text, "no client has said anything for 5s") {
		t.Errorf("%+v", f)
	}
	if n := notes(c, registries); len(n) != 0 {
		t.Errorf("at the start it says %q", n)
	}
}

func TestASecretThatIsRotatedAwayIsToldByTheCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := load(t, nil, "--token-file="+file, "--listen="+deadAddress(t))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(t.Context(), c.HTTP, "/healthz"); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error is %v", err)
	}
}

func TestCheckTellsOfPortsThatAreNotCounted(t *testing.T) {
	for sentence, c := range map[string]struct {
		ports []uint16
		err   error
		want  int
	}{
		"QUIC is told":      {[]uint16{443, 853}, nil, 1},
		"nobody serves":     {nil, nil, 0},
		"it cannot be read": {nil, errors.New("denied"), 0},
	} {
		found := uncounted(func() ([]uint16, error) { return c.ports, c.err })
		if len(found) != c.want || c.want > 0 && !strings.Contains(fmt.Sprint(found[0]), "443") {
			t.Errorf("%s: %+v", sentence, found)
		}
	}
}
