package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"prestop/drain"
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
	client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("the sidecar is not reached: %w; is it running, and is --listen the same as its?", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, strings.TrimSpace(string(body)), err
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

func shutdown(c Config, stdout, stderr io.Writer) int {
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
	}
	return exitFailed
}

func resume(c Config, stdout, stderr io.Writer) int {
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

func status(c Config, stdout, stderr io.Writer) int {
	code, body, err := ask(context.Background(), c, "/status")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("the sidecar answered %d: %s", code, body)
	}
	var s drain.Status
	if err == nil {
		err = json.Unmarshal([]byte(body), &s)
	}
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	}
	page(s, stdout, time.Now())
	return exitOK
}

// page writes a status for people.
func page(s drain.Status, w io.Writer, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "state\t%s for %s\n", s.State, now.Sub(s.Since).Round(time.Second))
	if s.State == "draining" {
		if s.LingerUntil != nil && s.LingerUntil.After(now) {
			fmt.Fprintf(t, "callers\tmay go on for %s\n", s.LingerUntil.Sub(now).Round(time.Second))
		}
		if s.Deadline != nil {
			fmt.Fprintf(t, "deadline\tin %s\n", s.Deadline.Sub(now).Round(time.Second))
		}
	}
	c := s.Connections
	fmt.Fprintf(t, "connections\t%d in use, %d idle (%s)\n", c.Active, c.Idle, c.Source)
	for _, p := range c.Peers {
		if p.Active > 0 {
			fmt.Fprintf(t, "\t%d from %s\n", p.Active, p.Address)
		}
	}
	for _, r := range s.Registries {
		fmt.Fprintf(t, "%s\t%s\n", r.Kind, r.URL)
		for _, i := range r.Instances {
			fmt.Fprintf(t, "\t%s %s: %s\n", i.Service, i.ID, i.Status)
		}
		if len(r.Instances) == 0 {
			fmt.Fprintf(t, "\tno instance of this Pod\n")
		}
		if r.Error != "" {
			fmt.Fprintf(t, "\ttrouble: %s\n", r.Error)
		}
	}
	if s.Result != "" {
		fmt.Fprintf(t, "last drain\t%s\n", s.Result)
	}
}
