package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// This file is the load: requests at a fixed rate, whether or not earlier ones were answered, and what became of each.

const (
	// A request works for this long, evenly spread on a logarithmic scale: mean 470 ms.
	shortest, longest = 5 * time.Millisecond, 3 * time.Second
	// patience is how long a caller waits for an answer. It is generous: being slow is not being lost.
	patience = 30 * time.Second
)

// caller is one way of finding and calling the service.
type caller struct {
	Name string
	// Title is for people.
	Title string
	// call asks for work of so many milliseconds. Its error is what the caller saw.
	call func(ctx context.Context, ms int64) error
}

// callers are all of them: the Spring ones at their addresses, the others by the Service's. idle is how long kept connections are.
func callers(eureka, nacos, service string, idle time.Duration) ([]caller, func(), error) {
	var all []caller
	var done []func()
	finish := func() {
		for _, f := range done {
			f()
		}
	}
	spring := func(name, title, at string) {
		// The way to the calling program is no part of what is measured, so it takes as many connections as it likes.
		t := &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000}
		done = append(done, t.CloseIdleConnections)
		all = append(all, caller{name, title, web(t, http.MethodGet, at+"/call")})
	}
	spring("eureka", "Eureka", eureka)
	spring("nacos", "Nacos", nacos)
	work := "http://" + service + ":8080/work"
	all = append(all, caller{"new", "ClusterIP, new connections", web(&http.Transport{DisableKeepAlives: true}, http.MethodPost, work)})
	// A POST, which the client never sends twice.
	kept := &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, IdleConnTimeout: idle}
	done = append(done, kept.CloseIdleConnections)
	all = append(all, caller{"kept", "ClusterIP, kept connections", web(kept, http.MethodPost, work)})

	var conns []*grpc.ClientConn
	for range 3 {
		c, err := grpc.NewClient("passthrough:///"+service+":9090", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.ForceCodec(text{})))
		if err != nil {
			finish()
			return nil, nil, fmt.Errorf("make a gRPC client of %s: %w", service, err)
		}
		done = append(done, func() { c.Close() })
		conns = append(conns, c)
	}
	all = append(all, caller{"grpc", "ClusterIP, gRPC", func(ctx context.Context, ms int64) error {
		var answer string
		if err := conns[ms%int64(len(conns))].Invoke(ctx, "/orders/work", fmt.Sprint(ms), &answer); err != nil {
			s := status.Convert(err)
			return fmt.Errorf("%s: %s", s.Code(), s.Message())
		}
		if answer != "done" {
			return fmt.Errorf("answer %q", answer)
		}
		return nil
	}})
	return all, finish, nil
}

// text is gRPC's codec for strings as they are.
type text struct{}

func (text) Name() string { return "text" }

func (text) Marshal(v any) ([]byte, error) { return []byte(v.(string)), nil }

func (text) Unmarshal(data []byte, v any) error {
	*v.(*string) = string(data)
	return nil
}

// web calls url?ms=…; anything but a 200 that was read to its end is an error.
func web(t *http.Transport, method, url string) func(context.Context, int64) error {
	client := &http.Client{Transport: t}
	return func(ctx context.Context, ms int64) error {
		req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s?ms=%d", url, ms), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		return nil
	}
}

// record is what became of one caller's requests.
type record struct {
	mu   sync.Mutex
	sent []sample
}

// sample is one request.
type sample struct {
	at, took time.Duration // since the load began
	err      string        // what the caller saw; "" is an answer
}

func (r *record) add(s sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, s)
}

// lastFailure is when the last request failed that did by now, and how many have; since the load began.
func (r *record) lastFailure() (last time.Duration, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sent {
		if s.err != "" {
			n++
			last = max(last, s.at+s.took)
		}
	}
	return last, n
}

// load is a load that runs.
type load struct {
	began   time.Time
	records []*record // one for each caller
	stop    context.CancelFunc
	sending sync.WaitGroup
}

// begin sends rate requests a second for each caller until finish.
func begin(ctx context.Context, all []caller, rate float64, seed uint64) *load {
	sending, stop := context.WithCancel(ctx)
	l := &load{began: time.Now(), stop: stop}
	for i, c := range all {
		r := &record{}
		l.records = append(l.records, r)
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		l.sending.Go(func() { l.send(sending, ctx, c, r, rng, rate, float64(i)/float64(len(all))) })
	}
	return l
}

// send sends c's requests, the n-th at (n + phase) / rate seconds. Those under way when sending ends are waited for; ctx ends them.
func (l *load) send(sending, ctx context.Context, c caller, r *record, rng *rand.Rand, rate, phase float64) {
	var open sync.WaitGroup
	defer open.Wait()
	for n := 0; ; n++ {
		due := l.began.Add(time.Duration((float64(n) + phase) / rate * float64(time.Second)))
		if wait(sending, time.Until(due)) != nil {
			return
		}
		ms := workFor(rng.Float64()).Milliseconds()
		open.Go(func() {
			at := time.Now()
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			err := c.call(ctx, ms)
			s := sample{at: at.Sub(l.began), took: time.Since(at)}
			if err != nil {
				s.err = wording(err)
			}
			r.add(s)
		})
	}
}

// finish ends the sending and waits for the answers.
func (l *load) finish() {
	l.stop()
	l.sending.Wait()
}

// lastFailure is when the last request of any caller failed, zero if none has.
func (l *load) lastFailure() (last time.Time, n int) {
	for _, r := range l.records {
		at, k := r.lastFailure()
		if n += k; k > 0 && l.began.Add(at).After(last) {
			last = l.began.Add(at)
		}
	}
	return last, n
}

// workFor is how long a request works, for u from 0 to 1.
func workFor(u float64) time.Duration {
	return time.Duration(float64(shortest) * math.Pow(float64(longest)/float64(shortest), u))
}

var numbers = regexp.MustCompile(`\d+(\.\d+)*`)

// wording is an error without what differs between two of the same kind.
func wording(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v", patience)
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	if text == "" {
		text = "an error without a word"
	}
	if len(text) > 300 {
		text = text[:300]
	}
	return numbers.ReplaceAllString(text, "#")
}

// wait returns after d, or with ctx's error.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
