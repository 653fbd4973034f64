package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

func TestAServerThatHangsIsSparedOnceAnotherIsDone(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		spared bool
		done   bool          // another server is done, after a second
		want   time.Duration // the context lasts a minute
	}{
		"another is done":  {true, true, 3 * time.Second},
		"no other is done": {true, false, time.Minute},
		"another is done, but it has to confirm the change": {false, true, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				errs := client.Everywhere(ctx, []string{"hangs", "other"}, 2*time.Second, func(string) bool { return c.spared },
					func(ctx context.Context, s string) error {
						if s == "hangs" {
							return hang(ctx)
						}
						time.Sleep(time.Second)
						if !c.done {
							return errors.New("refused")
						}
						return nil
					})
				if took := time.Since(began); took != c.want {
					t.Errorf("it took %v, want %v", took, c.want)
				}
				if errs[0] == nil || (errs[1] == nil) != c.done {
					t.Errorf("%v", errs)
				}
			})
		})
	}
}

func TestNoMoreIsStartedAfterAFinalFailure(t *testing.T) {
	final, passing := &registry.Error{Code: 403, Final: true}, &registry.Error{Code: 503}
	var (
		mu  sync.Mutex
		ran []int
	)
	err := client.Each(t.Context(), 1, []int{1, 2, 3, 4}, func(_ context.Context, n int) error {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, n)
		return map[int]error{1: passing, 2: final}[n]
	})
	if !slices.Equal(ran, []int{1, 2}) {
		t.Errorf("ran %v", ran)
	}
	if registry.IsFinal(err) || !errors.Is(err, final) || !errors.Is(err, passing) {
		t.Errorf("%v: something of it may pass", err)
	}
	if err := client.Each(t.Context(), 2, []int{1}, func(context.Context, int) error { return final }); err != error(final) {
		t.Errorf("%v", err)
	}
}
