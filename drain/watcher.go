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
	// Looks that follow from events take a tenth of a core in the long run; so much is saved up, at most, that those after
	// a quiet time follow at once.
	eager, saved = 10, 300 * time.Millisecond
	// A look that took t is followed by another one without an event no sooner than lazy*t: a sixtieth of a core.
	// But no wait of either kind is longer than slowest, and while nobody waits for the count than slowestLinger.
	lazy, slowest, slowestLinger = 60, 2 * time.Second, 10 * time.Second
	// While the app serves, a new port is noticed within servingLook; one that vanishes is an event.
	servingLook = 15 * time.Second
	// While a port of the app is waited for it is noticed within awaitLook, since there is no event for a new socket; once
	// that has lasted for awaitSoon, within awaitLong.
	awaitLook, awaitSoon, awaitLong = 200 * time.Millisecond, time.Minute, 2 * time.Second
	// manyAsk is how old a look may be for one who asks for a look now.
	manyAsk = 5 * time.Millisecond
	// retell is how often the listening sockets are reported although they are the same.
	retell = 5 * time.Minute
	// lingerLook is the pace of the counts that nobody waits for.
	lingerLook = time.Second
	// lastLook is the pace of those that the hook waits for, where nothing tells of an end.
	lastLook = 50 * time.Millisecond
	// countPatience is how long a source may fail before the drain goes on without a count.
	countPatience = 2 * time.Second
	// countTries is how many looks must have failed by then: one that hangs is none yet.
	countTries = 3
)

// pace says how closely the sockets are looked at.
type pace int32

const (
	paceServing pace = iota
	// paceAwait: the app does not listen; look for it.
	paceAwait
	// paceLinger: connections are counted for those who read /status and for the history of each.
	paceLinger
	// paceLast: the count decides.
	paceLast
)

// watcher looks at the sockets: which ports are listened on, and who is connected. It is the only one that uses the
// counter, and reports what it saw.
type watcher struct {
	counter   conns.Counter // nil: nothing can be seen
	only      []uint16      // with hostNetwork: the only ports that may be ours; nil: all
	loopback  bool          // callers are on this machine: a listener on the loopback may be the app
	threshold int           // --min-open-connections
	log       *slog.Logger
	report    func(event)

	pace  atomic.Int32
	ports atomic.Pointer[[]uint16] // whose connections are counted
	poked chan struct{}
	asked chan question

	// What follows belongs to the goroutine that runs.

	sockets  []socket      // of the last look, as reported
	seen     time.Time     // when the last look at the listening sockets was made
	told     time.Time     // when sockets were reported last
	tally    conns.Tally   // the last one
	failing  time.Time     // since when the counter fails
	failed   int           // how many looks have
	took     time.Duration // what the last look cost
	looked   time.Time     // when it ended
	lookedAt pace          // at which pace it was made
	credit   time.Duration // that looks after events have saved up as of paid; negative: overdrawn
	paid     time.Time     // when the last look or glance ended
	began    time.Time     // of the last count
	next     time.Duration // from then until a connection may become idle
	waits    time.Time     // since when something is waited for at paceAwait
}

// question asks for a look now. With tally it is the count that matters, which may be a little old if it is costly.
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

// follow changes how closely to look, and whose connections to count; a look follows at once unless nothing hangs on it
// any more.
func (l *watcher) follow(p pace, ports []uint16) {
	l.ports.Store(&ports)
	if pace(l.pace.Swap(int32(p))) != p && p != paceServing {
		l.poke()
	}
}

// poke asks for a look soon.
func (l *watcher) poke() {
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

func (l *watcher) counted() []uint16 { return *l.ports.Load() }

// refresh reports a new tally, unless the last one is fresh enough for what it costs.
func (l *watcher) refresh(ctx context.Context) { l.ask(ctx, true) }

// lookNow looks for the app's listening sockets; what it saw has been told when it returns.
func (l *watcher) lookNow(ctx context.Context) { l.ask(ctx, false) }

func (l *watcher) ask(ctx context.Context, tally bool) {
	q := question{tally, make(chan struct{})}
	select {
	case l.asked <- q:
		select {
		case <-q.done:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
}

// run looks until ctx ends.
func (l *watcher) run(ctx context.Context) {
	if l.counter == nil {
		for {
			select {
			case <-ctx.Done():
				return
			case <-l.poked:
				l.report(event{kind: eventCount, tally: tally{began: time.Now(), none: true}})
			case q := <-l.asked:
				close(q.done)
			}
		}
	}
	l.waits = time.Now()
	var watched []uint16
	l.counter.Watch(nil)
	for {
		// Before the look: an end that it does not see any more must be told.
		if ports := l.toWatch(); !slices.Equal(ports, watched) {
			watched = ports
			l.counter.Watch(ports)
		}
		l.look(ctx)
		if !l.await(ctx) {
			return
		}
	}
}

// await waits until it is time for another look, and answers questions meanwhile; false when ctx has ended.
func (l *watcher) await(ctx context.Context) bool {
	due := time.Now().Add(l.patience())
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	ended := l.counter.Ended()
	until := func(at time.Time) { due = at; timer.Reset(time.Until(at)) }
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			if !l.glance(ctx) {
				return true
			}
			until(time.Now().Add(l.patience()))
		case <-l.poked:
			if l.lookedAt != paceLast || pace(l.pace.Load()) != paceLinger {
				return true
			}
			// A client was heard, so the linger goes on: nobody waits for another look.
			until(l.looked.Add(l.patience()))
		case q := <-l.asked:
			l.answer(ctx, q)
		case <-ended:
			if l.glance(ctx) {
				until(time.Now().Add(l.patience()))
				continue
			}
			ended = nil // the next look will see the others too
			if at := time.Now().Add(l.spare(time.Now())); at.Before(due) {
				until(at)
			}
		}
	}
}

func (l *watcher) answer(ctx context.Context, q question) {
	defer close(q.done)
	if !q.tally {
		if time.Since(l.seen) > manyAsk { // thousands may call the hook at once
			l.look(ctx)
		}
	} else if pace(l.pace.Load()) < paceLinger && time.Since(l.tally.Began) > max(200*time.Millisecond, eager*l.took) {
		_ = l.count(ctx) // it reports
	}
}

// toWatch is the ports whose connections' ends matter: the app's, while they are counted.
func (l *watcher) toWatch() []uint16 {
	if pace(l.pace.Load()) < paceLinger {
		return nil
	}
	return l.counted()
}

// spare is how long a look that follows from an event must wait.
func (l *watcher) spare(now time.Time) time.Duration {
	if pace(l.pace.Load()) == paceLinger { // connections end all the time; nothing hangs on them yet
		return max(lastLook, l.lull()) - now.Sub(l.looked)
	}
	return -eager * (l.credit + now.Sub(l.paid)/eager)
}

// patience is how long to wait for an event before looking anyway.
func (l *watcher) patience() time.Duration {
	var d time.Duration
	switch pace(l.pace.Load()) {
	case paceServing:
		d = servingLook
		if l.counter.Ended() == nil {
			d = awaitLong
		}
	case paceAwait:
		d = awaitLook
		if time.Since(l.waits) > awaitSoon {
			d = awaitLong
		}
	case paceLinger:
		d = lingerLook
	case paceLast:
		switch {
		case l.next > 0: // nothing but an event can end it sooner
			return max(time.Millisecond, l.next-time.Since(l.began), l.spare(time.Now()))
		case l.counter.Ended() != nil:
			d = lingerLook
		default:
			d = lastLook
		}
	}
	return max(d, l.lull())
}

// lull is the least time between looks that nothing calls for. One look that the machine held up must not hold up the
// drain: it is seconds at most.
func (l *watcher) lull() time.Duration {
	if pace(l.pace.Load()) == paceLinger {
		return min(lazy*l.took, slowestLinger)
	}
	return min(lazy*l.took, slowest)
}

// look makes one look and tells what follows from it.
func (l *watcher) look(ctx context.Context) {
	began, at := time.Now(), pace(l.pace.Load())
	if at >= paceLinger && l.lookedAt < paceLinger {
		l.failing, l.failed = time.Time{}, 0 // what failed before the drain says nothing of it
	}
	worked := conns.ProcessorTime()
	listeners, err := l.counter.Listeners(ctx)
	took := min(time.Since(began), conns.ProcessorTime()-worked)
	if err == nil {
		l.saw(listeners)
		if pace(l.pace.Load()) >= paceLinger {
			worked = conns.ProcessorTime()
			err = l.count(ctx)
			cost := l.tally.Took // not what it waited: an exporter that hangs costs nothing
			if l.tally.Source != conns.Prometheus {
				cost = min(cost, conns.ProcessorTime()-worked) // nor a busy machine, or a throttled container
			}
			took += cost
		}
	}
	l.pay(began, took)
	l.looked, l.took, l.lookedAt = l.paid, took, at
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		l.failing, l.failed = time.Time{}, 0
		return
	}
	if l.failed++; l.failing.IsZero() {
		l.failing = began
		l.log.Warn("could not read the sockets; trying again", "source", l.counter.Source(), "error", err)
	}
	if time.Since(l.failing) >= countPatience && l.failed >= countTries {
		l.report(event{kind: eventCount, tally: tally{began: began, none: true}})
	}
}

// pay takes what a look cost that began then from what was saved up.
func (l *watcher) pay(began time.Time, took time.Duration) {
	l.credit = min(saved, l.credit+began.Sub(l.paid)/eager)
	l.credit = max(l.credit-took, -slowest/eager)
	l.paid = time.Now()
}

// glance asks for the few connections that were in use, where the count decides, and reports whether that is enough until
// patience is over or another one ends: they tell what all do, or so many are in use still that no other matters. What looks
// have cost before does not hold it up.
func (l *watcher) glance(ctx context.Context) bool {
	if pace(l.pace.Load()) != paceLast {
		return false
	}
	began, worked := time.Now(), conns.ProcessorTime()
	t, proved := l.counter.CountFew(ctx, l.counted())
	if !proved && (t.Active <= l.threshold || began.Sub(l.looked) >= min(lazy*l.took, slowestLinger)) {
		return false
	}
	listeners, err := l.counter.Listeners(ctx)
	if err != nil {
		return false
	}
	l.saw(listeners)
	if proved {
		l.tallied(t)
	}
	l.began, l.next = t.Began, t.NextIdle
	l.pay(began, min(time.Since(began), conns.ProcessorTime()-worked))
	return true
}

// saw reports the listening sockets if they are others than before.
func (l *watcher) saw(listeners []conns.Listener) {
	now := make([]socket, 0, len(listeners))
	for _, s := range listeners {
		if l.only == nil || slices.Contains(l.only, s.Port) {
			now = append(now, socket{s.Port, s.ID, isForeign(s, l.loopback)})
		}
	}
	slices.SortFunc(now, func(a, b socket) int { return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.id, b.id)) })
	looked := l.seen
	l.seen = time.Now()
	if looked.IsZero() || !slices.Equal(now, l.sockets) || l.seen.Sub(l.told) >= retell {
		if !slices.Equal(now, l.sockets) {
			l.waits = l.seen
		}
		l.sockets, l.told = now, l.seen
		l.report(event{kind: eventSockets, sockets: now, looked: looked})
	}
}

func (l *watcher) count(ctx context.Context) error {
	t, err := l.counter.Count(ctx, l.counted())
	if err != nil {
		l.next = 0
		return errors.Join(errors.New("count the connections"), err)
	}
	l.tallied(t)
	return nil
}

// tallied reports a new tally.
func (l *watcher) tallied(t conns.Tally) {
	l.tally = t
	l.began, l.next = t.Began, t.NextIdle
	l.report(event{kind: eventCount, tally: tally{began: t.Began, open: t.Open, active: t.Active, heard: t.Heard, whole: t}})
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
