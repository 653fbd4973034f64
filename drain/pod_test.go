package drain

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"prestop/registry"
)

// pod runs f in a bubble beside an app on appPort and another container on 9090, which registers if
// it is said to.
func pod(t *testing.T, registries int, registers bool, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newPod(registries, []*container{{port: appPort, registers: true}, {port: 9090, registers: registers}}, nil)
		defer w.end()
		w.startOne(1)
		w.start()
		wait(t.Context(), time.Minute)
		f(t, w)
		for _, p := range w.problems {
			t.Error(p)
		}
	})
}

func dead(w *world) func(uint16) bool {
	return func(port uint16) bool { return !w.deadSince(port, time.Now().Add(time.Second)) }
}

func TestACrashBesideAnotherContainerIsOverWhenTheAppListens(t *testing.T) {
	pod(t, 1, false, func(t *testing.T, w *world) {
		w.crash()
		wait(t.Context(), 2*time.Second)
		if ok, _ := w.drain.Ready(false, false); ok {
			t.Error("ready without the app")
		}
		w.regs[0].expireLease(dead(w))
		wait(t.Context(), time.Minute)
		w.start()
		wait(t.Context(), 10*time.Second)
		if w.regs[0].isOut() {
			t.Error("a live app is out of service")
		}
		w.drain.Terminate()
		wait(t.Context(), 3*time.Second)
		if w.regs[0].deletions() > 0 {
			t.Error("SIGTERM deletes the live instance")
		}
	})
}

func TestOneOfTwoAppsThatDiesIsTakenOutAlone(t *testing.T) {
	pod(t, 1, true, func(t *testing.T, w *world) {
		w.crash()
		wait(t.Context(), time.Second)
		if !w.regs[0].isOut() || w.regs[0].outAt(9090) {
			t.Errorf("out: %t, the other one: %t", w.regs[0].isOut(), w.regs[0].outAt(9090))
		}
		wait(t.Context(), time.Minute)
		w.start()
		wait(t.Context(), 5*time.Second)
		if w.regs[0].isOut() || w.regs[0].outAt(9090) {
			t.Error("both listen, and one is out")
		}
	})
}

func TestOneOfTwoAppsThatComesBackEndsTheDrain(t *testing.T) {
	pod(t, 1, true, func(t *testing.T, w *world) {
		(<-w.hook(t.Context())).must(t, Drained)
		w.crash()
		wait(t.Context(), 2*time.Second)
		w.start()
		wait(t.Context(), 5*time.Second)
		if w.regs[0].isOut() || w.regs[0].outAt(9090) {
			t.Error("both listen, and one is out")
		}
	})
}

func TestSIGTERMAfterTheAppBesideAnotherContainer(t *testing.T) {
	for _, hooked := range []bool{true, false} {
		pod(t, 0, false, func(t *testing.T, w *world) {
			if hooked {
				(<-w.hook(t.Context())).must(t, Drained)
			}
			w.crash()
			wait(t.Context(), 50*time.Millisecond)
			began := time.Now()
			w.drain.Terminate()
			<-w.done
			within(t, "the exit", time.Since(began), 0, time.Second)
		})
	}
}

func TestAPodThatStopsDrainsWithThatCause(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.drain.Stopping()
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		if s := w.drain.Status(t.Context()); s.LastDrain == nil || s.LastDrain.Cause != "pod" || !w.regs[0].isOut() {
			t.Errorf("%+v", s.LastDrain)
		}
	})
}

func TestAnAppThatIsRegisteredNowhereIsToldWithWhatIs(t *testing.T) {
	var log lines
	synctest.Test(t, func(t *testing.T) {
		w := newPod(1, []*container{{port: appPort}}, func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			o.Elsewhere = func(context.Context, int) ([]registry.Instance, error) {
				return []registry.Instance{{ID: "a", Service: "orders", Port: 80}}, nil
			}
		})
		w.start()
		wait(t.Context(), 5*time.Minute)
		w.end()
	})
	if n := strings.Count(log.String(), "orders/a"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
}

// lines is a log that several may write.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestASidecarThatIsStartedAnewPutsTheAppBack(t *testing.T) {
	pod(t, 1, true, func(t *testing.T, w *world) {
		(<-w.hook(t.Context())).must(t, Drained)
		w.restartSidecar()
		wait(t.Context(), 5*time.Second)
		if w.regs[0].isOut() || w.regs[0].outAt(9090) {
			t.Error("a live app is out of service")
		}
	})
}

func TestALateInstanceIsOutBeforeTheLingerBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPod(1, []*container{{port: appPort, registers: true}, {port: 9090}}, nil)
		defer w.end()
		w.startOne(1)
		w.start()
		wait(t.Context(), 5*time.Minute)
		w.regs[0].register(9090)
		h := w.hook(t.Context())
		wait(t.Context(), time.Second)
		if !w.regs[0].outAt(9090) {
			t.Error("the one that registered late is in")
		}
		(<-h).must(t, Drained)
	})
}

func TestWithoutACounterTheRegistriesAreLeftByAddress(t *testing.T) {
	in(t, 1, func(o *Options) { o.Counter = nil }, func(t *testing.T, w *world) {
		(<-w.hook(t.Context())).must(t, Drained)
		if !w.regs[0].isOut() {
			t.Error("the registry still sends callers")
		}
	})
}

func TestALeftoverIsNotPutInBeforeTheAppListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, func(o *Options) { o.Ports = []uint16{appPort} })
		defer w.end()
		w.regs[0].leftover(appPort)
		wait(t.Context(), 10*time.Second)
		if !w.regs[0].isOut() {
			t.Error("callers are sent to a port on which nobody has ever listened")
		}
	})
}

func TestAnHourOfACrashCostsWhatAnIdleOneDoes(t *testing.T) {
	pod(t, 1, false, func(t *testing.T, w *world) {
		w.crash()
		wait(t.Context(), time.Second)
		w.regs[0].expireLease(dead(w))
		wait(t.Context(), 10*time.Minute)
		finds, calls, looks := w.costs()
		wait(t.Context(), time.Hour)
		f, c, l := w.costs()
		if f, c, l = f-finds, c-calls, l-looks; f > 6 || c > 90 || l > 1900 {
			t.Errorf("%d searches, %d requests and %d looks in an hour", f, c, l)
		}
	})
}

// An app that listened a short while before the hook registers in the middle of its drain.
func TestAnInstanceThatRegistersWhileItIsDrainedIsTakenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPod(1, []*container{{port: appPort, registers: true}, {port: 9090}}, nil)
		defer w.end()
		w.start()
		w.startOne(1)
		wait(t.Context(), 5*time.Second)
		h := w.hook(t.Context())
		wait(t.Context(), 2*time.Second)
		w.regs[0].register(9090)
		registered := time.Now()
		for !w.regs[0].outAt(9090) {
			wait(t.Context(), 100*time.Millisecond)
			if time.Since(registered) > 5*time.Second {
				t.Fatal("the one that has registered is in")
			}
		}
		out := <-h
		out.must(t, Drained)
		// Its callers have their time too: fakePublish, and what the registry says of caches.
		if after := time.Since(registered); after < 5*time.Second {
			t.Errorf("drained %v after it registered", after)
		}
		if text := strings.Join(out.Registries, "; "); strings.Contains(text, "put back") {
			t.Errorf("somebody is said to have put it back: %s", text)
		}
	})
}
