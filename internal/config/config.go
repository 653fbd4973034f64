// The configuration: what the program can be told, from flags and the environment, and what is refused. settings.go lists
// the settings, reader.go takes their text from where it is given, values.go makes values of it.

package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"prestop/drain/conns"
	"prestop/drain/endpoint"
)

// Config is the settings, validated: whatever is in it can be used.
type Config struct {
	Listen           string
	Registries       []Source
	EurekaInstanceID string
	NacosNamespace   string
	NacosGroup       string
	NacosUsername    string
	NacosPassword    Secret
	RegistryTLS      *tls.Config // nil: the system's roots
	RegistryTimeout  time.Duration
	Services         []string
	Addresses        []netip.Addr
	Names            []string // host names under which the app may have registered
	HostNetwork      bool     // the Pod's address is the node's
	// SharedAddress: others have the app's address too (hostNetwork, several apps on one machine's
	// loopback), so that no port is looked at but Ports.
	SharedAddress   bool
	Ports           []uint16 // nil: found
	Hints           Hints
	ExcludePorts    []uint16
	ExcludePeers    []netip.Prefix
	GracePeriod     time.Duration
	GraceGiven      bool // it was set, and is not the default
	Reserve         time.Duration
	Linger          time.Duration // negative: by registry
	QuietPeriod     time.Duration // 0: off
	MinOpen         int
	IdleAfter       time.Duration
	RequestTimeout  time.Duration
	Count           string
	Metrics         conns.Metrics // for --count prometheus
	DrainCalls      []endpoint.Call
	ReadyRegistered bool
	UnreadyDraining bool
	ReadyFile       string
	Token           Secret
	TerminationLog  string
	LogFormat       string
	LogLevel        slog.Level
	Output          string // of a command: "text" or "json"
	Watch           bool   // of a command
	// Bare: nothing was set, neither by a flag nor by a variable, and this is no Pod: somebody tries it out.
	Bare bool
	// InForce are the settings as they are used, by flag, without secrets.
	InForce map[string]string
	// Notes are what is odd but no reason not to start, a warning each; Said is worth a line.
	Notes, Said []string
	// Wrong is what of the environment of `prestop check` cannot be used; nil if all can.
	Wrong error
	// Given are the flags of the command line that are about no call.
	Given []string

	env        Environment
	givenNames []string // of --instance-ip
}

// secret is a value that is never shown: given, or read from a file each time, so that a rotated one is taken up.
type Secret struct{ value, file string }

// Get returns the secret, "" if none is set. The error names the file. An empty file is an error: where a secret was asked
// for, the moment in which its file is written anew must not do without one.
func (s Secret) Get() (string, error) {
	if s.file == "" {
		return s.value, nil
	}
	b, err := os.ReadFile(s.file)
	text := strings.TrimSpace(string(b))
	if err == nil && text == "" {
		err = fmt.Errorf("%s is empty", s.file)
	}
	return text, err
}

func (s Secret) Set() bool { return s != Secret{} }

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
		if own := []string{"listen", "token", "token-file", "output", "watch"}; r.byFlag(g.Name) && !slices.Contains(own, g.Name) {
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

// parse reads the command line. Where that is wrong, the error joins everything that is wrong with it,
// and the flags hold what could be read, so that the rest can be judged too. It is pflag.ErrHelp for
// --help.
func parse(args []string) (*pflag.FlagSet, error) {
	f := Flags(All)
	err := f.Parse(args)
	switch {
	case err == nil && f.NArg() > 0:
		return f, misplaced(f.Arg(0))
	case err == nil || errors.Is(err, pflag.ErrHelp):
		return f, err
	}
	lenient := Flags(All)
	lenient.ParseErrorsAllowlist.UnknownFlags = true
	if lenient.Parse(args) != nil {
		return Flags(All), wrongFlag(err, args, f)
	}
	problems := []error{wrongFlag(err, args, f)}
	for _, arg := range args {
		name, long := strings.CutPrefix(arg, "--")
		name, _, _ = strings.Cut(name, "=")
		if !long || name == "" || f.Lookup(name) != nil {
			continue
		}
		p := wrongFlag(errors.New("unknown flag: --"+name), args, f)
		if !slices.Contains(problems, error(p)) {
			problems = append(problems, p)
		}
	}
	return lenient, errors.Join(problems...)
}

// Commands are those of prestop besides the sidecar, which has no name.
var Commands = []string{"shutdown", "resume", "status", "check", "install", "version", "help"}

// commandLine is the setting of a Problem that is about no flag.
const commandLine = "command line"

// wrongFlag says what is wrong with a command line, and which flag was probably meant. What follows
// a flag's name may be a secret: -token=… with one dash is a group of letters to pflag.
func wrongFlag(err error, args []string, f *pflag.FlagSet) Problem {
	wrong, _, _ := strings.Cut(err.Error(), " in -")
	wrong, _, _ = strings.Cut(wrong, "=")
	p := Problem{Setting: commandLine, Wrong: wrong, Remedy: "see prestop --help"}
	var known []string
	f.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if _, name, found := strings.Cut(wrong, "unknown flag: --"); found {
		if near := Nearest(name, known); near != "" {
			p.Remedy = "is --" + near + " meant? " + p.Remedy
		}
	}
	if strings.Contains(wrong, "shorthand") {
		p.Remedy = "flags begin with two dashes; " + p.Remedy
		for _, arg := range args {
			name, _, _ := strings.Cut(arg, "=")
			if slices.Contains(known, strings.TrimPrefix(name, "-")) && !strings.HasPrefix(name, "--") {
				p.Remedy = "flags begin with two dashes: -" + name
			}
		}
	}
	return p
}

// misplaced says what is wrong with a word behind the flags.
func misplaced(word string) Problem {
	p := Problem{
		Setting: commandLine, Value: word, Wrong: "is not expected here",
		Remedy: "a command comes before the flags; see prestop --help",
	}
	if near := Nearest(word, Commands); near != "" && near != word {
		p.Remedy = "is the command " + near + " meant? " + p.Remedy
	}
	return p
}

// notHere says where a flag belongs that a command does not have.
func notHere(command, flag string) string {
	if s := Lookup(flag); s.CommandsOnly {
		return "is no flag here; it belongs to prestop " + strings.Join(s.Of, " and prestop ")
	}
	return "is no flag of prestop " + command + "; it belongs to the sidecar"
}

// OwnPort is the port that prestop listens on; 0 where any will do.
func (c Config) OwnPort() uint16 {
	p, _ := portOf(c.Listen) // listen has noted what is wrong with it
	return p
}

// AboutCommandLine reports whether a part of err, of Load, is about the command line, and not about the
// environment.
func AboutCommandLine(err error) bool {
	if all, joined := err.(interface{ Unwrap() []error }); joined {
		return slices.ContainsFunc(all.Unwrap(), AboutCommandLine)
	}
	p := Problem{}
	return !errors.As(err, &p) || strings.HasPrefix(p.Setting, "--") || p.Setting == commandLine
}

// call reads what a call to the running sidecar needs. It runs in the app's container too, in whatever
// environment that has: a token of the environment that cannot be read is a note.
func (r *reader) call(c *Config) {
	c.Listen = r.listen()
	before := len(r.problems)
	c.Token = r.secret("token")
	if r.byFlag("token") || r.byFlag("token-file") || len(r.problems) == before {
		return
	}
	for _, p := range r.problems[before:] {
		r.notes = append(r.notes, p.Error())
	}
	r.problems = r.problems[:before]
	c.Token.file = ""
}

// config reads everything that the sidecar has, noting every problem on the way.
func (r *reader) config(c *Config) {
	r.registryHints()
	c.Hints = r.hints()
	c.Listen = r.listen()
	c.Registries = r.sources()
	c.EurekaInstanceID = r.string("eureka-instance-id")
	c.NacosNamespace = r.string("nacos-namespace")
	c.NacosGroup = r.string("nacos-group")
	c.NacosUsername = r.string("nacos-username")
	c.NacosPassword = r.secret("nacos-password")
	c.RegistryTLS = r.tls()
	c.RegistryTimeout = r.duration("registry-timeout", true)
	c.Services = r.list("service")
	c.Ports = r.ports("port")
	c.ExcludePorts = r.ports("exclude-port")
	c.ExcludePeers = r.prefixes("exclude-peer")
	c.GracePeriod = r.duration("grace-period", true)
	c.GraceGiven = r.given("grace-period")
	c.Reserve = r.duration("reserve", false)
	if !r.given("reserve") && c.Reserve > c.GracePeriod/2 {
		c.Reserve = c.GracePeriod / 2 // a short grace period is no reason not to start
	}
	c.Linger = -1
	c.MinOpen = r.number("min-open-connections")
	c.IdleAfter = r.duration("idle-after", false)
	c.RequestTimeout = r.duration("request-timeout", false)
	c.Count = r.choice("count", conns.Auto, conns.Netlink, conns.Proc, conns.Prometheus)
	c.Metrics = r.metrics()
	c.DrainCalls = r.calls()
	c.ReadyRegistered = r.bool("ready-when-registered")
	c.UnreadyDraining = r.bool("unready-when-draining")
	c.ReadyFile = r.string("ready-file")
	c.Token = r.secret("token")
	c.TerminationLog = r.string("termination-log")
	c.LogFormat = r.choice("log-format", "json", "text")
	if s := r.string("quiet-period"); s != "" && s != "off" {
		c.QuietPeriod = r.duration("quiet-period", false)
	}
	if r.string("linger") != "" {
		c.Linger = r.duration("linger", false)
	}
	if err := c.LogLevel.UnmarshalText([]byte(r.choice("log-level", "debug", "info", "warn", "error"))); err != nil {
		c.LogLevel = slog.LevelInfo // noted by choice
	}
	r.identity(c)
	r.together(c)
	r.notes = append(r.notes, unknownVariables(r.env)...)
	c.InForce = r.inForce(*c)
	c.Bare = r.env.get("KUBERNETES_SERVICE_HOST") == "" && r.env.get("POD_IP") == "" && r.env.get("POD_IPS") == ""
	r.flags.Visit(func(g *pflag.Flag) { c.Bare = c.Bare && Lookup(g.Name).CommandsOnly })
}

// inForce are the settings as they are used, by flag, without secrets.
func (r *reader) inForce(c Config) map[string]string {
	all := map[string]string{}
	for _, s := range settings {
		text := r.string(s.Flag)
		switch s.Flag {
		case "instance-ip":
			text = c.known()
		case "reserve":
			text = c.Reserve.String()
		case "port":
			text = strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Ports), " ", ","), "[]")
		default:
			text = shown(s.Flag, text)
		}
		if s.Secret && r.string(s.Flag) != "" {
			text = isSet
		}
		if i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Flag == s.Flag }); i >= 0 {
			text = showClusters(c.clusters(kinds[i].Name))
		}
		if text != "" && !s.CommandsOnly {
			all[s.Flag] = text
		}
	}
	return all
}

// known are the addresses by which the Pod is known, and the names that were given, as a list.
func (c Config) known() string {
	all := slices.Clone(c.givenNames)
	for _, a := range c.Addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}

// isSet stands for a secret in the settings that are told.
const isSet = "(set)"

// hiddenLogin stands for the user and the password of a URL.
const hiddenLogin = "hidden"

// showClusters is a setting of URLs without their users and passwords.
func showClusters(clusters [][]*url.URL) string {
	var all []string
	for _, cluster := range clusters {
		var servers []string
		for _, u := range cluster {
			v := *u
			if v.RawQuery = ""; v.User != nil {
				v.User = url.User(hiddenLogin)
			}
			servers = append(servers, v.String())
		}
		all = append(all, strings.Join(servers, ","))
	}
	return strings.Join(all, ";")
}

// together checks what depends on more than one setting.
func (r *reader) together(c *Config) {
	if c.GracePeriod > 0 && c.Reserve >= c.GracePeriod {
		r.problem("reserve", fmt.Sprintf("leaves nothing of the grace period of %s", c.GracePeriod),
			"give less than --grace-period, or raise that and the Pod's terminationGracePeriodSeconds")
	}
	if budget := c.GracePeriod - c.Reserve; c.Linger > budget && budget > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("the linger of %s does not fit into the %s before the deadline (grace period %s less reserve %s): every drain will expire; raise terminationGracePeriodSeconds and --grace-period", c.Linger, budget, c.GracePeriod, c.Reserve))
	}
	switch {
	case !c.NacosPassword.Set() || c.NacosUsername != "":
	case r.hinted["nacos-password"]:
		r.notes = append(r.notes, r.from["nacos-password"]+" is not used, as there is no user beside it; set --nacos-username")
		c.NacosPassword = Secret{}
	default:
		r.problem("nacos-username", "is missing beside a password", "set --nacos-username, or drop the password")
	}
	if c.QuietPeriod > 0 && c.Count == conns.Proc {
		r.problem("quiet-period", "cannot be seen in /proc, which does not tell when clients last said something", "set --count to netlink or auto, or drop it")
	}
	if c.QuietPeriod > 0 && c.Linger >= 0 && c.QuietPeriod >= c.Linger {
		c.Notes = append(c.Notes, QuietNote(c.QuietPeriod, c.Linger))
	}
	r.metricsBelong(c)
	r.ownPort(c)
	switch {
	case !c.HostNetwork || len(c.Ports) > 0:
	case len(c.Hints.Ports) > 0:
		c.Ports = c.Hints.Ports
		r.notes = append(r.notes, fmt.Sprintf("with hostNetwork (HOST_IP is the Pod's address) no port is looked at but %v, the app's SERVER_PORT; set --port if it has others", c.Ports))
	default:
		r.problem("port", "is needed with hostNetwork (HOST_IP is the Pod's address), where other Pods' instances and ports look like ours", "set --port to the app's ports")
	}
}

// QuietNote says that a quiet period is of no use.
func QuietNote(quiet, linger time.Duration) string {
	return fmt.Sprintf("the quiet period of %s is not shorter than the linger of %s, so it never ends that early: make it shorter, or drop it", quiet, linger)
}

// metricsBelong wants what --count prometheus needs, and refuses what nothing else reads.
func (r *reader) metricsBelong(c *Config) {
	needed := map[string]bool{"metrics-url": true, "metric": true, "metric-exclude": false}
	for _, flag := range []string{"metrics-url", "metric", "metric-exclude"} {
		switch given := r.string(flag) != ""; {
		case given && c.Count != conns.Prometheus:
			r.problem(flag, "is given, but connections are not counted by metrics", "set --count prometheus, or drop it")
		case !given && c.Count == conns.Prometheus && needed[flag]:
			r.problem(flag, "is missing beside --count prometheus", "give it, e.g. "+map[string]string{
				"metrics-url": "unix:///admin/admin.sock:/stats/prometheus", "metric": "envoy_http_downstream_cx_active",
			}[flag])
		}
	}
}

// ownPort refuses the ports on which no app can be counted.
func (r *reader) ownPort(c *Config) {
	own, _ := portOf(c.Listen) // listen has noted what is wrong with it
	for _, p := range c.Ports {
		switch {
		case p == own && own != 0:
			r.problem("port", fmt.Sprintf("%d is the port that prestop itself listens on", p), "set --listen to another one, and the hook with it")
		case slices.Contains(c.ExcludePorts, p):
			r.problem("port", fmt.Sprintf("%d is excluded by %s", p, r.from["exclude-port"]), "take it out of one of the two")
		}
	}
}

func (r *reader) listen() string {
	s := r.string("listen")
	if _, err := portOf(s); err != nil {
		r.problem("listen", "is not an address to listen on", "give host:port or :port, e.g. :8090")
	}
	return s
}
