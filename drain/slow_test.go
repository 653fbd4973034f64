package drain

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"prestop/drain/conns"
)

// slowLog takes a second for each line, as standard error does when the runtime's pipe is full.
type slowLog struct{ slog.Handler }

func (h slowLog) Handle(ctx context.Context, _ slog.Record) error {
	wait(ctx, time.Second)
	return nil
}

func TestOkIsTrueWhenTheHookReturned(t *testing.T) {
	in(t, 0, func(o *Options) { o.Log = slog.New(slowLog{o.Log.Handler()}) }, func(t *testing.T, w *world) {
		<-w.hook(t.Context())
		if ok, why := w.drain.Safe(); !ok {
			t.Errorf("the hook returned, and /ok says %q", why)
		}
	})
}

func TestHealthAsksAnOwnerThatIsStuckOrGone(t *testing.T) {
	healthy := 0
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(0, nil)
			w.start()
			wait(t.Context(), time.Second)
			w.end()
			if w.drain.Alive(t.Context()) == nil {
				healthy++
			}
		})
	}
	if healthy > 0 {
		t.Errorf("an owner that has ended is healthy %d times of 50", healthy)
	}
}

// throttled is a counter in a container whose CPU is throttled: one look takes most of a second,
// once.
type throttled struct {
	conns.Counter
	slow *bool
}

func (c throttled) Count(ctx context.Context, ports []uint16) (conns.Tally, error) {
	if *c.slow {
		*c.slow = false
		wait(ctx, 700*time.Millisecond)
	}
	return c.Counter.Count(ctx, ports)
}

func TestOneSlowLookDoesNotDelayTheEndOfADrain(t *testing.T) {
	slow := false
	in(t, 1, func(o *Options) { o.Counter = throttled{o.Counter, &slow}; o.Linger = 0 }, func(t *testing.T, w *world) {
		w.regs[0].set(true, false) // fails for RegistryTimeout = 10 s
		w.connect(2)
		slow = true
		h := w.hook(t.Context())
		wait(t.Context(), 2*time.Second)
		w.connect(-2) // an end is told while lingering: run() now waits lazy*took = 35 s and hears no poke
		out := <-h
		out.must(t, Drained)
		within(t, "the drain", out.Took, 10*time.Second, 15*time.Second)
	})
}

// costly is a counter each of whose looks costs so much, and which can ask for the few connections
// that are in use instead.
type costly struct {
	conns.Counter
	cost   time.Duration
	proves bool // what is asked of the few proves what all do
	looks  *atomic.Int64
}

func (c costly) Count(ctx context.Context, ports []uint16) (conns.Tally, error) {
	c.looks.Add(1)
	t, err := c.Counter.Count(ctx, ports)
	t.Source, t.Took = conns.Prometheus, c.cost // of which the cost is what it says
	t.NextIdle = time.Second
	return t, err
}

func (c costly) CountFew(ctx context.Context, ports []uint16) (conns.Tally, bool) {
	t, err := c.Counter.Count(ctx, ports)
	t.NextIdle = time.Second
	return t, err == nil && c.proves
}

func TestWhatLooksHaveCostDoesNotDelayTheEndOfTheFewThatAreLeft(t *testing.T) {
	in(t, 0, func(o *Options) { o.Counter = costly{o.Counter, time.Second, true, new(atomic.Int64)}; o.Linger = 0 }, func(t *testing.T, w *world) {
		w.connect(2)
		h := w.hook(t.Context())
		wait(t.Context(), 50*time.Millisecond)
		w.connect(-1)
		wait(t.Context(), 20*time.Millisecond)
		w.connect(-1)
		out := <-h
		out.must(t, Drained)
		within(t, "the drain", out.Took, 70*time.Millisecond, 80*time.Millisecond)
	})
}

func TestACostlyLookIsRareWhileTheFewAreInUse(t *testing.T) {
	var looks atomic.Int64
	in(t, 0, func(o *Options) { o.Counter = costly{o.Counter, 160 * time.Millisecond, false, &looks}; o.Linger = 0 }, func(t *testing.T, w *world) {
		w.connect(2)
		h := w.hook(t.Context())
		wait(t.Context(), 20*time.Second)
		w.connect(-1)
		wait(t.Context(), 20*time.Second)
		if looks := looks.Load(); looks > 7 {
			t.Errorf("%d looks in 40 s take more than a fiftieth of a core", looks)
		}
		w.connect(-1)
		out := <-h
		out.must(t, Drained)
		within(t, "the drain", out.Took, 40*time.Second, 41*time.Second)
	})
}
