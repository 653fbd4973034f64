package drain

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"prestop/drain/conns"
)

const (
	// freshScan is how old a scan may be for one who asks for one: thousands may call the hook at
	// once.
	freshScan = 5 * time.Millisecond
	// freshCount is how old a count may be for one who asks for /status, where it costs little.
	freshCount = 200 * time.Millisecond
	// repeatReport is how often the listening sockets are reported although they are the same.
	repeatReport = 5 * time.Minute
	// countPatience is how long a source may fail before the drain goes on without a count, and
	// countTries how many scans must have failed by then: one that hangs is none yet.
	countPatience, countTries = 2 * time.Second, 3
)

// watcher scans the sockets: which ports are listened on, and who is connected. It is the only one
// that uses the counter. It reports what it saw.
type watcher struct {
	counter   conns.Counter // nil: nothing can be seen
	only      []uint16      // the only ports that may be ours; nil: all
	loopback  bool          // callers are on this machine: a listener on the loopback may be the app
	threshold int           // --min-open-connections
	log       *slog.Logger
	report    func(event)

	wanted atomic.Int32             // the pace
	ports  atomic.Pointer[[]uint16] // whose connections are counted
	poked  chan struct{}
	asked  chan question

	// What follows belongs to the goroutine that runs.

	schedule schedule
	sockets  []socket    // of the last scan, as reported
	seen     time.Time   // when the listening sockets were scanned last
	reported time.Time   // when they were reported last
	tally    conns.Tally // the last one
	failing  time.Time   // since when the counter fails
	failed   int         // how many scans have
	lastPace pace        // of the last scan
}

// question asks for a scan now. With tally it is the count that matters, which may be a little old
// if it is costly.
type question struct {
	tally bool
	done  chan struct{}
}

func newWatcher(o Options, report func(event)) *watcher {
	w := &watcher{
		counter: o.Counter, loopback: o.Loopback, threshold: o.MinOpen, log: o.Log, report: report,
		poked: make(chan struct{}, 1), asked: make(chan question),
	}
	if o.OnlyPorts {
		w.only = o.Ports
	}
	w.ports.Store(&[]uint16{})
	return w
}

// follow changes how closely to watch, and whose connections to count. A scan follows at once
// unless nothing hangs on it any more.
func (w *watcher) follow(p pace, ports []uint16) {
	w.ports.Store(&ports)
	if pace(w.wanted.Swap(int32(p))) != p && p != paceServing {
		w.poke()
	}
}

// poke asks for a scan soon.
func (w *watcher) poke() {
	select {
	case w.poked <- struct{}{}:
	default:
	}
}

func (w *watcher) pace() pace { return pace(w.wanted.Load()) }

func (w *watcher) counted() []uint16 { return *w.ports.Load() }

// refresh reports a new tally, unless the last one is fresh enough for what it costs.
func (w *watcher) refresh(ctx context.Context) { w.ask(ctx, true) }

// scanNow scans the listening sockets; what it saw has been reported when it returns.
func (w *watcher) scanNow(ctx context.Context) { w.ask(ctx, false) }

func (w *watcher) ask(ctx context.Context, tally bool) {
	q := question{tally, make(chan struct{})}
	select {
	case w.asked <- q:
		select {
		case <-q.done:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
}

// run scans until ctx ends.
func (w *watcher) run(ctx context.Context) {
	if w.counter == nil {
		w.runBlind(ctx)
		return
	}
	w.schedule.awaits, w.schedule.events = time.Now(), w.counter.Ended() != nil
	var watched []uint16
	w.counter.Watch(nil)
	for {
		// Before the scan: an end that it does not see any more must be told.
		if ports := w.toWatch(); !slices.Equal(ports, watched) {
			watched = ports
			w.counter.Watch(ports)
		}
		w.scan(ctx)
		if !w.await(ctx) {
			return
		}
	}
}

// runBlind says to each question that nothing can be counted.
func (w *watcher) runBlind(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.poked:
			w.report(event{kind: eventCount, tally: tally{began: time.Now(), none: true}})
		case q := <-w.asked:
			close(q.done)
		}
	}
}

// await waits until it is time for another scan, and answers questions meanwhile; false when ctx
// has ended.
func (w *watcher) await(ctx context.Context) bool {
	due := time.Now().Add(w.interval())
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	ended := w.counter.Ended()
	until := func(at time.Time) { due = at; timer.Reset(time.Until(at)) }
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			if !w.recheck(ctx) {
				return true
			}
			until(time.Now().Add(w.interval()))
		case <-w.poked:
			if w.lastPace != paceLast || w.pace() != paceLinger {
				return true
			}
			// A client sent something, so the linger goes on: nobody waits for another scan.
			until(w.schedule.scanned.Add(w.interval()))
		case q := <-w.asked:
			w.answer(ctx, q)
		case <-ended:
			if w.recheck(ctx) {
				until(time.Now().Add(w.interval()))
				continue
			}
			ended = nil // the next scan will see the others too
			now := time.Now()
			if at := now.Add(w.schedule.afterEvent(w.pace(), now)); at.Before(due) {
				until(at)
			}
		}
	}
}

func (w *watcher) interval() time.Duration { return w.schedule.next(w.pace(), time.Now()) }

func (w *watcher) answer(ctx context.Context, q question) {
	defer close(q.done)
	if !q.tally {
		if time.Since(w.seen) > freshScan {
			w.scan(ctx)
		}
		return
	}
	stale := time.Since(w.tally.Began) > max(freshCount, budgetShare*w.schedule.cost)
	if w.pace() < paceLinger && stale {
		_ = w.count(ctx) // it reports
	}
}

// toWatch is the ports whose connections' ends matter: the app's, while they are counted.
func (w *watcher) toWatch() []uint16 {
	if w.pace() < paceLinger {
		return nil
	}
	return w.counted()
}

// scan makes one scan and reports what follows from it.
func (w *watcher) scan(ctx context.Context) {
	began, p := time.Now(), w.pace()
	if p >= paceLinger && w.lastPace < paceLinger {
		w.failing, w.failed = time.Time{}, 0 // what failed before the drain says nothing of it
	}
	cost, err := w.scanAll(ctx)
	w.pay(began, cost)
	w.schedule.scanned, w.schedule.cost, w.lastPace = time.Now(), cost, p
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		w.failing, w.failed = time.Time{}, 0
		return
	}
	if w.failed++; w.failing.IsZero() {
		w.failing = began
		w.log.Warn("could not read the sockets; trying again", "source", w.counter.Source(), "error", err)
	}
	if time.Since(w.failing) >= countPatience && w.failed >= countTries {
		w.report(event{kind: eventCount, tally: tally{began: began, none: true}})
	}
}

// scanAll scans the listening sockets, and counts where that matters. It returns the processor time
// that it cost: neither what an exporter that hangs costs, nor a machine that is busy.
func (w *watcher) scanAll(ctx context.Context) (cost time.Duration, err error) {
	began, worked := time.Now(), conns.ProcessorTime()
	listeners, err := w.counter.Listeners(ctx)
	cost = min(time.Since(began), conns.ProcessorTime()-worked)
	if err != nil {
		return cost, err
	}
	w.saw(listeners)
	if w.pace() < paceLinger {
		return cost, nil
	}
	worked = conns.ProcessorTime()
	err = w.count(ctx)
	counting := w.tally.Took
	if w.tally.Source != conns.Prometheus {
		counting = min(counting, conns.ProcessorTime()-worked)
	}
	return cost + counting, err
}

func (w *watcher) pay(began time.Time, cost time.Duration) {
	w.schedule.budget = w.schedule.budget.pay(began, time.Now(), cost)
}

// recheck asks for the few connections that were in use, where the count decides. It reports
// whether that is enough until the interval is over or another one ends: they tell what all do, or
// so many are in use still that no other matters. What scans have cost before does not hold it up.
func (w *watcher) recheck(ctx context.Context) bool {
	if w.pace() != paceLast {
		return false
	}
	began, worked := time.Now(), conns.ProcessorTime()
	t, proved := w.counter.CountFew(ctx, w.counted())
	if !proved && (t.Active <= w.threshold || w.schedule.rescanDue(began)) {
		return false
	}
	listeners, err := w.counter.Listeners(ctx)
	if err != nil {
		return false
	}
	w.saw(listeners)
	if proved {
		w.tallied(t)
	}
	w.schedule.counted, w.schedule.idleIn = t.Began, t.NextIdle
	w.pay(began, min(time.Since(began), conns.ProcessorTime()-worked))
	return true
}

// saw reports the listening sockets if they are others than before.
func (w *watcher) saw(listeners []conns.Listener) {
	sockets := make([]socket, 0, len(listeners))
	for _, l := range listeners {
		if w.only == nil || slices.Contains(w.only, l.Port) {
			sockets = append(sockets, socket{l.Port, l.ID, isForeign(l, w.loopback)})
		}
	}
	slices.SortFunc(sockets, func(a, b socket) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.id, b.id))
	})
	before, now := w.seen, time.Now()
	w.seen = now
	same := slices.Equal(sockets, w.sockets)
	if !before.IsZero() && same && now.Sub(w.reported) < repeatReport {
		return
	}
	if !same && now.Sub(w.schedule.awaits) >= awaitAgain {
		w.schedule.awaits = now
	}
	w.sockets, w.reported = sockets, now
	w.report(event{kind: eventSockets, sockets: sockets, looked: before})
}

func (w *watcher) count(ctx context.Context) error {
	t, err := w.counter.Count(ctx, w.counted())
	if err != nil {
		w.schedule.idleIn = 0
		return errors.Join(errors.New("count the connections"), err)
	}
	w.tallied(t)
	return nil
}

// tallied reports a new tally.
func (w *watcher) tallied(t conns.Tally) {
	w.tally = t
	w.schedule.counted, w.schedule.idleIn = t.Began, t.NextIdle
	w.report(event{kind: eventCount, tally: tally{
		began: t.Began, open: t.Open, active: t.Active, heard: t.Heard, whole: t,
	}})
}

// wait waits for d if it is positive, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
