package drain

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
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
	// While it does not listen, its coming back is noticed within awaitLook, since there is no event for a new socket; after
	// awaitLong of that, within a second.
	awaitLook, awaitLong = 200 * time.Millisecond, time.Minute
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

// lookout watches the sockets: which ports the app listens on, and who is connected. It is the only one that uses the
// counter, and tells the drain what it saw.
type lookout struct {
	counter   conns.Counter // nil: nothing can be seen
	fixed     []uint16      // --port; nil: found
	threshold int           // --min-open
	log       *slog.Logger
	heard     func(event)

	pace  atomic.Int32
	poked chan struct{}

	mu        sync.Mutex
	listeners []conns.Listener // of the last look
	ever      []uint16         // ports that the app listens on or has listened on, sorted
	instances []uint16         // ports that the registries know it by
	tally     conns.Tally
	busy      conns.Tally // the last one with a connection in use
	err       error       // why the last count failed

	asked    chan question
	failing  time.Time     // since when the counter fails
	failed   int           // how many looks have
	took     time.Duration // what the last look cost
	looked   time.Time     // when it ended
	lookedAt pace          // at which pace it was made
	credit   time.Duration // that looks after events have saved up as of paid; negative: overdrawn
	paid     time.Time     // when the last look or glance ended
	began    time.Time     // of the last count
	next     time.Duration // from then until a connection may become idle
	waits    time.Time     // since when the app is waited for
}

// question asks for a look now. With tally it is the count that matters, which may be a little old if it is costly.
type question struct {
	tally bool
	done  chan struct{}
}

func newLookout(o Options, heard func(event)) *lookout {
	return &lookout{
		counter: o.Counter, fixed: o.Ports, threshold: o.MinOpen, log: o.Log, heard: heard, ever: slices.Sorted(slices.Values(o.Ports)),
		poked: make(chan struct{}, 1), asked: make(chan question),
	}
}

// setPace changes how closely to look; a look follows at once unless nothing hangs on it any more.
func (l *lookout) setPace(p pace) {
	if pace(l.pace.Swap(int32(p))) != p && p != paceServing {
		l.poke()
	}
}

// poke asks for a look soon.
func (l *lookout) poke() {
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// known tells the ports that the registries know the app by: then these, and no other sidecar's, say whether it lives.
func (l *lookout) known(ports []uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instances = ports
}

// ports returns the ports of the app, sorted.
func (l *lookout) ports() []uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ever)
}

// last returns the newest tally, and the error if it could not be made.
func (l *lookout) last() (conns.Tally, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally, l.err
}

// lastInUse returns the newest tally with a connection in use.
func (l *lookout) lastInUse() conns.Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy
}

// listening returns the app's ports that are listened on now, sorted.
func (l *lookout) listening() []uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p []uint16
	for _, s := range l.listeners {
		if _, ours := slices.BinarySearch(l.ever, s.Port); ours {
			p = append(p, s.Port)
		}
	}
	slices.Sort(p)
	return slices.Compact(p)
}

// refresh makes the tally that last returns a new one, unless it is fresh enough for what it costs.
func (l *lookout) refresh(ctx context.Context) { l.ask(ctx, true) }

// lookNow looks for the app's listening sockets; what it saw has been told when it returns.
func (l *lookout) lookNow(ctx context.Context) { l.ask(ctx, false) }

func (l *lookout) ask(ctx context.Context, tally bool) {
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
func (l *lookout) run(ctx context.Context) {
	if l.counter == nil {
		for {
			select {
			case <-ctx.Done():
				return
			case <-l.poked:
				l.heard(event{kind: sawCount, tally: tally{began: time.Now(), none: true}})
			case q := <-l.asked:
				close(q.done)
			}
		}
	}
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
func (l *lookout) await(ctx context.Context) bool {
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

func (l *lookout) answer(ctx context.Context, q question) {
	defer close(q.done)
	if !q.tally {
		l.look(ctx)
	} else if pace(l.pace.Load()) < paceLinger && time.Since(l.tally.Began) > max(200*time.Millisecond, eager*l.took) {
		_ = l.count(ctx) // last tells of it
	}
}

// toWatch is the ports whose connections' ends matter: the app's, while they are counted.
func (l *lookout) toWatch() []uint16 {
	if pace(l.pace.Load()) < paceLinger {
		return nil
	}
	return l.ports()
}

// spare is how long a look that follows from an event must wait.
func (l *lookout) spare(now time.Time) time.Duration {
	if pace(l.pace.Load()) == paceLinger { // connections end all the time; nothing hangs on them yet
		return max(lastLook, l.lull()) - now.Sub(l.looked)
	}
	return -eager * (l.credit + now.Sub(l.paid)/eager)
}

// patience is how long to wait for an event before looking anyway.
func (l *lookout) patience() time.Duration {
	var d time.Duration
	switch pace(l.pace.Load()) {
	case paceServing:
		d = servingLook
		if l.counter.Ended() == nil {
			d = time.Second
		}
	case paceAwait:
		d = awaitLook
		if time.Since(l.waits) > awaitLong {
			d = time.Second
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
func (l *lookout) lull() time.Duration {
	if pace(l.pace.Load()) == paceLinger {
		return min(lazy*l.took, slowestLinger)
	}
	return min(lazy*l.took, slowest)
}

// look makes one look and tells what follows from it.
func (l *lookout) look(ctx context.Context) {
	began, at := time.Now(), pace(l.pace.Load())
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
		l.heard(event{kind: sawCount, tally: tally{began: began, none: true}})
	}
}

// pay takes what a look cost that began then from what was saved up.
func (l *lookout) pay(began time.Time, took time.Duration) {
	l.credit = min(saved, l.credit+began.Sub(l.paid)/eager)
	l.credit = max(l.credit-took, -slowest/eager)
	l.paid = time.Now()
}

// glance asks for the few connections that were in use, where the count decides, and reports whether that is enough until
// patience is over or another one ends: they tell what all do, or so many are in use still that no other matters. What looks
// have cost before does not hold it up.
func (l *lookout) glance(ctx context.Context) bool {
	if pace(l.pace.Load()) != paceLast {
		return false
	}
	began, worked := time.Now(), conns.ProcessorTime()
	t, proved := l.counter.CountFew(ctx, l.ports())
	if !proved && (t.Active <= l.threshold || began.Sub(l.looked) >= min(lazy*l.took, slowestLinger)) {
		return false
	}
	listeners, err := l.counter.Listeners(ctx)
	if err != nil {
		return false
	}
	l.saw(listeners)
	if proved {
		l.counted(t)
	}
	l.began, l.next = t.Began, t.NextIdle
	l.pay(began, min(time.Since(began), conns.ProcessorTime()-worked))
	return true
}

// saw compares the listening sockets with those of the last look.
func (l *lookout) saw(now []conns.Listener) {
	l.mu.Lock()
	before := l.listeners
	l.listeners = now
	if l.fixed == nil {
		for _, s := range now {
			if i, known := slices.BinarySearch(l.ever, s.Port); !known {
				l.ever = slices.Insert(l.ever, i, s.Port)
			}
		}
	}
	if len(now) > 0 || l.waits.IsZero() {
		l.waits = time.Now()
	}
	matter := vital(l.fixed, l.instances, l.ever)
	l.mu.Unlock()
	if k, changed := compare(pick(before, matter), pick(now, matter)); changed {
		l.heard(event{kind: k})
	}
}

// vital are the ports whose listening sockets say whether the app lives: those that were given, else those of its
// registered instances, else every one.
func vital(fixed, instances, ever []uint16) []uint16 {
	if len(fixed) > 0 {
		return fixed
	}
	var known []uint16
	for _, p := range instances {
		if slices.Contains(ever, p) {
			known = append(known, p)
		}
	}
	if len(known) > 0 {
		return known
	}
	return ever
}

// pick returns the identities of the sockets on ports.
func pick(sockets []conns.Listener, ports []uint16) []uint64 {
	var ids []uint64
	for _, s := range sockets {
		if slices.Contains(ports, s.Port) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// compare tells what became of the app between two looks. Other sockets on the same ports are another app: one that was
// restarted between the looks.
func compare(before, now []uint64) (kind, bool) {
	switch {
	case len(now) == 0:
		return sawVanish, len(before) > 0
	case len(before) == 0:
		return sawListen, true
	}
	same := slices.ContainsFunc(now, func(id uint64) bool { return slices.Contains(before, id) })
	return sawListen, !same
}

func (l *lookout) count(ctx context.Context) error {
	t, err := l.counter.Count(ctx, l.ports())
	if err != nil {
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
		l.next = 0
		return errors.Join(errors.New("count the connections"), err)
	}
	l.counted(t)
	return nil
}

// counted takes a new tally.
func (l *lookout) counted(t conns.Tally) {
	l.mu.Lock()
	l.tally, l.err = t, nil
	if t.Active > 0 {
		l.busy = t
	}
	l.mu.Unlock()
	l.began, l.next = t.Began, t.NextIdle
	l.heard(event{kind: sawCount, tally: tally{began: t.Began, active: t.Active, heard: t.Heard}})
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
