// Package client calls the servers of a registry over HTTP: with retries and fail-over, with a
// bound for whatever a server sends, and with an error that says what to do. It is for the packages
// that implement registry.Registry.
package client

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"prestop/registry"
)

const (
	// answerLimit bounds a small answer; the largest that we read whole is one application's
	// instances.
	answerLimit = 2 << 20
	// attemptTimeout bounds one try of a small call, so that a server that hangs costs seconds and
	// not the whole budget.
	attemptTimeout = 3 * time.Second
	// listTimeout bounds the wait for the beginning of a large list, which a server may have to
	// make first.
	listTimeout = 10 * time.Second
	// streamLimit bounds a registry's whole list: 100,000 instances of Eureka are some 95 MB of
	// JSON.
	streamLimit = 256 << 20
)

// Client makes calls to the servers of one registry: it retries what may pass with backoff and
// jitter, each time on the next address, until the context ends. Basic auth is taken from an
// address's userinfo. Redirects are followed on the same host only, by its name or its address.
// Safe for concurrent use; the zero value is not usable, see New.
type Client struct {
	// Lookup resolves names for Servers; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dial connects to a server; nil is the system's way.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	client  *retryablehttp.Client
	traffic *registry.Traffic
	names   names
}

// Call is one request. The path is joined to an address by a single slash.
type Call struct {
	// Op is what the call is for, in errors.
	Op     string
	Method string
	// Path is escaped already, relative to the address.
	Path   string
	Query  url.Values
	Form   url.Values // sent as the body, urlencoded, when not nil
	Header http.Header
	// Retry says that an answer is one of a sick server which may pass. nil means those that are
	// Transient.
	Retry func(Answer) bool
	// Read takes the body of a 200 as a stream, for answers too large to hold; Answer.Body is empty
	// then. It is called again from the beginning when the connection broke in the midst of a body;
	// another error from it fails the call.
	Read func(io.Reader) error
	// Once makes one attempt on each address and no more.
	Once bool
	// Large: the answer is a list that may take listTimeout to begin. With several addresses the
	// first round waits no longer than for a small answer, since a server that hangs must not hold
	// up the others.
	Large bool
	// Slow is how long the answer to a write may take, because the server waits for its own
	// cluster; 0 is as for any call.
	Slow time.Duration
	// Unrepeated: the call is not sent again when it may have been carried out: it was sent and had
	// no answer, or one that does not tell. The caller reads back first.
	Unrepeated bool
}

// New returns a Client that trusts tlsConfig (nil: the system's roots) and presents itself as
// userAgent.
func New(tlsConfig *tls.Config, userAgent string) *Client {
	c := retryablehttp.NewClient()
	h := &Client{client: c, traffic: &registry.Traffic{}}
	c.Logger = nil
	c.RetryMax = 1 << 20 // the context is the bound
	c.RetryWaitMin, c.RetryWaitMax = 100*time.Millisecond, 2*time.Second
	c.Backoff = backoff
	c.CheckRetry = checkRetry
	c.PrepareRetry = func(r *http.Request) error { current(r.Context()).next(r); return nil }
	c.ErrorHandler = func(_ *http.Response, err error, _ int) (*http.Response, error) { return nil, err }
	c.HTTPClient = &http.Client{
		CheckRedirect: sameHost,
		Transport: agent{userAgent, h.traffic, &http.Transport{
			Proxy:                  nil, // a registry is inside the cluster; a proxy from the app's environment would not reach it
			DialContext:            h.dial,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    attemptTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        20 * time.Second,
		}},
	}
	return h
}

// dial connects to a server.
func (h *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if h.Dial != nil {
		return h.Dial(ctx, network, address)
	}
	return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, address)
}

// Traffic counts the requests.
func (h *Client) Traffic() *registry.Traffic { return h.traffic }

// Close drops idle connections.
func (h *Client) Close() { h.client.HTTPClient.CloseIdleConnections() }

// Do makes the call on the first of addrs that answers, beginning with the first. It returns every
// answer that Retry does not call sick, whatever its code; the error is always an *registry.Error.
func (h *Client) Do(ctx context.Context, addrs []*url.URL, c Call) (Answer, error) {
	if c.Retry == nil {
		c.Retry = func(a Answer) bool { return Transient(a.Code) }
	}
	s := &sequence{call: c, addrs: addrs, names: &h.names}
	ctx = context.WithValue(ctx, sequenceKey{}, s)
	var body any
	if c.Form != nil {
		body = []byte(c.Form.Encode())
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, c.Method, addrs[0].String(), body)
	if err != nil {
		return Answer{}, s.failed(err)
	}
	for k, v := range c.Header {
		req.Header[k] = v
	}
	if c.Form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.SetResponseHandler(s.read)
	s.address(req.Request)
	if _, err := h.client.Do(req); err != nil {
		return s.answer, s.failed(err)
	}
	return s.answer, nil
}
