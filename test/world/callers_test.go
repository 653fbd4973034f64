package world

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// linger is the sidecar's --linger: how long callers may go on after the registries were read back.
	linger = 2500 * time.Millisecond
	// stale is the age from which on a list is older than the sidecar was told that callers' lists get.
	// Only a machine that is too busy, or a registry that does not answer, makes a caller use one.
	stale = linger - rebuild - 200*time.Millisecond
	// requestTimeout is the sidecar's, and longest how long the app works for a request at most: a
	// connection whose balance the sidecar cannot tell is in use until the former has passed.
	requestTimeout, longest = 3 * time.Second, 2 * time.Second
)

// call is a request to an app and how it ended.
type call struct {
	to *container
	// listed is when the list was asked for that the caller had the address from.
	listed time.Time
	// began is before anything was sent; sent is when the request was on its way, zero if never.
	began, sent, ended time.Time
	http2              bool
	err                error
}

// late reports whether the caller used a list that it should not have used any more.
func (c call) late() bool {
	at := c.sent
	if at.IsZero() {
		at = c.ended
	}
	return at.Sub(c.listed) > stale
}

// manner is how a caller calls.
type manner struct {
	// every is how often, whether the calls before were answered or not.
	every time.Duration
	// fresh is how old its list may be before it is fetched anew.
	fresh time.Duration
	// long is the part of its calls, in percent, that may take as long as a call may.
	long  int
	http2 bool
	// anew: it makes a connection for each call.
	anew bool
}

// manners are those of the callers of each app. The last is rare, slow and late with its list.
var manners = []manner{
	{every: 60 * time.Millisecond, fresh: 700 * time.Millisecond, long: 5},
	{every: 60 * time.Millisecond, fresh: 700 * time.Millisecond, long: 5, http2: true},
	{every: 300 * time.Millisecond, fresh: stale - 200*time.Millisecond, long: 40, anew: true},
}

// rareManners are those of the callers of a Pod that is called little: a drain that does not wait for
// their lists finds nothing in use.
var rareManners = []manner{
	{every: 600 * time.Millisecond, fresh: stale - 200*time.Millisecond, anew: true},
	{every: 900 * time.Millisecond, fresh: stale - 200*time.Millisecond, anew: true},
}

// caller is one application that calls a container by the list of a registry, or by a Service.
type caller struct {
	w      *world
	to     *container
	server *server // nil: by the Service
	rng    *rand.Rand
	manner

	address string
	listed  time.Time
}

// run calls until ctx ends, and waits for what is under way.
func (c *caller) run(ctx context.Context) {
	var cl *client
	if c.server != nil {
		cl = newClient(c.server, c.w.dialOut)
		defer cl.close()
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!c.http2)
	protocols.SetUnencryptedHTTP2(c.http2)
	t := &http.Transport{
		Protocols: protocols, MaxIdleConnsPerHost: 16, DisableKeepAlives: c.anew,
		DialContext: func(_ context.Context, _, to string) (net.Conn, error) { return c.w.dialOut(to) },
	}
	defer t.CloseIdleConnections()
	h := &http.Client{Transport: t, Timeout: 20 * time.Second}
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.refresh(ctx, cl)
		if c.address == "" {
			continue
		}
		ms, address := c.length(), c.address
		r := call{to: c.to, listed: c.listed, http2: c.http2, began: time.Now()}
		under.Go(func() { c.w.called(c.send(h, r, address, ms)) })
	}
}

// length draws how long the app shall work: most are short.
func (c *caller) length() time.Duration {
	if c.rng.IntN(100) < c.long {
		return time.Duration(c.rng.Int64N(int64(longest)))
	}
	return time.Duration(c.rng.Int64N(int64(40 * time.Millisecond)))
}

// refresh fetches the list where it is too old; the old one stays if that fails.
func (c *caller) refresh(ctx context.Context, cl *client) {
	if time.Since(c.listed) < c.fresh {
		return
	}
	now := time.Now()
	if cl == nil {
		c.address, c.listed = c.w.endpoint(c.to), now
		return
	}
	list, err := cl.list(ctx, c.to.identity().service)
	if err != nil {
		return
	}
	c.listed, c.address = now, ""
	for _, a := range list {
		if a == c.to.identity().where() {
			c.address = a
		}
	}
}

// send makes one request. It is a POST, so that net/http does not quietly send it again.
func (c *caller) send(h *http.Client, r call, address string, work time.Duration) call {
	var sent atomic.Pointer[time.Time]
	trace := &httptrace.ClientTrace{WroteRequest: func(i httptrace.WroteRequestInfo) {
		if now := time.Now(); i.Err == nil {
			sent.Store(&now)
		}
	}}
	url := fmt.Sprintf("http://%s/?ms=%d", address, work.Milliseconds())
	q, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodPost, url, http.NoBody)
	if err != nil {
		r.err = err
		return r
	}
	resp, err := h.Do(q)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", resp.Status)
		}
	}
	r.ended, r.err = time.Now(), err
	if at := sent.Load(); at != nil {
		r.sent = *at
	}
	return r
}
