package drain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// world is a Pod's surroundings in a test: an app with its sockets, and registries that hold it. Time is synctest's.
type world struct {
	mu       sync.Mutex
	up       bool
	started  time.Time // the app's
	socket   uint64    // identity of the app's listening socket
	active   int
	expired  int       // of those that were, and are not told yet
	blind    bool      // counts fail
	deaf     bool      // counts do not tell when clients were heard
	heard    time.Time // when one was, and since when it would be known
	watched  time.Time
	sockets  chan struct{}
	regs     []*fakeRegistry
	problems []string // invariants that were seen broken
	drain    *Drain
	done     chan struct{} // closed when Run has returned
	cancel   context.CancelFunc
}

const appPort = 8080

// newWorld starts a drain over n registries. Its log is thrown away.
func newWorld(n int, change func(*Options)) *world {
	w := &world{sockets: make(chan struct{}, 1), done: make(chan struct{})}
	o := Options{
		Counter: w, Budget: 60 * time.Second, Linger: -1, RegistryTimeout: 10 * time.Second,
		Pod: registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for i := range n {
		r := &fakeRegistry{world: w, name: fmt.Sprint("fake", i)}
		w.regs = append(w.regs, r)
		o.Registries = append(o.Registries, r)
	}
	if change != nil {
		change(&o)
	}
	w.drain = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.drain.Run(ctx); close(w.done) }()
	return w
}

// end ends the drain the hard way, if it has not ended.
func (w *world) end() {
	w.cancel()
	<-w.done
}

// start starts the app: it listens, and registers where it can reach the registry.
func (w *world) start() {
	w.mu.Lock()
	w.up, w.started = true, time.Now()
	w.socket++
	w.mu.Unlock()
	w.event()
	for _, r := range w.regs {
		r.register()
	}
}

// crash ends the app without a word to anybody.
func (w *world) crash() {
	w.mu.Lock()
	w.up, w.active = false, 0
	w.mu.Unlock()
	w.event()
}

// connect changes the number of connections in use.
func (w *world) connect(n int) {
	w.mu.Lock()
	w.active = max(0, w.active+n)
	if n > 0 {
		w.heard = time.Now()
	}
	w.mu.Unlock()
	if n < 0 {
		w.event()
	}
}

// expire has the counter believe no longer that n connections are in use.
func (w *world) expire(n int) {
	w.mu.Lock()
	w.expired += n
	w.mu.Unlock()
	w.connect(-n)
}

func (w *world) event() {
	select {
	case w.sockets <- struct{}{}:
	default:
	}
}

func (w *world) alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.up
}

func (w *world) aliveBefore(t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.up && w.started.Before(t)
}

func (w *world) problem(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, s)
}

// The world is the conns.Counter of its drain.

func (w *world) Source() string { return "fake" }
func (w *world) Listeners(context.Context) ([]conns.Listener, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.up {
		return nil, nil
	}
	return []conns.Listener{{Port: appPort, ID: w.socket}}, nil
}

func (w *world) Count(_ context.Context, ports []uint16) (conns.Tally, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blind {
		return conns.Tally{}, errors.New("no count today")
	}
	t := conns.Tally{Source: "fake", Began: time.Now()}
	if len(ports) > 0 {
		t.Expired, w.expired = w.expired, 0
		t.Open, t.Active = w.active, w.active
		t.Peers = []conns.Peer{{Address: netip.MustParseAddr("10.0.0.9"), Port: appPort, Active: w.active, Open: w.active, Since: 2 * time.Second, ClientPort: 50001}}
		if w.heard.Before(w.watched) {
			w.heard = w.watched
		}
		if !w.deaf {
			t.Heard, t.HeardFrom = w.heard, netip.MustParseAddr("10.0.0.9")
		}
	}
	return t, nil
}

func (w *world) Watch(ports []uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(ports) > 0 {
		w.watched = time.Now()
	}
}

func (w *world) CountFew(context.Context, []uint16) (conns.Tally, bool) { return conns.Tally{}, false }

func (w *world) Ended() <-chan struct{} { return w.sockets }
func (w *world) Close() error           { return nil }

// fakeRegistry holds one instance of the app. A disabled mark sticks to it when it comes back, as on Eureka and Nacos.
type fakeRegistry struct {
	world *world
	name  string

	mu         sync.Mutex
	registered bool
	disabled   bool
	changed    time.Time // when callers' view began to change
	broken     bool      // every call fails
	hanging    bool      // every call waits for its context
	found      bool      // what Find has remembered
	leaves     int
	deleted    int
	calls      int
}

const fakePublish = 2 * time.Second

func (r *fakeRegistry) register() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registered = true
}

// undo puts the instance back in, as a restarted server does.
func (r *fakeRegistry) undo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disabled = false
}

func (r *fakeRegistry) set(broken, hanging bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken, r.hanging = broken, hanging
}

func (r *fakeRegistry) isOut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.registered || r.disabled
}

// call takes a while, and fails as it is told to.
func (r *fakeRegistry) call(ctx context.Context) error {
	r.mu.Lock()
	r.calls++
	broken, hanging := r.broken, r.hanging
	r.mu.Unlock()
	if hanging {
		<-ctx.Done()
		return ctx.Err()
	}
	pause(ctx, 10*time.Millisecond)
	if broken {
		pause(ctx, time.Second)
		return &registry.Error{Op: "call", URL: r.name, Code: 500}
	}
	return ctx.Err()
}

func (r *fakeRegistry) instances() []registry.Instance {
	if !r.found || !r.registered {
		r.found = false
		return nil
	}
	i := registry.Instance{ID: "a", Service: "orders", Port: appPort, Status: "UP", State: registry.In}
	if r.disabled {
		i.Status, i.State = "OUT", registry.Out
	}
	return []registry.Instance{i}
}

func (r *fakeRegistry) Kind() string { return r.name }
func (r *fakeRegistry) URL() string  { return "http://" + r.name }
func (r *fakeRegistry) Linger() (time.Duration, time.Duration) {
	return 5 * time.Second, 8 * time.Second
}

func (r *fakeRegistry) Find(ctx context.Context, pod registry.Pod) ([]registry.Instance, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = pod.Owns("10.0.0.1", appPort)
	return r.instances(), nil
}

func (r *fakeRegistry) Check(ctx context.Context) ([]registry.Instance, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.instances(), nil
}

func (r *fakeRegistry) Leave(ctx context.Context) error {
	if err := r.call(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaves++
	if r.found && r.registered && !r.disabled {
		r.disabled, r.changed = true, time.Now()
	}
	return nil
}

func (r *fakeRegistry) Published(ctx context.Context) (bool, error) {
	if err := r.call(ctx); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.changed) >= fakePublish, nil
}

func (r *fakeRegistry) Rejoin(ctx context.Context) error {
	if err := r.call(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found {
		r.disabled = false
	}
	return nil
}

func (r *fakeRegistry) Forget(ctx context.Context) error {
	// It may come to life while it is being deleted, when nobody can know; its heartbeat registers it again.
	if since := r.world.drain.status.Load().state.since; r.world.aliveBefore(since) {
		r.world.problem("a live instance was deleted")
	}
	if err := r.call(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registered, r.disabled = false, false
	r.deleted++
	return nil
}

// hook calls Shutdown and sends what came of it.
func (w *world) hook(ctx context.Context) <-chan ended {
	c := make(chan ended, 1)
	began := time.Now()
	go func() {
		out, err := w.drain.Shutdown(ctx)
		if err == nil && time.Since(began) > 0 {
			w.early(out)
		}
		c <- ended{out, err, time.Since(began)}
	}()
	return c
}

// early checks a drain that has just ended before the callers had had their whole time.
func (w *world) early(out Outcome) {
	if out.Early == 0 {
		return
	}
	for _, r := range w.regs {
		r.mu.Lock()
		if since := time.Since(r.changed); r.registered && r.disabled && since < fakePublish+w.drain.policy.quiet {
			w.problem(fmt.Sprintf("the linger ended early %v after %s was left", since, r.name))
		}
		r.mu.Unlock()
	}
	w.mu.Lock()
	silent := time.Since(w.heard)
	w.mu.Unlock()
	if silent > 0 && silent-out.Count < w.drain.policy.quiet {
		w.problem(fmt.Sprintf("the linger ended early, with a client heard %v before", silent-out.Count))
	}
}

type ended struct {
	Outcome
	err  error
	took time.Duration
}

// must fails the test if the hook did not end with the result.
func (e ended) must(t *testing.T, r Result) {
	t.Helper()
	if e.err != nil || e.Result != r {
		t.Fatalf("the hook ended with %v, %v; want %v", e.Outcome, e.err, r)
	}
}
