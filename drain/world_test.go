package drain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// container is one container of a world's Pod: it listens on one port, and registers if it is an
// app.
type container struct {
	port      uint16
	registers bool
	uid       uint32        // whom its process belongs to; 0 of an app
	loopback  bool          // nobody outside the Pod reaches it
	delay     time.Duration // from when it listens until it registers
	up        bool
	started   time.Time // when it listened last
	changed   time.Time // when up changed last
	ended     time.Time // when it ended last
	socket    uint64    // identity of its listening socket
	active    int       // connections in use
	connected time.Time // when a connection came that is still in use

	// What a sidecar may know of it. seen: it has seen it listen. missed: it has seen it not listen
	// since the last call to stop, at which it was up as atStop says.
	seen, missed, atStop bool
}

// world is a Pod's surroundings in a test: containers with their sockets, and registries that hold
// the apps among them. Time is synctest's.
type world struct {
	mu         sync.Mutex
	containers []*container
	sockets    uint64
	expired    int       // of those that were, and are not told yet
	blind      bool      // counts fail
	deaf       bool      // counts do not tell when clients were heard
	heard      time.Time // when one was, and since when it would be known
	watched    time.Time
	looks      int
	ends       chan struct{}
	regs       []*fakeRegistry
	problems   []string // invariants that were seen broken
	drain      *Drain
	done       chan struct{} // closed when Run has returned
	cancel     context.CancelFunc
	past       past
}

// past is what happened to a world's sidecar, as far as the oracle needs it.
type past struct {
	began   time.Time   // when it was started last
	stops   []time.Time // calls to stop, of whatever kind, in this life and since the last /resume
	resumed time.Time   // the last /resume
	termed  time.Time   // SIGTERM; zero: none
	exited  time.Time   // when it ended by itself; zero while it runs
	killed  bool        // it was ended the hard way
	waiting int         // hooks that have no answer yet
}

const appPort = 8080

// newWorld starts a drain over n registries beside one app on appPort. Its log is thrown away.
func newWorld(n int, change func(*Options)) *world {
	return newPod(n, []*container{{port: appPort, registers: true}}, change)
}

// newPod starts a drain over n registries beside containers.
func newPod(n int, containers []*container, change func(*Options)) *world {
	w := &world{ends: make(chan struct{}, 1), done: make(chan struct{}), containers: containers}
	o := Options{
		Counter: w, Budget: 60 * time.Second, Linger: -1, RegistryTimeout: 10 * time.Second, Seed: 1,
		Pod: registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for i := range n {
		r := &fakeRegistry{world: w, name: fmt.Sprint("fake", i), records: map[uint16]*fakeRecord{}}
		w.regs = append(w.regs, r)
		o.Registries = append(o.Registries, r)
	}
	if change != nil {
		change(&o)
	}
	w.drain = New(o)
	w.run()
	return w
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.cancel, w.done = cancel, done
	d := w.drain
	w.mu.Lock()
	w.past = past{began: time.Now()}
	for _, c := range w.containers {
		c.seen, c.missed, c.atStop = false, false, false
	}
	w.mu.Unlock()
	go func() {
		d.Run(ctx)
		w.mu.Lock()
		if !w.past.killed {
			w.past.exited = time.Now()
		}
		w.mu.Unlock()
		close(done)
	}()
}

// end ends the drain the hard way, if it has not ended.
func (w *world) end() {
	w.mu.Lock()
	w.past.killed = true
	w.mu.Unlock()
	w.cancel()
	<-w.done
}

// restartSidecar ends the process at once and starts it anew.
func (w *world) restartSidecar() {
	w.end()
	for _, r := range w.regs {
		r.forgetAll()
	}
	o := w.drain.options
	d := New(o)
	w.mu.Lock()
	w.drain = d
	w.mu.Unlock()
	w.run()
}

// start starts the app: it listens, and registers where it can reach the registry.
func (w *world) start() { w.startOne(0) }

func (w *world) startOne(i int) {
	w.mu.Lock()
	c := w.containers[i]
	c.up, c.started, c.changed = true, time.Now(), time.Now()
	w.sockets++
	c.socket = w.sockets
	socket := c.socket
	w.mu.Unlock()
	w.event()
	register := func() {
		w.mu.Lock()
		same := c.up && c.socket == socket
		w.mu.Unlock()
		for _, r := range w.regs {
			if c.registers && same {
				r.register(c.port)
			}
		}
	}
	if c.delay > 0 {
		time.AfterFunc(c.delay, register)
	} else {
		register()
	}
}

// crash ends the app without a word to anybody.
func (w *world) crash() { w.crashOne(0) }

func (w *world) crashOne(i int) {
	w.mu.Lock()
	c := w.containers[i]
	c.up, c.changed, c.ended, c.active = false, time.Now(), time.Now(), 0
	w.mu.Unlock()
	w.event()
}

// connect changes the number of connections in use to the app.
func (w *world) connect(n int) { w.connectTo(0, n) }

func (w *world) connectTo(i, n int) {
	w.mu.Lock()
	c := w.containers[i]
	c.active = max(0, c.active+n)
	if n > 0 {
		w.heard, c.connected = time.Now(), time.Now()
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
	case w.ends <- struct{}{}:
	default:
	}
}

func (w *world) isUp(i int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.containers[i].up
}

// upBefore reports whether somebody has listened on the port since before t.
func (w *world) upBefore(port uint16, t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.containers, func(c *container) bool { return c.port == port && c.up && c.started.Before(t) })
}

// deadSince reports whether nobody has listened on the port since before t, and a sidecar may know
// so: an instance that was in service on a port that it has never seen may be reached by another.
func (w *world) deadSince(port uint16, t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(w.containers, func(c *container) bool { return c.port == port && (c.up || !c.seen || !c.changed.Before(t)) })
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
	w.looks++
	var all []conns.Listener
	for _, c := range w.containers {
		c.seen, c.missed = c.seen || c.up, c.missed || !c.up
		if c.up {
			l := conns.Listener{Port: c.port, ID: c.socket, UID: c.uid, HasUID: true, Address: netip.IPv6Unspecified()}
			if c.loopback {
				l.Address = netip.MustParseAddr("127.0.0.1")
			}
			all = append(all, l)
		}
	}
	return all, nil
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
		for i, c := range w.containers {
			if !slices.Contains(ports, c.port) || i > 0 && c.active == 0 {
				continue
			}
			t.Open, t.Active = t.Open+c.active, t.Active+c.active
			t.Peers = append(t.Peers, conns.Peer{
				Address: netip.MustParseAddr("10.0.0.9"), Port: c.port, Active: c.active, Open: c.active,
				Since: 2 * time.Second, ClientPort: 50001,
			})
		}
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

func (w *world) Ended() <-chan struct{} { return w.ends }
func (w *world) Close() error           { return nil }

// fakeRecord is what a registry holds of one port. A disabled mark sticks to it when the app comes
// back, as on Eureka and Nacos.
type fakeRecord struct {
	registered, disabled bool
	changed              time.Time // when callers' view began to change
	since                time.Time // when it was registered
	left                 bool      // it was in the registry already when its app was started
}

// fakeRegistry holds an instance for each registered port.
type fakeRegistry struct {
	world *world
	name  string

	mu      sync.Mutex // taken after the world's
	records map[uint16]*fakeRecord
	broken  bool     // every call fails
	hanging bool     // every call waits for its context
	locked  bool     // what would change something fails
	held    []uint16 // what Find has remembered
	ever    []uint16 // what it has ever found, in this life of the process
	only    []uint16
	leaves  int
	deleted int
	calls   int
	finds   int
	healed  time.Time // when it was last broken or hanging
	undid   time.Time // when it last put the instances back in by itself
}

const fakePublish = 2 * time.Second

// rec returns the record of the port.
func (r *fakeRegistry) rec(port uint16) *fakeRecord {
	if r.records[port] == nil {
		r.records[port] = &fakeRecord{}
	}
	return r.records[port]
}

func (r *fakeRegistry) register(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.rec(port)
	rec.left, rec.registered, rec.since = rec.registered, true, time.Now()
}

// leftover has it hold a disabled instance of an app that is not there.
func (r *fakeRegistry) leftover(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.rec(port) = fakeRecord{registered: true, disabled: true}
}

// expireLease forgets the instances of those that do not live.
func (r *fakeRegistry) expireLease(live func(port uint16) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port := range r.records {
		if !live(port) {
			delete(r.records, port)
		}
	}
}

// forgetAll is a new process: it remembers nothing.
func (r *fakeRegistry) forgetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held, r.ever, r.only = nil, nil, nil
}

// undo puts the instances back in, as a restarted server does.
func (r *fakeRegistry) undo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, rec := range r.records {
		rec.disabled = strangers[port]
	}
	r.undid = time.Now()
}

func (r *fakeRegistry) set(broken, hanging bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken || r.hanging || r.locked {
		r.healed = time.Now()
	}
	r.broken, r.hanging, r.locked = broken, hanging, false
}

// lock has every change fail, while the registry can be read.
func (r *fakeRegistry) lock() {
	r.set(false, false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.locked = true
}

// change is a call that changes something.
func (r *fakeRegistry) change(ctx context.Context) error {
	err := r.call(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.locked {
		err = &registry.Error{Op: "change", URL: r.name, Code: 500}
	}
	return err
}

// well reports whether it has answered for d.
func (r *fakeRegistry) well(d time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.broken && !r.hanging && !r.locked && time.Since(r.healed) >= d
}

func (r *fakeRegistry) isOut() bool { return r.outAt(appPort) }

func (r *fakeRegistry) outAt(port uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[port]
	return rec == nil || !rec.registered || rec.disabled
}

func (r *fakeRegistry) deletions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deleted
}

func (r *fakeRegistry) hasFound(port uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.ever, port)
}

// costs is what the drain has cost its first registry and the kernel so far.
func (w *world) costs() (finds, calls, looks int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.regs[0]
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.finds, r.calls, w.looks
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
	wait(ctx, 10*time.Millisecond)
	if broken {
		wait(ctx, time.Second)
		return &registry.Error{Op: "call", URL: r.name, Code: 500}
	}
	return ctx.Err()
}

// instances are those that are remembered; what has vanished is told as absent.
func (r *fakeRegistry) instances() []registry.Instance {
	var all []registry.Instance
	for _, port := range r.held {
		i := registry.Instance{ID: fmt.Sprint("a", port), Service: "orders", Port: port, Status: "absent"}
		switch rec := r.records[port]; {
		case rec == nil || !rec.registered:
		case rec.disabled:
			i.Status, i.State = "OUT", registry.Out
		default:
			i.Status, i.State = "UP", registry.In
		}
		all = append(all, i)
	}
	return all
}

// chosen are the records that are remembered and to be changed.
func (r *fakeRegistry) chosen() map[uint16]*fakeRecord {
	all := map[uint16]*fakeRecord{}
	for _, port := range r.held {
		if rec := r.records[port]; rec != nil && (len(r.only) == 0 || slices.Contains(r.only, port)) {
			all[port] = rec
		}
	}
	return all
}

func (r *fakeRegistry) Kind() string { return r.name }
func (r *fakeRegistry) URL() string  { return "http://" + r.name }
func (r *fakeRegistry) Linger() (time.Duration, time.Duration) {
	return 5 * time.Second, 8 * time.Second
}

func (r *fakeRegistry) Only(ports []uint16) { r.only = ports }

func (r *fakeRegistry) Find(ctx context.Context, pod registry.Pod) ([]registry.Instance, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finds++
	r.held = nil
	for _, port := range slices.Sorted(maps.Keys(r.records)) {
		if r.records[port].registered && pod.Owns("10.0.0.1", port) {
			r.held, r.ever = append(r.held, port), append(r.ever, port)
		}
	}
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
	if err := r.change(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaves++
	for _, rec := range r.chosen() {
		if rec.registered && !rec.disabled {
			rec.disabled, rec.changed = true, time.Now()
		}
	}
	return nil
}

func (r *fakeRegistry) Published(ctx context.Context) (bool, error) {
	if err := r.call(ctx); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.chosen() {
		if rec.registered && time.Since(rec.changed) < fakePublish {
			return false, nil
		}
	}
	return true, nil
}

func (r *fakeRegistry) Rejoin(ctx context.Context) error {
	asked := time.Now()
	if err := r.change(ctx); err != nil {
		return err
	}
	for port, rec := range r.all() {
		if rec.disabled && r.world.drain.options.Counter != nil && r.world.deadSince(port, asked.Add(-time.Second)) {
			r.world.problem(fmt.Sprintf("callers are sent to port %d, on which nobody listens", port))
		}
		r.mu.Lock()
		rec.disabled = false
		r.mu.Unlock()
	}
	return nil
}

// all is what is chosen, for one who does not hold r.mu: the world's lock comes before it.
func (r *fakeRegistry) all() map[uint16]*fakeRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chosen()
}

func (r *fakeRegistry) Forget(ctx context.Context) error {
	// It may come to life while it is being deleted, when nobody can know; its heartbeat registers
	// it again.
	begun := time.Now().Add(-forgetFor - scanTimeout)
	for port := range r.all() {
		if r.world.upBefore(port, begun) {
			r.world.problem("a live instance was deleted")
		}
	}
	if err := r.change(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for port := range r.chosen() {
		delete(r.records, port)
		r.deleted++
	}
	return nil
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
