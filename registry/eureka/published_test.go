package eureka_test

import (
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
)

func TestWithoutAListOfChangesTheApplicationsListTells(t *testing.T) {
	t.Parallel()
	now := &atomic.Pointer[time.Time]{}
	start := time.Now()
	now.Store(&start)
	c := registrytest.EurekaConfig{NoDelta: true, Cache: 30 * time.Second, Now: func() time.Time { return *now.Load() }}
	f := newFleet(t, 1, c)
	app := f.world.Start(t, orders)
	app.Crash(t) // no heartbeat for two minutes; the lease is good for longer
	r := f.world.New(t, f.world.Servers)
	f.find(r)
	f.must(r.Leave(t.Context()))
	if ok, err := r.Published(t.Context()); ok || err != nil {
		t.Errorf("%v, %v: the cache is as old as before", ok, err)
	}
	later := start.Add(31 * time.Second)
	now.Store(&later)
	if ok, err := r.Published(t.Context()); !ok || err != nil {
		t.Errorf("%v, %v: the cache has been turned over", ok, err)
	}
}

func TestPublishedWaitsForEveryServersCache(t *testing.T) {
	t.Parallel()
	now := &atomic.Pointer[time.Time]{}
	start := time.Now().Truncate(30 * time.Second)
	now.Store(&start)
	f := newFleet(t, 2, registrytest.EurekaConfig{Cache: 30 * time.Second, Now: func() time.Time { return *now.Load() }})
	r, app := f.started()
	app.Crash(t)
	f.must(r.Leave(t.Context()))
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {29 * time.Second, false}, {30 * time.Second, true}, {time.Minute, true}} {
		at := start.Add(c.after)
		now.Store(&at)
		if ok, err := r.Published(t.Context()); ok != c.want || err != nil {
			t.Errorf("after %v: %v, %v", c.after, ok, err)
		}
	}
}

func TestPublishedDoesNotWaitForAChangeThatIsTooOldToBeListed(t *testing.T) {
	t.Parallel()
	now := &atomic.Pointer[time.Time]{}
	start := time.Now()
	now.Store(&start)
	f := newFleet(t, 1, registrytest.EurekaConfig{Evict: -1, Now: func() time.Time { return *now.Load() }})
	earlier, app := f.started()
	f.must(earlier.Leave(t.Context()))
	app.Crash(t) // or its heartbeats would be of another time
	later := start.Add(4 * time.Minute)
	now.Store(&later)
	r := f.world.New(t, f.world.Servers)
	f.find(r)
	f.must(r.Leave(t.Context()))
	if ok, err := r.Published(t.Context()); ok || err == nil || registry.IsFinal(err) {
		t.Errorf("%v, %v: want an error, for this cannot be told", ok, err)
	}
}
