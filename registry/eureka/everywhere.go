package eureka

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// straggle is how long servers that can be done without are waited for once another one is done.
const straggle = 2 * time.Second

// sightings collects what servers say of instances.
type sightings struct {
	mu      sync.Mutex
	servers int
	of      map[string][]record // by held.key; the zero record says absent
}

func (s *sightings) add(h held, rec record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[h.key()] = append(s.of[h.key()], rec)
}

// goneFor reports whether every server said that the instance is absent.
func (s *sightings) goneFor(h held) bool {
	says := s.of[h.key()]
	return len(says) == s.servers && !slices.ContainsFunc(says, func(r record) bool { return r.Status != "" })
}

// collection is instances that several goroutines find.
type collection struct {
	mu   sync.Mutex
	list []held
}

func (c *collection) add(h held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.list, func(o held) bool { return o.key() == h.key() }) {
		c.list = append(c.list, h)
	}
}

// tell runs f, which changes something, with every server at the same time. A server is done without if it has given no
// answer of any kind until two seconds after another one was done; one that answers has to confirm.
func (r *Registry) tell(ctx context.Context, f func(context.Context, *server) error) error {
	return r.everywhere(ctx, f, func(s *server) bool { return !s.answered.Load() })
}

// ask runs f, which only reads, with every server at the same time. Any that has failed, or is not done two seconds
// after another one, is done without.
func (r *Registry) ask(ctx context.Context, f func(context.Context, *server) error) error {
	return r.everywhere(ctx, f, func(*server) bool { return true })
}

// everywhere returns nil when f succeeded with every server but those that can be done without once another one is done;
// else what it failed by.
func (r *Registry) everywhere(ctx context.Context, f func(context.Context, *server) error, without func(*server) bool) error {
	type result struct {
		s   *server
		err error
	}
	results := make(chan result, len(r.servers))
	cancels := map[*server]context.CancelFunc{}
	for _, s := range r.servers {
		s.answered.Store(false)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		cancels[s] = cancel
		go func() { results <- result{s, f(ctx, s)} }()
	}
	var errs []error
	var over <-chan time.Time
	done := 0
	for pending := len(r.servers); pending > 0; {
		select {
		case res := <-results:
			pending--
			delete(cancels, res.s)
			if res.err == nil {
				done++
				if over == nil {
					timer := time.NewTimer(straggle)
					defer timer.Stop()
					over = timer.C
				}
			} else {
				errs = append(errs, failure{res.s, res.err})
			}
		case <-over:
			for s, cancel := range cancels {
				if without(s) {
					cancel()
				}
			}
		}
	}
	if done > 0 {
		errs = slices.DeleteFunc(errs, func(err error) bool { return without(err.(failure).s) })
	}
	for i, err := range errs {
		errs[i] = err.(failure).error
	}
	return errors.Join(errs...)
}

// failure is an error with the server that it is of.
type failure struct {
	s *server
	error
}

// each runs f with every remembered instance on one server, some at the same time.
func (r *Registry) each(f func(*server, context.Context, held) error) func(context.Context, *server) error {
	return func(ctx context.Context, s *server) error {
		var wg sync.WaitGroup
		errs := make([]error, len(r.held))
		slots := make(chan struct{}, parallel)
		for i, h := range r.held {
			if len(r.only) > 0 && !slices.Contains(r.only, h.port) {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				errs[i] = f(s, ctx, h)
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
}
