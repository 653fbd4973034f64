package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	replicas = 3
	lead     = 2 * time.Second // of load before the restart begins
)

// way is how an instance is stopped: what its preStop hook does.
type way struct {
	name  string // in file names
	title text
	what  text // a line about it for people
	hook  hook
}

type hook int

const (
	noHook hook = iota
	sleeps
	callsPrestop
)

// shop is a service on one kind of registry.
type shop struct {
	name     string        // the service's
	product  string        // "eureka" or "nacos"
	label    string        // the registry's name for people
	fetch    time.Duration // how often its callers ask the registry
	outdated time.Duration // how long a caller can go on calling an instance that has left
	linger   time.Duration // prestop --linger; where it is given it runs from the read-back
	grace    time.Duration // terminationGracePeriodSeconds
}

// scaled are the flags that make prestop's clocks as fast as the demo's.
func (s shop) scaled() []string {
	return []string{"--linger", s.linger.String(), "--reserve", reserve.String(), "--idle-after", idleAfter.String(), "--request-timeout", requestTimeout.String()}
}

// rollout is the rolling restart of one shop in one way, under load.
type rollout struct {
	shop   shop
	way    way
	url    string // the registry's
	record record

	mu        sync.Mutex
	began     time.Time // the load; zero before
	ended     time.Time
	instances []*instance
}

// instance is one Pod: the application, and the sidecar where the way has one.
type instance struct {
	name    string
	address netip.AddrPort
	hookURL string
	app     *child
	sidecar *child // nil without

	mu   sync.Mutex
	life life
}

// life is the moments of an instance's life; zero until reached.
type life struct {
	started    time.Time
	registered time.Time // and so ready
	stopping   time.Time // the kubelet was told to stop it: the hook begins
	gone       time.Time
}

func (i *instance) reach(moment func(*life) *time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	*moment(&i.life) = time.Now()
}

func (i *instance) lived() life {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.life
}

// run starts the instances, puts load on them, restarts them one by one, and goes on until no caller can hold an old list.
// It returns when every process that it started is gone.
func (r *rollout) run(ctx context.Context, s *site) error {
	ctx, cancel := context.WithCancel(ctx)
	var children sync.WaitGroup
	defer children.Wait()
	defer cancel() // kills what is left
	launch := func(name string) (*instance, error) {
		i, err := r.launch(ctx, s, &children, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return i, nil
	}

	olds := make([]*instance, replicas)
	if err := together(replicas, func(n int) (err error) {
		olds[n], err = launch(fmt.Sprintf("%s-old-%d", r.shop.name, n+1))
		return err
	}); err != nil {
		return err
	}
	finish, err := r.load(ctx)
	if err != nil {
		return err
	}
	defer finish()
	var stopping sync.WaitGroup
	defer stopping.Wait()
	defer cancel() // after a failure nobody waits for drains
	if err := wait(ctx, lead); err != nil {
		return err
	}

	// A Deployment with maxSurge 1 and maxUnavailable 0: as soon as a new instance is ready an old one is told to stop,
	// and the next new one starts; it does not wait until the old one is gone.
	stops := make(chan error, replicas)
	for n, old := range olds {
		if _, err := launch(fmt.Sprintf("%s-new-%d", r.shop.name, n+1)); err != nil {
			return err
		}
		stopping.Go(func() { stops <- r.stop(ctx, old) })
	}
	var failed error
	for range olds {
		failed = errors.Join(failed, <-stops)
	}
	err = wait(ctx, r.shop.outdated+time.Second)
	finish() // while the new instances live
	return errors.Join(failed, err)
}

// launch starts an instance as the kubelet does, the sidecar first, and returns when it is registered.
func (r *rollout) launch(ctx context.Context, s *site, children *sync.WaitGroup, name string) (*instance, error) {
	address, err := s.address()
	if err != nil {
		return nil, err
	}
	i := &instance{name: name, address: address.app, hookURL: fmt.Sprintf("http://%s/shutdown", address.sidecar)}
	i.reach(func(l *life) *time.Time { return &l.started })
	r.mu.Lock()
	r.instances = append(r.instances, i)
	r.mu.Unlock()

	start := func(role, program string, args ...string) (*child, error) {
		log, err := s.log(r.way.name + "-" + name + "-" + role)
		if err != nil {
			return nil, err
		}
		c, err := startChild(ctx, name+"'s "+role, log, program, args...)
		if err != nil {
			log.Close()
			return nil, err
		}
		children.Go(func() { <-c.ended; log.Close() })
		return c, nil
	}
	patience, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("20 s have passed"))
	defer cancel()
	if r.way.hook == callsPrestop {
		i.sidecar, err = start("prestop", s.prestop, append(r.shop.scaled(),
			"--listen", address.sidecar.String(), "--"+r.shop.product+"-url", r.url,
			"--instance-ip", address.app.Addr().String(), "--port", fmt.Sprint(address.app.Port()),
			"--grace-period", r.shop.grace.String(), "--termination-log", "")...)
		if err != nil {
			return nil, err
		}
		if err := listens(patience, i.sidecar, fmt.Sprintf("http://%s/healthz", address.sidecar)); err != nil {
			return nil, err
		}
	}
	i.app, err = start("app", s.self, "app", "--registry", r.shop.product, "--url", r.url, "--service", r.shop.name, "--address", address.app.String())
	if err != nil {
		return nil, err
	}
	if err := i.app.says(patience, registered); err != nil {
		return nil, err
	}
	i.reach(func(l *life) *time.Time { return &l.registered })
	children.Go(func() { i.probe(ctx) })
	return i, nil
}

// probe is the readinessProbe: a request by a connection of its own now and then, until the app is gone. What it says is
// not needed here; that it comes is part of what prestop sees.
func (i *instance) probe(ctx context.Context) {
	own := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: probePeriod}
	for wait(ctx, probePeriod) == nil {
		select {
		case <-i.app.ended:
			return
		default:
		}
		if resp, err := own.Get(fmt.Sprintf("http://%s/?ms=0", i.address)); err == nil {
			resp.Body.Close()
		}
	}
}

// listens is the sidecar's startupProbe.
func listens(ctx context.Context, c *child, url string) error {
	for {
		resp, err := get(ctx, url)
		if err == nil && resp.code == http.StatusOK {
			return nil
		}
		select {
		case <-c.ended:
			return fmt.Errorf("%s ended: %w; its log says why: %s", c.name, c.err, c.log)
		default:
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s does not answer %s: %w", c.name, url, errors.Join(context.Cause(ctx), err))
		}
	}
}

// stop ends an instance as the kubelet does: the hook, SIGTERM to the application, and when that is gone to the sidecar;
// all within the grace period.
func (r *rollout) stop(ctx context.Context, i *instance) error {
	end := time.Now().Add(r.shop.grace)
	i.reach(func(l *life) *time.Time { return &l.stopping })
	var failed error
	switch r.way.hook {
	case sleeps:
		failed = wait(ctx, sleepHook)
	case callsPrestop:
		failed = callHook(ctx, end, i.hookURL)
	}
	if failed != nil {
		failed = fmt.Errorf("%s: preStop: %w", i.name, failed)
	}
	if err := i.app.stop(ctx, max(time.Until(end), 2*time.Second)); err != nil {
		failed = errors.Join(failed, err)
	}
	i.reach(func(l *life) *time.Time { return &l.gone })
	if i.sidecar != nil {
		failed = errors.Join(failed, i.sidecar.stop(ctx, 2*time.Second))
	}
	return failed
}

// callHook is the kubelet's preStop httpGet: it waits until the answer's end or the end of the grace period.
func callHook(ctx context.Context, end time.Time, url string) error {
	ctx, cancel := context.WithDeadlineCause(ctx, end, errors.New("not answered within the grace period"))
	defer cancel()
	resp, err := get(ctx, url)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	if resp.code != http.StatusOK {
		return fmt.Errorf("%s: status %d: %s", url, resp.code, resp.line)
	}
	return nil
}

type answer struct {
	code int
	line string
}

func get(ctx context.Context, url string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 10<<10))
	return answer{resp.StatusCode, strings.TrimSpace(string(body))}, err
}

// load starts the callers and returns when each knows every instance; the load begins then. The function that it returns
// ends the load and waits for the requests under way.
func (r *rollout) load(ctx context.Context) (finish func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	finish = sync.OnceFunc(func() {
		cancel()
		r.mu.Lock()
		r.ended = time.Now()
		r.mu.Unlock()
		running.Wait()
	})
	lookup := newLookup(r.shop.product, r.url, r.shop.name)
	var all []*caller
	for n := range callers {
		c := &caller{lookup: lookup, fetch: r.shop.fetch, phase: float64(n) / callers,
			rng: rand.New(rand.NewPCG(1, uint64(n))), record: &r.record, list: instanceList{ttl: balancerCache, turn: n}}
		all = append(all, c)
		running.Go(func() { c.follow(ctx) })
	}
	patience, done := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("%s's callers do not know all instances after 20 s", r.shop.name))
	defer done()
	for _, c := range all {
		for !c.knows(replicas) {
			if err := wait(patience, 20*time.Millisecond); err != nil {
				finish()
				return nil, err
			}
		}
	}
	r.mu.Lock()
	r.began = time.Now()
	r.mu.Unlock()
	for _, c := range all {
		running.Go(func() { c.load(ctx) })
	}
	return finish, nil
}

// together calls f with 0 to n-1 at the same time and joins the errors.
func together(n int, f func(int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for k := range n {
		all.Go(func() { errs[k] = f(k) })
	}
	all.Wait()
	return errors.Join(errs...)
}
