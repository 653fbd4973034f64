package drain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// action is one thing that a random history does to the Pod, and how long it then waits.
type action struct {
	name  string
	reg   int
	pause time.Duration
}

var actions = []string{"hook", "hook", "resume", "crash", "start", "connect", "disconnect", "talk", "break", "hang", "heal", "undo", "blind", "see", "wait", "term"}

// TestRandomHistoriesKeepTheInvariants runs the whole drain, its reconcilers and its watcher, through random events and faults
// in synctest's time: ten thousand histories, a million by `make soak` (-rapid.checks).
func TestRandomHistoriesKeepTheInvariants(t *testing.T) {
	histories := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) action {
		return action{
			name:  rapid.SampledFrom(actions).Draw(t, "action"),
			reg:   rapid.IntRange(0, 1).Draw(t, "registry"),
			pause: time.Duration(rapid.SampledFrom([]int{0, 1, 40, 700, 3000, 9000, 30000}).Draw(t, "pause")) * time.Millisecond,
		}
	}), 1, 14)
	rapid.Check(t, func(rt *rapid.T) {
		history := histories.Draw(rt, "history")
		quiet := time.Duration(rapid.SampledFrom([]int{0, 1, 4}).Draw(rt, "quiet period")) * time.Second
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = live(t.Context(), history, quiet) })
		if len(wrong) > 0 {
			rt.Fatalf("%s", strings.Join(wrong, "\n"))
		}
	})
}

// live runs one history and returns what was wrong.
func live(ctx context.Context, history []action, quiet time.Duration) []string {
	w := newWorld(2, func(o *Options) { o.QuietPeriod = quiet })
	defer w.end()
	w.start()
	wait(ctx, 5*time.Second)
	var hooks []<-chan ended
	stopped := false
	for _, a := range history {
		if a.name == "hook" {
			hooks = append(hooks, w.hook(ctx))
		} else {
			w.do(a)
		}
		stopped = stopped || a.name == "term"
		wait(ctx, a.pause)
	}
	// 1. Every hook returns, at the latest at the deadline, whatever the registries, the app and the counts do.
	for i, h := range hooks {
		var out ended
		select {
		case out = <-h:
		case <-time.After(3 * w.drain.policy.budget):
			w.problem(fmt.Sprintf("hook %d never returns", i))
			continue
		}
		if out.err == nil && out.took > w.drain.policy.budget+10*time.Millisecond {
			w.problem(fmt.Sprintf("hook %d returned after %v", i, out.took))
		}
		if out.Result == Drained && !out.Uncounted && out.Connections.Active > 0 {
			w.problem(fmt.Sprintf("hook %d says drained with %d connections in use", i, out.Connections.Active))
		}
	}
	for i := range w.regs {
		w.do(action{name: "heal", reg: i})
	}
	w.do(action{name: "see"})
	if stopped {
		w.endsInTime(ctx)
	} else {
		w.comesBack(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.problems) // 3. among them, a deletion of what lives
}

func (w *world) do(a action) {
	switch a.name {
	case "resume":
		w.drain.Resume()
	case "crash":
		w.crash()
	case "start":
		if !w.alive() {
			w.start()
		}
	case "connect":
		if w.alive() {
			w.connect(1)
		}
	case "talk":
		if w.alive() {
			w.connect(1)
			w.connect(-1)
		}
	case "disconnect":
		w.connect(-1)
	case "break":
		w.regs[a.reg].set(true, false)
	case "hang":
		w.regs[a.reg].set(false, true)
	case "heal":
		w.regs[a.reg].set(false, false)
	case "undo":
		w.regs[a.reg].undo()
	case "blind", "see":
		w.mu.Lock()
		w.blind = a.name == "blind"
		w.mu.Unlock()
	case "term":
		w.drain.Terminate()
	}
}

// comesBack checks 2: an app that serves again is in every registry again.
func (w *world) comesBack(ctx context.Context) {
	if w.alive() {
		w.drain.Resume()
	} else {
		w.start()
	}
	wait(ctx, time.Minute)
	for _, r := range w.regs {
		if r.isOut() {
			w.problem(r.name + " keeps a live app out of service")
		}
	}
	if s := w.drain.Status(ctx); s.State != "serving" {
		w.problem("an app that came back finds the state " + s.State)
	}
}

// endsInTime checks that a process told to stop ends once its app has, and at the deadline at the latest.
func (w *world) endsInTime(ctx context.Context) {
	began := time.Now()
	w.crash()
	select {
	case <-w.done:
	case <-time.After(2 * w.drain.policy.budget):
	}
	if took := time.Since(began); took > w.drain.policy.budget+forgetFor {
		w.problem(fmt.Sprintf("told to stop, still there after %v", took))
	}
}
