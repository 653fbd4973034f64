package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"prestop/registry"
	"prestop/registry/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// started returns the address of a server that answers by h.
func started(t *testing.T, h http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return parsed(t, s.URL)
}

func parsed(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// gone is an address where nothing listens.
func gone(t *testing.T) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return parsed(t, "http://"+l.Addr().String())
}

func newHTTP(t *testing.T) *client.Client {
	h := client.New(nil, "prestop/1.0")
	t.Cleanup(h.Close)
	return h
}

func get(path string) client.Call {
	return client.Call{Op: "read it", Method: http.MethodGet, Path: path}
}

// soon ends long after what a test expects has come.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// in ends after d.
func in(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// asError is err as what Do promises.
func asError(t *testing.T, err error) *registry.Error {
	t.Helper()
	var e *registry.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v (%T) is no *registry.Error", err, err)
	}
	return e
}

// script answers with each handler once, then with the last one.
func script(handlers ...http.HandlerFunc) (http.HandlerFunc, *atomic.Int64) {
	calls := &atomic.Int64{}
	return func(w http.ResponseWriter, r *http.Request) {
		n := int(calls.Add(1))
		handlers[min(n, len(handlers))-1](w, r)
	}, calls
}

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n); fmt.Fprintf(w, "code %d", n) }
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestTheRequestIsWhatTheCallSays(t *testing.T) {
	var seen *http.Request
	var body []byte
	addr := started(t, func(_ http.ResponseWriter, r *http.Request) {
		seen = r
		body, _ = io.ReadAll(r.Body)
	})
	addr.Path, addr.User = "/ctx/eureka/", url.UserPassword("user", "p@ss:/wörd")
	_, err := newHTTP(t).Do(soon(t), []*url.URL{addr}, client.Call{Op: "x", Method: http.MethodPut, Path: "apps/A%20B/id:1%3B", Query: url.Values{"value": {"UP"}},
		Form: url.Values{"a": {"b c"}}, Header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		t.Fatal(err)
	}
	if seen.Method != "PUT" || seen.RequestURI != "/ctx/eureka/apps/A%20B/id:1%3B?value=UP" {
		t.Errorf("%s %s", seen.Method, seen.RequestURI)
	}
	if user, password, _ := seen.BasicAuth(); user != "user" || password != "p@ss:/wörd" {
		t.Errorf("user %q, password %q", user, password)
	}
	if string(body) != "a=b+c" || seen.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		t.Errorf("body %q of %q", body, seen.Header.Get("Content-Type"))
	}
	if seen.Header.Get("Accept") != "application/json" || seen.UserAgent() != "prestop/1.0" {
		t.Errorf("header %v", seen.Header)
	}
}

func TestWhatMayPassIsTriedAgain(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"500": code(500), "502": code(502), "503": code(503), "429": code(429), "reset": reset,
		"cut in the midst of the body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("half"))
		},
	} {
		h, calls := script(fault, fault, code(200))
		a, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, get("x"))
		if err != nil || a.Code != 200 || string(a.Body) != "code 200" || calls.Load() != 3 {
			t.Errorf("%s: %+v, %v after %d calls", name, a, err, calls.Load())
		}
	}
}

func TestTheBodyIsSentAgain(t *testing.T) {
	var bodies []string
	h, _ := script(code(500), code(200))
	addr := started(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		h(w, r)
	})
	c := client.Call{Op: "log in", Method: http.MethodPost, Path: "login", Form: url.Values{"u": {"x"}}}
	if _, err := newHTTP(t).Do(soon(t), []*url.URL{addr}, c); err != nil || !slices.Equal(bodies, []string{"u=x", "u=x"}) {
		t.Errorf("%q, %v", bodies, err)
	}
}

func TestAnswersThatSaySomethingAreNotTriedAgain(t *testing.T) {
	for _, n := range []int{200, 204, 304, 400, 401, 403, 404, 410} {
		h, calls := script(code(n))
		a, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, get("x"))
		if err != nil || a.Code != n || calls.Load() != 1 {
			t.Errorf("%d: %+v, %v after %d calls", n, a, err, calls.Load())
		}
	}
}

func TestTheCallerDecidesWhatIsSick(t *testing.T) {
	h, calls := script(code(200), code(500))
	c := get("x")
	c.Retry = func(a client.Answer) bool { return a.Code == 200 }
	a, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, c)
	if err != nil || a.Code != 500 || calls.Load() != 2 {
		t.Errorf("%+v, %v after %d calls", a, err, calls.Load())
	}
}

func TestTheNextAddressIsTried(t *testing.T) {
	for name, first := range map[string]*url.URL{
		"refuses": gone(t), "resets": started(t, reset), "sick": started(t, code(500)), "hangs": started(t, hang),
	} {
		second := started(t, code(200))
		second.User = url.UserPassword("u", "p")
		a, err := newHTTP(t).Do(soon(t), []*url.URL{first, second}, get("x"))
		if err != nil || a.Code != 200 || a.URL != registry.Redact(second) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestOneServersPasswordIsNotToldToTheNext(t *testing.T) {
	var header http.Header
	first := started(t, code(500))
	first.User = url.UserPassword("u", "geheim")
	second := started(t, func(_ http.ResponseWriter, r *http.Request) { header = r.Header })
	if _, err := newHTTP(t).Do(soon(t), []*url.URL{first, second}, get("x")); err != nil {
		t.Fatal(err)
	}
	if header.Get("Authorization") != "" {
		t.Error("it was")
	}
}

func TestOnceAsksEachAddressOnce(t *testing.T) {
	h1, first := script(code(500))
	h2, second := script(reset)
	c := get("x")
	c.Once = true
	_, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h1), started(t, h2)}, c)
	if err == nil || first.Load() != 1 || second.Load() != 1 {
		t.Errorf("%v after %d and %d calls", err, first.Load(), second.Load())
	}
	h3, third := script(code(503))
	_, err = newHTTP(t).Do(soon(t), []*url.URL{started(t, h3)}, c)
	if e := asError(t, err); e.Code != 503 || e.Final || third.Load() != 1 {
		t.Errorf("%+v after %d calls", e, third.Load())
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	trickle := func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for r.Context().Err() == nil {
			<-tick.C
			w.Write([]byte(" "))
			w.(http.Flusher).Flush()
		}
	}
	for name, addr := range map[string]*url.URL{
		"hangs": started(t, hang), "trickles": started(t, trickle), "sick": started(t, code(503)), "refuses": gone(t),
		"does not shake hands": parsed(t, "https"+strings.TrimPrefix(started(t, hang).String(), "http")),
	} {
		_, err := newHTTP(t).Do(in(t, 300*time.Millisecond), []*url.URL{addr}, get("x"))
		if e := asError(t, err); !errors.Is(e, context.DeadlineExceeded) || e.Op != "read it" || e.URL != registry.Redact(addr) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheErrorOfACallThatRanOutOfTimeSaysWhyItWasTriedAgain(t *testing.T) {
	_, err := newHTTP(t).Do(in(t, 300*time.Millisecond), []*url.URL{started(t, code(503))}, get("x"))
	if e := asError(t, err); e.Code != 503 || !strings.Contains(e.Error(), "code 503") {
		t.Errorf("%v", err)
	}
}

func TestACancelledCallMakesNoRequest(t *testing.T) {
	h, calls := script(code(200))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newHTTP(t).Do(ctx, []*url.URL{started(t, h)}, get("x")); !errors.Is(err, context.Canceled) || calls.Load() != 0 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestABodyPastItsBoundIsCutAndNotTriedAgain(t *testing.T) {
	var sent atomic.Int64
	chunk := bytes.Repeat([]byte(" "), 1<<16)
	h, calls := script(func(w http.ResponseWriter, _ *http.Request) {
		for range 2 << 30 / len(chunk) {
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	addr := []*url.URL{started(t, h)}
	_, err := newHTTP(t).Do(soon(t), addr, get("x"))
	if e := asError(t, err); !e.Final || e.Remedy == "" || calls.Load() != 1 {
		t.Errorf("small: %v after %d calls", err, calls.Load())
	}
	if sent.Load() > 64<<20 {
		t.Errorf("small: %d bytes were taken", sent.Load())
	}
	c := get("x")
	c.Read = func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
	_, err = newHTTP(t).Do(soon(t), addr, c)
	if e := asError(t, err); !e.Final || calls.Load() != 2 {
		t.Errorf("stream: %v after %d calls", err, calls.Load())
	}
	if sent.Load() > 640<<20 {
		t.Errorf("stream: %d bytes were taken", sent.Load())
	}
}

func TestAStreamIsReadAgainWhenTheConnectionBreaks(t *testing.T) {
	h, _ := script(
		func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte("one two"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("one two three")) })
	var reads []string
	c := get("x")
	c.Read = func(r io.Reader) error {
		b, err := io.ReadAll(r)
		reads = append(reads, string(b))
		return err
	}
	a, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, c)
	if err != nil || a.Code != 200 || a.Body != nil || !slices.Equal(reads, []string{"one two", "one two three"}) {
		t.Errorf("%q, %+v, %v", reads, a, err)
	}
}

func TestWhatTheReaderOfAStreamDoesNotLikeIsNotTriedAgain(t *testing.T) {
	wrong := errors.New("no JSON")
	h, calls := script(code(200))
	c := get("x")
	c.Read = func(io.Reader) error { return wrong }
	if _, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, c); !errors.Is(err, wrong) || calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestAStreamIsForA200Alone(t *testing.T) {
	c := get("x")
	c.Read = func(io.Reader) error { return errors.New("read") }
	a, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, code(403))}, c)
	if err != nil || a.Code != 403 || string(a.Body) != "code 403" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestRedirectsStayOnTheHost(t *testing.T) {
	var reached atomic.Int64
	other := started(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	for name, h := range map[string]http.HandlerFunc{
		"another host": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://u:geheim@"+other.Host+"/x?token=geheim", http.StatusTemporaryRedirect)
		},
		"another scheme": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+"/x", http.StatusTemporaryRedirect)
		},
		"for ever": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusTemporaryRedirect)
		},
	} {
		h, calls := script(h)
		_, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, get("x"))
		if e := asError(t, err); !e.Final || e.Remedy == "" || strings.Contains(err.Error(), "geheim") || calls.Load() > 5 {
			t.Errorf("%s: %v after %d calls", name, err, calls.Load())
		}
	}
	if reached.Load() != 0 {
		t.Error("the other host was called")
	}
	same := started(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/there" {
			http.Redirect(w, r, "/there", http.StatusTemporaryRedirect)
		}
	})
	if a, err := newHTTP(t).Do(soon(t), []*url.URL{same}, get("here")); err != nil || a.Code != 200 {
		t.Errorf("on the same host: %+v, %v", a, err)
	}
}

func TestAWriteIsNotTurnedIntoARead(t *testing.T) {
	var methods []string
	addr := started(t, func(w http.ResponseWriter, r *http.Request) {
		methods = append(methods, r.Method)
		if r.URL.Path != "/login" { // a login page instead of an answer
			http.Redirect(w, r, "/login", http.StatusFound)
		}
	})
	_, err := newHTTP(t).Do(soon(t), []*url.URL{addr}, client.Call{Op: "x", Method: http.MethodPut, Path: "y"})
	if err == nil || slices.Contains(methods, http.MethodGet) {
		t.Errorf("%v after %v", err, methods)
	}
}

func TestACertificateThatIsNotTrustedIsSaidOnce(t *testing.T) {
	var calls atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := newHTTP(t).Do(soon(t), []*url.URL{parsed(t, s.URL)}, get("x"))
	if e := asError(t, err); !e.Final || !strings.Contains(e.Remedy, "--registry-ca-file") || calls.Load() != 0 {
		t.Errorf("%v", err)
	}
}

func TestNoErrorHoldsAPasswordOrAQuery(t *testing.T) {
	for name, addr := range map[string]*url.URL{
		"hangs": started(t, hang), "sick": started(t, code(503)), "refuses": gone(t), "resets": started(t, reset),
		"not a host": parsed(t, "http://no-such-host.invalid:1"),
	} {
		addr.User = url.UserPassword("user", "geheim")
		c := get("x")
		c.Query = url.Values{"accessToken": {"geheim"}}
		_, err := newHTTP(t).Do(in(t, 300*time.Millisecond), []*url.URL{addr}, c)
		if err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "@") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExcerptIsOneShortLine(t *testing.T) {
	for body, want := range map[string]string{
		"":                              "",
		" \n\t":                         "",
		"<html>":                        "",
		"a\n  b":                        ": a b",
		strings.Repeat("x", 300):        ": " + strings.Repeat("x", 200),
		`{"status":404,"path":"/apps"}`: `: {"status":404,"path":"/apps"}`,
	} {
		if got := client.Excerpt([]byte(body)); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}

func TestTrafficTellsWhyThereWasNoAnswer(t *testing.T) {
	hangs := started(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for want, c := range map[string]struct {
		to      *url.URL
		timeout time.Duration
		cancel  bool
	}{
		"unreachable": {gone(t), time.Minute, false},
		"timeout":     {hangs, 50 * time.Millisecond, false},
		"cancelled":   {hangs, time.Minute, true},
	} {
		h := newHTTP(t)
		ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
		if c.cancel {
			cancel()
		}
		if _, err := h.Do(ctx, []*url.URL{c.to}, client.Call{Op: "test", Method: http.MethodGet, Once: true}); err == nil {
			t.Errorf("%s: there was an answer", want)
		}
		cancel()
		if n := h.Traffic().Requests().Total[registry.Request{Method: http.MethodGet, Outcome: want}]; n != 1 {
			t.Errorf("%d requests ended as %s; want 1: %v", n, want, h.Traffic().Requests())
		}
	}
}

func TestTransientStatusesAreTriedAgain(t *testing.T) {
	for _, code := range []int{408, 425, 429, 500, 502, 503, 504, 599} {
		h, n := script(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }, func(http.ResponseWriter, *http.Request) {})
		a, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, get("x"))
		if err != nil || a.Code != 200 || n.Load() != 2 {
			t.Errorf("%d: %v, %v after %d requests", code, a.Code, err, n.Load())
		}
	}
}

// A name of several addresses is called by its name, and may be redirected to it.
func TestARedirectToItsOwnNameIsFollowedAtTheSameServer(t *testing.T) {
	var seen []string
	s := started(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Host+" "+r.Header.Get("Authorization"))
		if r.URL.Path == "/x" {
			http.Redirect(w, r, "http://"+strings.ToUpper(r.Host)+"/x/", http.StatusMovedPermanently)
		}
	}))
	h := newHTTP(t)
	h.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
	}
	named := parsed(t, "http://u:p@registry.test:"+s.Port())
	a, err := h.Do(soon(t), h.Servers(t.Context(), []*url.URL{named})[:1], get("x"))
	if err != nil || a.Code != 200 {
		t.Fatal(a.Code, err)
	}
	if want := named.Host + " Basic dTpw"; !slices.Equal(seen, []string{want, want}) {
		t.Errorf("asked %q, want twice %q", seen, want)
	}
}

func TestACertificateForAnotherNameHasItsOwnRemedy(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	h := client.New(&tls.Config{RootCAs: roots, ServerName: "registry.test"}, "prestop/1.0")
	defer h.Close()
	_, err := h.Do(soon(t), []*url.URL{parsed(t, s.URL)}, get("x"))
	if e := asError(t, err); !e.Final || !strings.Contains(e.Remedy, "another name") {
		t.Errorf("%+v", e)
	}
}

// A write that may have been carried out is not sent again before it was read back.
func TestAWriteThatMayHaveBeenDoneIsNotRepeated(t *testing.T) {
	write := client.Call{Op: "write", Method: http.MethodPut, Path: "x", Unrepeated: true}
	drop := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, c := range map[string]struct {
		first http.HandlerFunc
		want  int64
	}{
		"its answer is lost":           {drop, 1},
		"a gateway waited in vain":     {status(504), 1},
		"the server failed inside":     {status(500), 1},
		"nobody took it":               {status(503), 2},
		"there were too many requests": {status(429), 2},
	} {
		h, n := script(c.first, status(200))
		_, err := newHTTP(t).Do(soon(t), []*url.URL{started(t, h)}, write)
		if n.Load() != c.want || (err == nil) != (c.want == 2) || err != nil && registry.IsFinal(err) {
			t.Errorf("%s: sent %d times, %v", name, n.Load(), err)
		}
	}
	if _, err := newHTTP(t).Do(soon(t), []*url.URL{gone(t), started(t, status(200))}, write); err != nil {
		t.Errorf("nobody listened at the first address: %v", err)
	}
}
