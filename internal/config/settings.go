package config

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Setting is one setting: all that is said of it is said in the table.
type Setting struct {
	// Flag is its name, without dashes. Its variable is PRESTOP_ and the name in capitals, but a
	// setting of CommandsOnly has none: it is about one call.
	Flag string
	// Group is the part of the help in which it stands; "" for a setting of CommandsOnly.
	Group string
	// Form is how its text is given.
	Form Form
	// Default is its text where nothing is given.
	Default string
	// Variables are those that a Spring application already has; the first that is set wins.
	Variables []string
	// HintOnly: Variables are told in the log and set nothing.
	HintOnly bool
	// Secret: its value is never shown.
	Secret bool
	// Of are the commands that read it besides the sidecar and check.
	Of []string
	// CommandsOnly: only the commands of Of read it.
	CommandsOnly bool
	// Usage says what it means, with its unit and the meaning of zero and of nothing. The word in
	// backquotes stands for the value.
	Usage string
}

// Form is how a setting's text is given.
type Form int

const (
	// Text is anything.
	Text Form = iota
	// Number is one of 0 or more.
	Number
	// Switch is true or false; the flag alone is true.
	Switch
	// Repeatable is given once for each value; in a variable there is one value a line.
	Repeatable
)

// The groups of the help, in its order: those that everybody needs come first.
const (
	everybody = "What everybody sets"
	identity  = "Which instances are the app's"
	access    = "How the registries are reached"
	duration  = "How long a drain takes"
	counting  = "Which connections count"
	telling   = "Readiness, calls and files"
	hooks     = "The hook's port"
	logging   = "The log"
)

// settings are all settings, in the order of the help.
var settings = []Setting{
	{
		Flag: "eureka-url", Group: everybody,
		Variables: []string{
			"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "EUREKA_CLIENT_SERVICE_URL_DEFAULTZONE",
		},
		Usage: "Eureka service `URLs` as the app has them, separated by commas; user:password@ " +
			"is basic auth; a semicolon before those of another cluster; empty: no Eureka",
	},
	{
		Flag: "nacos-url", Group: everybody,
		Variables: []string{
			"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR", "SPRING_CLOUD_NACOS_SERVER_ADDR",
		},
		Usage: "Nacos servers, separated by commas, `host:port` or URL; port 8848 and context " +
			"path /nacos unless given, http://host:8848/ is the root; a semicolon before " +
			"those of another cluster; empty: no Nacos",
	},
	{
		Flag: "grace-period", Group: everybody, Default: "30s",
		Usage: "the Pod's terminationGracePeriodSeconds, as a `time`; more than 0",
	},
	{
		Flag: "linger", Group: everybody,
		Usage: "`time` to wait for the callers' caches, from when every server was read back; 0: " +
			"none; empty: by registry (Nacos 47s; Eureka 67s after its own cache shows the " +
			"change; none 3s)",
	},
	{
		Flag: "port", Group: everybody, HintOnly: true,
		Variables: []string{"SERVER_PORT"},
		Usage: "the app's `ports`, separated by commas; empty or 0: every port that is " +
			"registered or that the Pod listens on, except prestop's own and the excluded " +
			"ones; required with hostNetwork",
	},
	{
		Flag: "instance-ip", Group: identity,
		Variables: []string{"POD_IP", "POD_IPS"},
		Usage: "`addresses` or host names with which the app registers, separated by commas, in " +
			"addition to those of this Pod (with hostNetwork: instead of them); an instance " +
			"is this Pod's if its address and its port are; empty: those of this Pod",
	},
	{
		Flag: "service", Group: identity, HintOnly: true,
		Variables: []string{"SPRING_APPLICATION_NAME"},
		Usage: "`names` of services, separated by commas: no other service is looked at; empty: " +
			"every service in which the Pod's address is registered",
	},
	{
		Flag: "eureka-instance-id", Group: identity, HintOnly: true,
		Variables: []string{"EUREKA_INSTANCE_INSTANCE_ID", "EUREKA_INSTANCE_INSTANCEID"},
		Usage:     "`ID` of the app's only instance; empty: found by the Pod's addresses and ports",
	},
	{
		Flag: "nacos-namespace", Group: identity, Default: "public",
		Variables: []string{"SPRING_CLOUD_NACOS_DISCOVERY_NAMESPACE"},
		Usage:     "`ID` of the namespace, not its name",
	},
	{
		Flag: "nacos-group", Group: identity, HintOnly: true,
		Variables: []string{"SPRING_CLOUD_NACOS_DISCOVERY_GROUP"},
		Usage:     "the only `group` in which to look for instances; empty: every group",
	},
	{
		Flag: "exclude-port", Group: identity,
		Usage: "`ports` that do not count, separated by commas, e.g. those of other sidecars; " +
			"empty: none",
	},
	{
		Flag: "nacos-username", Group: access,
		Variables: []string{"SPRING_CLOUD_NACOS_DISCOVERY_USERNAME", "SPRING_CLOUD_NACOS_USERNAME"},
		Usage: "`name` to log in with; Nacos 3 wants a login for its admin API even where " +
			"clients need none; empty: no login",
	},
	{
		Flag: "nacos-password", Group: access, Secret: true,
		Variables: []string{"SPRING_CLOUD_NACOS_DISCOVERY_PASSWORD", "SPRING_CLOUD_NACOS_PASSWORD"},
		Usage:     "`password` of that user; better given by the variable or the file",
	},
	{
		Flag: "nacos-password-file", Group: access,
		Usage: "`file` with the password, read at each login",
	},
	{
		Flag: "registry-ca-file", Group: access,
		Usage: "PEM `file` with the CA certificates of the registries; empty: those of the " +
			"system",
	},
	{
		Flag: "registry-cert-file", Group: access,
		Usage: "PEM `file` with the client certificate for the registries; empty: none",
	},
	{
		Flag: "registry-key-file", Group: access,
		Usage: "PEM `file` with the key of that certificate",
	},
	{
		Flag: "registry-timeout", Group: access, Default: "10s",
		Usage: "longest `time` to retry a registry before the drain goes on without it; retries " +
			"go on in the background; more than 0",
	},
	{
		Flag: "reserve", Group: duration, Default: "5s",
		Usage: "`time` kept back for the app's own stop: deadline = grace period - reserve; 0: " +
			"none; unless given, at most half the grace period",
	},
	{
		Flag: "quiet-period", Group: duration,
		Usage: "end the wait for the callers' caches early when no client has connected or sent " +
			"a byte for this `time`; 0, off or empty: never",
	},
	{
		Flag: "min-open-connections", Group: duration, Form: Number, Default: "0",
		Usage: "the drain ends at this `number` of connections in use; 0, the default: at none",
	},
	{
		Flag: "idle-after", Group: duration, Default: "5s",
		Usage: "a connection is idle when its last request was answered and it was silent for " +
			"this `time`; 0: every open connection is in use",
	},
	{
		Flag: "request-timeout", Group: duration, Default: "60s",
		Usage: "a request counts as finished after this `time` without a byte in either " +
			"direction; 0: never",
	},
	{
		Flag: "count", Group: counting, Default: "auto",
		Usage: "`source` of the connection count: auto (netlink, else proc), netlink, proc, " +
			"prometheus",
	},
	{
		Flag: "exclude-peer", Group: counting,
		Usage: "client addresses or `CIDRs` that do not count, separated by commas, e.g. " +
			"scrapers; empty: none",
	},
	{
		Flag: "metrics-url", Group: counting,
		Usage: "`URL` of the metrics for --count prometheus: http://host:port/path, or " +
			"unix:///admin/admin.sock:/stats/prometheus; empty: none",
	},
	{
		Flag: "metric", Group: counting, Form: Repeatable,
		Usage: "`name` of a metric whose series are added up as connections, e.g. " +
			"envoy_http_downstream_cx_active; repeatable; empty: none",
	},
	{
		Flag: "metric-exclude", Group: counting, Form: Repeatable,
		Usage: "`label=regexp` of series to leave out; the expression must match the whole " +
			"value; repeatable; empty: none",
	},
	{
		Flag: "drain-call", Group: telling, Form: Repeatable,
		Usage: "`'METHOD URL'` to call when a drain starts, e.g. 'POST " +
			"unix:///admin/admin.sock:/healthcheck/fail'; repeatable; empty: none",
	},
	{
		Flag: "ready-when-registered", Group: telling, Form: Switch, Default: "false",
		Usage: "/readyz is 503 until the instance is up in every registry; default off",
	},
	{
		Flag: "unready-when-draining", Group: telling, Form: Switch, Default: "false",
		Usage: "/readyz is 503 once the hook was called; default off",
	},
	{
		Flag: "ready-file", Group: telling,
		Usage: "`file` that exists while the Pod is drained; empty: none",
	},
	{
		Flag: "termination-log", Group: telling, Default: "/dev/termination-log",
		Usage: "`file` to which the outcome is written in one line, if it can be written, and " +
			"which kubectl describe pod shows; empty: none",
	},
	{
		Flag: "listen", Group: hooks, Default: ":8090",
		Of: []string{"shutdown", "resume", "status"},
		Usage: "`address` for the hook, the probes and the metrics; the kubelet calls from the " +
			"node, so give all addresses",
	},
	{
		Flag: "token", Group: hooks, Secret: true, Of: []string{"shutdown", "resume"},
		Usage: "`secret` that /shutdown, /stopping and /resume require as a bearer token; better " +
			"given by the variable or the file; empty: none",
	},
	{
		Flag: "token-file", Group: hooks, Of: []string{"shutdown", "resume"},
		Usage: "`file` with that secret, read again and again: every secret that it has had " +
			"since the start is accepted",
	},
	{
		Flag: "log-format", Group: logging, Default: "json",
		Usage: "`format` on standard error: json, text",
	},
	{
		Flag: "log-level", Group: logging, Default: "info",
		Usage: "`level`: debug, info, warn, error",
	},
	{
		Flag: "output", Default: "text", Of: []string{"status", "check"}, CommandsOnly: true,
		Usage: "`format` of what a command tells: text for people, json for programs; of status " +
			"and check",
	},
	{
		Flag: "watch", Form: Switch, Default: "false", Of: []string{"status"}, CommandsOnly: true,
		Usage: "show the page again each second until interrupted; of status; default off",
	},
}

// Settings returns every setting, in the order of the help.
func Settings() []Setting { return slices.Clone(settings) }

// Groups are the parts of the help, in its order.
func Groups() []string {
	var all []string
	for _, s := range settings {
		if s.Group != "" && !slices.Contains(all, s.Group) {
			all = append(all, s.Group)
		}
	}
	return all
}

// Lookup returns the setting of a flag; a zero one if there is none.
func Lookup(flag string) Setting {
	i := slices.IndexFunc(settings, func(s Setting) bool { return s.Flag == flag })
	if i < 0 {
		return Setting{}
	}
	return settings[i]
}

// Variable is the setting's own environment variable.
func (s Setting) Variable() string {
	return "PRESTOP_" + strings.ToUpper(strings.ReplaceAll(s.Flag, "-", "_"))
}

// ReadBy reports whether a command reads the setting; "" is the sidecar.
func (s Setting) ReadBy(command string) bool {
	return slices.Contains(s.Of, command) || !s.CommandsOnly && (command == "" || command == "check")
}

// Flags returns the flags of the settings that keep wants, in the order of the help.
func Flags(keep func(Setting) bool) *pflag.FlagSet {
	f := pflag.NewFlagSet("prestop", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetOutput(io.Discard) // errors are reported with the other problems
	for _, s := range settings {
		if !keep(s) {
			continue
		}
		switch s.Form {
		case Number:
			f.Var(&late{s.Default, "int"}, s.Flag, s.Usage)
		case Switch:
			f.Var(&late{s.Default, "bool"}, s.Flag, s.Usage)
			f.Lookup(s.Flag).NoOptDefVal = "true"
		case Repeatable:
			f.Var(&several{}, s.Flag, s.Usage)
		default:
			f.String(s.Flag, s.Default, s.Usage)
		}
	}
	return f
}

// All keeps every setting.
func All(Setting) bool { return true }

// late is a number or a switch whose text is judged together with every other setting: pflag stops at
// the first value that is not of its type, and says nothing of the rest.
type late struct{ text, kind string }

func (l *late) String() string     { return l.text }
func (l *late) Set(s string) error { l.text = s; return nil }
func (l *late) Type() string       { return l.kind }

// several is a flag that may be given more than once. Its text has one value a line.
type several []string

func (s *several) String() string     { return strings.Join(*s, "\n") }
func (s *several) Set(v string) error { *s = append(*s, v); return nil }
func (s *several) Type() string       { return "string" }
