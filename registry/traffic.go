package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Traffic counts the requests that a Registry has sent, every attempt by itself. Its zero value is
// ready, and it is safe for concurrent use.
type Traffic struct {
	mu  sync.Mutex
	sum Requests
}

// Requests is what a Traffic has counted.
type Requests struct {
	// Total is how many there were of each kind.
	Total map[Request]int
	// Within is how many had their answer's header within each of LatencyBounds, those of the
	// bounds before included. Answered is how many had one at all, and Took their time together.
	Within   [len(LatencyBounds)]int
	Answered int
	Took     time.Duration
}

// Request is a kind of request. There are few: four methods, and seven outcomes.
type Request struct {
	// Method is the HTTP method.
	Method string
	// Outcome is the class of the status, "2xx" to "5xx"; "timeout" or "unreachable" where there
	// was no answer; "cancelled" where it was not wanted any more.
	Outcome string
}

// LatencyBounds are the upper bounds of Requests.Within, in seconds.
var LatencyBounds = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5}

// Requests returns what was counted until now.
func (t *Traffic) Requests() Requests {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.sum
	sum.Total = make(map[Request]int, len(t.sum.Total))
	for k, n := range t.sum.Total {
		sum.Total[k] = n
	}
	return sum
}

// Note counts one attempt: by its HTTP method, the status of its answer or why there was none, and
// the time that this took.
func (t *Traffic) Note(method string, status int, err error, took time.Duration) {
	kind := Request{method, outcome(status, err)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sum.Total == nil {
		t.sum.Total = map[Request]int{}
	}
	t.sum.Total[kind]++
	if err != nil {
		return
	}
	t.sum.Answered++
	t.sum.Took += took
	first, _ := slices.BinarySearch(LatencyBounds[:], took.Seconds())
	for i := first; i < len(t.sum.Within); i++ {
		t.sum.Within[i]++
	}
}

// outcome is the Outcome of an attempt.
func outcome(status int, err error) string {
	var slow interface{ Timeout() bool }
	switch {
	case err == nil:
		return fmt.Sprintf("%dxx", min(max(status/100, 2), 5))
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &slow) && slow.Timeout():
		return "timeout"
	}
	return "unreachable"
}
