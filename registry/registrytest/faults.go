package registrytest

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
)

// faults stands in front of every server and forwards, or does what a test wants to go wrong.
type faults struct {
	urls    []string
	servers []*httptest.Server
	fault   atomic.Pointer[http.HandlerFunc] // nil forwards
	over    atomic.Bool                      // there was a fault
	mu      sync.Mutex
	seen    []exchange
}

// exchange is a request that was forwarded, with the header of its answer.
type exchange struct {
	method, path string
	code         int
	header       http.Header
}

func newFaults(t testing.TB, urls []string) *faults {
	f := &faults{}
	for _, u := range urls {
		to, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		forward := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			},
			ModifyResponse: func(r *http.Response) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.seen = append(f.seen, exchange{r.Request.Method, r.Request.URL.Path, r.StatusCode, r.Header.Clone()})
				return nil
			},
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if fault := f.fault.Load(); fault != nil {
				(*fault)(w, r)
				return
			}
			if f.over.Load() && givenUp(r) {
				return
			}
			forward.ServeHTTP(w, r)
		}))
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		via := *to
		via.Host = s.Listener.Addr().String()
		f.urls, f.servers = append(f.urls, via.String()), append(f.servers, s)
	}
	return f
}

// exchanges are those that were forwarded until now.
func (f *faults) exchanges() []exchange {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

func (f *faults) set(h http.HandlerFunc) { f.fault.Store(&h) }
func (f *faults) clear()                 { f.over.Store(true); f.fault.Store(nil) }

// givenUp reports whether the client has closed the connection meanwhile: a call that ended during
// the fault may be read only after it, on a busy machine, and must not change anything then.
func givenUp(r *http.Request) bool {
	seen := time.NewTimer(50 * time.Millisecond) // the server reads ahead, and finds the end of the connection
	defer seen.Stop()
	select {
	case <-r.Context().Done():
		return true
	case <-seen.C:
		return false
	}
}

// times makes h the fault for the next n requests.
func (f *faults) times(n int64, h http.HandlerFunc) {
	var seen atomic.Int64
	f.set(func(w http.ResponseWriter, r *http.Request) {
		if seen.Add(1) >= n {
			f.clear()
		}
		h(w, r)
	})
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func answer(code int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		w.Write([]byte(body))
	}
}

const page = "<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"

// endlessJSON begins an object and does not end within the 2 GB that it is willing to send.
func endlessJSON(sent *atomic.Int64) http.HandlerFunc {
	chunk := bytes.Repeat([]byte("a"), 1<<16)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"applications":{"application":[{"name":"`))
		for range 1 << 15 {
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}
}

// behind returns the Pod's app, started and found by a client that reaches the servers through
// faults.
func (p *place) behind() (registry.Registry, *faults) {
	p.Helper()
	p.Start(p, p.app)
	f := newFaults(p, p.URLs())
	r := p.New(p, f.urls)
	p.find(r, 1)
	return r, f
}

// within calls f with a context that ends after d, and fails if f goes on long after it.
func (p *place) within(d time.Duration, what string, f func(context.Context) error) error {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), d)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(d + patience/3):
		p.Fatalf("%s goes on long after its context", what)
		return nil
	}
}

// calls are all that a Registry does over the network.
func calls(r registry.Registry, pod registry.Pod) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Find":      func(ctx context.Context) error { _, err := r.Find(ctx, pod); return err },
		"Leave":     r.Leave,
		"Published": func(ctx context.Context) error { _, err := r.Published(ctx); return err },
		"Check":     func(ctx context.Context) error { _, err := r.Check(ctx); return err },
		"Rejoin":    r.Rejoin,
		"Forget":    r.Forget,
	}
}

func hangs(p *place) {
	r, f := p.behind()
	f.set(hang)
	for name, call := range calls(r, p.pod) {
		if err := p.within(300*time.Millisecond, name, call); !errors.Is(err, context.DeadlineExceeded) {
			p.Errorf("%s: %v, want the context's error wrapped", name, err)
		}
	}
	f.clear()
	p.leave(r)
	p.notCalled(p.app)
}

func sickForAWhile(p *place) {
	r, f := p.behind()
	f.times(3, answer(http.StatusServiceUnavailable, "text/plain", "not now"))
	p.leave(r)
	p.notCalled(p.app)
	f.times(3, answer(http.StatusServiceUnavailable, "text/plain", "not now"))
	p.rejoin(r)
	p.called(p.app)
}

func resetsForAWhile(p *place) {
	r, f := p.behind()
	f.times(3, reset)
	p.leave(r)
	p.notCalled(p.app)
}

// notAbsent asserts that what is wrong with the servers is an error of Find and Check: it must not
// look as if the Pod had no instance.
func (p *place) notAbsent(r registry.Registry) {
	p.Helper()
	err := p.within(2*time.Second, "Find", func(ctx context.Context) error {
		found, err := r.Find(ctx, p.pod)
		if err != nil && len(found) != 1 {
			p.Errorf("Find returned %+v with its error, want the remembered instance", found)
		}
		return err
	})
	if err == nil {
		p.Error("Find returned no error")
	}
	err = p.within(2*time.Second, "Check", func(ctx context.Context) error { _, err := r.Check(ctx); return err })
	if err == nil {
		p.Error("Check returned no error")
	}
	if err = p.within(2*time.Second, "Leave", r.Leave); err == nil {
		p.Error("Leave returned no error")
	}
}

func answersHTML(p *place) {
	r, f := p.behind()
	f.set(answer(http.StatusOK, "text/html", page))
	p.notAbsent(r)
	f.clear()
	p.mustBe(r, registry.In)
}

func serverGone(p *place) {
	r, f := p.behind()
	for _, s := range f.servers {
		s.CloseClientConnections()
		s.Close()
	}
	p.notAbsent(r)
}

func endless(p *place) {
	var sent atomic.Int64
	r, f := p.behind()
	f.set(endlessJSON(&sent))
	p.notAbsent(r)
	if n := sent.Load(); n > 1<<30 {
		p.Errorf("read %d bytes of an answer that is none", n)
	}
}

func redirectedElsewhere(p *place) {
	var reached atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.Write([]byte("{}"))
	}))
	defer elsewhere.Close()
	r, f := p.behind()
	f.set(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	p.notAbsent(r)
	if reached.Load() != 0 {
		p.Error("the other host was called")
	}
}

func refused(p *place) {
	r, f := p.behind()
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		f.set(answer(code, "application/json", ""))
		err := p.within(patience/3, "Leave", r.Leave)
		if !registry.IsFinal(err) {
			p.Errorf("%d: %v, want an error that says that trying again cannot help", code, err)
		}
		if e := (*registry.Error)(nil); !errors.As(err, &e) || e.Remedy == "" || e.Code != code {
			p.Errorf("%d: %v, want the code and a remedy", code, err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			p.Errorf("%d: tried again until the context ended: %v", code, err)
		}
	}
}

func noSecrets(p *place) {
	f := newFaults(p, p.URLs())
	var urls []string
	for _, u := range f.urls {
		urls = append(urls, strings.Replace(u, "://", "://prestop:geheim%2Fgeheim@", 1))
	}
	r := p.New(p, urls)
	var sent atomic.Int64
	wrong := map[string]http.HandlerFunc{
		"hang": hang, "reset": reset, "html": answer(200, "text/html", page), "401": answer(401, "text/plain", ""),
		"403": answer(403, "text/plain", ""), "500": answer(500, "text/plain", "boom"), "endless": endlessJSON(&sent),
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://prestop:geheim@127.0.0.1:1/?password=geheim", http.StatusFound)
		},
	}
	for name, h := range wrong {
		f.set(h)
		err := p.within(time.Second, "Find", func(ctx context.Context) error { _, err := r.Find(ctx, p.pod); return err })
		if err == nil {
			p.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "geheim") {
			p.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
	if strings.Contains(r.URL(), "geheim") || strings.Contains(r.URL(), "@") {
		p.Errorf("URL() is %q", r.URL())
	}
}
