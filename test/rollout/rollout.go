package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	replicas = 3
	// lead is how long the load runs before the rollout begins.
	lead = 10 * time.Second
)

// plan is a series of rollouts with one site.
type plan struct {
	conditions conditions
	rate       float64 // requests a second of each caller
	dir        string
	// enough ends the watch of a rollout before its time: called with the requests that have failed so far.
	enough func(m mode, failed int) bool
	say    func(format string, args ...any)
}

// run rolls the Deployment out once for each mode, under load, and hands over each result. The n-th rollout replaces Pods of the n-th
// mode by Pods of the next, so that none is started twice.
func (p plan) run(ctx context.Context, all []mode, done func(result) error) (err error) {
	s := &site{conditions: p.conditions, dir: p.dir}
	p.say("build what runs")
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if s.cluster, err = newCluster(ctx, fmt.Sprintf("rollout-%d", os.Getpid())); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	watched := make(chan error, 1)
	running.Go(func() { watched <- s.cluster.watch(ctx) })
	defer func() {
		stop()
		running.Wait()
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, <-watched, s.cluster.remove(ending), s.close())
	}()

	p.say("start the registries, the Pods and the callers")
	if err := s.registries(ctx); err != nil {
		return err
	}
	if err := s.deploy(ctx, all[0], "0"); err != nil {
		return err
	}
	if err := s.ready(ctx, "0"); err != nil {
		return err
	}
	// Last, so that they know every Pod from the beginning.
	if err := s.call(ctx); err != nil {
		return err
	}
	if err := s.known(ctx, "0"); err != nil {
		return err
	}
	for n, m := range all {
		next := all[min(n+1, len(all)-1)]
		r, err := p.one(ctx, s, m, next, fmt.Sprint(n), fmt.Sprint(n+1))
		if err == nil {
			err = done(r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		if n+1 == len(all) {
			break
		}
		if err := s.known(ctx, fmt.Sprint(n+1)); err != nil {
			return err
		}
		// The balancer's own cache cannot be looked into.
		if err := wait(ctx, p.conditions.Balancer+time.Second); err != nil {
			return err
		}
	}
	return nil
}

// one is one rollout, from Pods of mode m to those of mode next.
func (p plan) one(ctx context.Context, s *site, m, next mode, from, to string) (result, error) {
	dir := filepath.Join(p.dir, m.Name+"-"+from)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return result{}, err
	}
	ip, err := s.cluster.kubectl(ctx, "", "get", "service", "orders", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return result{}, err
	}
	all, finish, err := callers(s.byName["eureka"], s.byName["nacos"], ip, p.conditions.Idle)
	if err != nil {
		return result{}, err
	}
	defer finish()
	if m.Registries {
		all = slices.DeleteFunc(all, func(c caller) bool { return s.byName[c.Name] == "" })
	}

	ctx, cancel := context.WithTimeoutCause(ctx, 8*time.Minute, errors.New("8 minutes have passed"))
	defer cancel()
	var logs sync.WaitGroup
	defer logs.Wait()
	defer cancel()
	pods, _ := s.cluster.seen()
	for _, old := range pods {
		if old.Revision != from {
			continue
		}
		err := s.cluster.keepLogs(ctx, &logs, dir, old.Name, "orders")
		if m.Prestop {
			err = errors.Join(err, s.cluster.keepLogs(ctx, &logs, dir, old.Name, "prestop"))
		}
		if err != nil {
			return result{}, err
		}
	}

	p.say("%s: load", m.Name)
	l := begin(ctx, all, p.rate, 1)
	defer l.finish()
	if err := wait(ctx, lead); err != nil {
		return result{}, err
	}
	p.say("%s: rolling update", m.Name)
	rolled := time.Now()
	if err := s.deploy(ctx, next, to); err != nil {
		return result{}, err
	}
	if err := p.over(ctx, s, l, m, from, to); err != nil {
		return result{}, err
	}
	l.finish()
	events, err := s.cluster.kubectl(ctx, "", "get", "events", "--sort-by=.lastTimestamp")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "events"), []byte(events), 0o644)
	}
	if err != nil {
		return result{}, err
	}
	pods, _ = s.cluster.seen()
	return newResult(m, p, all, l, rolled, pods, from, to), nil
}

// over waits until the rollout is over and no caller can know an old Pod any more: each that does fails soon, as the rates are.
func (p plan) over(ctx context.Context, s *site, l *load, m mode, from, to string) error {
	calm := p.conditions.Balancer + 5*time.Second
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var said time.Time
	for {
		pods, _ := s.cluster.seen()
		var lastGone time.Time
		gone, ready := 0, 0
		for _, pod := range pods {
			switch {
			case pod.Revision == from && !pod.Gone.IsZero():
				gone++
				if pod.Gone.After(lastGone) {
					lastGone = pod.Gone
				}
			case pod.Revision == to && !pod.Ready.IsZero():
				ready++
			}
		}
		last, failed := l.lastFailure()
		if time.Since(said) >= 10*time.Second {
			said = time.Now()
			p.say("%s: %3.0f s, %d of %d old Pods gone, %d requests failed", m.Name, time.Since(l.began).Seconds(), gone, replicas, failed)
		}
		if last.Before(lastGone) {
			last = lastGone
		}
		if gone == replicas && ready == replicas && (time.Since(last) >= calm || p.enough != nil && p.enough(m, failed)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the rollout: %w; the Pods: %+v", context.Cause(ctx), pods)
		}
	}
}
