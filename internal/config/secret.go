package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Secret is a value that is never shown: given, or read from a file each time, so that a rotated
// one is taken up.
type Secret struct{ value, file string }

// Get returns the secret, "" if none is set. The error names the file. An empty file is an error:
// where a secret was asked for, the moment in which its file is written anew must not do without
// one.
func (s Secret) Get() (string, error) {
	if s.file == "" {
		return s.value, nil
	}
	b, err := os.ReadFile(s.file)
	text := strings.TrimSpace(string(b))
	if err == nil && text == "" {
		err = fmt.Errorf("%s is empty", s.file)
	}
	return text, err
}

// Set reports whether there is one.
func (s Secret) Set() bool { return s != Secret{} }

// secret reads a secret that is given, or its file. The command line beats the environment, and a
// setting the app's own.
func (r *reader) secret(flag string) Secret {
	s := Secret{value: r.string(flag), file: r.string(flag + "-file")}
	if s.value != "" && s.file != "" {
		switch {
		case r.byFlag(flag) && !r.byFlag(flag+"-file"):
			s.file = ""
		case r.byFlag(flag+"-file") && !r.byFlag(flag), r.hinted[flag]:
			s.value = ""
		default:
			r.problem(flag+"-file", "is given beside "+r.from[flag], "give one of the two")
		}
	}
	if s.file != "" {
		if _, err := s.Get(); err != nil {
			r.problem(flag+"-file", "cannot be used: "+plainFileError(err),
				"mount the Secret there, readable for this user")
		}
	}
	return s
}

// plainFileError leaves out the operation and the path.
func plainFileError(err error) string {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err.Error()
	}
	return "it is empty"
}

const (
	// TokenEvery is how often the token's file is read besides at each call, so that no token of it
	// is missed. Kubernetes writes a changed Secret once a minute at most.
	TokenEvery = 10 * time.Second
	// tokensKept bounds the tokens that are remembered; the oldest go.
	tokensKept = 100
)

// Tokens are those that are good: every one that the file has had since the start. Running Pods
// carry the token of their day in their spec, so that a rotated one must not lock their hooks out.
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

// all reads the file anew and returns the tokens that are good, none where none is set. With an
// error, which names the file, they are those of before.
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
