package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"prestop/drain"
	"prestop/registry"
)

// finding is one line of a check: what is so, and what to do if that is a problem.
type finding struct {
	About  string `json:"about"` // sidecar, hook, app, connections, registry or drain
	OK     bool   `json:"ok"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // "" when all is well
}

func fine(about, format string, args ...any) finding {
	return finding{About: about, OK: true, Text: fmt.Sprintf(format, args...)}
}

func problem(about, text, remedy string) finding {
	return finding{About: about, Text: text, Remedy: remedy}
}

// checked is everything that a check found out; its JSON is what --output json tells.
type checked struct {
	OK       bool      `json:"ok"`
	Findings []finding `json:"findings"`
	Drain    sum       `json:"drain"`
}

// check looks at everything that a drain needs, and tells each problem with its remedy. It changes nothing.
func check(c Config, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*c.RegistryTimeout+20*time.Second)
	defer cancel()
	now, found := checkSidecar(ctx, c)
	ports, f := checkPod(ctx, c, stderr)
	found = append(found, f...)
	p := pod(c)
	if p.Ports = ports; len(ports) == 0 { // that was said; what was registered by the Pod's address says more
		p.Ports = everyPort()
	}
	found = append(found, checkRegistries(ctx, c, p, now == nil || now.State == "serving")...)
	registries, _ := newRegistries(c)
	s := sumUp(c, registries)
	result := checked{Findings: append(found, s.finding(c)), Drain: s}
	result.OK = !slices.ContainsFunc(result.Findings, func(f finding) bool { return !f.OK })
	return result.report(c, stdout, stderr)
}

func (r checked) report(c Config, stdout, stderr io.Writer) int {
	var err error
	if c.Output == "json" {
		e := json.NewEncoder(stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		_, err = io.WriteString(stdout, r.page(newPaint(stdout)))
	}
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	}
	if !r.OK {
		return exitFailed
	}
	return exitOK
}

// page is the result for people.
func (r checked) page(p paint) string {
	var b strings.Builder
	problems := 0
	for _, f := range r.Findings {
		if f.OK {
			fmt.Fprintf(&b, "%s       %s\n", p.good("ok"), f.Text)
			continue
		}
		problems++
		fmt.Fprintf(&b, "%s  %s\n         %s\n", p.bad("PROBLEM"), f.Text, p.bold(f.Remedy))
	}
	switch problems {
	case 0:
		b.WriteString("\nEverything is in place.\n")
	case 1:
		b.WriteString("\n1 problem.\n")
	default:
		fmt.Fprintf(&b, "\n%d problems.\n", problems)
	}
	return b.String()
}

// checkSidecar asks the running sidecar. It returns what that says of itself, nil if it is not there.
func checkSidecar(ctx context.Context, c Config) (*drain.Status, []finding) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	code, body, err := ask(ctx, c, "/healthz")
	switch {
	case err != nil:
		return nil, []finding{problem("sidecar", err.Error(), "start the sidecar (prestop with the same settings), or set --listen to its address")}
	case code != http.StatusOK:
		return nil, []finding{problem("sidecar", fmt.Sprintf("%s answers %d: %s", c.Listen, code, body), "is that prestop? if it is, read its log; else set --listen to a free port, and the hook with it")}
	}
	now, err := askStatus(ctx, c)
	if err != nil {
		return nil, []finding{problem("sidecar", fmt.Sprintf("what listens on %s is not prestop: %v", c.Listen, err), "set --listen to a free port, and the hook with it")}
	}
	found := []finding{fine("sidecar", "the sidecar answers on %s; its state is %s", c.Listen, now.State)}
	found = append(found, sameSettings(c, now)...)
	return &now, append(found, checkHook(ctx, c)...)
}

// sameSettings finds out whether this command was told the registries that the sidecar has. Flags in the args of its
// container are not there in a `kubectl exec`, while the container's variables are.
func sameSettings(c Config, s drain.Status) []finding {
	var its, ours []string
	for _, r := range s.Registries {
		its = append(its, r.Kind+" "+r.URL)
	}
	registries, _ := newRegistries(c)
	for _, r := range registries {
		ours = append(ours, r.Kind()+" "+r.URL())
	}
	if slices.Equal(its, ours) {
		return nil
	}
	none := func(l []string) string {
		if len(l) == 0 {
			return "no registry"
		}
		return strings.Join(l, ", ")
	}
	return []finding{problem("sidecar", fmt.Sprintf("the running sidecar has other settings than this command: it uses %s, this one was told %s", none(its), none(ours)),
		"give this command the sidecar's flags, or set both by variables, which kubectl exec passes on; restart the sidecar if its settings were changed")}
}

// checkHook looks whether the sidecar is reached where the kubelet calls it: at the Pod's address, not at localhost.
func checkHook(ctx context.Context, c Config) []finding {
	host, port, _ := net.SplitHostPort(c.Listen) // validated by LoadConfig
	for _, a := range c.Addresses {
		if !onThisMachine(a) {
			continue // an address that the app registers by, and not the Pod's
		}
		at := net.JoinHostPort(a.String(), port)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/healthz", nil)
		if err != nil {
			continue
		}
		resp, err := newClient().Do(req)
		if err == nil {
			resp.Body.Close()
			return []finding{fine("hook", "the hook's port is reached at %s", at)}
		}
		return []finding{problem("hook", fmt.Sprintf("the hook's port is not reached at %s, where the kubelet calls it", at),
			fmt.Sprintf("--listen=%s: give no host, or the Pod's address; %q is only reached from inside the Pod", c.Listen, host))}
	}
	return nil
}

// onThisMachine reports whether an interface here has the address.
func onThisMachine(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(i net.Addr) bool {
		p, err := netip.ParsePrefix(i.String())
		return err == nil && (p.Addr().Unmap() == a || a.IsLoopback() && p.Contains(a))
	})
}

// sum is what a drain would take with the settings, in seconds, against its deadline.
type sum struct {
	// Linger is the longest time that callers are given, and LingerOf says whose it is.
	Linger   float64 `json:"lingerSeconds"`
	LingerOf string  `json:"lingerOf"`
	// Leave is the longest time of the leave; a registry that answers takes below a second.
	Leave float64 `json:"leaveSeconds"`
	// Budget is the time until the deadline: grace period less reserve.
	Budget float64 `json:"budgetSeconds"`
	// Rest is what is left of the budget for the requests that are under way when the linger is over; negative if nothing is.
	Rest float64 `json:"restSeconds"`
}

// withoutRegistry is the linger where no registry is set: an endpoint takes 2-3 s to leave every kube-proxy.
const withoutRegistry = 3 * time.Second

func sumUp(c Config, registries []registry.Registry) sum {
	longest, of := withoutRegistry, "no registry, so the time in which kube-proxies learn of it"
	if len(registries) > 0 {
		longest = 0
	}
	for _, r := range registries {
		if _, l := r.Linger(); l > longest {
			longest, of = l, "callers of "+r.Kind()
		}
	}
	if c.Linger >= 0 {
		longest, of = c.Linger, "--linger"
	}
	leave := time.Duration(0)
	if len(registries) > 0 {
		leave = c.RegistryTimeout
	}
	budget := c.GracePeriod - c.Reserve
	return sum{longest.Seconds(), of, leave.Seconds(), budget.Seconds(), (budget - longest).Seconds()}
}

// longest is the longest time that callers are given.
func (s sum) longest() time.Duration { return time.Duration(s.Linger * float64(time.Second)) }

// finding says the sum in words.
func (s sum) finding(c Config) finding {
	given := ""
	if !c.GraceGiven {
		given = ", not set, so Kubernetes' default"
	}
	text := fmt.Sprintf("a drain takes the leave (below 1 s; at most %gs where a registry does not answer) + a linger of up to %gs (%s) + what the requests under way take then; its deadline is after %gs (grace period %s%s, less reserve %s)",
		s.Leave, s.Linger, s.LingerOf, s.Budget, c.GracePeriod, given, c.Reserve)
	if s.Leave == 0 {
		text = fmt.Sprintf("a drain takes a linger of %gs (%s) + what the requests under way take then; its deadline is after %gs (grace period %s%s, less reserve %s)",
			s.Linger, s.LingerOf, s.Budget, c.GracePeriod, given, c.Reserve)
	}
	if quiet := c.QuietPeriod; quiet > 0 && quiet >= s.longest() {
		return problem("drain", quietNote(quiet, s.longest()), "set --quiet-period to the longest pause of a caller that still knows this Pod, or drop it")
	} else if quiet > 0 {
		text += fmt.Sprintf("; the linger is over once no client has said anything for %s", quiet)
	}
	if s.Rest > 0 {
		return fine("drain", "%s: %gs are left for the requests", text, s.Rest)
	}
	return problem("drain", text+": every drain will expire",
		fmt.Sprintf("set terminationGracePeriodSeconds and --grace-period to %d or more, or --linger to what your callers' caches add up to", int(s.Linger+c.Reserve.Seconds())+10))
}
