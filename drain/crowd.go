package drain

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// attended is how many callers of the hook are waited for by a goroutine each, as net/http has it: 20 KiB with its buffers. In
// a Pod there are one or two callers, but anybody who reaches the Pod may call, and ten thousand must not get the sidecar
// killed in a container of 32 MiB, and the hook with it. Those past the first wait as bare connections, below 1 KiB each;
// they are told like the others, but that one of them went away is not noticed.
const attended = 64

// crowd is the callers of the hook.
type crowd struct {
	waiting atomic.Int64 // attended ones

	mu    sync.Mutex
	conns []net.Conn // the others
	// telling has a goroutine for each crowd that waits.
	telling sync.WaitGroup
}

// enter reports whether the caller is to be attended; then leave must be called.
func (c *crowd) enter() bool {
	if c.waiting.Add(1) <= attended {
		return true
	}
	c.waiting.Add(-1)
	return false
}

func (c *crowd) leave() { c.waiting.Add(-1) }

// park takes the connection out of net/http's hands; false if that cannot be done. The first of a crowd brings the
// goroutine that waits for the end of the drain and answers them all; it ends with the drain, or with the owner.
func (c *crowd) park(w http.ResponseWriter, d *Drain, log *slog.Logger) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		log.Debug("cannot park a caller of the hook", "error", err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	if len(c.conns) == 1 {
		log.Warn("many callers of the hook; the others wait unattended", "attended", attended)
		c.telling.Go(func() { c.wait(d) })
	}
	return true
}

func (c *crowd) wait(d *Drain) {
	out, err := d.Shutdown(context.Background())
	code, line := verdict(out, err)
	c.mu.Lock()
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		code, http.StatusText(code), len(line)+1, line)
	for _, conn := range conns {
		// Nothing was written to it before, so the kernel takes it at once: none can hold up the next.
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(text)) // it may have gone away
		_ = conn.Close()
	}
}

// answered waits until every parked caller has its answer, or until ctx ends.
func (c *crowd) answered(ctx context.Context) error {
	done := make(chan struct{})
	go func() { c.telling.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("callers of the hook have no answer yet: %w", ctx.Err())
	}
}

// verdict is the answer to a hook.
func verdict(out Outcome, err error) (code int, line string) {
	if err != nil {
		return http.StatusServiceUnavailable, err.Error()
	}
	switch out.Result {
	case Drained:
		return http.StatusOK, out.String()
	case Expired:
		return http.StatusGatewayTimeout, out.String()
	}
	return http.StatusServiceUnavailable, out.String()
}
