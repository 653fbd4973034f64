// Package registry says what a service registry must be able to do for a Pod that stops: the
// contract between the drain and every kind of registry, with the identity of the Pod, the errors
// and the count of requests.
//
// registry/eureka and registry/nacos implement [Registry] over registry/client;
// registry/registrytest judges them.
package registry

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Registry takes the instances of one Pod out of one service registry and puts them back. One
// cluster is one Registry, whatever the number of its servers.
//
// To add a kind (Consul, Polaris…): a package beside eureka and nacos that implements this
// interface, a registrytest.World that starts apps in it and says what their callers read, and
// registrytest.Run, which judges both the real servers and the ones in memory; then a flag, and a
// line where the command connects its registries. Nothing else knows of a kind.
//
// What an implementation must guarantee, in the words of the suite's cases where one checks it:
//
//   - Whose: an instance is the Pod's if its address and a port of it are; others are not touched,
//     even when they have taken over its name or ID. Nothing is asked of the operator that the
//     registry itself knows.
//   - Out means out: Leave returns nil when every server that answers was read back past its
//     caches. A live instance is disabled, never deleted: its next heartbeat would bring it back.
//     It stays out through its heartbeats; whatever undoes it (a restart, a fail-over, the app's
//     new registration) is seen by Check, and repeating Leave heals it.
//   - Back means back, as it was: a Rejoin leaves no mark that would take the instance out again
//     after a crash; weight and metadata survive. What an earlier life of the Pod left is undone by
//     it too.
//   - The app's own word stands: what it said of itself last is that again after a Leave and a
//     Rejoin. What it registered out of service is never made In, and no live record is deleted for
//     it.
//   - A stranger's record is a stranger's: one that a dead Pod left at our address is never made
//     In.
//   - Idempotent: repeating what succeeded changes nothing, and heals a server that missed it. With
//     nothing remembered Leave, Check, Rejoin and Forget do nothing.
//   - Patient: what may pass (no answer, 5xx, a page that is not the registry's) is tried again
//     inside the method, with backoff and jitter and on every address, until ctx ends, so a fleet
//     that leaves at once does not move in step. One server that is dead or hangs does not hold up
//     what another one can do.
//   - Prompt: every method returns soon after its context ends, with ctx's error wrapped; a refusal
//     that trying again cannot change ([Error.Final]) is returned at once, with its remedy.
//   - Never absent by mistake: what is wrong with a server is an error, not a Pod without an
//     instance.
//   - Cheap: a leave is a handful of requests to each server, and Check one for each instance and
//     server at the most; the registry's whole list is read as a stream, by Find alone unless
//     asking for each of very many would cost more.
//   - Silent: no error, no String and no URL holds a password, a token or a URL's userinfo. Bodies
//     are read up to a bound.
//   - It is used by one goroutine at a time and has none of its own between calls.
type Registry interface {
	// Kind is the registry's product in lower case: "eureka" or "nacos".
	Kind() string
	// URL is the configured addresses, comma separated, without userinfo; for logs and /status.
	URL() string
	// Linger is how long callers with default settings may go on calling: after Published has said
	// true, and, longer or the same, after Leave where Published cannot tell.
	Linger() (afterPublished, afterLeave time.Duration)

	// Find looks up which instances are pod's and remembers them, besides those that it remembered
	// before; an instance that has vanished from every server is forgotten. It returns what is
	// remembered, each with its state as it is on the servers now, or the remembered ones and an
	// error if no server could be asked.
	Find(ctx context.Context, pod Pod) ([]Instance, error)
	// Only chooses which of the remembered instances Leave, Rejoin and Forget change from now on:
	// those on ports, or every one if there is none, as in the beginning. It makes no call.
	Only(ports []uint16)
	// Leave disables every chosen instance on every server and returns nil when each has been read
	// back from every server that answers as Out, Down or Absent. The error names the servers and
	// instances that could not be confirmed.
	Leave(ctx context.Context) error
	// Published looks once at what callers read from every server that answers (its cached list,
	// not the registry behind it) and reports whether that shows that the remembered instances
	// left. The caller repeats it every second or two after a Leave; an error means that it cannot
	// be told now, a Final one that it never can.
	Published(ctx context.Context) (bool, error)
	// Check looks at every remembered instance on every server, once, cheaply and past the server's
	// caches. Where servers that answered disagree between In and Out it says what was not asked
	// for last: In after a Leave, Out otherwise; so that the caller repeats what it asked for.
	Check(ctx context.Context) ([]Instance, error)
	// Rejoin undoes Leave, and whatever an earlier incarnation of this Pod left behind, for every
	// chosen instance that is Out; returns nil when each has been read back as In, Down or Absent.
	// It never turns the app's own Down into In.
	Rejoin(ctx context.Context) error
	// Forget deletes what the servers still hold of the chosen instances. The caller knows that
	// nothing listens there.
	Forget(ctx context.Context) error
}

// State is what an instance's status means to its callers.
type State int

const (
	// Absent: no server holds the instance.
	Absent State = iota
	// In: callers are sent to it.
	In
	// Out: disabled from outside (Eureka: OUT_OF_SERVICE; Nacos: enabled=false). Leave makes it so,
	// Rejoin undoes it.
	Out
	// Down: callers are not sent to it, and it is not ours to change. The app itself says that it
	// is not ready (Eureka: DOWN, STARTING; Nacos: unhealthy), or registered itself out of service,
	// or the record may be a dead Pod's that had our address before us.
	Down
)

// String returns the lower-case name.
func (s State) String() string {
	switch s {
	case In:
		return "in"
	case Out:
		return "out"
	case Down:
		return "down"
	}
	return "absent"
}

// Instance is one record of this Pod in a registry.
type Instance struct {
	// ID is the registry's own name for it: Eureka's instance ID; Nacos:
	// group@@service@cluster@ip:port with the namespace in front where it is not public.
	ID string
	// Service is the name that callers look it up by.
	Service string
	// Port is the one that callers connect to.
	Port uint16
	// Status is the registry's own word (UP, OUT_OF_SERVICE, enabled, disabled…), for people.
	Status string
	// State is what Status means.
	State State
}

// Pod tells which instances are ours: those whose address and port are both the Pod's.
type Pod struct {
	// Addresses are the Pod's IP addresses.
	Addresses []netip.Addr
	// Names are host names under which the app may have registered instead of an address.
	Names []string
	// Ports are the ports on which the app listens or has listened. Without any, no instance is
	// ours.
	Ports []uint16
	// AnyPort makes every instance at the Pod's address its own: the sockets cannot be seen, so its
	// ports are not known.
	AnyPort bool
	// Services restricts to these names, compared without case; empty means every service.
	Services []string
	// Since is when the Pod got its addresses. Before that they may have been another Pod's, whose
	// records a registry can hold for a while. The zero time is long ago.
	Since time.Time
}

// Owns reports whether an instance registered as host (an address or a name) and one of ports is
// this Pod's. A port of 0 never matches.
func (p Pod) Owns(host string, ports ...uint16) bool {
	return p.hasHost(host) && slices.ContainsFunc(ports, func(port uint16) bool {
		return port != 0 && (p.AnyPort || slices.Contains(p.Ports, port))
	})
}

// hasHost reports whether host is an address or a name of the Pod, however it is spelled.
func (p Pod) hasHost(host string) bool {
	if a, ok := address(host); ok {
		return slices.ContainsFunc(p.Addresses, func(b netip.Addr) bool { return b.Unmap().WithZone("") == a })
	}
	name := func(n string) string { return strings.TrimSuffix(strings.TrimSpace(n), ".") }
	host = name(host)
	return host != "" && slices.ContainsFunc(p.Names, func(n string) bool { return strings.EqualFold(name(n), host) })
}

// address is the IP address that host spells. Frameworks write an IPv6 address in brackets (Spring
// Cloud Alibaba), with a zone, in its long form or in capitals, and an IPv4 address as one that is
// mapped into IPv6.
func address(host string) (netip.Addr, bool) {
	host = strings.TrimSpace(host)
	if inside, ok := strings.CutPrefix(host, "["); ok {
		host, _ = strings.CutSuffix(inside, "]")
	}
	a, err := netip.ParseAddr(host)
	return a.Unmap().WithZone(""), err == nil
}

// Known reports whether an instance can be the Pod's at all.
func (p Pod) Known() bool { return p.AnyPort || len(p.Ports) > 0 }

// Wants reports whether instances of the service are looked for.
func (p Pod) Wants(service string) bool {
	return len(p.Services) == 0 || slices.ContainsFunc(p.Services, func(s string) bool { return strings.EqualFold(s, service) })
}
