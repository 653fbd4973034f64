package drain

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"prestop/drain/conns"
)

// hanging is a counter whose next counts hang for 2 s and then fail, as an exporter's do that does
// not answer.
type hanging struct {
	*world
	hangs atomic.Int32
	tries atomic.Int32
}

func (h *hanging) Count(ctx context.Context, ports []uint16) (conns.Tally, error) {
	h.tries.Add(1)
	if h.hangs.Add(-1) >= 0 {
		wait(ctx, 2*time.Second)
		return conns.Tally{}, errors.New("it hangs")
	}
	return h.world.Count(ctx, ports)
}

// hang runs f beside a drain without registries and with one connection in use, in the bubble's
// time.
func hang(t *testing.T, f func(t *testing.T, h *hanging)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{}
		w := newWorld(0, nil)
		w.end()
		h.world = w
		w.drain = New(Options{Counter: h, Budget: time.Minute, Linger: 0, RegistryTimeout: time.Second, Log: w.drain.log})
		ctx, cancel := context.WithCancel(t.Context())
		w.done, w.cancel = make(chan struct{}), cancel
		go func() { w.drain.Run(ctx); close(w.done) }()
		defer w.end()
		w.start()
		wait(t.Context(), 10*time.Second)
		w.connect(1)
		f(t, h)
	})
}

func TestACountThatHangsTwiceIsWaitedFor(t *testing.T) {
	hang(t, func(t *testing.T, h *hanging) {
		h.hangs.Store(2)
		ended := h.hook(t.Context())
		wait(t.Context(), 20*time.Second)
		if got := h.drain.Status(t.Context()); got.State != "draining" || got.Connections.Active != 1 {
			t.Errorf("after two counts that hung: %+v", got)
		}
		h.connect(-1)
		(<-ended).must(t, Drained)
	})
}

func TestACountThatHangsForGoodEndsTheDrainWithoutOne(t *testing.T) {
	hang(t, func(t *testing.T, h *hanging) {
		h.hangs.Store(1 << 20)
		before := h.tries.Load()
		out := <-h.hook(t.Context())
		out.must(t, Drained)
		if !out.Uncounted {
			t.Errorf("the outcome: %s", out)
		}
		within(t, "the drain", out.took, 6*time.Second, 10*time.Second)
		if n := h.tries.Load() - before; n != countTries {
			t.Errorf("%d counts were tried, want %d", n, countTries)
		}
	})
}
