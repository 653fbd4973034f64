package config

import (
	"bufio"
	"errors"
	"io"
	"iter"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
)

// podSources are where the Pod's addresses and names are found.
type podSources struct {
	interfaces func() ([]net.Addr, error)
	hostname   func() (string, error)
	read       func(file string) ([]byte, error)
}

func realPod() podSources { return podSources{net.InterfaceAddrs, os.Hostname, readSmall} }

// readSmall reads a file, 1 MiB at most.
func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// addresses are those of every interface by which others may reach the Pod: no loopback, nothing
// that is valid on one link alone.
func (p podSources) addresses() ([]netip.Addr, error) {
	found, err := p.interfaces()
	var all []netip.Addr
	for _, f := range found {
		prefix, err := netip.ParsePrefix(f.String())
		if err != nil {
			continue
		}
		if a := plainAddress(prefix.Addr()); a.IsGlobalUnicast() && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all, err
}

// names are those under which the app may have registered: the host's, and those that /etc/hosts
// has for one of the addresses, each with and without its domains, and with the search domains. The
// given ones come first and stay as they are.
func (p podSources) names(given []string, addresses []netip.Addr) []string {
	all := slices.Clone(given)
	add := func(name string) {
		if !slices.ContainsFunc(all, func(o string) bool { return strings.EqualFold(o, name) }) {
			all = append(all, name)
		}
	}
	text, _ := p.read("/etc/resolv.conf") // without it there are no search domains
	search := searchDomains(text)
	for _, name := range p.hostNames(addresses) {
		name = strings.TrimSuffix(strings.TrimSpace(name), ".")
		if !hostName.MatchString(name) || isLocalhost(name) {
			continue
		}
		add(name)
		for short := name; strings.Contains(short, "."); {
			short = short[:strings.LastIndex(short, ".")]
			add(short)
		}
		if !strings.Contains(name, ".") {
			for _, domain := range search {
				add(name + "." + domain)
			}
		}
	}
	return all
}

// hostNames are the names of the host as they are found.
func (p podSources) hostNames(addresses []netip.Addr) []string {
	var all []string
	if name, err := p.hostname(); err == nil {
		all = append(all, name)
	}
	if text, err := p.read("/etc/hostname"); err == nil {
		all = append(all, string(text))
	}
	if text, err := p.read("/etc/hosts"); err == nil {
		all = append(all, hostsOf(text, addresses)...)
	}
	return all
}

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)
	numeric  = regexp.MustCompile(`^[0-9.]+$`)
)

// isLocalhost reports whether every host is called so.
func isLocalhost(name string) bool {
	first, _, _ := strings.Cut(strings.ToLower(name), ".")
	return slices.Contains([]string{"localhost", "localhost4", "localhost6"}, first) ||
		strings.HasPrefix(first, "ip6-")
}

// hostsOf are the names that a hosts file has for one of the addresses. Lines that are none are
// left out.
func hostsOf(text []byte, addresses []netip.Addr) []string {
	var all []string
	for line := range textLines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		a, err := parseAddress(fields[0])
		if err == nil && !a.IsLoopback() && slices.Contains(addresses, a) {
			all = append(all, fields[1:]...)
		}
	}
	return all
}

// searchDomains are those of a resolv.conf.
func searchDomains(text []byte) []string {
	var all []string
	for line := range textLines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "search" && fields[0] != "domain" {
			continue
		}
		all = nil // the last line counts
		for _, d := range fields[1:] {
			if d = strings.Trim(d, "."); hostName.MatchString(d) {
				all = append(all, d)
			}
		}
	}
	return all
}

// textLines are the lines of a text, whatever ends them, without a byte order mark.
func textLines(text []byte) iter.Seq[string] {
	plain := strings.TrimPrefix(strings.ReplaceAll(string(text), "\r", "\n"), "\uFEFF")
	return func(yield func(string) bool) {
		s := bufio.NewScanner(strings.NewReader(plain))
		s.Buffer(nil, 2<<20) // longer than the text may be
		for s.Scan() && yield(s.Text()) {
		}
	}
}

// parseAddress reads an IP address, in brackets and with a zone too.
func parseAddress(s string) (netip.Addr, error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	return plainAddress(a), err
}

// plainAddress is an address in the one form in which addresses are compared.
func plainAddress(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// errNoAddress is what is wrong with a list of addresses and names.
var errNoAddress = errors.New("is not a comma list of IP addresses and host names")

// addressesAndNames reads a list of both.
func addressesAndNames(list []string) (addresses []netip.Addr, names []string, err error) {
	for _, s := range list {
		a, notAddress := parseAddress(s)
		name := strings.TrimSuffix(s, ".")
		switch {
		case notAddress == nil && !a.IsUnspecified():
			addresses = append(addresses, a)
		case notAddress != nil && hostName.MatchString(name) && !numeric.MatchString(name):
			names = append(names, name)
		default:
			return nil, nil, errNoAddress
		}
	}
	return addresses, names, nil
}

// identity reads what the Pod is known by: the addresses and names that are given, and those that
// are found. With hostNetwork they are those given alone, since the interfaces are the node's.
func (r *reader) identity() Pod {
	p := Pod{Services: r.list("service"), Ports: r.ports("port"), Hints: r.hints()}
	given, names, err := addressesAndNames(r.list("instance-ip"))
	if err != nil {
		r.problem("instance-ip", err.Error(),
			"give the Pod's, by the downward API's status.podIP, or leave it out")
	}
	for _, variable := range Lookup("instance-ip").Variables {
		given = append(given,
			r.addressHint(variable, "the addresses of the Pod's interfaces are used")...)
	}
	found, err := r.pod.addresses()
	if err != nil {
		r.notes = append(r.notes,
			"the addresses of the Pod's interfaces cannot be read ("+err.Error()+
				"); set POD_IP by the downward API's status.podIP")
	}
	node := r.addressHint("HOST_IP", "hostNetwork is not noticed by it")
	p.HostNetwork = slices.ContainsFunc(node, func(a netip.Addr) bool {
		return slices.Contains(given, a) || slices.Contains(found, a)
	})
	p.SharedAddress = p.HostNetwork || len(p.Ports) > 0 &&
		slices.ContainsFunc(given, netip.Addr.IsLoopback)
	switch {
	case !p.HostNetwork:
		given = append(given, found...)
	case len(given) == 0:
		given = node
	}
	for _, a := range given {
		if !slices.Contains(p.Addresses, a) {
			p.Addresses = append(p.Addresses, a)
		}
	}
	p.givenNames = names
	p.Names = r.pod.names(names, p.Addresses)
	return p
}

// addressHint reads a variable of the downward API; what is no address there is a warning.
func (r *reader) addressHint(variable, follows string) []netip.Addr {
	value := r.env.get(variable)
	var all []netip.Addr
	for _, s := range split(value) {
		a, err := parseAddress(s)
		if err != nil || a.IsUnspecified() {
			r.unread("instance-ip", variable, value, "it is no address", follows)
			continue
		}
		all = append(all, a)
	}
	return all
}
