package nacos

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

// enable sets the flag of an instance at any server, which tells the others; held is false if there
// is no such instance. For a second after the registration there is none for this call, so an
// absence is asked for again before until.
func (r *Registry) enable(
	ctx context.Context, rec record, enabled bool, until time.Time,
) (held bool, err error) {
	op := "disable "
	if enabled {
		op = "enable "
	}
	for {
		held, err = r.write(ctx, op+r.id(rec.key), func(g api) client.Call {
			return g.enable(r.namespace, rec, enabled)
		})
		if held || err != nil || time.Now().After(until) {
			return held, err
		}
		if err := client.Wait(ctx, poll); err != nil {
			return false, &registry.Error{Op: op + r.id(rec.key), URL: r.url, Err: err}
		}
	}
}

// write makes a call that changes something at the server that took the last change, and at the
// next one where that certainly did not take it. Any other failure leaves open whether the change
// was made: it is returned, and the caller reads back before it writes again.
func (r *Registry) write(
	ctx context.Context, op string, build func(api) client.Call,
) (held bool, err error) {
	for pause := poll; ; {
		for range r.servers {
			server := r.writer()
			held, err = r.call(ctx, []*url.URL{server}, op, func(g api) client.Call {
				call := build(g)
				call.Once, call.Unrepeated, call.Slow = true, true, raft+time.Second
				return call
			})
			if e := (*registry.Error)(nil); !errors.As(err, &e) || !e.Unsent {
				return held, err
			}
			r.nextWriter(server)
		}
		if client.Wait(ctx, pause/2+rand.N(pause/2)) != nil {
			return held, err
		}
		pause = min(2*pause, 10*poll)
	}
}

// writer is the server to which changes are sent.
func (r *Registry) writer() *url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := slices.IndexFunc(r.servers, func(s *url.URL) bool { return registry.Redact(s) == r.writesTo }); k >= 0 {
		return r.servers[k]
	}
	// The one that answered last: a dead one costs time once.
	k := slices.IndexFunc(r.servers, func(s *url.URL) bool { return registry.Redact(s) == r.reader })
	s := r.servers[max(k, 0)]
	r.writesTo = registry.Redact(s)
	return s
}

// nextWriter has the next change go to the server after failed, unless it does so already.
func (r *Registry) nextWriter(failed *url.URL) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writesTo != registry.Redact(failed) {
		return
	}
	k := slices.IndexFunc(r.servers, func(s *url.URL) bool { return registry.Redact(s) == r.writesTo })
	r.writesTo = registry.Redact(r.servers[(k+1)%len(r.servers)])
}

// wipe enables what the servers remember of instances that are gone. Without it the next instance
// at their address would come up disabled: within a minute after a disabled one, and for ever when
// the instance vanished in the moment in which it was disabled, or was a persistent one on 2.x.
func (r *Registry) wipe(ctx context.Context, gone []record) error {
	if len(gone) == 0 {
		return nil
	}
	server, err := r.recorder(ctx)
	if err != nil || server == nil {
		return err
	}
	return each(ctx, gone, func(ctx context.Context, rec record) error {
		_, err := r.call(ctx, []*url.URL{server}, "wipe the record of "+r.id(rec.key), func(g api) client.Call {
			call := g.wipe(r.namespace, rec)
			call.Slow = raft + time.Second
			return call
		})
		return err
	})
}

// recorder is a server that keeps records beside its instances, nil if there is none: a 1.x keeps
// none, and would register what is wiped. So does a 2.0 or 2.1 in a cluster that still has a 1.x in
// it, or behind an address that leads to either; both say so, and it is asked for each time, since
// a cluster can be upgraded, or back, under a Pod.
func (r *Registry) recorder(ctx context.Context) (*url.URL, error) {
	version, server, err := r.version(ctx)
	if err != nil || !recordsBeside(version) {
		return nil, err
	}
	if !mixesWith1x(version) {
		return server, nil
	}
	call := client.Call{Op: "ask whether the upgrade to 2.x is over", Method: http.MethodGet, Path: "v1/ns/upgrade/ops/metrics",
		Query: url.Values{"json": {"true"}}}
	a, err := r.http.Do(ctx, []*url.URL{server}, call)
	if err != nil || !upgraded(a) {
		return nil, err
	}
	return server, nil
}

// upgraded is what a 2.0 or 2.1 says of its cluster.
func upgraded(a client.Answer) bool {
	var state struct{ Upgraded bool }
	return a.Code == http.StatusOK && json.Unmarshal(a.Body, &state) == nil && state.Upgraded
}

// remove deletes an instance of a dead app. Deleting it as what it is not does nothing, and is
// answered ok.
func (r *Registry) remove(ctx context.Context, rec record) error {
	kinds := []bool{rec.persistent}
	if g := r.knownAPI(); g != nil && g.hidesPersistent() {
		kinds = []bool{rec.persistent, !rec.persistent}
	}
	for _, rec.persistent = range kinds {
		_, err := r.write(ctx, "delete "+r.id(rec.key), func(g api) client.Call {
			return g.remove(r.namespace, rec)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
