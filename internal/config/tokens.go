package config

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// TokenEvery is how often the token's file is read besides at each call, so that no token of it is
	// missed. Kubernetes writes a changed Secret once a minute at most.
	TokenEvery = 10 * time.Second
	// tokensKept bounds the tokens that are remembered; the oldest go.
	tokensKept = 100
)

// Tokens are those that are good: every one that the file has had since the start. Running Pods carry
// the token of their day in their spec, so that a rotated one must not lock their hooks out.
type Tokens struct {
	secret Secret

	mu   sync.Mutex
	good []string
}

func NewTokens(s Secret) *Tokens {
	t := &Tokens{secret: s}
	_, _ = t.All() // the configuration was refused if it cannot be read
	return t
}

// all reads the file anew and returns the tokens that are good, none where none is set. With an error,
// which names the file, they are those of before.
func (t *Tokens) All() ([]string, error) {
	if !t.secret.Set() {
		return nil, nil
	}
	now, err := t.secret.Get()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && !slices.Contains(t.good, now) {
		t.good = append(t.good, now)
		t.good = t.good[max(0, len(t.good)-tokensKept):]
	}
	return slices.Clone(t.good), err
}

// follow reads the file again and again until ctx ends; without a file it returns at once.
func (t *Tokens) Follow(ctx context.Context, every time.Duration) {
	if t.secret.file == "" {
		return
	}
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			_, _ = t.All() // a call tells what is wrong
		case <-ctx.Done():
			return
		}
	}
}
