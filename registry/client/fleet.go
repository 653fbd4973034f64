package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"prestop/registry"
)

// Everywhere runs f with every server at the same time and returns what each failed by; nil is
// success. Once one has succeeded, those that can be spared have straggle more: a server that is
// dead or hangs does not hold up what another one can do. f must return soon after its context
// ends.
func Everywhere[S any](ctx context.Context, servers []S, straggle time.Duration, spared func(S) bool,
	f func(context.Context, S) error) []error {
	errs := make([]error, len(servers))
	cancels := make([]context.CancelFunc, len(servers))
	contexts := make([]context.Context, len(servers))
	for i := range servers {
		contexts[i], cancels[i] = context.WithCancel(ctx)
		defer cancels[i]()
	}
	succeeded := make(chan struct{}, len(servers))
	over := make(chan struct{})
	var done, runs sync.WaitGroup
	for i, s := range servers {
		runs.Go(func() {
			if errs[i] = f(contexts[i], s); errs[i] == nil {
				succeeded <- struct{}{}
			}
		})
	}
	done.Go(func() {
		select {
		case <-succeeded:
		case <-over:
			return
		}
		timer := time.NewTimer(straggle)
		defer timer.Stop()
		select {
		case <-timer.C:
			for i, s := range servers {
				if spared(s) {
					cancels[i]()
				}
			}
		case <-over:
		}
	})
	runs.Wait()
	close(over)
	done.Wait()
	return errs
}

// Each runs f for every item, at most parallel at a time, and returns the errors joined. After a
// final one, or the end of ctx, it starts no more. Of many failures three are told, those that may
// pass first: they decide what the caller does.
func Each[T any](ctx context.Context, parallel int, items []T, f func(context.Context, T) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		stop bool
	)
	stopped := func() bool { mu.Lock(); defer mu.Unlock(); return stop }
	slots := make(chan struct{}, parallel)
	for _, item := range items {
		slots <- struct{}{}
		if stopped() {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(ctx, item); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				stop = stop || registry.IsFinal(err) || ctx.Err() != nil
			}
		})
	}
	wg.Wait()
	final := map[bool]int{true: 1}
	slices.SortStableFunc(errs, func(a, b error) int {
		return cmp.Compare(final[registry.IsFinal(a)], final[registry.IsFinal(b)])
	})
	return Join(errs[:min(len(errs), 3)])
}

// Join is errors.Join, but a single error stays what it is.
func Join(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// Wait returns after d, or ctx's error if that ends first.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
