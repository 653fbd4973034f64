package drain

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Call is what is called when a drain begins: the app's own way to get quiet.
type Call struct {
	// Name is for people; it holds no secret.
	Name string
	// Make makes the call once. It returns soon after its context ends, and bounds itself.
	Make func(context.Context) error
}

const (
	// callsFor bounds all the tries of one drain.
	callsFor = 10 * time.Second
	// callPause is the pause after the first tries, which doubles each time up to longestCallPause.
	callPause, longestCallPause = 200 * time.Millisecond, 2 * time.Second
)

// calls makes the calls of each drain. Its methods but wait are the owner's alone.
type calls struct {
	all     []Call
	log     *slog.Logger
	running sync.WaitGroup
	cancel  context.CancelFunc // of those that are being made; nil before the first
	newest  *attempt           // nil before the first
}

// attempt is the calls of one drain.
type attempt struct {
	mu       sync.Mutex
	failures []error // by call: why it has not worked yet; nil when it has, or was not tried
}

// begin starts to make the calls and returns at once. They are tried until each has worked, for
// callsFor, until the deadline, or until ctx ends.
func (c *calls) begin(ctx context.Context, deadline time.Time) {
	c.end()
	if len(c.all) == 0 {
		return
	}
	if latest := time.Now().Add(callsFor); latest.Before(deadline) {
		deadline = latest
	}
	ctx, c.cancel = context.WithDeadline(ctx, deadline)
	a := &attempt{failures: make([]error, len(c.all))}
	c.newest = a
	c.running.Go(func() { c.make(ctx, a) })
}

// end gives up what is being tried: the drain that it belongs to is not wanted any more.
func (c *calls) end() {
	if c.cancel != nil {
		c.cancel()
	}
}

// wait waits until nothing is being tried any more.
func (c *calls) wait() { c.running.Wait() }

// trouble is which calls of the newest drain have not worked, and why.
func (c *calls) trouble() []string {
	if c.newest == nil {
		return nil
	}
	c.newest.mu.Lock()
	defer c.newest.mu.Unlock()
	var t []string
	for i, err := range c.newest.failures {
		if err != nil {
			t = append(t, fmt.Sprintf("drain call %s: %v", c.all[i].Name, err))
		}
	}
	return t
}

// make tries the calls in their order, and those that failed again after a pause.
func (c *calls) make(ctx context.Context, a *attempt) {
	began := time.Now()
	made := make([]bool, len(c.all))
	for tries, pause := 1, callPause; ; tries, pause = tries+1, min(2*pause, longestCallPause) {
		left := 0
		for i, call := range c.all {
			if made[i] {
				continue
			}
			err := call.Make(ctx)
			if ctx.Err() != nil && err != nil {
				break // what came of it before says more
			}
			a.mu.Lock()
			a.failures[i] = err
			a.mu.Unlock()
			switch made[i] = err == nil; {
			case made[i]:
				c.log.Info("drain call made", "call", call.Name, "tries", tries, "after", time.Since(began))
			default:
				left++
				c.log.Debug("drain call failed", "call", call.Name, "tries", tries, "error", err)
			}
		}
		if left == 0 && ctx.Err() == nil {
			return
		}
		wait(ctx, pause)
		if ctx.Err() != nil {
			c.giveUp(ctx, a, made, tries)
			return
		}
	}
}

// giveUp says what did not work.
func (c *calls) giveUp(ctx context.Context, a *attempt, made []bool, tries int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, call := range c.all {
		if made[i] {
			continue
		}
		if a.failures[i] == nil {
			a.failures[i] = fmt.Errorf("no answer: %w", ctx.Err())
		}
		c.log.Error("drain call not made; the drain goes on without", "call", call.Name,
			"tries", tries, "error", a.failures[i])
	}
}
