package drain

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// in runs f in a bubble whose time passes when everybody waits.
func in(t *testing.T, registries int, change func(*Options), f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(registries, change)
		defer w.end()
		w.start()
		wait(t.Context(), 10*time.Second) // found and settled
		f(t, w)
	})
}

// within checks a time against bounds.
func within(t *testing.T, what string, d, from, to time.Duration) {
	t.Helper()
	if d < from || d > to {
		t.Errorf("%s took %v, want %v to %v", what, d, from, to)
	}
}

func TestDrainLeavesLingersAndCounts(t *testing.T) {
	in(t, 2, nil, func(t *testing.T, w *world) {
		w.connect(1)
		h := w.hook(t.Context())
		wait(t.Context(), 20*time.Second)
		if got := w.drain.Status(t.Context()); got.State != "draining" || got.Connections.Active != 1 || got.LingerUntil == nil {
			t.Errorf("status while a connection is in use: %+v", got)
		}
		for _, r := range w.regs {
			if !r.isOut() {
				t.Errorf("%s still has the instance", r.name)
			}
		}
		last := time.Now()
		w.connect(-1)
		out := <-h
		out.must(t, Drained)
		within(t, "last close to answer", time.Since(last), 0, 5*time.Millisecond)
		within(t, "leave", out.Leave, 1, time.Second)
		within(t, "linger", out.Linger, 7*time.Second, 12*time.Second) // 2 s until it shows, 5 s from then, and the looks in between
		if sum := out.Leave + out.Linger + out.Count; sum != out.Took {
			t.Errorf("the parts are %v, the whole %v", sum, out.Took)
		}
	})
}

func TestDrainWithoutARegistryLastsTheEndpointsLinger(t *testing.T) {
	in(t, 0, nil, func(t *testing.T, w *world) {
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		within(t, "the drain", out.took, endpointLinger, endpointLinger+10*time.Millisecond)
	})
}

func TestDrainJoinsASecondCaller(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		var hooks []<-chan ended
		for range 1000 {
			hooks = append(hooks, w.hook(t.Context()))
		}
		wait(t.Context(), time.Second)
		hooks = append(hooks, w.hook(t.Context()))
		first := <-hooks[0]
		for _, h := range hooks[1:] {
			if out := <-h; out.err == nil && out.Result != Drained {
				t.Fatal(out)
			}
		}
		if w.regs[0].leaves != 1 {
			t.Errorf("%d leaves for one drain", w.regs[0].leaves)
		}
		again := <-w.hook(t.Context())
		again.must(t, Drained)
		if again.Outcome.Took != first.Outcome.Took || again.took != 0 {
			t.Errorf("a call after the end started something: %v", again)
		}
	})
}

func TestDrainGoesOnWhenItsCallerGoes(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		h := w.hook(ctx)
		wait(t.Context(), time.Second)
		cancel()
		if out := <-h; !errors.Is(out.err, context.Canceled) {
			t.Fatalf("a caller that went away got %v", out)
		}
		wait(t.Context(), 20*time.Second)
		if ok, why := w.drain.Safe(); !ok {
			t.Errorf("not drained: %s", why)
		}
	})
}

func TestDrainEndsAtItsDeadline(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.connect(3)
		out := <-w.hook(t.Context())
		out.must(t, Expired)
		within(t, "the drain", out.took, 60*time.Second, 60*time.Second+time.Millisecond)
		if s := out.String(); !strings.HasPrefix(s, "EXPIRED") || !strings.Contains(s, "10.0.0.9×3 (to 8080 from 50001, silent for 2s)") {
			t.Errorf("the outcome does not name who is left: %s", s)
		}
		if ok, _ := w.drain.Safe(); ok {
			t.Error("/ok says that it is safe")
		}
	})
}

func TestDrainGoesOnWithoutARegistryThatFails(t *testing.T) {
	for name, hanging := range map[string]bool{"500": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			in(t, 2, nil, func(t *testing.T, w *world) {
				w.regs[0].set(!hanging, hanging)
				h := w.hook(t.Context())
				wait(t.Context(), time.Second)
				if !w.regs[1].isOut() {
					t.Error("the other registry was held up")
				}
				out := <-h
				out.must(t, Drained)
				within(t, "the drain", out.took, 18*time.Second, 20*time.Second) // 10 s to try, 8 s of linger
				if !strings.Contains(out.String(), "registry fake0") {
					t.Errorf("the outcome does not name it: %s", out)
				}
			})
		})
	}
}

func TestDrainWithoutAnAppEndsWithTheLastRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, func(o *Options) { o.RegistryTimeout = 9500 * time.Millisecond })
		defer w.end()
		w.regs[0].set(false, true)
		wait(t.Context(), 2*time.Minute)
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		within(t, "the drain", out.took, 9500*time.Millisecond, 9600*time.Millisecond)
	})
}

func TestDrainNamesARegistryThatRefusesTheChange(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.regs[0].lock()
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		if s := out.String(); !strings.Contains(s, "fake0: given up after 10s") || !strings.Contains(s, "registry fake0: ") {
			t.Errorf("the outcome does not say that it was not left: %s", s)
		}
	})
}

func TestDrainGoesOnTryingARegistryThatFailed(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.regs[0].set(true, false)
		h := w.hook(t.Context())
		wait(t.Context(), 10500*time.Millisecond) // given up
		w.regs[0].set(false, false)
		out := <-h
		out.must(t, Drained)
		if !w.regs[0].isOut() {
			t.Error("never left")
		}
		within(t, "the drain, with the linger from the late leave on", out.took, 17*time.Second, 35*time.Second)
	})
}

func TestDrainReassertsWhatARegistryUndid(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.connect(1)
		h := w.hook(t.Context())
		wait(t.Context(), 12*time.Second)
		w.regs[0].undo()
		wait(t.Context(), 6*time.Second)
		if !w.regs[0].isOut() {
			t.Error("not taken out again")
		}
		w.connect(-1)
		out := <-h
		out.must(t, Drained)
		within(t, "the drain, with the linger from the second leave on", out.took, 18*time.Second, 30*time.Second)
	})
}

func TestDrainWithoutACountEndsWithTheLinger(t *testing.T) {
	in(t, 0, nil, func(t *testing.T, w *world) {
		w.mu.Lock()
		w.blind, w.containers[0].active = true, 5
		w.mu.Unlock()
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		within(t, "the drain", out.took, 3*time.Second, 6*time.Second)
		if !strings.Contains(out.String(), "not counted") {
			t.Errorf("it does not say so: %s", out)
		}
	})
}

func TestDrainWithoutACounter(t *testing.T) {
	in(t, 0, func(o *Options) { o.Counter = nil }, func(t *testing.T, w *world) {
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		w.drain.Terminate()
		<-w.done
	})
}

func TestResumeCancelsADrainAndRejoins(t *testing.T) {
	in(t, 2, nil, func(t *testing.T, w *world) {
		h := w.hook(t.Context())
		wait(t.Context(), 2*time.Second)
		w.drain.Resume()
		out := <-h
		out.must(t, Cancelled)
		wait(t.Context(), time.Second)
		for _, r := range w.regs {
			if r.isOut() {
				t.Errorf("%s: still out", r.name)
			}
		}
		if s := w.drain.Status(t.Context()); s.State != "serving" || s.Deadline != nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestACrashTakesTheInstanceOutAndItsReturnPutsItBack(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.crash()
		wait(t.Context(), time.Second)
		if !w.regs[0].isOut() {
			t.Error("a dead app is in service")
		}
		if ok, _ := w.drain.Ready(false, false); ok {
			t.Error("ready without an app")
		}
		wait(t.Context(), time.Minute)
		w.start()
		wait(t.Context(), 3*time.Second)
		if w.regs[0].isOut() {
			t.Error("a live app is out of service")
		}
	})
}

func TestARestartAfterADrainRejoins(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		w.crash()
		wait(t.Context(), 5*time.Second)
		w.start()
		wait(t.Context(), 3*time.Second)
		if w.regs[0].isOut() || w.drain.Status(t.Context()).State != "serving" {
			t.Error("the app serves again and is out of service")
		}
	})
}

func TestAtStartAnInstanceLeftDisabledIsRejoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, nil)
		defer w.end()
		w.regs[0].rec(appPort).disabled = true
		wait(t.Context(), time.Minute)
		w.start()
		wait(t.Context(), 3*time.Second)
		if w.regs[0].isOut() {
			t.Error("what an earlier incarnation left is still there")
		}
	})
}

func TestWhatSomebodyElseDisablesLaterIsLeftAlone(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		wait(t.Context(), 5*time.Minute)
		w.regs[0].mu.Lock()
		w.regs[0].rec(appPort).disabled = true
		w.regs[0].mu.Unlock()
		wait(t.Context(), 5*time.Minute)
		if !w.regs[0].isOut() {
			t.Error("an operator's decision was undone")
		}
		if s := w.drain.Status(t.Context()); !strings.Contains(s.Registries[0].Error, "not by prestop") {
			t.Errorf("and it is not said: %+v", s.Registries)
		}
	})
}

func TestTermAfterTheAppForgetsAndExits(t *testing.T) {
	in(t, 2, nil, func(t *testing.T, w *world) {
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		w.crash()
		wait(t.Context(), 50*time.Millisecond)
		began := time.Now()
		w.drain.Terminate()
		<-w.done
		within(t, "the exit", time.Since(began), 0, time.Second)
		for _, r := range w.regs {
			if r.deletions() != 1 {
				t.Errorf("%s: deleted %d times", r.name, r.deletions())
			}
		}
	})
}

func TestTermAfterTheAppExitsThoughARegistryHangs(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.regs[0].set(false, true)
		w.crash()
		wait(t.Context(), 50*time.Millisecond)
		began := time.Now()
		w.drain.Terminate()
		<-w.done
		within(t, "the exit", time.Since(began), 0, 2*time.Second)
	})
}

func TestTermBeforeTheHookStartsTheDrainThatTheHookJoins(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.drain.Terminate()
		wait(t.Context(), 100*time.Millisecond)
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		wait(t.Context(), 2*time.Second)
		select {
		case <-w.done:
			t.Fatal("exited before the app")
		default:
		}
		w.crash()
		<-w.done
	})
}

func TestTermWithoutAHookExitsAtTheDeadlineThoughTheAppStays(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		began := time.Now()
		w.drain.Terminate()
		<-w.done
		within(t, "the exit", time.Since(began), 60*time.Second, 61*time.Second)
		if w.regs[0].deletions() != 0 {
			t.Error("a live instance was deleted")
		}
	})
}

func TestTermSeesAnAppThatWasRestartedAMomentAgo(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.crash()
		wait(t.Context(), time.Second)
		w.start()
		wait(t.Context(), time.Millisecond)
		w.drain.Terminate()
		wait(t.Context(), time.Second)
		if got := w.drain.Status(t.Context()).State; got != "draining" || w.regs[0].deletions() > 0 {
			t.Errorf("a live app was taken for dead: %s", got)
		}
	})
}

func TestReadyWhenRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, nil)
		defer w.end()
		wait(t.Context(), time.Second)
		if ok, _ := w.drain.Ready(true, false); ok {
			t.Error("ready before it is registered")
		}
		w.start()
		wait(t.Context(), 5*time.Second)
		if ok, why := w.drain.Ready(true, false); !ok {
			t.Errorf("not ready: %s", why)
		}
		h := w.hook(t.Context())
		wait(t.Context(), time.Second)
		if ok, _ := w.drain.Ready(true, false); !ok {
			t.Error("not ready while draining")
		}
		if ok, _ := w.drain.Ready(true, true); ok {
			t.Error("ready while draining, against --unready-when-draining")
		}
		<-h
	})
}

func TestFilesTellTheOutcome(t *testing.T) {
	dir := t.TempDir()
	ready, log := filepath.Join(dir, "ok"), filepath.Join(dir, "termination-log")
	in(t, 0, func(o *Options) { o.ReadyFile, o.TerminationLog = ready, log }, func(t *testing.T, w *world) {
		<-w.hook(t.Context())
		wait(t.Context(), time.Millisecond)
		if _, err := os.Stat(ready); err != nil {
			t.Error("drained, and no ready file:", err)
		}
		if b, err := os.ReadFile(log); err != nil || !strings.HasPrefix(string(b), "OK drained in 3s") {
			t.Errorf("termination log: %q, %v", b, err)
		}
		w.drain.Resume()
		wait(t.Context(), time.Millisecond)
		if _, err := os.Stat(ready); !os.IsNotExist(err) {
			t.Error("serving, and the ready file is still there")
		}
	})
}
