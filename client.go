package main

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

	"prestop/internal/sentence"
)

// ask makes a call to the running sidecar and returns its code and body. It waits as long as the sidecar does, until ctx or
// a signal ends it.
func ask(ctx context.Context, c Config, path string) (int, string, error) {
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
		return 0, "", fmt.Errorf("the sidecar is not reached: %s; is it running, and is --listen the same as its?", sentence.Of(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, strings.TrimSpace(string(body)), err
}

// errInterrupted is why a call has no answer that a signal ended.
var errInterrupted = errors.New("interrupted")

// answerTime bounds a call that the sidecar answers at once.
const answerTime = 10 * time.Second

// newClient is for one call to the sidecar: the process ends after it, or makes another one much later.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}}
}

// local is where a listening address is reached from inside the Pod.
func local(listen string) string {
	host, port, _ := net.SplitHostPort(listen) // validated by LoadConfig
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// tellNotes tells what is odd in the environment of a call.
func tellNotes(c Config, stderr io.Writer) {
	for _, n := range c.Notes {
		fmt.Fprintln(stderr, "prestop: going on without:", n)
	}
}

func shutdown(c Config, stdout, stderr io.Writer) int {
	tellNotes(c, stderr)
	code, body, err := ask(context.Background(), c, "/shutdown")
	if errors.Is(err, errInterrupted) {
		fmt.Fprintf(stderr, "prestop: interrupted, but the drain goes on%s; prestop resume cancels it\n", stillWaits(c))
		return exitFailed
	}
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	}
	switch verdict, _, _ := strings.Cut(body, " "); {
	case code == http.StatusOK && verdict == "OK":
		fmt.Fprintln(stdout, body)
		return exitOK
	case code == http.StatusGatewayTimeout && verdict == "EXPIRED":
		fmt.Fprintln(stdout, body)
		return exitExpired
	case code == http.StatusServiceUnavailable && verdict == "CANCELLED":
		fmt.Fprintln(stdout, body)
		return exitCancelled
	}
	return otherAnswer(c, code, body, stdout, stderr)
}

// otherAnswer tells of an answer that is none of those of the hook, or not prestop's at all.
func otherAnswer(c Config, code int, body string, stdout, stderr io.Writer) int {
	switch code {
	case http.StatusUnauthorized, http.StatusServiceUnavailable:
		fmt.Fprintln(stdout, body)
	default:
		fmt.Fprintln(stderr, "prestop:", notPrestop(c))
	}
	return exitFailed
}

// notPrestop is what is wrong where another program has the sidecar's port.
func notPrestop(c Config) string {
	return fmt.Sprintf("what answers at %s is not prestop: is --listen right?", local(c.Listen))
}

// stillWaits says what the drain of the running sidecar waits for; "" if that is not told.
func stillWaits(c Config) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := askStatus(ctx, c)
	if err != nil || s.State != "draining" {
		return ""
	}
	return ": it waits for " + waitsFor(s.Status, time.Now())
}

func resume(c Config, stdout, stderr io.Writer) int {
	tellNotes(c, stderr)
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	code, body, err := ask(ctx, c, "/resume")
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	case code != http.StatusOK || body != "OK":
		return otherAnswer(c, code, body, stdout, stderr)
	}
	fmt.Fprintln(stdout, body)
	return exitOK
}
