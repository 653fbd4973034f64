package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"prestop/drain"
)

// maxWaiting is how many callers of the hook have a goroutine each, as net/http has it: 20 KiB with
// its buffers. A Pod has one or two callers, but anybody who reaches the Pod may call. Ten thousand
// must not get the sidecar killed in a container of 32 MiB. The rest wait as hijacked connections,
// under 1 KiB each. They get the same answer, but a client that disconnects is not noticed.
const maxWaiting = 64

// waiters are the callers of the hook.
type waiters struct {
	serving atomic.Int64 // those that have a goroutine

	mu     sync.Mutex
	parked []net.Conn
	// answering has a goroutine for each group of parked callers.
	answering sync.WaitGroup
}

// enter reports whether the caller may wait in its own goroutine; then leave must be called.
func (w *waiters) enter() bool {
	if w.serving.Add(1) <= maxWaiting {
		return true
	}
	w.serving.Add(-1)
	return false
}

func (w *waiters) leave() { w.serving.Add(-1) }

// park takes the connection from net/http; false if that cannot be done. The first one of a group
// starts the goroutine that waits for the end of the drain and answers them all. It ends with the
// drain, or with the process.
func (w *waiters) park(rw http.ResponseWriter, d *drain.Drain, log *slog.Logger) bool {
	conn, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		log.Debug("cannot park a caller of the hook", "error", err)
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parked = append(w.parked, conn)
	if len(w.parked) == 1 {
		log.Warn("many callers of the hook; the others wait unattended", "attended", maxWaiting)
		w.answering.Go(func() { w.answer(d) })
	}
	return true
}

// answer waits for the end of the drain and answers the parked callers.
func (w *waiters) answer(d *drain.Drain) {
	code, line := verdict(d.Shutdown(context.Background()))
	w.mu.Lock()
	parked := w.parked
	w.parked = nil
	w.mu.Unlock()
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		code, http.StatusText(code), len(line)+1, line)
	for _, conn := range parked {
		// Nothing was written to it before, so the kernel takes it at once: none can hold up the
		// next.
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(text)) // it may have gone away
		_ = conn.Close()
	}
}

// answered waits until every parked caller has its answer, or until ctx ends.
func (w *waiters) answered(ctx context.Context) error {
	done := make(chan struct{})
	go func() { w.answering.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("callers of the hook have no answer yet: %w", ctx.Err())
	}
}

// verdict is the answer to a hook.
func verdict(out drain.Outcome, err error) (code int, line string) {
	if err != nil {
		return http.StatusServiceUnavailable, err.Error()
	}
	switch out.Result {
	case drain.Drained:
		return http.StatusOK, out.String()
	case drain.Expired:
		return http.StatusGatewayTimeout, out.String()
	}
	return http.StatusServiceUnavailable, out.String()
}
