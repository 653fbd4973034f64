package httpapi

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"prestop/drain"
	"prestop/drain/conns"
	"prestop/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const appPort = 8080

// pod is an app with its sockets, two registries that hold it at most, and a drain. Time is
// synctest's.
type pod struct {
	drain *drain.Drain
	log   *slog.Logger
	regs  []*shelf
	end   func() // ends the drain at once
	// traffic is told in the metrics.
	traffic map[string]*registry.Traffic

	mu     sync.Mutex
	gone   bool // the app has crashed
	active int
	ends   chan struct{}
}

// in runs f in a bubble beside an app that has listened for a while.
func in(t *testing.T, registries int, change func(*drain.Options), f func(t *testing.T, p *pod)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pod{ends: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler)}
		o := drain.Options{
			Counter: p, Budget: time.Minute, Linger: -1, RegistryTimeout: 10 * time.Second, Seed: 1, Log: p.log,
			Pod: registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		}
		for i := range registries {
			r := &shelf{kind: []string{"fake0", "fake1"}[i], state: registry.In}
			p.regs, o.Registries = append(p.regs, r), append(o.Registries, r)
		}
		if change != nil {
			change(&o)
		}
		p.drain = drain.New(o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.drain.Run(ctx); close(done) }()
		p.end = func() { cancel(); <-done }
		defer p.end()
		time.Sleep(10 * time.Second) // of the bubble: found and settled
		f(t, p)
	})
}

// call makes one request to the handler, as the kubelet does, and waits for the answer.
func (p *pod) call(ctx context.Context, o Options, method, path string, header ...string) *httptest.ResponseRecorder {
	o.Log = p.log
	o.Version = "1.2.3"
	r := httptest.NewRequestWithContext(ctx, method, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	NewServer(p.drain, o).Handler.ServeHTTP(rec, r)
	return rec
}

// hook calls Shutdown without waiting for it.
func (p *pod) hook(ctx context.Context) <-chan error {
	c := make(chan error, 1)
	go func() {
		_, err := p.drain.Shutdown(ctx)
		c <- err
	}()
	return c
}

func (p *pod) crash() {
	p.mu.Lock()
	p.gone, p.active = true, 0
	p.mu.Unlock()
	p.event()
}

// connect changes the number of connections in use.
func (p *pod) connect(n int) {
	p.mu.Lock()
	p.active += n
	p.mu.Unlock()
	p.event()
}

func (p *pod) event() {
	select {
	case p.ends <- struct{}{}:
	default:
	}
}

// The pod is the conns.Counter of its drain.

func (p *pod) Source() string { return "fake" }

func (p *pod) Listeners(context.Context) ([]conns.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil, nil
	}
	return []conns.Listener{{Port: appPort, ID: 1}}, nil
}

func (p *pod) Count(context.Context, []uint16) (conns.Tally, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	client := netip.MustParseAddr("10.0.0.9")
	return conns.Tally{
		Source: "fake", Began: time.Now(), Open: p.active, Active: p.active, Heard: time.Now(), HeardFrom: client,
		Peers: []conns.Peer{{Address: client, Port: appPort, Active: p.active, Open: p.active, Since: time.Second, ClientPort: 50001}},
	}, nil
}

func (p *pod) CountFew(context.Context, []uint16) (conns.Tally, bool) { return conns.Tally{}, false }
func (p *pod) Watch([]uint16)                                         {}
func (p *pod) Ended() <-chan struct{}                                 { return p.ends }
func (p *pod) Close() error                                           { return nil }

// shelf is a registry that holds one instance of the app.
type shelf struct {
	kind   string
	mu     sync.Mutex
	state  registry.State // Absent: it does not hold it
	broken bool
}

func (s *shelf) set(state registry.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

func (s *shelf) breakDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
}

// change answers as every call does, and has the instance be in the state if it is held.
func (s *shelf) change(state registry.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return &registry.Error{Op: "call", URL: s.kind, Code: 500, Final: true}
	}
	if s.state != registry.Absent {
		s.state = state
	}
	return nil
}

func (s *shelf) Kind() string                           { return s.kind }
func (s *shelf) URL() string                            { return "http://" + s.kind }
func (s *shelf) Linger() (time.Duration, time.Duration) { return 5 * time.Second, 8 * time.Second }
func (s *shelf) Only([]uint16)                          {}
func (s *shelf) Leave(context.Context) error            { return s.change(registry.Out) }
func (s *shelf) Rejoin(context.Context) error           { return s.change(registry.In) }
func (s *shelf) Forget(context.Context) error           { return s.change(registry.Absent) }
func (s *shelf) Published(context.Context) (bool, error) {
	return true, nil
}

func (s *shelf) Find(ctx context.Context, pod registry.Pod) ([]registry.Instance, error) {
	if !pod.Owns("10.0.0.1", appPort) {
		return nil, nil
	}
	return s.Check(ctx)
}

func (s *shelf) Check(context.Context) ([]registry.Instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := map[registry.State]string{registry.Absent: "absent", registry.In: "UP", registry.Out: "OUT"}[s.state]
	return []registry.Instance{{ID: "a", Service: "orders", Port: appPort, Status: status, State: s.state}}, nil
}
