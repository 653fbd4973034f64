package drain

import "time"

// This file says when the sockets are scanned next. It is pure.

// pace says how closely the sockets are watched.
type pace int32

const (
	// paceServing: the app listens and nothing hangs on its connections.
	paceServing pace = iota
	// paceAwait: a port of the app is awaited.
	paceAwait
	// paceLinger: connections are counted for /status and for the memory of each.
	paceLinger
	// paceLast: nothing but the count keeps the drain from its end.
	paceLast
)

const (
	// A scan that cost t of processor time is followed by one without an event no sooner than
	// costFactor*t: a sixtieth of a core. But no wait is longer than maxInterval, and while
	// lingering, when no hook waits for the count, than maxLingerInterval.
	costFactor, maxInterval, maxLingerInterval = 60, 2 * time.Second, 10 * time.Second
	// servingInterval is within what a new port is noticed while the app serves. The end of one is
	// an event.
	servingInterval = 15 * time.Second
	// awaitInterval is within what an awaited port is noticed, since no event tells of a new
	// socket; once that has lasted for awaitSoon, it is awaitLongInterval. A change begins anew
	// with awaitInterval, awaitAgain after the last time: in a crash loop most of the time is the
	// first minute.
	awaitInterval, awaitLongInterval = 200 * time.Millisecond, 2 * time.Second
	awaitSoon, awaitAgain            = time.Minute, 10 * time.Minute
	// lingerInterval is the interval of the counts that nobody waits for.
	lingerInterval = time.Second
	// lastInterval is that of those that the hook waits for, where nothing tells of an end.
	lastInterval = 50 * time.Millisecond
)

// scanBudget is a token bucket of processor time, for the scans that follow from events: they may
// use a tenth of a core in the long run, and maxSaved at once after a quiet time.
type scanBudget struct {
	saved time.Duration // as of paid; negative: overdrawn
	paid  time.Time     // when the last scan ended
}

const (
	// budgetShare is the part of the time that is saved up: one in so many.
	budgetShare = 10
	maxSaved    = 300 * time.Millisecond
)

// pay takes from b what a scan cost that took from began to now.
func (b scanBudget) pay(began, now time.Time, cost time.Duration) scanBudget {
	saved := min(maxSaved, b.saved+began.Sub(b.paid)/budgetShare)
	return scanBudget{max(saved-cost, -maxInterval/budgetShare), now}
}

// wait is how long a scan after an event must wait at now; not positive: it need not.
func (b scanBudget) wait(now time.Time) time.Duration {
	return -budgetShare * (b.saved + now.Sub(b.paid)/budgetShare)
}

// schedule is what decides when the sockets are scanned next.
type schedule struct {
	// events: the counter tells of the end of connections and listeners.
	events bool
	// awaits is since when a port is awaited.
	awaits time.Time
	// scanned is when the last scan ended, and cost its processor time.
	scanned time.Time
	cost    time.Duration
	// counted is when the last count began, and idleIn the time from then before which no
	// connection can become idle; 0: only ends matter.
	counted time.Time
	idleIn  time.Duration
	budget  scanBudget
}

// next is how long to wait at now for an event before scanning anyway.
func (s schedule) next(p pace, now time.Time) time.Duration {
	var d time.Duration
	switch p {
	case paceServing:
		d = servingInterval
		if !s.events {
			d = awaitLongInterval
		}
	case paceAwait:
		d = awaitInterval
		if now.Sub(s.awaits) > awaitSoon {
			d = awaitLongInterval
		}
	case paceLinger:
		d = lingerInterval
	case paceLast:
		switch {
		case s.idleIn > 0: // nothing but an event can end it sooner
			return max(time.Millisecond, s.idleIn-now.Sub(s.counted), s.afterEvent(p, now))
		case s.events:
			d = lingerInterval
		default:
			d = lastInterval
		}
	}
	return max(d, s.minInterval(p))
}

// afterEvent is how long a scan that follows from an event at now must wait.
func (s schedule) afterEvent(p pace, now time.Time) time.Duration {
	if p == paceLinger { // connections end all the time; nothing hangs on them yet
		return max(lastInterval, s.minInterval(p)) - now.Sub(s.scanned)
	}
	return s.budget.wait(now)
}

// minInterval is the least time between scans that nothing calls for.
func (s schedule) minInterval(p pace) time.Duration {
	most := maxInterval // a scan that the machine held up must not hold up the drain
	if p == paceLinger {
		most = maxLingerInterval
	}
	return min(costFactor*s.cost, most)
}

// rescanDue reports whether it is time at now to scan all connections, though those few that are in
// use tell enough.
func (s schedule) rescanDue(now time.Time) bool {
	return now.Sub(s.scanned) >= min(costFactor*s.cost, maxLingerInterval)
}
