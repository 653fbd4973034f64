package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// finding is one line of a check: what is so, and what to do if that is a problem.
type finding struct {
	text   string
	remedy string // "" when all is well
}

// check looks at everything that a drain needs, and tells each problem with its remedy. It changes nothing.
func check(c Config, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*c.RegistryTimeout+5*time.Second)
	defer cancel()
	found := []finding{checkSidecar(ctx, c)}
	ports, f := checkApp(ctx, c, stderr)
	found = append(found, f...)
	registries, _ := newRegistries(c)
	if len(registries) == 0 {
		found = append(found, finding{text: "no registry is set"})
	}
	p := pod(c)
	p.Ports = ports
	for _, r := range registries {
		found = append(found, checkRegistry(ctx, c, r, p))
	}
	found = append(found, checkDeadline(c, registries))
	return report(found, stdout)
}

func report(found []finding, w io.Writer) int {
	code := exitOK
	for _, f := range found {
		if f.remedy == "" {
			fmt.Fprintf(w, "ok       %s\n", f.text)
			continue
		}
		code = exitFailed
		fmt.Fprintf(w, "PROBLEM  %s\n         %s\n", f.text, f.remedy)
	}
	return code
}

func checkSidecar(ctx context.Context, c Config) finding {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	code, body, err := ask(ctx, c, "/healthz")
	switch {
	case err != nil:
		return finding{err.Error(), "start the sidecar, or set --listen to its address"}
	case code != http.StatusOK:
		return finding{fmt.Sprintf("the sidecar answers %d: %s", code, body), "read its log"}
	}
	return finding{text: "the sidecar answers on " + c.Listen}
}

// checkApp tells where the app listens and who is connected.
func checkApp(ctx context.Context, c Config, stderr io.Writer) ([]uint16, []finding) {
	counter, err := newCounter(c, ownPort(c), newLog(Config{LogFormat: "text"}, stderr))
	if err != nil {
		return c.Ports, []finding{{"connections cannot be counted: " + err.Error(), "a drain ends with its linger here; allow the netlink socket or /proc/net/tcp"}}
	}
	defer counter.Close()
	listeners, err := counter.Listeners(ctx)
	if err != nil {
		return c.Ports, []finding{{"the listening sockets cannot be read: " + err.Error(), "set --count to another source"}}
	}
	ports := appPorts(listeners, c.Ports)
	if len(ports) == 0 {
		return c.Ports, []finding{{fmt.Sprintf("the app does not listen (looked for %s)", portNames(c.Ports)), "start it, or set --port to the ports that it listens on"}}
	}
	found := []finding{{text: fmt.Sprintf("the app listens on %v", ports)}}
	t, err := counter.Count(ctx, ports)
	if err != nil {
		remedy := "set --count to another source"
		if c.Count == conns.Prometheus {
			remedy = "is --metrics-url right, may this user reach it, does it tell each --metric?"
		}
		return ports, append(found, finding{"connections cannot be counted: " + err.Error(), remedy})
	}
	return ports, append(found, finding{text: fmt.Sprintf("%d connections in use, %d idle (%s)", t.Active, t.Idle, t.Source)})
}

// appPorts are the ports of the listeners, sorted; with ports given those among them.
func appPorts(listeners []conns.Listener, given []uint16) []uint16 {
	var ports []uint16
	for _, l := range listeners {
		if len(given) == 0 || slices.Contains(given, l.Port) {
			ports = append(ports, l.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func portNames(ports []uint16) string {
	if len(ports) == 0 {
		return "any port"
	}
	return fmt.Sprint(ports)
}

func ownPort(c Config) uint16 {
	p, _ := portOf(c.Listen) // validated by LoadConfig
	return p
}

func checkRegistry(ctx context.Context, c Config, r registry.Registry, p registry.Pod) finding {
	ctx, cancel := context.WithTimeout(ctx, c.RegistryTimeout)
	defer cancel()
	found, err := r.Find(ctx, p)
	if err != nil {
		return finding{fmt.Sprintf("%s %s: %v", r.Kind(), r.URL(), err), "is the URL right, is the registry up, may this Pod reach it?"}
	}
	if len(found) == 0 {
		return finding{fmt.Sprintf("%s %s holds no instance at %v, ports %v", r.Kind(), r.URL(), p.Addresses, p.Ports),
			"has the app registered? with another address set --instance-ip, with another port --port"}
	}
	names := ""
	for _, i := range found {
		names += fmt.Sprintf(" %s %s %s;", i.Service, i.ID, i.Status)
	}
	return finding{text: fmt.Sprintf("%s %s:%s", r.Kind(), r.URL(), names[:len(names)-1])}
}

// checkDeadline compares the longest linger with the time that a drain has.
func checkDeadline(c Config, registries []registry.Registry) finding {
	longest := max(c.Linger, 0)
	if c.Linger < 0 {
		longest = 3 * time.Second
		for _, r := range registries {
			_, l := r.Linger()
			longest = max(longest, l)
		}
	}
	budget := c.GracePeriod - c.Reserve
	text := fmt.Sprintf("a drain takes up to %s and the requests that are under way then; its deadline is after %s (grace period %s less reserve %s)", longest, budget, c.GracePeriod, c.Reserve)
	if longest < budget {
		return finding{text: text}
	}
	return finding{text, fmt.Sprintf("set terminationGracePeriodSeconds and --grace-period to %d or more, or --linger to what your callers' caches add up to", int((longest+c.Reserve).Seconds())+10)}
}
