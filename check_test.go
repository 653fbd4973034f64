//go:build linux

package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCheckNamesEachProblemWithItsRemedy runs `prestop check` beside a sidecar.
func TestCheckNamesEachProblemWithItsRemedy(t *testing.T) {
	// Each case changes the arguments or the world; what it brings about must be the only problem.
	type scene struct {
		app  *app
		held *held
		args []string
	}
	for sentence, c := range map[string]struct {
		change func(t *testing.T, s *scene)
		want   []string // of the problem and its remedy; none: all is well
	}{
		"all is well": {func(*testing.T, *scene) {}, nil},
		"no sidecar": {func(t *testing.T, s *scene) { s.args = append(s.args, "--listen="+freeAddress(t)) },
			[]string{"not reached", "start the sidecar"}},
		"the app does not listen": {func(_ *testing.T, s *scene) { s.args = append(s.args, "--port=1"); s.held = nil },
			[]string{"the app does not listen (looked for [1])", "--port"}},
		"a registry that is down": {func(_ *testing.T, s *scene) { s.held.front.CloseClientConnections(); s.held.front.Close() },
			[]string{"connection refused", "is the URL right"}},
		"a registry that hangs": {func(_ *testing.T, s *scene) {
			f := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			s.held.wrong.Store(&f)
		}, []string{"deadline exceeded", "is the registry up"}},
		"a registry that refuses": {func(_ *testing.T, s *scene) { f := says(403, "text/plain", "no"); s.held.wrong.Store(&f) },
			[]string{"403", "may this Pod reach it"}},
		"an app that is not registered": {func(t *testing.T, s *scene) { s.args = append(s.args, "--port="+newApp(t).port) },
			[]string{"holds no instance at [127.0.0.1]", "has the app registered"}},
		"an app that registered by another address": {func(_ *testing.T, s *scene) { s.args = append(s.args, "--instance-ip=10.1.2.3") },
			[]string{"holds no instance at [10.1.2.3]", "--instance-ip"}},
		"a deadline that is too short": {func(_ *testing.T, s *scene) {
			s.args = append(s.args, "--linger=60s", "--reserve=5", "--grace-period=60")
		},
			[]string{"a drain takes up to 1m0s", "--grace-period to 75 or more"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, kind string) {
				a := newApp(t)
				s := &scene{app: a, held: holds(t, kind, a)}
				p := sidecarOf(t, a, nil)
				s.args = []string{"check", "--listen=" + p.listen, "--instance-ip=127.0.0.1", "--port=" + a.port, "--linger=0", "--registry-timeout=1s"}
				flag := s.held.flag
				c.change(t, s)
				if s.held != nil {
					s.args = append(s.args, flag)
				}
				r := command(t, nil, s.args...)
				if strings.Contains(r.out+r.errOut, hush) {
					t.Errorf("the password is told:\n%s%s", r.out, r.errOut)
				}
				var problems []string
				for i, line := range strings.Split(r.out, "\n") {
					if strings.HasPrefix(line, "PROBLEM  ") {
						problems = append(problems, line+strings.Split(r.out, "\n")[i+1])
					} else if line != "" && !strings.HasPrefix(line, "ok       ") && !strings.HasPrefix(line, "         ") {
						t.Errorf("an odd line: %q", line)
					}
				}
				if (r.code == exitOK) != (c.want == nil) || r.code != exitOK && r.code != exitFailed || len(problems) > 1 || (len(problems) == 1) != (c.want != nil) {
					t.Fatalf("exit %d, %d problems:\n%s%s", r.code, len(problems), r.out, r.errOut)
				}
				for _, want := range c.want {
					if !strings.Contains(problems[0], want) {
						t.Errorf("%q is not in %q", want, problems[0])
					}
				}
				if c.want == nil && strings.Count(r.out, "ok       ") < 4 {
					t.Errorf("it does not tell what it has looked at:\n%s", r.out)
				}
			})
		})
	}
}

func TestCheckChangesNothing(t *testing.T) {
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

func TestCheckTellsADefaultLingerThatDoesNotFit(t *testing.T) {
	c := load(t, nil, "--nacos-url=nacos", "--grace-period=30")
	registries, _ := newRegistries(c)
	f := checkDeadline(c, registries)
	if !strings.Contains(f.text, "40s") || !strings.Contains(f.remedy, "55 or more") {
		t.Errorf("%+v", f)
	}
	c.GracePeriod = 2 * time.Minute
	if f := checkDeadline(c, registries); f.remedy != "" {
		t.Errorf("%+v", f)
	}
}

func TestASecretThatIsRotatedAwayIsToldByTheCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := load(t, nil, "--token-file="+file, "--listen="+freeAddress(t))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(t.Context(), c, "/healthz"); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error is %v", err)
	}
}
