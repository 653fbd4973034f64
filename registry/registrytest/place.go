package registrytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
)

// place is where one case plays: an address and services that no other case uses.
type place struct {
	rejoined registry.Registry // after a rejoin, until the next leave
	*testing.T
	World
	ctx context.Context
	pod registry.Pod
	app App // the Pod's; not started yet
}

// Context is the case's, which ends when a server has been gone for longer than any case can need.
func (p *place) Context() context.Context { return p.ctx }

var places atomic.Uint32

func init() { places.Store(rand.Uint32N(1 << 15)) }

func newPlace(t *testing.T, w World) *place {
	n := places.Add(1)
	ip := netip.AddrFrom4([4]byte{127, byte(64 + n>>14&63), byte(n >> 7 & 127), byte(1 + n&127)})
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	p := &place{T: t, World: w, ctx: ctx, pod: registry.Pod{Addresses: []netip.Addr{ip}, Ports: []uint16{8080}}}
	p.app = App{Service: fmt.Sprintf("orders-%d", n), Address: netip.AddrPortFrom(ip, 8080),
		Metadata: map[string]string{"zone": "b", "management.port": "8081"}}
	if w.Traits().Weights {
		p.app.Weight = 2.5
	}
	return p
}

// another is the Pod's app on another port or with another service.
func (p *place) another(service string, port uint16) App {
	a := p.app
	a.Service, a.Address = service, netip.AddrPortFrom(a.Address.Addr(), port)
	return a
}

// client returns a Registry for the servers themselves.
func (p *place) client() registry.Registry { return p.New(p, p.URLs()) }

// found returns a client that has found exactly the Pod's n instances.
func (p *place) found(n int) registry.Registry {
	p.Helper()
	r := p.client()
	p.find(r, n)
	return r
}

func (p *place) find(r registry.Registry, n int) []registry.Instance {
	p.Helper()
	var found []registry.Instance
	p.eventually(fmt.Sprintf("find %d instances", n), func() (err error) {
		found, err = r.Find(p.Context(), p.pod)
		if err == nil && len(found) != n {
			err = fmt.Errorf("found %d: %+v", len(found), found)
		}
		return err
	})
	return found
}

// leave leaves and asserts that it is so. After a rejoin among peers, whose word of that may come
// late, it may take another one, as it may the sidecar.
func (p *place) leave(r registry.Registry) {
	p.Helper()
	late := p.rejoined != nil && len(p.URLs()) > 1
	p.rejoined = nil
	left := func() error {
		p.must(r.Leave(p.Context()), "leave")
		return is(p.Context(), r, registry.Out)
	}
	if late {
		p.eventually("be out", left)
	} else if err := left(); err != nil {
		p.Fatal(err)
	}
}

// rejoin rejoins, again where peers on a busy machine bring back what was undone, as the sidecar
// does.
func (p *place) rejoin(r registry.Registry) {
	p.Helper()
	p.rejoined = r
	p.eventually("rejoin", func() error {
		p.must(r.Rejoin(p.Context()), "rejoin")
		return p.stillOut(r)
	})
}

// stillOut is an error while an instance is Out.
func (p *place) stillOut(r registry.Registry) error {
	instances, err := r.Check(p.Context())
	for _, i := range instances {
		if i.State == registry.Out {
			err = fmt.Errorf("%+v", i)
		}
	}
	return err
}

func (p *place) must(err error, what string) {
	p.Helper()
	if err != nil {
		p.Fatalf("%s: %v", what, err)
	}
}

// mustBe asserts that Check, once, says state of every remembered instance.
func (p *place) mustBe(r registry.Registry, state registry.State) {
	p.Helper()
	if err := is(p.Context(), r, state); err != nil {
		p.Fatal(err)
	}
}

// becomes waits until Check says state of every remembered instance. With peers, whose word may
// come late, In after a rejoin may take another one.
func (p *place) becomes(r registry.Registry, state registry.State) {
	p.Helper()
	if state == registry.In && p.rejoined == r && len(p.URLs()) > 1 {
		p.back(r)
		return
	}
	p.eventually("be "+state.String(), func() error { return is(p.Context(), r, state) })
}

// back waits until Check says In, and meanwhile rejoins where it says Out, as the sidecar does.
func (p *place) back(r registry.Registry) {
	p.Helper()
	p.eventually("be back in", func() error {
		err := is(p.Context(), r, registry.In)
		if err != nil {
			p.must(r.Rejoin(p.Context()), "rejoin")
		}
		return err
	})
}

func is(ctx context.Context, r registry.Registry, state registry.State) error {
	instances, err := r.Check(ctx)
	if err != nil {
		return err
	}
	if len(instances) == 0 {
		return errors.New("no instance is remembered")
	}
	for _, i := range instances {
		if i.State != state {
			return fmt.Errorf("%s is %v (%s), want %v", i.ID, i.State, i.Status, state)
		}
	}
	return nil
}

// called waits until callers, at every server, are sent to the app with its weight and metadata.
// After a rejoin it looks at the registry now and then, and rejoins again where that says Out, as
// the sidecar does: a peer's word may come seconds late on a busy machine, and bring back what was
// undone.
func (p *place) called(app App) {
	p.Helper()
	looks := 0
	p.eventually("be called", func() error {
		err := p.callersSee(app)
		if looks++; err == nil || p.rejoined == nil || looks%20 != 0 {
			return err
		}
		if out := p.stillOut(p.rejoined); out != nil {
			p.must(p.rejoined.Rejoin(p.Context()), "rejoin")
			err = fmt.Errorf("%w; %w", err, out)
		}
		return err
	})
}

// callersSee is an error while a server's callers are not sent to the app as it is.
func (p *place) callersSee(app App) error {
	for n, list := range p.Callers(p, app.Service) {
		i := slices.IndexFunc(list, func(s Seen) bool { return s.Address == app.Address })
		if i < 0 {
			return fmt.Errorf("server %d's callers see %v", n, list)
		}
		if app.Weight != 0 && list[i].Weight != app.Weight {
			return fmt.Errorf("server %d's callers see the weight %v, want %v", n, list[i].Weight, app.Weight)
		}
		for k, v := range app.Metadata {
			if list[i].Metadata[k] != v {
				return fmt.Errorf("server %d's callers see the metadata %v, want %v", n, list[i].Metadata, app.Metadata)
			}
		}
	}
	return nil
}

// notCalled waits until no server's callers are sent to the app.
func (p *place) notCalled(app App) {
	p.Helper()
	p.eventually("not be called", func() error { return absent(p.Callers(p, app.Service), app) })
}

func absent(lists [][]Seen, app App) error {
	for n, list := range lists {
		if slices.ContainsFunc(list, func(s Seen) bool { return s.Address == app.Address }) {
			return fmt.Errorf("server %d's callers see it", n)
		}
	}
	return nil
}

// eventually calls f until it returns nil, at most for patience.
func (p *place) eventually(what string, f func() error) {
	p.Helper()
	p.eventuallyWithin(patience, what, f)
}

func (p *place) eventuallyWithin(d time.Duration, what string, f func() error) {
	p.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-p.Context().Done():
			p.Fatalf("%s: %v", what, err)
		case <-deadline.C:
			p.Fatalf("%s: not within %v: %v", what, d, err)
		}
	}
}
