package eureka

import (
	"context"
	"slices"
	"sync"
	"time"

	"prestop/registry/client"
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
	held := func(r record) bool { return r.Status != "" }
	return len(says) == s.servers && !slices.ContainsFunc(says, held)
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

// changeAll runs f, which changes something, with every server at the same time. A server is done
// without if it has given no answer of any kind until two seconds after another one was done; one
// that answers has to confirm.
func (r *Registry) changeAll(ctx context.Context, f func(context.Context, *server) error) error {
	return r.onServers(ctx, f, func(s *server) bool { return !s.answered.Load() })
}

// readAll runs f, which only reads, with every server at the same time. Any that has failed, or is
// not done two seconds after another one, is done without.
func (r *Registry) readAll(ctx context.Context, f func(context.Context, *server) error) error {
	return r.onServers(ctx, f, func(*server) bool { return true })
}

// onServers returns nil when f succeeded with every server but those that can be done without once
// another one is done; else what it failed by.
func (r *Registry) onServers(
	ctx context.Context, f func(context.Context, *server) error, without func(*server) bool,
) error {
	for _, s := range r.servers {
		s.answered.Store(false)
	}
	errs := client.Everywhere(ctx, r.servers, straggle, without, f)
	done := slices.Contains(errs, nil)
	var failed []error
	for i, err := range errs {
		if err != nil && !(done && without(r.servers[i])) {
			failed = append(failed, err)
		}
	}
	return client.Join(failed)
}

// perInstance runs f with every chosen instance on one server, some at the same time.
func (r *Registry) perInstance(f func(*server, context.Context, held) error) func(context.Context, *server) error {
	chosen := slices.DeleteFunc(slices.Clone(r.held), func(h held) bool {
		return len(r.only) > 0 && !slices.Contains(r.only, h.port)
	})
	return func(ctx context.Context, s *server) error {
		return client.Each(ctx, parallel, chosen, func(ctx context.Context, h held) error {
			return f(s, ctx, h)
		})
	}
}
