// The configuration: what the program can be told, from flags and the environment, and what is refused. settings.go lists
// the settings, reader.go takes their text from where it is given, values.go makes values of it.

package main

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

	"prestop/drain"
	"prestop/drain/conns"
)

// Config is the settings, validated: whatever is in it can be used.
type Config struct {
	Listen           string
	Eurekas          [][]*url.URL // the servers of each cluster
	EurekaInstanceID string
	Nacoses          [][]*url.URL // the servers of each cluster
	NacosNamespace   string
	NacosGroup       string
	NacosUsername    string
	NacosPassword    secret
	RegistryTLS      *tls.Config // nil: the system's roots
	RegistryTimeout  time.Duration
	Services         []string
	Addresses        []netip.Addr
	Names            []string // host names under which the app may have registered
	Ports            []uint16 // nil: found
	ExcludePorts     []uint16
	ExcludePeers     []netip.Prefix
	GracePeriod      time.Duration
	GraceGiven       bool // it was set, and is not the default
	Reserve          time.Duration
	Linger           time.Duration // negative: by registry
	QuietPeriod      time.Duration // 0: off
	MinOpen          int
	IdleAfter        time.Duration
	RequestTimeout   time.Duration
	Count            string
	Metrics          conns.Metrics // for --count prometheus
	Shared           bool          // hostNetwork: other Pods' connections look like ours
	DrainCalls       []drain.Call
	ReadyRegistered  bool
	UnreadyDraining  bool
	ReadyFile        string
	Token            secret
	TerminationLog   string
	LogFormat        string
	LogLevel         slog.Level
	Output           string // of a command: "text" or "json"
	Watch            bool   // of a command
	// Bare: nothing was set, neither by a flag nor by a variable, and this is no Pod: somebody tries it out.
	Bare bool
	// Notes are what is odd but no reason not to start; said in the log.
	Notes []string
}

// secret is a value that is never shown: given, or read from a file each time, so that a rotated one is taken up.
type secret struct{ value, file string }

// Get returns the secret, "" if none is set. The error names the file. An empty file is an error: where a secret was asked
// for, the moment in which its file is written anew must not do without one.
func (s secret) Get() (string, error) {
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

func (s secret) set() bool { return s != secret{} }

// LoadConfig reads args and the environment for a command, "" being the sidecar. The error joins every Problem; the flag
// set's own comes alone, as it says nothing of the rest. It is pflag.ErrHelp for --help.
func LoadConfig(command string, args []string, env func(string) string) (Config, error) {
	f := flags()
	f.AddFlagSet(commandFlags())
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return Config{}, err
		}
		// What follows the flag's name may be a secret: -token=… with one dash is a group of letters to pflag.
		wrong, _, _ := strings.Cut(err.Error(), " in -")
		wrong, _, _ = strings.Cut(wrong, "=")
		return Config{}, Problem{Setting: "command line", Wrong: wrong, Remedy: "flags begin with two dashes; see prestop --help"}
	}
	if f.NArg() > 0 {
		return Config{}, Problem{Setting: "command line", Value: f.Arg(0), Wrong: "is not expected here", Remedy: "a command comes before the flags; see prestop --help"}
	}
	r := &reader{flags: f, env: env, from: map[string]string{}}
	f.VisitAll(r.fromEnvironment)
	c := r.config()
	c.Output, c.Watch = r.choice("output", "text", "json"), r.bool("watch")
	c.GraceGiven = f.Changed("grace-period")
	c.Bare = env("KUBERNETES_SERVICE_HOST") == ""
	f.Visit(func(g *pflag.Flag) {
		c.Bare = false
		if of, some := ofCommands[g.Name]; some && !slices.Contains(of, command) {
			r.problem(g.Name, "is no flag here", "it belongs to prestop "+strings.Join(of, " and prestop "))
		}
	})
	return c, errors.Join(r.problems...)
}

// config makes the Config, noting every problem on the way.
func (r *reader) config() Config {
	c := Config{
		Listen:           r.listen(),
		Eurekas:          r.clusters("eureka-url", eurekaURL),
		EurekaInstanceID: r.string("eureka-instance-id"),
		Nacoses:          r.clusters("nacos-url", nacosURL),
		NacosNamespace:   r.string("nacos-namespace"),
		NacosGroup:       r.string("nacos-group"),
		NacosUsername:    r.string("nacos-username"),
		NacosPassword:    r.secret("nacos-password"),
		RegistryTLS:      r.tls(),
		RegistryTimeout:  r.duration("registry-timeout", true),
		Services:         r.list("service"),
		Addresses:        r.addresses(),
		Ports:            r.ports("port"),
		ExcludePorts:     r.ports("exclude-port"),
		ExcludePeers:     r.prefixes("exclude-peer"),
		GracePeriod:      r.duration("grace-period", true),
		Reserve:          r.duration("reserve", false),
		Linger:           -1,
		MinOpen:          r.number("min-open-connections"),
		IdleAfter:        r.duration("idle-after", false),
		RequestTimeout:   r.duration("request-timeout", false),
		Count:            r.choice("count", conns.Auto, conns.Netlink, conns.Proc, conns.Prometheus),
		Metrics:          r.metrics(),
		DrainCalls:       r.calls(),
		ReadyRegistered:  r.bool("ready-when-registered"),
		UnreadyDraining:  r.bool("unready-when-draining"),
		ReadyFile:        r.string("ready-file"),
		Token:            r.secret("token"),
		TerminationLog:   r.string("termination-log"),
		LogFormat:        r.choice("log-format", "json", "text"),
	}
	if s := r.string("quiet-period"); s != "" && s != "off" {
		c.QuietPeriod = r.duration("quiet-period", false)
	}
	if r.string("linger") != "" {
		c.Linger = r.duration("linger", false)
	}
	if err := c.LogLevel.UnmarshalText([]byte(r.choice("log-level", "debug", "info", "warn", "error"))); err != nil {
		c.LogLevel = slog.LevelInfo // noted by choice
	}
	if name, err := os.Hostname(); err == nil {
		c.Names = []string{name}
	}
	r.together(&c)
	return c
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
	if c.NacosPassword.set() && c.NacosUsername == "" {
		r.problem("nacos-username", "is missing beside a password", "set --nacos-username, or drop the password")
	}
	if c.QuietPeriod > 0 && c.Count == conns.Proc {
		r.problem("quiet-period", "cannot be seen in /proc, which does not tell when clients last said something", "set --count to netlink or auto, or drop it")
	}
	if c.QuietPeriod > 0 && c.Linger >= 0 && c.QuietPeriod >= c.Linger {
		c.Notes = append(c.Notes, quietNote(c.QuietPeriod, c.Linger))
	}
	r.metricsBelong(c)
	r.ownPort(c)
	host, err := netip.ParseAddr(strings.TrimSpace(r.env("HOST_IP")))
	c.Shared = err == nil && slices.Contains(c.Addresses, host.Unmap())
	if c.Shared && len(c.Ports) == 0 {
		r.problem("port", "is needed with hostNetwork (HOST_IP is the Pod's address), where other Pods' instances and ports look like ours", "set --port to the app's ports")
	}
}

// quietNote says that a quiet period is of no use.
func quietNote(quiet, linger time.Duration) string {
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
		case p == own:
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
