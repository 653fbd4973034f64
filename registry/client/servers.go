package client

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"
)

// lookupTimeout bounds one look-up of a name; an older answer, or the name itself, does without it.
const lookupTimeout = time.Second

// Servers returns the servers behind addrs as they are now: an http address whose name leads to
// several addresses, as that of a headless Service does, stands for a server at each of them, since
// a change has to be read back from every server. Each is still called by that name (the header
// Host), which a proxy before it may go by. Where such a name has addresses of both families the
// IPv4 ones are taken, or each server would be two. Any other address stays what it is: also one of
// https, whose certificate is for the name.
//
// A name that once had several keeps being a server at each address while it has one alone: so
// nothing that is known of that server is lost with the others. A name that cannot be resolved
// keeps the servers that it had. Returns soon after ctx ends, in a second at the latest.
func (h *Client) Servers(ctx context.Context, addrs []*url.URL) []*url.URL {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var all []*url.URL
	for _, a := range addrs {
		for _, s := range h.behind(ctx, a) {
			if !slices.ContainsFunc(all, func(o *url.URL) bool { return o.String() == s.String() }) {
				all = append(all, s)
			}
		}
	}
	return all
}

// behind are the servers of one address.
func (h *Client) behind(ctx context.Context, a *url.URL) []*url.URL {
	host := a.Hostname()
	if _, err := netip.ParseAddr(host); err == nil || a.Scheme != "http" {
		return []*url.URL{a}
	}
	lookup := h.Lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	ips, err := lookup(ctx, host)
	ips, several := h.names.remember(host, oneFamily(ips), err)
	if !several {
		return []*url.URL{a}
	}
	var servers []*url.URL
	for _, ip := range ips {
		s := *a
		s.Host = ip.String()
		if port := a.Port(); port != "" {
			s.Host = net.JoinHostPort(ip.String(), port)
		} else if ip.Is6() {
			s.Host = "[" + ip.String() + "]"
		}
		h.names.call(s.Host, a.Host)
		servers = append(servers, &s)
	}
	return servers
}

// oneFamily are the IPv4 addresses, or the others where there are none, each once and in the order
// in which they came: resolvers change it from answer to answer, which spreads a fleet over the
// servers.
func oneFamily(ips []netip.Addr) []netip.Addr {
	var four, six []netip.Addr
	for _, ip := range ips {
		ip = ip.Unmap()
		switch {
		case ip.Is4() && !slices.Contains(four, ip):
			four = append(four, ip)
		case ip.Is6() && !slices.Contains(six, ip):
			six = append(six, ip)
		}
	}
	if len(four) > 0 {
		return four
	}
	return six
}

// names are the addresses that names had when they were last resolved. Safe for concurrent use.
type names struct {
	mu      sync.Mutex
	of      map[string][]netip.Addr
	several map[string]bool   // there were several at some time
	hosts   map[string]string // how a server is called that is addressed otherwise; both as in a URL
}

// call notes that the server at address is called host.
func (n *names) call(address, host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[string]string{}
	}
	n.hosts[address] = host
}

// as is how the server at address is called; "" as its address.
func (n *names) as(address string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[address]
}

// remember keeps the addresses of host, and returns them; the former ones where err is not nil.
// several says that there were more than one at some time.
func (n *names) remember(host string, ips []netip.Addr, err error) (now []netip.Addr, several bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && len(ips) > 0 {
		if n.of == nil {
			n.of, n.several = map[string][]netip.Addr{}, map[string]bool{}
		}
		n.of[host] = ips
		n.several[host] = n.several[host] || len(ips) > 1
	}
	return n.of[host], n.several[host]
}
