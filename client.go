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
)

// ask makes a call to the running sidecar and returns its code and body. It waits as long as the sidecar does, until ctx or
// a signal ends it.
func ask(ctx context.Context, c Config, path string) (int, string, error) {
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
		if ctx.Err() != nil { // it is not the sidecar
			return 0, "", fmt.Errorf("ended by a signal: %w", ctx.Err())
		}
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return 0, "", fmt.Errorf("the sidecar is not reached: %s; is it running, and is --listen the same as its?", sentence(err.Error()))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, strings.TrimSpace(string(body)), err
}

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
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	}
	fmt.Fprintln(stdout, body)
	switch code {
	case http.StatusOK:
		return exitOK
	case http.StatusGatewayTimeout:
		return exitExpired
	case http.StatusServiceUnavailable:
		if strings.HasPrefix(body, "CANCELLED") {
			return exitCancelled
		}
	}
	return exitFailed
}

func resume(c Config, stdout, stderr io.Writer) int {
	tellNotes(c, stderr)
	code, body, err := ask(context.Background(), c, "/resume")
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	}
	fmt.Fprintln(stdout, body)
	if code != http.StatusOK {
		return exitFailed
	}
	return exitOK
}
