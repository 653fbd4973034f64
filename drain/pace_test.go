package drain

import (
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	now := at(100)
	const ms = time.Millisecond
	for sentence, c := range map[string]struct {
		schedule
		pace pace
		next time.Duration
	}{
		"a new port is noticed in 15 s while the app serves": {schedule{events: true}, paceServing, 15 * time.Second},
		"in 2 s where nothing tells of the end of one":       {schedule{}, paceServing, 2 * time.Second},
		"an awaited port at once":                            {schedule{events: true, awaits: at(60)}, paceAwait, 200 * ms},
		"also at the end of the first minute":                {schedule{events: true, awaits: at(40)}, paceAwait, 200 * ms},
		"then in 2 s":                                        {schedule{events: true, awaits: at(39)}, paceAwait, 2 * time.Second},
		"while lingering a second is soon enough":            {schedule{events: true}, paceLinger, time.Second},
		"a costly scan is rare":                              {schedule{events: true, cost: 100 * ms}, paceLinger, 6 * time.Second},
		"but not rarer than that":                            {schedule{events: true, cost: time.Second}, paceLinger, 10 * time.Second},
		"when the hook waits, an end is told":                {schedule{events: true}, paceLast, time.Second},
		"or looked for":                                      {schedule{}, paceLast, 50 * ms},
		"not more often than it costs":                       {schedule{cost: 10 * ms}, paceLast, 600 * ms},
		"nor later than in 2 s":                              {schedule{cost: 100 * ms}, paceLast, 2 * time.Second},
		"one that may become idle is looked at then":         {schedule{events: true, counted: at(99.9), idleIn: 400 * ms}, paceLast, 300 * ms},
		"at once if that has passed":                         {schedule{events: true, counted: at(99), idleIn: 400 * ms}, paceLast, ms},
		"or when the budget allows it":                       {schedule{events: true, counted: at(99), idleIn: 400 * ms, budget: scanBudget{-50 * ms, at(100)}}, paceLast, 500 * ms},
		"which is earlier the longer the last scan is ago":   {schedule{events: true, counted: at(99), idleIn: 400 * ms, budget: scanBudget{-50 * ms, at(99.8)}}, paceLast, 300 * ms},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := c.schedule.next(c.pace, now); got.Round(10*time.Microsecond) != c.next {
				t.Errorf("in %v, want %v", got, c.next)
			}
		})
	}
}

func TestScansAfterEventsHaveABudget(t *testing.T) {
	now := at(100)
	const ms = time.Millisecond
	for sentence, c := range map[string]struct {
		before    scanBudget
		cost      time.Duration
		saved     time.Duration
		mustWait  time.Duration
		afterWait time.Duration // a second later
	}{
		"what is saved up is spent at once":         {scanBudget{0, at(90)}, 200 * ms, 100 * ms, -time.Second, -2 * time.Second},
		"no more is saved than that":                {scanBudget{0, at(0)}, 0, 300 * ms, -3 * time.Second, -4 * time.Second},
		"what is overdrawn is waited for":           {scanBudget{0, at(100)}, 100 * ms, -100 * ms, time.Second, 0},
		"but one scan holds up nothing for minutes": {scanBudget{0, at(100)}, 10 * time.Second, -200 * ms, 2 * time.Second, time.Second},
	} {
		t.Run(sentence, func(t *testing.T) {
			b := c.before.pay(now, now, c.cost)
			if b.saved != c.saved || b.wait(now) != c.mustWait || b.wait(now.Add(time.Second)) != c.afterWait {
				t.Errorf("saved %v, wait %v, %v a second later; want %v, %v, %v", b.saved, b.wait(now), b.wait(now.Add(time.Second)), c.saved, c.mustWait, c.afterWait)
			}
		})
	}
}

func TestAnEventWhileLingeringWaitsForTheInterval(t *testing.T) {
	s := schedule{events: true, scanned: at(100), cost: 10 * time.Millisecond}
	if got := s.afterEvent(paceLinger, at(100.2)); got.Round(time.Millisecond) != 400*time.Millisecond {
		t.Errorf("in %v", got)
	}
	if s.rescanDue(at(100.5)) || !s.rescanDue(at(100.6)) {
		t.Error("all connections are scanned at another time than a sixtieth of a core allows")
	}
	s.cost = 0
	if got := s.afterEvent(paceLinger, at(100.02)); got.Round(time.Millisecond) != 30*time.Millisecond {
		t.Errorf("a cheap one in %v", got)
	}
}
