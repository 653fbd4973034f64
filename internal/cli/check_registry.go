package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"prestop/drain"
	"prestop/internal/config"
	"prestop/internal/sentence"
	"prestop/registry"
)

// checkRegistries asks every server of every registry by itself, since one that is down hides
// behind the others. Where this command does not know the login it says what the sidecar has seen.
// The app listens on ports.
func checkRegistries(
	ctx context.Context, c config.Config, agent string, p registry.Pod, ports []uint16,
	now *sidecarStatus,
) []finding {
	if len(c.Registries) == 0 {
		return []finding{fine("registry",
			"no registry is set, so nothing is deregistered; --eureka-url or --nacos-url tell of "+
				"one")}
	}
	if len(c.Addresses) == 0 {
		return []finding{problem("registry",
			"the Pod has no address by which its instances could be found",
			"set POD_IP by the downward API's status.podIP")}
	}
	k := registryCheck{
		config: c, agent: agent, pod: p, listening: ports,
		serving: now == nil || now.State == "serving",
	}
	for _, d := range deadPorts(now) {
		k.dead = append(k.dead, d.Port)
	}
	var servers []config.Source
	hidden := map[string]bool{} // the addresses whose login is not known, as the sidecar tells them
	for _, s := range c.Registries {
		if s.HiddenLogin {
			hidden[newRegistry(c.Registry, s, agent).URL()] = true
		} else {
			servers = append(servers, s.OneByOne()...)
		}
	}
	found := make([]finding, len(servers))
	var all sync.WaitGroup
	for i, one := range servers {
		all.Go(func() { found[i] = k.server(ctx, one) })
	}
	all.Wait()
	for _, r := range now.registries() {
		if hidden[r.URL] {
			found = append(found, seenBySidecar(r))
		}
	}
	return found
}

// seenBySidecar is what the sidecar tells of a registry whose login this command does not know.
func seenBySidecar(r drain.RegistryStatus) finding {
	where := r.Kind + " " + r.URL
	var names []string
	for _, i := range r.Instances {
		names = append(names, i.Service+" "+i.ID+" "+i.Status)
	}
	switch {
	case r.Error != "" || !r.Reached:
		text := sentence.Text(r.Error)
		if text == "" {
			text = "the sidecar has not reached it yet"
		}
		return problem("registry", where+": "+text,
			"is the URL right, with its login, and is the registry up? this command was not told "+
				"the login, so it says what the sidecar has seen")
	case len(names) == 0:
		return problem("registry", where+" answers the sidecar, but holds no instance of this Pod",
			"has the app registered, at one of the Pod's addresses?")
	}
	return fine("registry", "%s answers the sidecar and holds %s", where, strings.Join(names, "; "))
}

func (s *sidecarStatus) registries() []drain.RegistryStatus {
	if s == nil {
		return nil
	}
	return s.Registries
}

// registryCheck is what is known of the Pod when a registry is asked.
type registryCheck struct {
	config    config.Config
	agent     string
	pod       registry.Pod
	listening []uint16 // the app's ports
	dead      []uint16 // the app's ports on which it does not listen
	serving   bool     // its instances should be in
}

// server asks one server for the instances of the Pod.
func (k registryCheck) server(ctx context.Context, one config.Source) finding {
	ctx, cancel := context.WithTimeout(ctx, k.config.RegistryTimeout)
	defer cancel()
	r := newRegistry(k.config.Registry, one, k.agent)
	where := r.Kind() + " " + r.URL()
	found, err := r.Find(ctx, k.pod)
	switch {
	case err != nil:
		text, remedy := explain(err, one.Kind)
		return problem("registry", where+": "+text, remedy)
	case len(found) == 0:
		return k.missing(ctx, one, where)
	}
	return k.judge(where, found)
}

// judge tells of the instances that a server holds.
func (k registryCheck) judge(where string, found []registry.Instance) finding {
	var names, out, gone []string
	for _, i := range found {
		names = append(names, fmt.Sprintf("%s %s %s", i.Service, i.ID, i.Status))
		switch {
		case i.State != registry.Out:
		case slices.Contains(k.dead, i.Port) && len(k.listening) > 0:
			gone = append(gone, fmt.Sprintf("%s %s, as the app does not listen on %d any more",
				i.Service, i.ID, i.Port))
		case !slices.Contains(k.dead, i.Port) && len(k.listening) > 0:
			out = append(out, i.Service+" "+i.ID)
		}
	}
	switch {
	case !k.serving:
	case len(gone) > 0:
		return problem("app", where+": prestop took out "+strings.Join(gone, "; "), deadRemedy)
	case len(out) > 0:
		return problem("registry", fmt.Sprintf("%s: %s is disabled there: no caller is sent to it",
			where, strings.Join(out, ", ")),
			"if nobody did that on purpose, enable it in the registry's console, or call prestop "+
				"resume")
	}
	return fine("registry", "%s answers and holds %s", where, strings.Join(names, "; "))
}

// missing says why a server that answers may hold nothing of the Pod: whatever is registered at its
// addresses is looked for.
func (k registryCheck) missing(ctx context.Context, one config.Source, where string) finding {
	text := fmt.Sprintf("%s answers, but holds no instance at %s", where, join(k.pod.Addresses))
	if !k.pod.AnyPort {
		text += " with a port of " + list(sorted(k.pod.Ports))
	}
	if len(k.pod.Services) > 0 {
		text += ", of the services " + strings.Join(k.pod.Services, ", ")
	}
	p := k.pod
	p.Services, p.AnyPort = nil, true
	others, err := newRegistry(k.config.Wide().Registry, one, k.agent).Find(ctx, p)
	if err != nil || len(others) == 0 {
		remedy := "has the app registered? with another address set --instance-ip (POD_IP), with " +
			"another port --port"
		if one.Kind.Elsewhere != "" {
			remedy += ", " + one.Kind.Elsewhere
		}
		return problem("registry", text, remedy)
	}
	var names []string
	var ports []uint16
	for _, i := range others {
		names = append(names, fmt.Sprintf("%s %s (port %d)", i.Service, i.ID, i.Port))
		ports = append(ports, i.Port)
	}
	var remedy string
	switch {
	case slices.ContainsFunc(others,
		func(i registry.Instance) bool { return !k.pod.Wants(i.Service) }):
		remedy = "set --service to the registered name, or leave it out"
	case len(k.config.Narrowed(one.Kind)) > 0:
		remedy = "leave out --" + strings.Join(k.config.Narrowed(one.Kind), " and --") +
			", which restricts what is found"
	default:
		remedy = "set --port to the registered port and to those that the app listens on: --port=" +
			list(sorted(append(ports, k.listening...)))
	}
	return problem("registry", text+"; at that address it holds "+strings.Join(names, ", "), remedy)
}

func sorted(ports []uint16) []uint16 {
	all := slices.Clone(ports)
	slices.Sort(all)
	return slices.Compact(all)
}

// join are addresses, separated by commas.
func join(addresses []netip.Addr) string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, ", ")
}

// explain parts what went wrong from what would help.
func explain(err error, kind config.Kind) (text, remedy string) {
	text = err.Error()
	if e := (*registry.Error)(nil); errors.As(err, &e) {
		bare := *e
		bare.Remedy = ""
		text, remedy = bare.Error(), e.Remedy
		refused := e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden
		if refused && !strings.Contains(remedy, "user") {
			remedy = strings.TrimPrefix(remedy+"; is the user right, and may it read? It is given "+
				"by "+kind.Login, "; ")
		}
	}
	text = sentence.Text(text)
	if remedy != "" {
		return text, remedy
	}
	name := (*net.DNSError)(nil)
	switch {
	case errors.As(err, &name):
		remedy = fmt.Sprintf("no such name is known here: is %q right, with the namespace of its "+
			"Service where that is another one?", name.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		remedy = "nobody listens there: is the URL right, with its port, and is the registry up?"
	case isLate(err):
		remedy = "no answer: is the registry up, and does a NetworkPolicy or a firewall keep this " +
			"Pod from it?"
	default:
		remedy = "is the URL right, with its path, is the registry up, may this Pod reach it?"
	}
	return text, remedy
}

// isLate reports whether nothing but time that ran out is the cause of err, and no answer that was
// wrong until then.
func isLate(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !isLate(err) })
	case interface{ Unwrap() error }:
		if e.Unwrap() != nil {
			return isLate(e.Unwrap())
		}
	}
	late, is := err.(interface{ Timeout() bool })
	return is && late.Timeout()
}
