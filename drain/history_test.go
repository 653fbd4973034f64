package drain

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// scenario is a Pod and what happens to it.
type scenario struct {
	Kinds      []string // of its containers
	Delays     []time.Duration
	Given      string // whose ports --port names: nobody's, the first app's, the apps'
	Only       bool   // no other ports are looked at
	Blind      bool   // there is no counter
	Registries int
	Quiet      time.Duration
	Late       bool // nobody listens yet when it begins
	Resumed    bool // it ends by /resume, not by a restart
	Actions    []action
}

// action is one thing that a history does to the Pod, and how long it then waits.
type action struct {
	Name  string
	Who   int // of the containers, or of the registries
	Pause time.Duration
}

// kinds are the containers that a Pod may have. An app comes first.
var kinds = []string{"app", "other app", "unregistered", "exporter", "mesh", "database proxy", "RMI"}

func (h scenario) containers() []*container {
	all := []*container{{port: appPort, registers: h.Kinds[0] == "app"}}
	for i, kind := range h.Kinds[1:] {
		port := uint16(9000 + i)
		c := map[string]container{
			"app": {port: port, registers: true}, "other app": {port: port, registers: true},
			"unregistered": {port: port}, "exporter": {port: 9102 + uint16(i)},
			"mesh":           {port: 15001 + uint16(i), uid: 1337},
			"database proxy": {port: 5432 + uint16(i), loopback: true},
			"RMI":            {port: 40001 + uint16(i)},
		}[kind]
		all = append(all, &c)
	}
	for i, c := range all {
		c.delay = h.Delays[i]
	}
	return all
}

var actions = []string{
	"hook", "hook", "hook", "stopping", "resume", "crash", "crash", "start", "start", "restart", "connect", "connect",
	"disconnect", "talk", "break", "hang", "lock", "heal", "undo", "blind", "see", "expire", "sidecar", "wait", "term",
}

var scenarios = rapid.Custom(func(t *rapid.T) scenario {
	milliseconds := func(of ...int) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.SampledFrom(of), func(n int) time.Duration { return time.Duration(n) * time.Millisecond })
	}
	h := scenario{
		Kinds:      append([]string{rapid.SampledFrom([]string{"app", "app", "unregistered"}).Draw(t, "first")}, rapid.SliceOfN(rapid.SampledFrom(kinds), 0, 3).Draw(t, "others")...),
		Given:      rapid.SampledFrom([]string{"", "", "", "first", "apps"}).Draw(t, "given"),
		Only:       rapid.Bool().Draw(t, "only those"),
		Blind:      rapid.IntRange(0, 7).Draw(t, "no counter") == 7,
		Registries: rapid.SampledFrom([]int{1, 2, 0}).Draw(t, "registries"),
		Quiet:      milliseconds(0, 0, 1000, 4000).Draw(t, "quiet period"),
		Late:       rapid.Bool().Draw(t, "late"),
		Resumed:    rapid.Bool().Draw(t, "resumed"),
	}
	for range h.Kinds {
		h.Delays = append(h.Delays, milliseconds(0, 0, 300, 20000).Draw(t, "delay"))
	}
	h.Actions = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) action {
		return action{
			Name:  rapid.SampledFrom(actions).Draw(t, "action"),
			Who:   rapid.IntRange(0, 3).Draw(t, "who"),
			Pause: milliseconds(0, 1, 40, 700, 3000, 9000, 30000, 120000).Draw(t, "pause"),
		}
	}), 1, 14).Draw(t, "actions")
	return h
})

// TestRandomHistories runs the whole drain, its reconcilers and its watcher, in Pods of one to four
// ports through random events and faults, in synctest's time: twenty thousand histories, others and a million
// by `make soak` (-rapid.checks).
func TestRandomHistories(t *testing.T) {
	set := func(name, value string) {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if testing.Short() {
		set("rapid.checks", "1000")
	}
	if flag.Lookup("rapid.seed").Value.String() == "0" { // the same ones at each run; a soak draws others
		set("rapid.seed", "1")
		defer set("rapid.seed", "0")
	}
	// Who runs first of those who wake at one moment is the scheduler's: a history that has failed
	// is tried several times while it is made shorter.
	tries := 1
	rapid.Check(t, func(rt *rapid.T) {
		h := scenarios.Draw(rt, "history")
		for range tries {
			var wrong []string
			synctest.Test(t, func(t *testing.T) { wrong = h.live(t.Context()) })
			if len(wrong) > 0 {
				tries = 30
				rt.Fatalf("%s", wrong[0])
			}
		}
	})
}

// live runs a history and returns what was wrong.
func (h scenario) live(ctx context.Context) []string {
	containers := h.containers()
	w := newPod(h.Registries, containers, func(o *Options) {
		o.QuietPeriod = h.Quiet
		if h.Blind {
			o.Counter = nil
		}
		for _, c := range containers {
			if h.Given == "apps" && c.registers || h.Given != "" && c == containers[0] {
				o.Ports, o.OnlyPorts = append(o.Ports, c.port), h.Only
			}
		}
	})
	defer w.end()
	if !h.Blind {
		w.putStrangers()
	}
	if !h.Late {
		for i := range containers {
			w.startOne(i)
		}
	}
	wait(ctx, 5*time.Second)
	var hooks []<-chan ended
	for _, a := range h.Actions {
		if a.Name == "hook" {
			hooks = append(hooks, w.hook(ctx))
		} else {
			w.do(a)
		}
		wait(ctx, a.Pause)
		w.inspect()
	}
	for i, hook := range hooks {
		select {
		case <-hook:
		case <-time.After(3 * budget):
			w.problem(fmt.Sprintf("hook %d never returns", i))
		}
	}
	w.settle(ctx, h.Resumed)
	if !h.Blind {
		w.inspectStrangers()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.problems) // among them, a deletion of what lives
}

func (w *world) do(a action) {
	who := a.Who % len(w.containers)
	switch a.Name {
	case "resume":
		synctest.Wait() // a hook that was called before has arrived
		w.note(func(p *past) { p.resumed, p.stops = time.Now(), nil })
		w.drain.Resume()
	case "stopping":
		w.stops(time.Now())
		w.drain.Stopping()
	case "term":
		w.stops(time.Now())
		w.note(func(p *past) {
			if p.termed.IsZero() {
				p.termed = time.Now()
			}
		})
		w.drain.Terminate()
	case "sidecar":
		w.restartSidecar()
	case "crash":
		w.crashOne(who)
	case "start", "restart":
		if a.Name == "restart" && w.isUp(who) {
			w.crashOne(who)
			wait(context.Background(), time.Millisecond)
		}
		if !w.isUp(who) {
			w.startOne(who)
		}
	case "connect", "talk":
		if w.isUp(who) {
			w.connectTo(who, 1)
			if a.Name == "talk" {
				w.connectTo(who, -1)
			}
		}
	case "disconnect":
		w.connectTo(who, -1)
	case "blind", "see":
		w.mu.Lock()
		w.blind = a.Name == "blind"
		w.mu.Unlock()
	}
	if len(w.regs) == 0 {
		return
	}
	switch r := w.regs[a.Who%len(w.regs)]; a.Name {
	case "break":
		r.set(true, false)
	case "hang":
		r.set(false, true)
	case "lock":
		r.lock()
	case "heal":
		r.set(false, false)
	case "undo":
		r.undo()
	case "expire":
		r.expireLease(func(port uint16) bool {
			_, stranger := strangers[port]
			return stranger || w.upBefore(port, time.Now().Add(time.Second))
		})
	}
}

func (w *world) note(f func(*past)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.past)
}

// settle ends a history: all is well again, and after a while what lives is in, or the process that
// was told to stop has ended.
func (w *world) settle(ctx context.Context, resumed bool) {
	for _, r := range w.regs {
		r.set(false, false)
	}
	w.do(action{Name: "see"})
	if w.stopped() {
		for i := range w.containers {
			w.crashOne(i)
		}
		wait(ctx, moment+time.Second)
		w.inspect()
		wait(ctx, 2*budget)
		w.inspect()
		return
	}
	if !resumed && w.drain.options.Counter != nil {
		for i := range w.containers {
			w.crashOne(i)
		}
		wait(ctx, time.Second)
	}
	for i := range w.containers {
		w.do(action{Name: "start", Who: i})
	}
	if resumed || w.drain.options.Counter == nil {
		w.do(action{Name: "resume"})
	}
	wait(ctx, 2*time.Minute)
	w.inspect()
	if s := w.drain.Status(ctx); s.State != "serving" {
		w.problem("an app that came back finds the state " + s.State)
	}
}

func (w *world) stopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.past.termed.IsZero()
}
