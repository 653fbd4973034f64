package drain

import (
	"strings"
	"testing"
	"time"
)

func quietFor(d time.Duration) func(*Options) {
	return func(o *Options) { o.QuietPeriod, o.Linger = d, 40*time.Second }
}

func TestAQuietPeriodEndsTheLinger(t *testing.T) {
	in(t, 1, quietFor(5*time.Second), func(t *testing.T, w *world) {
		h := w.hook(t.Context())
		for range 10 { // callers go on for 10 s
			wait(t.Context(), time.Second)
			w.do(action{Name: "talk"})
		}
		if s := w.drain.Status(t.Context()); s.LingerUntil == nil || s.Connections.LastHeard == nil || s.LingerUntil.Sub(s.Connections.LastHeard.At) < 5*time.Second ||
			s.LingerUntil.Sub(s.Connections.LastHeard.At) > 6*time.Second || s.Connections.LastHeard.Address != "10.0.0.9" {
			t.Errorf("while callers go on: until %v, %+v", s.LingerUntil, s.Connections.LastHeard)
		}
		out := <-h
		out.must(t, Drained)
		within(t, "the drain", out.took, 15*time.Second, 15200*time.Millisecond)
		within(t, "what was saved", out.Early, 24*time.Second, 26*time.Second)
		if s := out.String(); !strings.Contains(s, "the linger ended 24.") || !strings.Contains(s, "early, as no client said anything") {
			t.Error(s)
		}
	})
}

func TestAQuietPeriodWaitsForTheRequestInFlight(t *testing.T) {
	in(t, 1, quietFor(5*time.Second), func(t *testing.T, w *world) {
		w.connect(1)
		h := w.hook(t.Context())
		wait(t.Context(), 20*time.Second)
		if ok, why := w.drain.Safe(); ok || why != "draining: 1 connections in use" {
			t.Errorf("with a request in flight: %t, %s", ok, why)
		}
		w.connect(-1)
		out := <-h
		out.must(t, Drained)
		within(t, "the drain", out.took, 20*time.Second, 20100*time.Millisecond)
	})
}

func TestCallersThatGoOnHaveTheWholeLinger(t *testing.T) {
	in(t, 1, quietFor(5*time.Second), func(t *testing.T, w *world) {
		h := w.hook(t.Context())
		for range 39 {
			wait(t.Context(), time.Second)
			w.do(action{Name: "talk"})
		}
		out := <-h
		out.must(t, Drained)
		within(t, "the drain", out.took, 40*time.Second, 41*time.Second)
		if out.Early != 0 {
			t.Errorf("nothing was saved: %v", out.Outcome)
		}
	})
}

func TestWhereClientsCannotBeHeardTheWholeLingerIsWaitedFor(t *testing.T) {
	in(t, 1, quietFor(5*time.Second), func(t *testing.T, w *world) {
		w.mu.Lock()
		w.deaf = true
		w.mu.Unlock()
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		within(t, "the drain", out.took, 40*time.Second, 41*time.Second)
	})
}

// A registry that cannot be left goes on to send callers, however quiet they are.
func TestARegistryThatWasGivenUpIsLingeredForInFull(t *testing.T) {
	in(t, 1, quietFor(5*time.Second), func(t *testing.T, w *world) {
		w.regs[0].set(true, false)
		out := <-w.hook(t.Context())
		out.must(t, Drained)
		within(t, "the drain", out.took, 49*time.Second, 52*time.Second)
	})
}
