package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"prestop/drain"
)

// watchEvery is how often --watch shows the page again.
const watchEvery = time.Second

// status shows what the running sidecar does, once, or with --watch until it is interrupted or the sidecar is gone.
func status(c Config, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	screen := &screen{out: stdout, paint: newPaint(stdout), over: c.Watch && isTerminal(stdout)}
	again := time.NewTicker(watchEvery)
	defer again.Stop()
	for {
		s, err := askStatus(ctx, c)
		if ctx.Err() != nil {
			return exitOK
		}
		if err == nil {
			err = screen.show(c, s)
		}
		if err != nil {
			fmt.Fprintln(stderr, "prestop:", err)
			return exitFailed
		}
		if !c.Watch {
			return exitOK
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return exitOK
		}
	}
}

// askStatus asks the running sidecar what it does.
func askStatus(ctx context.Context, c Config) (drain.Status, error) {
	var s drain.Status
	code, body, err := ask(ctx, c, "/status")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("the sidecar answered %d: %s", code, body)
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &s)
	}
	return s, err
}

// screen is where pages are shown, one after the other.
type screen struct {
	out   io.Writer
	paint paint
	over  bool // each page over the one before
	shown bool // there was one
}

func (v *screen) show(c Config, s drain.Status) error {
	if c.Output == "json" {
		e := json.NewEncoder(v.out)
		if !c.Watch { // one line each is what programs read a stream of
			e.SetIndent("", "  ")
		}
		return e.Encode(s)
	}
	var b strings.Builder
	page(s, &b, v.paint, time.Now())
	text := b.String()
	switch {
	case v.over && !v.shown:
		text = "\x1b[2J\x1b[H" + text
	case v.over: // without a blank screen in between, which would flicker
		text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	case v.shown:
		text = "\n" + text
	}
	v.shown = true
	_, err := io.WriteString(v.out, text)
	return err
}

// page writes a status for people.
func page(s drain.Status, w io.Writer, p paint, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("state", "%s for %s", colourOf(s.State, p)(s.State), ago(now.Sub(s.Since)))
	if s.State == "draining" {
		line("waits for", "%s", waitsFor(s, now))
		if s.Deadline != nil {
			line("deadline", "in %s", ago(s.Deadline.Sub(now)))
		}
	}
	c := s.Connections
	if c.Source == "none" {
		line("connections", "%s", p.bad("cannot be counted here"))
	} else {
		line("connections", "%d in use, %d idle (%s)", c.Active, c.Idle, c.Source)
	}
	if h := c.LastHeard; h != nil && s.State == "draining" {
		from := ""
		if h.Address != "" {
			from = " from " + h.Address
		}
		line("last heard", "%s ago%s", now.Sub(h.At).Round(100*time.Millisecond), from)
	}
	for _, peer := range c.Peers {
		if peer.Active > 0 {
			line("", "%d from %s%s", peer.Active, peer.Address, more(peer, now))
		}
	}
	for _, r := range s.Registries {
		line(r.Kind, "%s", r.URL)
		for _, i := range r.Instances {
			line("", "%s %s: %s", i.Service, i.ID, i.Status)
		}
		if len(r.Instances) == 0 {
			line("", "no instance of this Pod")
		}
		if r.Error != "" {
			line("", "%s %s", p.bad("trouble:"), r.Error)
		}
	}
	if s.Result != "" {
		line("last drain", "%s", s.Result)
	}
}

// more is what is known of a peer's connections besides how many are in use.
func more(p drain.PeerStatus, now time.Time) string {
	var s string
	if p.Port != 0 {
		s = fmt.Sprintf(" to %d", p.Port)
	}
	if p.Since != nil {
		s += fmt.Sprintf(", silent for %s (client port %d)", ago(now.Sub(*p.Since)), p.ClientPort)
	}
	return s
}

func colourOf(state string, p paint) func(string) string {
	switch state {
	case "serving", "drained":
		return p.good
	case "draining":
		return p.busy
	case "expired":
		return p.bad
	}
	return p.bold
}

// waitsFor says what keeps a drain from its end.
func waitsFor(s drain.Status, now time.Time) string {
	switch {
	case s.LingerUntil == nil:
		return "the registries: until each was left, and shows it to the callers"
	case s.LingerUntil.After(now):
		return fmt.Sprintf("callers, whose caches may send requests for another %s", ago(s.LingerUntil.Sub(now)))
	}
	return fmt.Sprintf("%d connections in use", s.Connections.Active)
}

// ago is a time for people.
func ago(d time.Duration) time.Duration { return d.Round(time.Second) }
