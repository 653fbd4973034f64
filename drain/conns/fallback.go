package conns

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
)

// fallback counts by netlink until the kernel denies it, and by /proc from then on. A seccomp
// profile or a runtime's sandbox may be put on a container that runs.
type fallback struct {
	mu      sync.Mutex
	current Counter
	// next opens /proc; nil once it was opened, or was denied as well.
	next func() (Counter, error)
	log  *slog.Logger
}

func (f *fallback) counter() Counter {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// after returns the counter to ask instead of from, which has failed; nil if there is none.
func (f *fallback) after(from Counter, err error) Counter {
	if errno := syscall.Errno(0); !errors.As(err, &errno) {
		return nil // the context ended, or the answer was not understood: the next look may do
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current != from {
		return f.current
	}
	if f.next == nil {
		return nil
	}
	open := f.next
	f.next = nil
	c, openErr := open()
	if openErr != nil {
		return nil
	}
	f.log.Warn("the kernel refuses to tell its sockets any more: connections are counted from /proc, "+
		"where every open one counts as in use, idle or not, and the end of one is not told at once",
		"reason", err)
	from.Watch(nil)
	f.current = c
	if err := from.Close(); err != nil {
		f.log.Warn("close the counter", "error", err)
	}
	return c
}

func (f *fallback) Source() string { return f.counter().Source() }

func (f *fallback) Listeners(ctx context.Context) ([]Listener, error) {
	c := f.counter()
	all, err := c.Listeners(ctx)
	if next := f.after(c, err); next != nil {
		return next.Listeners(ctx)
	}
	return all, err
}

func (f *fallback) Count(ctx context.Context, ports []uint16) (Tally, error) {
	c := f.counter()
	t, err := c.Count(ctx, ports)
	if next := f.after(c, err); next != nil {
		return next.Count(ctx, ports)
	}
	return t, err
}

func (f *fallback) CountFew(ctx context.Context, ports []uint16) (Tally, bool) {
	return f.counter().CountFew(ctx, ports)
}

func (f *fallback) Watch(ports []uint16) { f.counter().Watch(ports) }

func (f *fallback) Ended() <-chan struct{} { return f.counter().Ended() }

func (f *fallback) Close() error { return f.counter().Close() }
