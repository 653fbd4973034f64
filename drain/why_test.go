package drain

import (
	"strings"
	"testing"
	"time"
)

// TestTheOutcomeTellsWhereTheTimeWent: whoever asks why a Pod took so long has only this line.
func TestTheOutcomeTellsWhereTheTimeWent(t *testing.T) {
	for sentence, c := range map[string]struct {
		registries int
		change     func(*Options)
		before     func(*world)
		during     func(t *testing.T, w *world)
		want       []string
		not        string
	}{
		"callers' caches": {1, nil, nil, nil,
			[]string{"; fake0: out after ", ", callers see it after ", "; most of it: linger: the caches of fake0's callers"}, "last"},
		"kube-proxies":          {0, nil, nil, nil, []string{"most of it: linger: kube-proxies need this time to drop the Pod"}, "last"},
		"a linger that was set": {1, func(o *Options) { o.Linger = 20 * time.Second }, nil, nil, []string{"most of it: linger: --linger is 20s"}, "last"},
		"clients that were quiet": {1, func(o *Options) { o.QuietPeriod = 4 * time.Second }, func(w *world) { w.connect(1); w.connect(-1) }, nil,
			[]string{"early", "most of it: linger: until no client had sent anything for 4s"}, "the caches of"},
		"a connection": {1, nil, func(w *world) { w.connect(1) }, func(t *testing.T, w *world) {
			wait(t.Context(), 40*time.Second)
			w.connect(-1)
		}, []string{"most of it: count: connections in use, the last of 10.0.0.9×1"}, "count as finished"},
		"a request that counts as finished": {1, nil, func(w *world) { w.connect(1) }, func(t *testing.T, w *world) {
			wait(t.Context(), 40*time.Second)
			w.expire(1)
		}, []string{"the last of 10.0.0.9×1", "; 1 of them were silent for --request-timeout, so their requests count as finished"}, "kube-proxies"},
		"a connection until the deadline": {1, nil, func(w *world) { w.connect(2) }, nil, []string{"EXPIRED after 1m0s", "10.0.0.9×2", "most of it: count: connections in use"}, "the last of"},
		"a registry that does not answer": {2, nil, func(w *world) { w.regs[1].set(false, true) }, nil,
			[]string{"; fake0: out after ", "; fake1: given up after 10s", "most of it: leave: a registry did not confirm that the instance is out"}, "last"},
		"an instance that is put back": {1, nil, func(w *world) { w.connect(1) }, func(t *testing.T, w *world) {
			wait(t.Context(), 5*time.Second)
			w.regs[0].undo()
			wait(t.Context(), 20*time.Second)
			w.connect(-1)
		}, []string{", put back in by somebody 1 times"}, "given up"},
		"nothing took long": {0, func(o *Options) { o.Linger = 0 }, nil, nil, []string{"OK drained in 0s"}, "most of it"},
	} {
		t.Run(sentence, func(t *testing.T) {
			in(t, c.registries, c.change, func(t *testing.T, w *world) {
				if c.before != nil {
					c.before(w)
				}
				h := w.hook(t.Context())
				if c.during != nil {
					c.during(t, w)
				}
				line := (<-h).Outcome.String()
				for _, want := range c.want {
					if !strings.Contains(line, want) {
						t.Errorf("%q is not in: %s", want, line)
					}
				}
				if strings.Contains(line, c.not) {
					t.Errorf("%q is in: %s", c.not, line)
				}
			})
		})
	}
}

func TestACancelledDrainTellsNothingOfWhatItDidNotFinish(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, w *world) {
		w.connect(1)
		h := w.hook(t.Context())
		wait(t.Context(), 2*time.Second)
		w.drain.Resume()
		if line := (<-h).Outcome.String(); !strings.HasPrefix(line, "CANCELLED") || strings.Contains(line, "left") || strings.Contains(line, "most of it") {
			t.Error(line)
		}
	})
}
