package client

import (
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
	"net/url"
	"strings"
	"time"

	"prestop/registry"
)

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

// read is the response handler: it reads the bounded body and says whether the answer is one to
// retry.
func (s *sequence) read(resp *http.Response) error {
	defer resp.Body.Close()
	s.answer = Answer{URL: s.where(), Code: resp.StatusCode, Header: resp.Header}
	// A body that trickles in must not hold the whole budget: a small one is cut past
	// attemptTimeout, a stream when it stands still for so long.
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

// backoff doubles from min to max and takes a random part of it: full jitter, so that a fleet that
// leaves at once spreads.
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

// unsent reports whether a call that failed by err was certainly not carried out: no connection
// came to be, or the answer says that nobody took it.
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

// sameHost lets a redirect lead to the same server: to its address, or to the name by which it was
// called. Behind a name of several addresses it stays at the one that was asked.
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
