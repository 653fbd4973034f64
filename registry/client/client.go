// Package client calls the servers of a registry over HTTP: with retries and fail-over, with a bound
// for whatever a server sends, and with an error that says what to do. It is for the packages that
// implement registry.Registry.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"prestop/registry"
)

const (
	// answerLimit bounds a small answer; the largest that we read whole is one application's instances.
	answerLimit = 2 << 20
	// attemptTimeout bounds one try of a small call, so that a server that hangs costs seconds and not the whole budget.
	attemptTimeout = 3 * time.Second
	// listTimeout bounds the wait for the beginning of a large list, which a server may have to make first.
	listTimeout = 10 * time.Second
	// streamLimit bounds a registry's whole list: 100,000 instances of Eureka are some 95 MB of JSON.
	streamLimit = 256 << 20
)

// errTooLarge is the cause when a body goes past its bound.
var errTooLarge = errors.New("the answer is larger than any real one")

// Client makes calls to the servers of one registry: it retries what may pass with backoff and jitter, each time on the
// next address, until the context ends. Basic auth is taken from an address's userinfo. Redirects are followed on the
// same host only, by its name or its address. Safe for concurrent use; the zero value is not usable, see New.
type Client struct {
	// Lookup resolves names for Servers; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

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
	// Retry says that an answer is one of a sick server which may pass. nil means those that are Transient.
	Retry func(Answer) bool
	// Read takes the body of a 200 as a stream, for answers too large to hold; Answer.Body is empty then. It is called
	// again from the beginning when the connection broke in the midst of a body; another error from it fails the call.
	Read func(io.Reader) error
	// Once makes one attempt on each address and no more.
	Once bool
	// Large: the answer is a list that may take listTimeout to begin. With several addresses the first round waits no
	// longer than for a small answer, since a server that hangs must not hold up the others.
	Large bool
	// Slow is how long the answer to a write may take, because the server waits for its own cluster; 0 is as for any call.
	Slow time.Duration
	// Unrepeated: the call is not sent again when it may have been carried out: it was sent and had no answer, or one
	// that does not tell. The caller reads back first.
	Unrepeated bool
}

// Answer is a complete answer of a server.
type Answer struct {
	// URL is the address that answered, redacted.
	URL    string
	Code   int
	Header http.Header
	Body   []byte
}

// Transient reports whether a status is one that may pass: 408, 425, 429 and 5xx.
func Transient(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500
}

// New returns a Client that trusts tlsConfig (nil: the system's roots) and presents itself as userAgent.
func New(tlsConfig *tls.Config, userAgent string) *Client {
	traffic := &registry.Traffic{}
	c := retryablehttp.NewClient()
	c.Logger = nil
	c.RetryMax = 1 << 20 // the context is the bound
	c.RetryWaitMin, c.RetryWaitMax = 100*time.Millisecond, 2*time.Second
	c.Backoff = backoff
	c.CheckRetry = checkRetry
	c.PrepareRetry = func(r *http.Request) error { current(r.Context()).next(r); return nil }
	c.ErrorHandler = func(_ *http.Response, err error, _ int) (*http.Response, error) { return nil, err }
	c.HTTPClient = &http.Client{
		CheckRedirect: sameHost,
		Transport: agent{userAgent, traffic, &http.Transport{
			Proxy:                  nil, // a registry is inside the cluster; a proxy from the app's environment would not reach it
			DialContext:            (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    attemptTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        20 * time.Second,
		}},
	}
	return &Client{client: c, traffic: traffic}
}

// Traffic counts the requests.
func (h *Client) Traffic() *registry.Traffic { return h.traffic }

// Close drops idle connections.
func (h *Client) Close() { h.client.HTTPClient.CloseIdleConnections() }

// Do makes the call on the first of addrs that answers, beginning with the first. It returns every answer that Retry
// does not call sick, whatever its code; the error is always an *registry.Error.
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

// sequence is one call over its attempts.
type sequence struct {
	call   Call
	addrs  []*url.URL
	names  *names
	turn   int
	answer Answer
	last   error // why the last attempt failed
}

type sequenceKey struct{}

func current(ctx context.Context) *sequence { return ctx.Value(sequenceKey{}).(*sequence) }

// address points r at the address whose turn it is.
func (s *sequence) address(r *http.Request) {
	a := *s.addrs[s.turn%len(s.addrs)]
	user := a.User
	a.User = nil
	base := strings.TrimRight(a.EscapedPath(), "/")
	a.RawPath = base + "/" + strings.TrimLeft(s.call.Path, "/")
	if p, err := url.PathUnescape(a.RawPath); err == nil {
		a.Path = p
	}
	a.RawQuery = s.call.Query.Encode()
	r.URL, r.Host = &a, s.names.as(a.Host)
	r.Header = r.Header.Clone()
	if user != nil {
		password, _ := user.Password()
		r.SetBasicAuth(user.Username(), password)
	} else if s.turn > 0 && s.call.Header.Get("Authorization") == "" {
		r.Header.Del("Authorization")
	}
}

func (s *sequence) next(r *http.Request) {
	s.turn++
	s.address(r)
}

// read is the response handler: it reads the bounded body and says whether the answer is one to retry.
func (s *sequence) read(resp *http.Response) error {
	defer resp.Body.Close()
	s.answer = Answer{URL: s.where(), Code: resp.StatusCode, Header: resp.Header}
	// A body that trickles in must not hold the whole budget: a small one is cut past attemptTimeout, a stream when it
	// stands still for so long.
	timer := time.AfterFunc(attemptTimeout, func() { resp.Body.Close() })
	defer timer.Stop()
	if s.call.Read != nil && resp.StatusCode == http.StatusOK {
		body := &stream{bounded: bounded{resp.Body, streamLimit}, timer: timer}
		err := s.call.Read(body)
		switch {
		case err == nil:
			return nil
		case body.broken != nil:
			return fmt.Errorf("read the answer: %w", body.broken)
		}
		return stop{err}
	}
	body, err := io.ReadAll(&bounded{resp.Body, answerLimit})
	if errors.Is(err, errTooLarge) {
		return stop{err}
	} else if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	s.answer.Body = body
	if s.call.Retry(s.answer) {
		return sick{s.answer}
	}
	return nil
}

func (s *sequence) where() string { return registry.Redact(s.addrs[s.turn%len(s.addrs)]) }

// failed makes the *registry.Error of a call that ended without a usable answer.
func (s *sequence) failed(err error) *registry.Error {
	e := &registry.Error{Op: s.call.Op, URL: s.where(), Err: plain(err), Unsent: unsent(err)}
	if s.last != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		e.Err = fmt.Errorf("%w, last: %w", plain(err), s.last)
	}
	if a := (sick{}); errors.As(err, &a) || errors.As(s.last, &a) {
		e.Code = a.Code
	}
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &name):
		e.Final, e.Remedy = true, "the certificate is for another name: set a URL with a name that is in the certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Final, e.Remedy = true, "renew the registry's certificate, or set the clock of the node"
	case errors.As(err, &cert):
		e.Final, e.Remedy = true, "name the CA of the registry's certificate with --registry-ca-file"
	case errors.Is(err, errElsewhere):
		e.Final, e.Remedy = true, "set the URL that the registry really serves"
	case errors.Is(err, errTooLarge):
		e.Final, e.Remedy = true, "is this the registry's URL?"
	}
	return e
}

// sick is an answer that Call.Retry wants tried again.
type sick struct{ Answer }

func (s sick) Error() string { return fmt.Sprintf("status %d%s", s.Code, Excerpt(s.Body)) }

// stop is a failure that no retry can change.
type stop struct{ err error }

func (s stop) Error() string { return s.err.Error() }
func (s stop) Unwrap() error { return s.err }

func checkRetry(ctx context.Context, _ *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil {
		return false, nil
	}
	var cert *tls.CertificateVerificationError
	if st := (stop{}); errors.As(err, &st) || errors.As(err, &cert) || errors.Is(err, errElsewhere) {
		return false, err
	}
	s := current(ctx)
	s.last = plain(err)
	if s.call.Unrepeated && !unsent(err) {
		return false, err
	}
	if s.call.Once && s.turn+1 >= len(s.addrs) {
		return false, err
	}
	return true, nil
}

// backoff doubles from min to max and takes a random part of it: full jitter, so that a fleet that leaves at once spreads.
func backoff(min, max time.Duration, attempt int, _ *http.Response) time.Duration {
	d := max
	if attempt < 16 {
		d = min << attempt
	}
	if d > max {
		d = max
	}
	return d/2 + rand.N(d/2+1)
}

var errElsewhere = errors.New("the server redirects to another host")

// unsent reports whether a call that failed by err was certainly not carried out: no connection came to be, or the answer
// says that nobody took it.
func unsent(err error) bool {
	if a := (sick{}); errors.As(err, &a) {
		switch a.Code {
		case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusTooEarly:
			return true
		}
		return false
	}
	dial := (*net.OpError)(nil)
	return errors.As(err, &dial) && dial.Op == "dial"
}

// sameHost lets a redirect lead to the same server: to its address, or to the name by which it was called. Behind a name of
// several addresses it stays at the one that was asked.
func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0]
	byName := first.Host != "" && sameAddress(r.URL, first.Host)
	if !byName && !sameAddress(r.URL, first.URL.Host) || r.URL.Scheme != first.URL.Scheme || len(via) > 3 {
		return fmt.Errorf("%w (%s)", errElsewhere, registry.Redact(r.URL))
	}
	if r.Method != first.Method {
		return fmt.Errorf("%w (a %s turned into a %s)", errElsewhere, first.Method, r.Method)
	}
	r.URL.Host, r.Host = first.URL.Host, first.Host
	if auth := first.Header["Authorization"]; auth != nil {
		r.Header["Authorization"] = auth // the client drops it where the host is spelled otherwise
	}
	return nil
}

// sameAddress reports whether u leads to host, which may lack the port of u's scheme.
func sameAddress(u *url.URL, host string) bool {
	usual := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	other := url.URL{Host: host}
	port := func(u *url.URL) string { return cmp.Or(u.Port(), usual) }
	return strings.EqualFold(u.Hostname(), other.Hostname()) && port(u) == port(&other)
}

// plain strips what net/http wraps around a cause, since that holds the URL with its query.
func plain(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Excerpt is the beginning of a body as one line for an error, with ": " in front; "" for an empty or an HTML one.
func Excerpt(body []byte) string {
	line := bytes.Join(bytes.Fields(body[:min(len(body), 400)]), []byte(" "))
	if len(line) == 0 || line[0] == '<' {
		return ""
	}
	return ": " + string(line[:min(len(line), 200)])
}

// bounded fails with errTooLarge past n bytes.
type bounded struct {
	r io.Reader
	n int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.n {
		p = p[:b.n]
	}
	n, err := b.r.Read(p)
	b.n -= int64(n)
	return n, err
}

// stream is a body that is read while it arrives. The timer cuts it when it stands still.
type stream struct {
	bounded
	timer  *time.Timer
	broken error // how the connection failed, as opposed to what it brought
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.bounded.Read(p)
	if n > 0 {
		s.timer.Reset(attemptTimeout)
	}
	if err != nil && err != io.EOF && !errors.Is(err, errTooLarge) {
		s.broken = err
	}
	return n, err
}

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
