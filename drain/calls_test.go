package drain

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"prestop/drain/conns/connstest"
	"prestop/drain/endpoint"
)

// callee is the app's admin endpoint on a unix socket. It remembers what it was asked, and answers
// with codes, in their order and then 200.
type callee struct {
	socket string
	codes  []int

	mu    sync.Mutex
	asked []string
}

func newCallee(t *testing.T, codes ...int) *callee {
	t.Helper()
	c := &callee{socket: connstest.Socket(t), codes: codes}
	l, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(c)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return c
}

func (c *callee) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.Method+" "+r.URL.Path)
	if len(c.codes) > 0 {
		code := c.codes[0]
		c.codes = c.codes[1:]
		w.WriteHeader(code)
	}
}

func (c *callee) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.asked, ", ")
}

// call is one to url, which is complete or a path on the callee.
func (c *callee) call(t *testing.T, method, url string) Call {
	t.Helper()
	if strings.HasPrefix(url, "/") {
		url = "unix://" + c.socket + ":" + url
	}
	e, err := endpoint.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	to := endpoint.Call{Method: method, Endpoint: e}
	return Call{to.String(), to.Do}
}

func TestDrainCallsAreMadeInTheirOrderUntilEachHasWorked(t *testing.T) {
	t.Parallel()
	admin := newCallee(t, 503, 200, 302, 204)
	c := calls{log: slog.New(slog.DiscardHandler), all: []Call{admin.call(t, "POST", "/fail"), admin.call(t, "PUT", "/quiet")}}
	c.begin(t.Context(), time.Now().Add(time.Minute))
	c.wait()
	if got := admin.all(); got != "POST /fail, PUT /quiet, POST /fail, POST /fail" {
		t.Errorf("asked: %s", got)
	}
	if got := c.trouble(); got != nil {
		t.Errorf("trouble after all of them worked: %s", got)
	}
}

func TestADrainCallThatDoesNotWorkIsNamedAndGivenUpAtTheDeadline(t *testing.T) {
	t.Parallel()
	admin := newCallee(t)
	c := calls{log: slog.New(slog.DiscardHandler), all: []Call{admin.call(t, "POST", "unix:///nowhere/a.sock:/fail?token=secret"), admin.call(t, "GET", "/fine")}}
	c.begin(t.Context(), time.Now().Add(300*time.Millisecond))
	c.wait()
	got := c.trouble()
	if len(got) != 1 || got[0] != "drain call POST unix:///nowhere/a.sock:/fail: dial unix /nowhere/a.sock: connect: no such file or directory" {
		t.Errorf("trouble: %q", got)
	}
	if got := admin.all(); got != "GET /fine" {
		t.Errorf("asked: %s", got)
	}
}

func TestADrainCallThatIsNeverAnsweredIsNamed(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	c := calls{log: slog.New(slog.DiscardHandler), all: []Call{(&callee{}).call(t, "POST", s.URL)}}
	c.begin(t.Context(), time.Now().Add(100*time.Millisecond))
	c.wait()
	if got := fmt.Sprint(c.trouble()); !strings.Contains(got, "no answer: context deadline exceeded") {
		t.Errorf("trouble: %s", got)
	}
}

// calledBy runs a drain over no registry with one call to admin, in real time.
func calledBy(t *testing.T, log io.Writer, calls ...Call) *world {
	t.Helper()
	w := newWorld(0, func(o *Options) {
		o.Linger, o.Calls, o.Log = 0, calls, slog.New(slog.NewTextHandler(log, nil))
	})
	t.Cleanup(w.end)
	w.start()
	listens := func(p PortStatus) bool { return p.Listening }
	for !slices.ContainsFunc(w.drain.Status(t.Context()).App, listens) { // else a drain has nothing to wait for
		wait(t.Context(), time.Millisecond)
	}
	return w
}

func TestDrainCallsAreMadeOnceForEachDrain(t *testing.T) {
	t.Parallel()
	admin := newCallee(t)
	var said lockedBuffer
	w := calledBy(t, &said, admin.call(t, "POST", "/fail"))
	w.connect(1)
	first := w.hook(t.Context())
	asked := func(want string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); admin.all() != want; wait(t.Context(), time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("asked: %s; want %s", admin.all(), want)
			}
		}
	}
	asked("POST /fail")
	second := make(chan *drainRun, 1) // a hook that is known to have joined: one that came after the resume would drain anew
	w.drain.send(message{event: event{kind: eventHook}, join: second})
	joined := <-second
	w.drain.Resume()
	if !strings.Contains(said.String(), "not taken back") {
		t.Errorf("the log does not say that the calls hold:\n%s", said.String())
	}
	if out := <-first; out.Result != Cancelled {
		t.Errorf("%+v", out)
	}
	if <-joined.done; joined.outcome.Result != Cancelled {
		t.Errorf("the one that joined: %+v", joined.outcome)
	}
	w.connect(-1)
	(<-w.hook(t.Context())).must(t, Drained)
	asked("POST /fail, POST /fail")
}

func TestADrainDoesNotWaitForItsCallsButNamesThoseThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, func(o *Options) {
			o.Calls = []Call{(&callee{}).call(t, "POST", "unix:///nowhere/a.sock:/fail")}
		})
		defer w.end()
		w.start()
		wait(t.Context(), 10*time.Second)
		h := w.hook(t.Context())
		wait(t.Context(), time.Second)
		if !w.regs[0].isOut() {
			t.Error("the call delays the leave")
		}
		out := <-h
		out.must(t, Drained)
		if got := out.String(); !strings.Contains(got, "; drain call POST unix:///nowhere/a.sock:/fail: dial unix") {
			t.Errorf("the outcome: %s", got)
		}
	})
}

// lockedBuffer takes a log that is read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
