package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"

	"prestop/registry"
)

// checkRegistries asks every server of every registry by itself, since one that is down hides behind the others.
// Serving says that the instances should be in.
func checkRegistries(ctx context.Context, c Config, p registry.Pod, serving bool) []finding {
	servers := oneByOne(c)
	if len(servers) == 0 {
		return []finding{fine("registry", "no registry is set: a drain takes the Pod out of none")}
	}
	if len(c.Addresses) == 0 {
		return []finding{problem("registry", "the Pod has no address by which its instances could be found", "set POD_IP by the downward API's status.podIP")}
	}
	found := make([]finding, len(servers))
	var all sync.WaitGroup
	for i, one := range servers {
		all.Go(func() { found[i] = checkServer(ctx, one, p, serving) })
	}
	all.Wait()
	return found
}

// oneByOne are configurations with one server each.
func oneByOne(c Config) []Config {
	var all []Config
	for _, u := range slices.Concat(c.Eurekas...) {
		one := c
		one.Eurekas, one.Nacoses = [][]*url.URL{{u}}, nil
		all = append(all, one)
	}
	for _, u := range slices.Concat(c.Nacoses...) {
		one := c
		one.Eurekas, one.Nacoses = nil, [][]*url.URL{{u}}
		all = append(all, one)
	}
	return all
}

// checkServer asks the only server of c for the instances of the Pod.
func checkServer(ctx context.Context, c Config, p registry.Pod, serving bool) finding {
	ctx, cancel := context.WithTimeout(ctx, c.RegistryTimeout)
	defer cancel()
	found, err := find(ctx, c, p)
	where := place(c)
	switch {
	case err != nil:
		text, remedy := explain(err)
		return problem("registry", where+": "+text, remedy)
	case len(found) == 0:
		return missing(ctx, c, p)
	}
	var names, out []string
	for _, i := range found {
		names = append(names, fmt.Sprintf("%s %s %s", i.Service, i.ID, i.Status))
		if i.State == registry.Out {
			out = append(out, i.Service+" "+i.ID)
		}
	}
	if serving && len(out) > 0 {
		return problem("registry", fmt.Sprintf("%s: %s is disabled there: no caller is sent to it", where, strings.Join(out, ", ")),
			"if nobody did that on purpose, enable it in the registry's console, or call prestop resume")
	}
	return fine("registry", "%s answers and holds %s", where, strings.Join(names, "; "))
}

func find(ctx context.Context, c Config, p registry.Pod) ([]registry.Instance, error) {
	registries, _ := newRegistries(c)
	return registries[0].Find(ctx, p)
}

func place(c Config) string {
	registries, _ := newRegistries(c)
	return registries[0].Kind() + " " + registries[0].URL()
}

// missing says why a server that answers may hold nothing of the Pod: whatever is registered by its address is looked for.
func missing(ctx context.Context, c Config, p registry.Pod) finding {
	wide := p
	wide.Services, wide.Ports = nil, everyPort()
	text := fmt.Sprintf("%s answers, but holds no instance at %v, ports %v", place(c), p.Addresses, p.Ports)
	if len(p.Ports) == len(wide.Ports) {
		text = fmt.Sprintf("%s answers, but holds no instance at %v", place(c), p.Addresses)
	}
	if len(p.Services) > 0 {
		text += fmt.Sprintf(", of the services %v", p.Services)
	}
	others, err := find(ctx, c, wide)
	if err != nil || len(others) == 0 {
		remedy := "has the app registered? with another address set --instance-ip (POD_IP), with another port --port"
		if len(c.Nacoses) > 0 {
			remedy += ", in another namespace --nacos-namespace (its ID, not its name), in another group --nacos-group"
		}
		return problem("registry", text, remedy)
	}
	var names []string
	for _, i := range others {
		names = append(names, fmt.Sprintf("%s %s (port %d)", i.Service, i.ID, i.Port))
	}
	remedy := "set --port to the registered port, if the app listens on it"
	if slices.ContainsFunc(others, func(i registry.Instance) bool { return !p.Wants(i.Service) }) {
		remedy = "set --service (SPRING_APPLICATION_NAME) to the registered name, or leave it out"
	}
	return problem("registry", text+"; at that address it holds "+strings.Join(names, ", "), remedy)
}

func everyPort() []uint16 {
	all := make([]uint16, 0, 1<<16)
	for port := 1; port < 1<<16; port++ {
		all = append(all, uint16(port))
	}
	return all
}

// explain parts what went wrong from what would help.
func explain(err error) (text, remedy string) {
	text = err.Error()
	if e := (*registry.Error)(nil); errors.As(err, &e) {
		plain := *e
		plain.Remedy = ""
		text, remedy = plain.Error(), e.Remedy
		if remedy == "" && (e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden) {
			remedy = "is the user right, and may it read? Eureka: user:password@ in --eureka-url; Nacos: --nacos-username and --nacos-password"
		}
	}
	if remedy != "" {
		return text, remedy
	}
	name := (*net.DNSError)(nil)
	switch {
	case errors.As(err, &name):
		remedy = fmt.Sprintf("no such name is known here: is %q right, with the namespace of its Service where that is another one?", name.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		remedy = "nobody listens there: is the URL right, with its port, and is the registry up?"
	case isLate(err):
		remedy = "no answer: is the registry up, and does a NetworkPolicy or a firewall keep this Pod from it?"
	default:
		remedy = "is the URL right, with its path, is the registry up, may this Pod reach it?"
	}
	return text, remedy
}

// isLate reports whether nothing but time that ran out is the cause of err, and no answer that was wrong until then.
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
