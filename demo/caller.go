package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	callers       = 4  // of each service
	callerRate    = 20 // requests a second of each caller, whether the last ones were answered or not
	shortest      = 5 * time.Millisecond
	longest       = time.Second
	callerTimeout = 10 * time.Second
)

// instanceList is what a caller believes about a service, through the two caches of a Spring Cloud application: the
// registry client's copy, and the load balancer's copy of that copy, which is taken again only when it is ttl old.
type instanceList struct {
	ttl      time.Duration
	fetched  []string
	balanced []string
	taken    time.Time
	turn     int
}

// update is the registry client's fetch.
func (l *instanceList) update(addresses []string) { l.fetched = addresses }

// take is the load balancer's refresh, at now.
func (l *instanceList) take(now time.Time) { l.balanced, l.taken = l.fetched, now }

// next is the load balancer's choice at now, in turn; false if it knows no instance. An empty list is not kept.
func (l *instanceList) next(now time.Time) (string, bool) {
	if len(l.balanced) == 0 || now.Sub(l.taken) >= l.ttl {
		l.take(now)
	}
	if len(l.balanced) == 0 {
		return "", false
	}
	l.turn++
	return l.balanced[l.turn%len(l.balanced)], true
}

// request is one call and how it ended.
type request struct {
	at      time.Time // when it was sent
	ended   time.Time
	target  string
	failure failure
}

// failure is why a request was lost; "" if it was answered.
type failure string

const (
	refused failure = "refused" // nobody listens there any more
	cut     failure = "cut off" // the instance died while it worked
	other   failure = "other"
)

// classify sorts the error of a request to an instance.
func classify(err error) failure {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return cut
	}
	return other
}

// record collects the requests of all callers of a service. Safe for concurrent use.
type record struct {
	mu       sync.Mutex
	requests []request
	odd      error // the first failure of the kind other
}

func (r *record) add(q request, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, q)
	if q.failure == other && r.odd == nil {
		r.odd = err
	}
}

// all returns the requests so far, and the first error of the kind other.
func (r *record) all() ([]request, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests), r.odd
}

// caller is one application that calls a service through its cached list, over keep-alive connections.
type caller struct {
	lookup lookup
	fetch  time.Duration
	phase  float64 // 0 to 1: the part of each of its intervals by which it is behind the first caller
	rng    *rand.Rand
	record *record

	mu   sync.Mutex
	list instanceList
}

// knows reports whether the caller's list has n instances, so that load may begin.
func (c *caller) knows(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.list.fetched) == n
}

// follow keeps the list until ctx ends.
func (c *caller) follow(ctx context.Context) {
	if wait(ctx, part(c.phase, c.fetch)) != nil {
		return
	}
	tick := time.NewTicker(c.fetch)
	defer tick.Stop()
	for {
		if addresses, err := c.lookup(ctx); err == nil { // else the old list stays, as in the real ones
			c.mu.Lock()
			c.list.update(addresses)
			c.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// load sends requests at callerRate until ctx ends, and waits for those under way.
func (c *caller) load(ctx context.Context) {
	c.mu.Lock()
	c.list.take(time.Now().Add(-part(c.phase, c.list.ttl))) // the balancers' caches do not run out at the same time
	c.mu.Unlock()
	if wait(ctx, part(c.phase, time.Second/callerRate)) != nil {
		return
	}
	client := &http.Client{Timeout: callerTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(time.Second / callerRate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		c.mu.Lock()
		target, known := c.list.next(now)
		c.mu.Unlock()
		if !known {
			c.record.add(request{at: now, ended: now, failure: other}, errors.New("the caller knows no instance"))
			continue
		}
		length := c.length()
		under.Go(func() {
			err := send(client, target, length)
			c.record.add(request{at: now, ended: time.Now(), target: target, failure: classify(err)}, err)
		})
	}
}

func part(of float64, d time.Duration) time.Duration { return time.Duration(of * float64(d)) }

// length draws how long the application shall work for a request: most are short, some take a second.
func (c *caller) length() time.Duration {
	return time.Duration(float64(shortest) * math.Pow(float64(longest)/float64(shortest), c.rng.Float64()))
}

// send makes one request. It is a POST, so that net/http does not quietly send it again when a kept connection breaks:
// an order that may have been placed is not placed twice.
func send(client *http.Client, target string, length time.Duration) error {
	resp, err := client.Post(fmt.Sprintf("http://%s/?ms=%d", target, length.Milliseconds()), "text/plain", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", target, resp.Status)
	}
	return nil
}
