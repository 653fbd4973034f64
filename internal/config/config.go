// Package config is what prestop can be told, by flags and the environment, and what of it is
// refused. settings.go has the table of settings and kinds.go that of the kinds of registries;
// commandline.go and reader.go take the text of a setting from where it is given, values.go makes a
// value of it, together.go checks what depends on several. The app's own variables are in hints.go,
// and identity.go finds by what the Pod is known.
package config

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"prestop/drain/conns"
	"prestop/drain/endpoint"
	"prestop/drain/scrape"
)

// Config is the settings, validated: whatever is in it can be used.
type Config struct {
	HTTP
	Registry
	Pod
	Drain
	Counting
	Log
	// Output is "text" or "json", and Watch shows a page again and again; both are of a command.
	Output string
	Watch  bool
	// Bare: nothing was set, neither by a flag nor by a variable, and this is no Pod: somebody
	// tries it out.
	Bare bool
	// InForce are the settings as they are used, by flag, without secrets.
	InForce map[string]string
	// Notes are what is odd but no reason not to start, a warning each; Said is worth a line.
	Notes, Said []string
	// Wrong is what of the environment of prestop check cannot be used; nil if all can.
	Wrong error
	// Given are the flags of the command line that only the sidecar has.
	Given []string

	env Environment
}

// HTTP is where the hook is called, and who may.
type HTTP struct {
	Listen                           string
	Token                            Secret
	ReadyRegistered, UnreadyDraining bool
}

// Registry is how the registries are reached, and what is looked for in them.
type Registry struct {
	Registries                                []Source
	EurekaInstanceID                          string
	NacosNamespace, NacosGroup, NacosUsername string
	NacosPassword                             Secret
	RegistryTLS                               *tls.Config // nil: the system's roots
	RegistryTimeout                           time.Duration
}

// Pod is by what the app's instances and ports are known.
type Pod struct {
	Addresses []netip.Addr
	Names     []string // host names under which the app may have registered
	Services  []string // nil: any
	Ports     []uint16 // nil: found
	Hints     Hints
	// HostNetwork: the Pod's address is the node's.
	HostNetwork bool
	// SharedAddress: others have the app's address too (hostNetwork, several apps on one machine's
	// loopback), so that no port is looked at but Ports.
	SharedAddress bool

	givenNames []string // of --instance-ip
}

// Drain is how long a drain takes, and who is told of it.
type Drain struct {
	GracePeriod               time.Duration
	GraceGiven                bool // it was set, and is not the default
	Reserve                   time.Duration
	Linger                    time.Duration // negative: by registry
	QuietPeriod               time.Duration // 0: off
	MinOpen                   int
	DrainCalls                []endpoint.Call
	ReadyFile, TerminationLog string
}

// Counting is which connections are in use.
type Counting struct {
	Count                     string
	Metrics                   scrape.Metrics // for --count prometheus
	ExcludePorts              []uint16
	ExcludePeers              []netip.Prefix
	IdleAfter, RequestTimeout time.Duration
}

// Log is how the log is written.
type Log struct {
	LogFormat string
	LogLevel  slog.Level
}

// Budget is the longest that a drain may take: the time until its deadline.
func (d Drain) Budget() time.Duration { return d.GracePeriod - d.Reserve }

// OwnPort is the port that prestop listens on; 0 where any will do.
func (h HTTP) OwnPort() uint16 {
	p, _ := portOf(h.Listen) // listen has noted what is wrong with it
	return p
}

// Load reads args and the environment for a command, "" being the sidecar. The error joins every
// Problem. It is pflag.ErrHelp for --help. With an error the Config has what could be read.
func Load(command string, args []string, env Environment) (Config, error) {
	return load(command, args, env, realPod())
}

func load(command string, args []string, env Environment, pod podSources) (Config, error) {
	f, wrong := parse(args)
	if errors.Is(wrong, pflag.ErrHelp) {
		return Config{}, wrong
	}
	r := &reader{flags: f, env: env, pod: pod, from: map[string]string{}, hinted: map[string]bool{}}
	if wrong != nil {
		r.problems = append(r.problems, wrong)
	}
	f.VisitAll(func(g *pflag.Flag) {
		r.from[g.Name] = "--" + g.Name
		switch s := Lookup(g.Name); {
		case s.ReadBy(command):
			r.fromEnvironment(g)
		case g.Changed && s.CommandsOnly:
			r.problem(g.Name, notHere(command, g.Name), "drop it")
		case g.Changed: // a hook that works is worth more than a command line without a mistake
			r.notes = append(r.notes, r.fault(g.Name, notHere(command, g.Name), "drop it").Error())
		}
	})
	c := Config{Output: r.choice("output", "text", "json"), Watch: r.bool("watch"), env: env}
	f.Visit(func(g *pflag.Flag) {
		if r.byFlag(g.Name) && len(Lookup(g.Name).Of) == 0 {
			c.Given = append(c.Given, "--"+g.Name)
		}
	})
	if command == "" || command == "check" {
		r.config(&c)
	} else {
		r.call(&c)
	}
	c.Notes, c.Said = append(c.Notes, r.notes...), r.said
	return c, errors.Join(r.problems...)
}

// call reads what a call to the running sidecar needs. It runs in the app's container too, in whatever
// environment that has: what of the environment cannot be read is a note.
func (r *reader) call(c *Config) {
	before := len(r.problems)
	c.Listen, c.Token = r.listen(), r.secret("token")
	if len(r.problems) == before {
		return
	}
	wrong := r.problems[before:]
	r.problems = slices.Clone(r.problems[:before])
	for _, p := range wrong {
		if AboutCommandLine(p) {
			r.problems = append(r.problems, p)
		} else {
			r.notes = append(r.notes, p.Error())
		}
	}
	if _, err := portOf(c.Listen); err != nil {
		c.Listen = Lookup("listen").Default
	}
	if _, err := c.Token.Get(); err != nil {
		c.Token.file = ""
	}
}

// config reads everything that the sidecar has, noting every problem on the way.
func (r *reader) config(c *Config) {
	r.registryHints()
	c.HTTP = HTTP{
		Listen: r.listen(), Token: r.secret("token"),
		ReadyRegistered: r.bool("ready-when-registered"),
		UnreadyDraining: r.bool("unready-when-draining"),
	}
	c.Registry = Registry{
		Registries: r.sources(), EurekaInstanceID: r.string("eureka-instance-id"),
		NacosNamespace: r.string("nacos-namespace"), NacosGroup: r.string("nacos-group"),
		NacosUsername: r.string("nacos-username"), NacosPassword: r.secret("nacos-password"),
		RegistryTLS: r.tls(), RegistryTimeout: r.duration("registry-timeout", true),
	}
	c.Drain = r.drain()
	c.Counting = Counting{
		Count:        r.choice("count", conns.Auto, conns.Netlink, conns.Proc, conns.Prometheus),
		Metrics:      r.metrics(),
		ExcludePorts: r.ports("exclude-port"), ExcludePeers: r.prefixes("exclude-peer"),
		IdleAfter:      r.duration("idle-after", false),
		RequestTimeout: r.duration("request-timeout", false),
	}
	c.LogFormat = r.choice("log-format", "json", "text")
	level := r.choice("log-level", "debug", "info", "warn", "error")
	if err := c.LogLevel.UnmarshalText([]byte(level)); err != nil {
		c.LogLevel = slog.LevelInfo // noted by choice
	}
	c.Pod = r.identity()
	r.together(c)
	r.notes = append(r.notes, unknownVariables(r.env)...)
	c.InForce = r.inForce(*c)
	c.Bare = r.env.get("KUBERNETES_SERVICE_HOST") == "" && r.env.get("POD_IP") == "" &&
		r.env.get("POD_IPS") == ""
	r.flags.Visit(func(g *pflag.Flag) { c.Bare = c.Bare && Lookup(g.Name).CommandsOnly })
}

// drain reads what is of the drain itself.
func (r *reader) drain() Drain {
	d := Drain{
		GracePeriod: r.duration("grace-period", true), GraceGiven: r.given("grace-period"),
		Reserve: r.duration("reserve", false), Linger: -1, MinOpen: r.number("min-open-connections"),
		DrainCalls: r.calls(), ReadyFile: r.string("ready-file"),
		TerminationLog: r.string("termination-log"),
	}
	if !r.given("reserve") && d.Reserve > d.GracePeriod/2 {
		d.Reserve = d.GracePeriod / 2 // a short grace period is no reason not to start
	}
	if s := r.string("quiet-period"); s != "" && s != "off" {
		d.QuietPeriod = r.duration("quiet-period", false)
	}
	if r.string("linger") != "" {
		d.Linger = r.duration("linger", false)
	}
	return d
}
