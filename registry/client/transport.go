package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"prestop/registry"
)

// agent sets the User-Agent of every request, counts it, and bounds the wait for its answer.
type agent struct {
	name    string
	traffic *registry.Traffic
	http.RoundTripper
}

func (a agent) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", a.name)
	within := attemptTimeout
	if s, ok := r.Context().Value(sequenceKey{}).(*sequence); ok {
		within = s.within()
	}
	ctx, cancel := context.WithCancel(r.Context())
	timer := time.AfterFunc(within, cancel)
	began := time.Now()
	resp, err := a.RoundTripper.RoundTrip(r.WithContext(ctx))
	if !timer.Stop() && r.Context().Err() == nil {
		if err == nil {
			resp.Body.Close()
		}
		resp, err = nil, late{within}
	}
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	a.traffic.Note(r.Method, status, err, time.Since(began))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &released{resp.Body, cancel}
	return resp, nil
}

// within is how long the answer of this attempt may take to begin.
func (s *sequence) within() time.Duration {
	switch {
	case s.call.Slow > 0:
		return s.call.Slow
	case s.call.Large && (len(s.addrs) == 1 || s.turn >= len(s.addrs)):
		return listTimeout
	}
	return attemptTimeout
}

// late is the error of an attempt that had no answer in time.
type late struct{ within time.Duration }

func (l late) Error() string { return fmt.Sprintf("no answer within %v", l.within) }

// Timeout is what net.Error asks for.
func (late) Timeout() bool { return true }

// released is a body that ends its request's context when it is closed.
type released struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *released) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}
