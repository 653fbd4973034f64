package config

import (
	"net/url"
	"slices"

	"prestop/registry"
)

// Kind is a kind of registry.
type Kind struct {
	// Name is what the kind is called, as its registry.Registry says.
	Name string
	// Flag has the URLs of its servers.
	Flag string
	// Login says how its user and password are given, and Elsewhere where else an instance may be
	// than where it is looked for.
	Login, Elsewhere string
	// Narrow are the flags that restrict which instances are found in it.
	Narrow []string
	// off are the app's variables that switch its discovery off.
	off []string
	// heldBack is the app's variable, with its value, by which it registers itself out of service until
	// somebody lets it in.
	heldBack [2]string
	// parse reads the address of a server; hint says that it is the app's own word.
	parse func(s string, hint bool) (*url.URL, error)
}

// kinds are the kinds of registries, a row each.
var kinds = []Kind{
	{
		Name: "eureka", Flag: "eureka-url", Login: "user:password@ in --eureka-url",
		Narrow:   []string{"eureka-instance-id"},
		off:      []string{"EUREKA_CLIENT_ENABLED", "EUREKA_CLIENT_REGISTER_WITH_EUREKA"},
		heldBack: [2]string{"EUREKA_INSTANCE_INITIAL_STATUS", "OUT_OF_SERVICE"},
		parse:    func(s string, _ bool) (*url.URL, error) { return url.Parse(s) },
	},
	{
		Name: "nacos", Flag: "nacos-url", Login: "--nacos-username and --nacos-password",
		Elsewhere: "in another namespace --nacos-namespace (its ID, not its name)",
		Narrow:    []string{"nacos-group"},
		off: []string{"SPRING_CLOUD_NACOS_DISCOVERY_ENABLED",
			"SPRING_CLOUD_NACOS_DISCOVERY_REGISTER_ENABLED"},
		heldBack: [2]string{"SPRING_CLOUD_NACOS_DISCOVERY_INSTANCE_ENABLED", "false"},
		parse:    nacosURL,
	},
}

// everyOff are the app's variables that switch every discovery off.
var everyOff = []string{"SPRING_CLOUD_DISCOVERY_ENABLED",
	"SPRING_CLOUD_SERVICE_REGISTRY_AUTO_REGISTRATION_ENABLED"}

// Source is one registry: the servers of one cluster.
type Source struct {
	Kind    Kind
	Servers []*url.URL
	// HiddenLogin: it has a login that is not known here; see Running.
	HiddenLogin bool
	// HeldBack: the app registers itself out of service there, as its own variable tells.
	HeldBack bool
}

// OneByOne are Sources of one server each.
func (s Source) OneByOne() []Source {
	var all []Source
	for _, u := range s.Servers {
		one := s
		one.Servers = []*url.URL{u}
		all = append(all, one)
	}
	return all
}

// sources reads the registries that are set.
func (r *reader) sources() []Source {
	var all []Source
	for _, k := range kinds {
		for _, servers := range r.clusters(k) {
			all = append(all, Source{Kind: k, Servers: servers, HeldBack: r.isHeldBack(k)})
		}
	}
	return all
}

// clusters are the servers of each registry of a kind.
func (c Config) clusters(kind string) [][]*url.URL {
	var all [][]*url.URL
	for _, s := range c.Registries {
		if s.Kind.Name == kind {
			all = append(all, s.Servers)
		}
	}
	return all
}

// Wide is c without what restricts which instances are found.
func (c Config) Wide() Config {
	c.Services, c.NacosGroup, c.EurekaInstanceID = nil, "", ""
	return c
}

// Narrowed are the flags by which c restricts what is found in a registry of the kind.
func (c Config) Narrowed(k Kind) []string {
	return slices.DeleteFunc(slices.Clone(k.Narrow),
		func(flag string) bool { return c.InForce[flag] == "" })
}

// logIn gives the servers the users and passwords that own has for them, and reports whether one is
// missing.
func (s Source) logIn(own Config) (missing bool) {
	known := slices.Concat(own.clusters(s.Kind.Name)...)
	for _, u := range s.Servers {
		if u.User == nil || u.User.String() != hiddenLogin {
			continue
		}
		i := slices.IndexFunc(known, func(o *url.URL) bool {
			return o.User != nil && registry.Redact(o) == registry.Redact(u)
		})
		if i < 0 {
			missing = true
			continue
		}
		u.User = known[i].User
	}
	return missing
}
