// What the sidecar says when it starts.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"prestop/drain/conns"
	"prestop/internal/logs"
	"prestop/registry"
)

// firstTry is for somebody who starts it on a laptop to see what it does; %d is its port.
const firstTry = `prestop runs on localhost:%d. Nothing is set and this is no Pod, so this looks like a first try: connections to
every port that this machine listens on count, and no registry is told. In another terminal, for example:

  prestop status --watch    what it sees, and what it waits for
  prestop shutdown          a drain, as the kubelet's preStop hook starts it; it returns when no connection is in use
  prestop resume            back to serving
  prestop check             what is missing for a real drain, each with its remedy
  prestop --help            the settings, e.g. prestop --port 8080 --eureka-url http://localhost:8761/eureka/

Ctrl-C drains and ends it, a second Ctrl-C ends it now. In a Pod, set POD_IP and the registry's URL: see the README.

`

// openLog returns the log of the sidecar, and what brings out its last lines. It is written by a
// goroutine of its own, so that nothing waits for who reads it, and lines that repeat are one.
func openLog(c Config, stderr io.Writer) (log *slog.Logger, flush func()) {
	w := logs.NewWriter(stderr, func(n int) []byte {
		var line bytes.Buffer
		slog.New(newHandler(c, &line)).Error("lines of the log were dropped: nobody read them", "lines", n)
		return line.Bytes()
	})
	folder := logs.NewFolder(newHandler(c, w))
	return slog.New(folder), func() {
		folder.Flush()
		w.Flush(flushWait)
	}
}

// flushWait bounds what a log that nobody reads holds up the end.
const flushWait = 100 * time.Millisecond

// newHandler writes the log as the settings have it.
func newHandler(c Config, w io.Writer) slog.Handler {
	o := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // as text in JSON too: nanoseconds are for nobody
			a.Value = slog.StringValue(a.Value.Duration().Round(time.Millisecond).String())
		}
		return a
	}}
	if c.LogFormat == "text" {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}

// introduce says what was found and what will be done.
func introduce(c Config, registries []registry.Registry, counter conns.Counter, addr net.Addr, log *slog.Logger) {
	source := "none"
	if counter != nil {
		source = counter.Source()
	}
	urls := []string{}
	for _, r := range registries {
		urls = append(urls, r.Kind()+" "+r.URL())
	}
	log.Info("prestop started", "version", version, "listen", addr.String(), "registries", urls, "addresses", c.Addresses, "names", c.Names,
		"count", source, "grace_period", c.GracePeriod, "deadline_after", c.GracePeriod-c.Reserve)
	sum := sumUp(c, registries)
	log.Info("on the hook a drain will leave the registries, let the callers' caches run out, and wait until no connection is in use",
		"leave", urls, "linger", fmt.Sprintf("up to %gs (%s)", sum.Linger, sum.LingerOf), "connections_to", portNames(c.Ports)+" that the app listens on",
		"at_most", c.GracePeriod-c.Reserve, "grace_period_set", c.GraceGiven)
	if hints := c.Hints.attrs(); len(hints) > 0 {
		log.Info("what the app's variables say of it; this restricts nothing", hints...)
	}
	for _, s := range c.Said {
		log.Info(s)
	}
	for _, n := range append(c.Notes, notes(c, registries)...) {
		log.Warn(n)
	}
	if counter == nil {
		return
	}
	// A native sidecar starts before the app; where it stays at this line, the app is not where it is looked for.
	if listeners, err := counter.Listeners(context.Background()); err == nil && len(appPorts(listeners, c.Ports)) == 0 {
		log.Info("the app does not listen yet; until it does, a drain has no connections to wait for", "ports", portNames(c.Ports))
	}
}

// notes are what an operator should know before the first drain.
func notes(c Config, registries []registry.Registry) []string {
	var n []string
	if len(registries) == 0 {
		n = append(n, "no registry is set; set --eureka-url or --nacos-url if the app is registered in one")
	}
	if len(registries) > 0 && len(c.Addresses) == 0 {
		n = append(n, "the Pod has no address by which its instances could be found; set POD_IP by the downward API")
	}
	if c.Linger >= 0 {
		return n
	}
	if longest := sumUp(c, registries).longest(); c.QuietPeriod > 0 && c.QuietPeriod >= longest {
		n = append(n, quietNote(c.QuietPeriod, longest))
	}
	for _, r := range registries {
		if _, longest := r.Linger(); longest >= c.GracePeriod-c.Reserve {
			n = append(n, fmt.Sprintf("callers of %s may go on for %s after the leave, and the deadline is after %s (grace period %s less reserve %s): drains will expire; raise terminationGracePeriodSeconds and --grace-period, or set --linger to what your callers' caches add up to",
				r.Kind(), longest, c.GracePeriod-c.Reserve, c.GracePeriod, c.Reserve))
		}
	}
	return n
}
