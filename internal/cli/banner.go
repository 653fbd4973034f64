package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"prestop/drain/conns"
	"prestop/internal/config"
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

// introduce says what was found and what will be done.
func introduce(
	c config.Config, build Build, registries []registry.Registry, counter conns.Counter,
	addr net.Addr, log *slog.Logger,
) {
	source := "none"
	if counter != nil {
		source = counter.Source()
	}
	urls := []string{}
	for _, r := range registries {
		urls = append(urls, r.Kind()+" "+r.URL())
	}
	log.Info("prestop started", "version", build.Version, "listen", addr.String(),
		"registries", urls, "addresses", c.Addresses, "names", c.Names,
		"count", source, "grace_period", c.GracePeriod, "deadline_after", c.Budget())
	sum := sumUp(c, registries)
	log.Info("on the hook a drain will leave the registries, let the callers' caches run out, and "+
		"wait until no connection is in use",
		"leave", urls, "linger", fmt.Sprintf("up to %gs (%s)", sum.Linger, sum.LingerOf),
		"connections_to", portNames(c.Ports)+" that the app listens on",
		"at_most", c.Budget(), "grace_period_set", c.GraceGiven)
	if hints := c.Hints.Attrs(); len(hints) > 0 {
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
	// A native sidecar starts before the app; where it stays at this line, the app is not where it
	// is looked for.
	listeners, err := counter.Listeners(context.Background())
	if err == nil && len(appPorts(listeners, c.Ports)) == 0 {
		log.Info("the app does not listen yet; until it does, a drain has no connections to wait for",
			"ports", portNames(c.Ports))
	}
}

// notes are what an operator should know before the first drain.
func notes(c config.Config, registries []registry.Registry) []string {
	var n []string
	if len(registries) == 0 {
		n = append(n, "no registry is set; set --eureka-url or --nacos-url if the app is "+
			"registered in one")
	}
	if len(registries) > 0 && len(c.Addresses) == 0 {
		n = append(n, "the Pod has no address by which its instances could be found; set POD_IP "+
			"by the downward API")
	}
	if c.Linger >= 0 {
		return n
	}
	if longest := sumUp(c, registries).longest(); c.QuietPeriod > 0 && c.QuietPeriod >= longest {
		n = append(n, config.QuietNote(c.QuietPeriod, longest))
	}
	for _, r := range registries {
		if _, longest := r.Linger(); longest >= c.Budget() {
			n = append(n,
				fmt.Sprintf("callers of %s may go on for %s after the leave, and the deadline is "+
					"after %s (grace period %s less reserve %s): drains will expire; raise "+
					"terminationGracePeriodSeconds and --grace-period, or set --linger to what your "+
					"callers' caches add up to",
					r.Kind(), longest, c.Budget(), c.GracePeriod, c.Reserve))
		}
	}
	return n
}
