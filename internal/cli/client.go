package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"prestop/internal/config"
	"prestop/internal/sentence"
)

// ask makes a call to the running sidecar and returns its code and body. It waits as long as the
// sidecar does, until ctx or a signal ends it.
func ask(ctx context.Context, c config.HTTP, path string) (int, string, error) {
	asked := ctx
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	token, err := c.Token.Get()
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(c.Listen)+path, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := newClient().Do(req)
	if err != nil {
		if ctx.Err() != nil && asked.Err() == nil {
			return 0, "", errInterrupted
		}
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return 0, "", fmt.Errorf("the sidecar is not reached: %s; is it running, and is --listen "+
			"the same as its?", sentence.Of(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, strings.TrimSpace(string(body)), err
}

// errInterrupted is why a call has no answer that a signal ended.
var errInterrupted = errors.New("interrupted")

// answerTime bounds a call that the sidecar answers at once.
const answerTime = 10 * time.Second

// newClient is for one call to the sidecar: the process ends after it, or makes another one much
// later.
func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext},
	}
}

// local is where a listening address is reached from inside the Pod.
func local(listen string) string {
	host, port, _ := net.SplitHostPort(listen) // validated by config.Load
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// notPrestop is what is wrong where another program has the sidecar's port.
func notPrestop(c config.HTTP) string {
	return fmt.Sprintf("what answers at %s is not prestop: is --listen right?", local(c.Listen))
}
