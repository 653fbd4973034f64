package drain

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"prestop/registry"
)

// unseen is a registry whose callers' view cannot be read.
type unseen struct{ *fakeRegistry }

func (unseen) Published(context.Context) (bool, error) {
	return false, &registry.Error{Op: "look", URL: "http://unseen", Final: true, Err: errors.New("it is off")}
}

func TestTheLogSaysWhatWasObservedAndWhatIsAssumed(t *testing.T) {
	var log bytes.Buffer
	in(t, 2, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.Registries[1] = unseen{o.Registries[1].(*fakeRegistry)}
	}, func(t *testing.T, w *world) {
		(<-w.hook(t.Context())).must(t, Drained)
		w.end() // nothing is logged any more
		for line, parts := range map[string][]string{
			"what callers read shows that the instance left": {"registry=fake0", "after the leave, on every server that answers", "http://fake0", "callers' own caches: 5s from now"},
			"cannot see what callers read":                   {"registry=fake1", "http://fake1", "the servers' and the callers' caches: 8s from the leave", "it is off"},
		} {
			_, after, found := strings.Cut(log.String(), line)
			said, _, _ := strings.Cut(after, "\n")
			before := log.String()[:len(log.String())-len(after)]
			said = before[strings.LastIndexByte(before, '\n')+1:] + said
			for _, p := range parts {
				if !found || !strings.Contains(said, p) {
					t.Errorf("%q is not in %q", p, said)
				}
			}
		}
	})
}

// What an idle sidecar costs a registry: each look is a request for each instance and server.
func TestAnIdleHourIsSomeSixtyLooks(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		wait(t.Context(), 10*time.Minute) // an app that is new is looked at more closely
		looks := func() int {
			w.regs[0].mu.Lock()
			defer w.regs[0].mu.Unlock()
			return w.regs[0].calls
		}
		before := looks()
		wait(t.Context(), time.Hour)
		if n := looks() - before; n < 48 || n > 80 { // a minute, give or take a quarter
			t.Errorf("%d looks in an hour", n)
		}
	})
}

func TestTheLogSaysWhatBecameOfTheInstance(t *testing.T) {
	var log lines
	in(t, 1, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) }, func(t *testing.T, w *world) {
		w.crash()
		wait(t.Context(), time.Second)
		w.start()
		wait(t.Context(), time.Minute)
		(<-w.hook(t.Context())).must(t, Drained)
		w.drain.Resume()
		wait(t.Context(), time.Second)
	})
	at := 0
	for _, line := range []string{
		`msg=registered registry=fake0 instances=[orders/a8080]`,
		`msg="the app does not listen any more" gone=[8080]`,
		`msg="took the instances out whose port is not listened on any more" registry=fake0 ports=[8080]`,
		`msg="the app listens" ports=[8080]`,
		`msg="rejoined the registry" registry=fake0`,
		`msg=draining cause=hook`,
		`msg="left the registry" registry=fake0`,
		`msg="the drain is over" result=drained`,
		`msg=serving cause=resume`,
		`msg="rejoined the registry" registry=fake0`,
	} {
		next := strings.Index(log.String()[at:], line)
		if next < 0 {
			t.Fatalf("%q is not in the log, or not in this order:\n%s", line, log.String())
		}
		at += next + len(line)
	}
	if n := strings.Count(log.String(), "rejoined the registry"); n != 2 {
		t.Errorf("it rejoined %d times:\n%s", n, log.String())
	}
}

func TestTheLogTellsWhoPutAnInstanceBack(t *testing.T) {
	const undone, late = "in service again; taking it out once more", "an instance has registered since"
	for sentence, c := range map[string]struct {
		during    func(*world)
		told, not string
	}{
		"somebody did":            {func(w *world) { w.regs[0].undo() }, undone, late},
		"it has registered since": {func(w *world) { w.regs[0].register(9090) }, late, undone},
	} {
		t.Run(sentence, func(t *testing.T) {
			var log lines
			synctest.Test(t, func(t *testing.T) {
				w := newPod(1, []*container{{port: appPort, registers: true}, {port: 9090}}, func(o *Options) {
					o.Log = slog.New(slog.NewTextHandler(&log, nil))
				})
				defer w.end()
				w.start()
				w.startOne(1)
				wait(t.Context(), 5*time.Second)
				w.connect(1)
				h := w.hook(t.Context())
				wait(t.Context(), 10*time.Second)
				c.during(w)
				wait(t.Context(), 10*time.Second)
				w.connect(-1)
				(<-h).must(t, Drained)
			})
			if s := log.String(); strings.Count(s, c.told) != 1 || strings.Contains(s, c.not) {
				t.Errorf("want %q once, and not %q:\n%s", c.told, c.not, s)
			}
		})
	}
}
