package cli

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

	"prestop/internal/config"
	"prestop/registry"
)

// finding is one line of a check: what is so, and what to do if that is a problem.
type finding struct {
	About  string `json:"about"` // sidecar, settings, hook, app, connections, registry or drain
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

// check looks at everything that a drain needs, and tells each problem with its remedy. It changes
// nothing. It judges the settings that the running sidecar has, and its own where none runs.
func check(c config.Config, build Build, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*c.RegistryTimeout+20*time.Second)
	defer cancel()
	now, found := checkSidecar(ctx, c.HTTP)
	switch {
	case now != nil && now.Settings != nil:
		judged, f := judge(c, now.Settings)
		c, found = judged, append(found, f)
	case c.Wrong != nil:
		fmt.Fprintf(stderr,
			"prestop: no sidecar tells its settings at %s, and those of this command cannot be "+
				"used:\n%s\n", local(c.Listen), indent(c.Wrong.Error()))
		return exitUsage
	default:
		found = append(found, fine("settings",
			"judged with the flags and variables of this command, as no sidecar tells its own"))
	}
	if now != nil {
		found = append(found, checkHook(ctx, c)...)
	}
	ports, f := checkPod(ctx, c, now, stderr)
	found = append(found, f...)
	found = append(found,
		checkRegistries(ctx, c, build.agent(), checkedPod(c, ports, now), ports.app, now)...)
	registries, _ := newRegistries(c.Registry, build.agent())
	s := sumUp(c, registries)
	result := checked{Findings: append(found, s.finding(c)), Drain: s}
	result.OK = !slices.ContainsFunc(result.Findings, func(f finding) bool { return !f.OK })
	return result.report(c, stdout, stderr)
}

// checkedPod is the Pod whose instances are looked for, with every port that may be the app's.
func checkedPod(c config.Config, ports podPorts, now *sidecarStatus) registry.Pod {
	p := pod(c.Pod)
	p.Ports = slices.Clone(ports.app)
	if !c.SharedAddress {
		p.Ports = append(p.Ports, ports.every...)
	}
	if now != nil {
		for _, port := range now.App {
			p.Ports = append(p.Ports, port.Port)
		}
	}
	p.AnyPort = len(p.Ports) == 0 // that was said; what is registered at the address says more
	return p
}

func (r checked) report(c config.Config, stdout, stderr io.Writer) int {
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
			fmt.Fprintf(&b, "%s       %s\n", p.good("ok"),
				strings.ReplaceAll(f.Text, "\n", "\n         "))
			continue
		}
		problems++
		fmt.Fprintf(&b, "%s  %s\n         %s\n", p.bad("PROBLEM"),
			strings.ReplaceAll(f.Text, "\n", "\n         "), p.bold(f.Remedy))
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

// checkSidecar asks the running sidecar. It returns what that says of itself, nil if it is not
// there.
func checkSidecar(ctx context.Context, c config.HTTP) (*sidecarStatus, []finding) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	code, body, err := ask(ctx, c, "/healthz")
	switch {
	case err != nil:
		return nil, []finding{problem("sidecar", err.Error(),
			"start the sidecar (prestop with the same settings), or set --listen to its address")}
	case code != http.StatusOK:
		return nil, []finding{problem("sidecar",
			fmt.Sprintf("%s answers %d: %s", c.Listen, code, body),
			"is that prestop? if it is, read its log; else set --listen to a free port, and the "+
				"hook with it")}
	}
	now, err := askStatus(ctx, c)
	if err != nil {
		return nil, []finding{problem("sidecar", err.Error(),
			"set --listen to a free port, and the hook with it")}
	}
	return &now, []finding{fine("sidecar", "the sidecar answers on %s; its state is %s", c.Listen,
		now.State)}
}

// judge returns the Config of the running sidecar, by what it tells, and says by whose settings is
// judged.
func judge(own config.Config, told map[string]string) (config.Config, finding) {
	c, err := config.Running(own, told)
	if err != nil {
		return own, problem("settings",
			"the settings of the running sidecar cannot be used here: "+
				strings.ReplaceAll(err.Error(), "\n", "; "),
			"call this command in the sidecar's container; it judges its own flags and variables "+
				"instead")
	}
	text := "judged with the settings of the running sidecar"
	if len(own.Given) > 0 {
		text += ", and not with " + strings.Join(own.Given, ", ") + " of this command"
	}
	return c, fine("settings", "%s", text)
}

// checkHook looks whether the sidecar is reached where the kubelet calls it: at the Pod's address,
// not at localhost.
func checkHook(ctx context.Context, c config.Config) []finding {
	host, port, _ := net.SplitHostPort(c.Listen) // validated by config.Load
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
		return []finding{problem("hook",
			fmt.Sprintf("the hook's port is not reached at %s, where the kubelet calls it", at),
			fmt.Sprintf("--listen=%s: give no host, or the Pod's address; %q is only reached from "+
				"inside the Pod", c.Listen, host))}
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
	// Rest is what is left of the budget for the requests that are under way when the linger is
	// over; negative if nothing is.
	Rest float64 `json:"restSeconds"`
}

// withoutRegistry is the linger where no registry is set: an endpoint takes 2-3 s to leave every
// kube-proxy.
const withoutRegistry = 3 * time.Second

func sumUp(c config.Config, registries []registry.Registry) sum {
	longest, of := withoutRegistry, "no registry: kube-proxies need this time to drop the Pod"
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
	budget := c.Budget()
	return sum{longest.Seconds(), of, leave.Seconds(), budget.Seconds(),
		(budget - longest).Seconds()}
}

// longest is the longest time that callers are given.
func (s sum) longest() time.Duration { return time.Duration(s.Linger * float64(time.Second)) }

// finding says the sum in words: the time that a Pod takes to stop, in four lines.
func (s sum) finding(c config.Config) finding {
	given := ""
	if !c.GraceGiven {
		given = ", not set, so Kubernetes' default"
	}
	leave := 0.0
	if s.Leave > 0 {
		leave = min(1, max(0, s.Rest))
	}
	text := fmt.Sprintf("a Pod takes up to %gs to stop, its grace period%s:",
		c.GracePeriod.Seconds(), given)
	if s.Leave > 0 {
		text += fmt.Sprintf("\n%5gs  to deregister; up to %gs where a registry does not answer",
			leave, s.Leave)
	} else {
		text += fmt.Sprintf("\n%5gs  to deregister, as no registry is set", 0.0)
	}
	text += fmt.Sprintf("\n%5gs  until the callers' caches have expired (%s)\n%5gs  for the "+
		"requests that are in flight then\n%5gs  for the app's own stop (--reserve); the deadline "+
		"is before it, after %gs",
		s.Linger, s.LingerOf, max(0, s.Rest-leave), c.Reserve.Seconds(), s.Budget)
	if quiet := c.QuietPeriod; quiet > 0 && quiet >= s.longest() {
		return problem("drain", config.QuietNote(quiet, s.longest()),
			"set --quiet-period to the longest pause of a caller that still knows this Pod, or "+
				"drop it")
	} else if quiet > 0 {
		text += fmt.Sprintf("\nThe wait for the caches is over once no client has said anything "+
			"for %s.", quiet)
	}
	if s.Rest > 0 {
		return fine("drain", "%s", text)
	}
	return problem("drain", text+"\nThat is too long: every drain will hit its deadline.",
		fmt.Sprintf("set terminationGracePeriodSeconds and --grace-period to %d or more, or "+
			"--linger to what your callers' caches add up to", int(s.Linger+c.Reserve.Seconds())+10))
}
