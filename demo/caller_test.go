package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"syscall"
	"testing"
	"time"
)

func TestInstanceListIsAsOldAsBothCachesTogether(t *testing.T) {
	start := time.Unix(0, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	l := instanceList{ttl: 3500 * time.Millisecond}
	if got, ok := l.next(start); ok {
		t.Fatalf("a list that was never fetched chose %q", got)
	}
	l.update([]string{"old"})
	steps := []struct {
		what string
		ms   int
		news []string // fetched just before
		want string
	}{
		{"an empty list is not kept", 1, nil, "old"},
		{"the balancer keeps its copy although the client knows better", 100, []string{"new"}, "old"},
		{"just before the balancer's copy runs out", 3500, nil, "old"},
		{"when it has run out", 3501, nil, "new"},
		{"the next copy is kept as long", 7000, []string{"newer"}, "new"},
		{"and no longer", 7001, nil, "newer"},
	}
	for _, s := range steps {
		if s.news != nil {
			l.update(s.news)
		}
		if got, ok := l.next(at(s.ms)); !ok || got != s.want {
			t.Errorf("%s: at %d ms chose %q, %v; want %q", s.what, s.ms, got, ok, s.want)
		}
	}
}

func TestInstanceListTakesTurns(t *testing.T) {
	l := instanceList{ttl: time.Hour, fetched: []string{"a", "b", "c"}}
	got := map[string]int{}
	for range 30 {
		target, _ := l.next(time.Unix(0, 0))
		got[target]++
	}
	for _, target := range l.fetched {
		if got[target] != 10 {
			t.Errorf("%s was chosen %d times of 30; want 10", target, got[target])
		}
	}
}

func TestFailuresAreNamedByTheirCause(t *testing.T) {
	wrap := func(err error) error { return &url.Error{Op: "Post", URL: "http://x", Err: err} }
	for want, errs := range map[failure][]error{
		"":      {nil},
		refused: {wrap(fmt.Errorf("dial: %w", syscall.ECONNREFUSED))},
		cut:     {wrap(io.EOF), wrap(io.ErrUnexpectedEOF), wrap(syscall.ECONNRESET), wrap(syscall.EPIPE)},
		other:   {errors.New("timeout"), errors.New("status 500")},
	} {
		for _, err := range errs {
			if got := classify(err); got != want {
				t.Errorf("classify(%v) = %q, want %q", err, got, want)
			}
		}
	}
}

func TestRequestsLastFromShortestToLongest(t *testing.T) {
	c := caller{rng: rand.New(rand.NewPCG(1, 2))}
	short, long := 0, 0
	for range 10_000 {
		d := c.length()
		if d < shortest || d > longest {
			t.Fatalf("a request of %v; want %v to %v", d, shortest, longest)
		}
		if d < 50*time.Millisecond {
			short++
		}
		if d > 500*time.Millisecond {
			long++
		}
	}
	// Of the logarithms, evenly spread: log(10)/log(200) are under 50 ms, log(2)/log(200) above 500 ms.
	if short < 4000 || short > 4700 || long < 1100 || long > 1500 {
		t.Errorf("%d under 50 ms and %d above 500 ms of 10,000; want about 4,346 and 1,308", short, long)
	}
}
