package main

import (
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// variables are the environment variables that a Spring application already has, by flag; the first
// that is set wins. Those of onlyHints set nothing.
var variables = map[string][]string{
	"eureka-url":         {"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "EUREKA_CLIENT_SERVICE_URL_DEFAULTZONE"},
	"eureka-instance-id": {"EUREKA_INSTANCE_INSTANCE_ID", "EUREKA_INSTANCE_INSTANCEID"},
	"nacos-url":          {"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR", "SPRING_CLOUD_NACOS_SERVER_ADDR"},
	"nacos-namespace":    {"SPRING_CLOUD_NACOS_DISCOVERY_NAMESPACE"},
	"nacos-group":        {"SPRING_CLOUD_NACOS_DISCOVERY_GROUP"},
	"nacos-username":     {"SPRING_CLOUD_NACOS_DISCOVERY_USERNAME", "SPRING_CLOUD_NACOS_USERNAME"},
	"nacos-password":     {"SPRING_CLOUD_NACOS_DISCOVERY_PASSWORD", "SPRING_CLOUD_NACOS_PASSWORD"},
	"service":            {"SPRING_APPLICATION_NAME"},
	"instance-ip":        {"POD_IP", "POD_IPS"},
	"port":               {"SERVER_PORT"},
}

// onlyHints are the flags whose variables of the app are told in the log, and restrict nothing.
var onlyHints = []string{"eureka-instance-id", "nacos-group", "service", "port"}

// group is a part of the help.
type group struct {
	title string
	flags []string
}

// groups are the settings as the help shows them, those that everybody needs first.
var groups = []group{
	{"What everybody sets", []string{"eureka-url", "nacos-url", "grace-period", "linger", "port"}},
	{"Which instances are the app's", []string{"instance-ip", "service", "eureka-instance-id", "nacos-namespace", "nacos-group", "exclude-port"}},
	{"How the registries are reached", []string{
		"nacos-username", "nacos-password", "nacos-password-file", "registry-ca-file", "registry-cert-file", "registry-key-file", "registry-timeout",
	}},
	{"How long a drain takes", []string{"reserve", "quiet-period", "min-open-connections", "idle-after", "request-timeout"}},
	{"Which connections count", []string{"count", "exclude-peer", "metrics-url", "metric", "metric-exclude"}},
	{"Who is told", []string{"drain-call", "ready-when-registered", "unready-when-draining", "ready-file", "termination-log"}},
	{"The hook's port", []string{"listen", "token", "token-file"}},
	{"The log", []string{"log-format", "log-level"}},
}

// ofCommands are the flags that only some commands have, and which. They have no variable: what they say is about one call.
var ofCommands = map[string][]string{
	"output": {"status", "check"},
	"watch":  {"status"},
}

// secrets are the flags whose values are never shown.
var secrets = []string{"nacos-password", "token"}

// flags returns the flag set of the contract, each with its default, unit and the meaning of zero.
func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("prestop", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetOutput(io.Discard) // errors are reported with the other problems
	f.String("listen", ":8090", "`address` for the hook, probes and metrics; the kubelet calls from the node, so all addresses")
	f.String("eureka-url", "", "comma list of Eureka service `URLs` as the app has them; user:password@ is basic auth; a semicolon before those of another cluster; empty: no Eureka")
	f.String("eureka-instance-id", "", "`ID` of the one instance that is the app's; empty: found by the Pod's addresses and ports")
	f.String("nacos-url", "", "comma list of Nacos servers, `host:port` or URL; port 8848 and context path /nacos unless given, http://host:8848/ is the root; a semicolon before those of another cluster; empty: no Nacos")
	f.String("nacos-namespace", "public", "`ID` of the namespace, not its name")
	f.String("nacos-group", "", "the one `group` in which instances are looked for; empty: every group")
	f.String("nacos-username", "", "`name` to log in with; Nacos 3 wants a login for its admin API even where the clients need none; empty: no login")
	f.String("nacos-password", "", "`password` of that user; better by the variable or the file")
	f.String("nacos-password-file", "", "`file` with the password, read at each login")
	f.String("registry-ca-file", "", "PEM `file` of the CAs that the registries' certificates come from; empty: the system's")
	f.String("registry-cert-file", "", "PEM `file` of the client certificate for the registries; empty: none")
	f.String("registry-key-file", "", "PEM `file` of its key")
	f.String("registry-timeout", "10s", "longest `time` to try to leave or rejoin a registry before going on without; it is tried on in the background; more than 0")
	f.String("service", "", "comma list of `names`: no other service is looked at; empty: every service in which the Pod's address is registered")
	f.String("instance-ip", "", "comma list of `addresses` or host names by which the app registers, besides those of this Pod (with hostNetwork: instead); an instance is this Pod's if its address and its port are; empty: those of this Pod")
	f.String("port", "", "comma list of the app's `ports`; empty or 0: every port that is registered or that the Pod listens on, but ours and the excluded; required with hostNetwork")
	f.String("exclude-port", "", "comma list of `ports` that do not count, e.g. those of other sidecars; empty: none")
	f.String("exclude-peer", "", "comma list of client addresses or `CIDRs` that do not count, e.g. scrapers; empty: none")
	f.String("grace-period", "30s", "the Pod's terminationGracePeriodSeconds, a `time`; more than 0")
	f.String("reserve", "5s", "`time` kept back for the app's own stop: deadline = grace period - reserve; 0: none; unless given, no more than half the grace period")
	f.String("linger", "", "`time` that callers may go on after the registries were read back; 0: none; empty: by registry (none 3s, Nacos 47s, Eureka until its cache shows it, then 67s)")
	f.String("quiet-period", "", "end the linger early once no client has connected or sent a byte for this `time`; 0, off or empty: never")
	f.Var(&late{"0", "int"}, "min-open-connections", "the drain is over at this `number` of connections in use; 0, the default: at none")
	f.String("idle-after", "5s", "a connection answered and then quiet for this `time` is not in use; 0: every open connection is in use")
	f.String("request-timeout", "60s", "a request without a byte either way for this `time` is not believed in flight any more; 0: it is believed for ever")
	f.String("count", "auto", "`source` of the connection count: auto (netlink, else proc), netlink, proc, prometheus")
	f.String("metrics-url", "", "`URL` of the metrics for --count prometheus: http://host:port/path, or unix:///admin/admin.sock:/stats/prometheus; empty: none")
	f.Var(&several{}, "metric", "`name` of a metric whose series are connections, summed, e.g. envoy_http_downstream_cx_active; repeatable; empty: none")
	f.Var(&several{}, "metric-exclude", "`label=regexp` of series to leave out; the expression must match the whole value; repeatable; empty: none")
	f.Var(&several{}, "drain-call", "`'METHOD URL'` to call when a drain begins, e.g. 'POST unix:///admin/admin.sock:/healthcheck/fail'; repeatable; empty: none")
	f.Var(&late{"false", "bool"}, "ready-when-registered", "/readyz is 503 until the instance is up in every registry; default off")
	f.Lookup("ready-when-registered").NoOptDefVal = "true"
	f.Var(&late{"false", "bool"}, "unready-when-draining", "/readyz is 503 from the hook on; default off")
	f.Lookup("unready-when-draining").NoOptDefVal = "true"
	f.String("ready-file", "", "`file` that exists while drained; empty: none")
	f.String("token", "", "`secret` that /shutdown, /stopping and /resume require as a bearer token; better by the variable or the file; empty: none")
	f.String("token-file", "", "`file` with that secret, read anew again and again: every one that it has had since the start is good")
	f.String("termination-log", "/dev/termination-log", "`file` that gets the outcome in a line if it can be written, which kubectl describe pod shows; empty: none")
	f.String("log-format", "json", "`format` on standard error: json, text")
	f.String("log-level", "info", "`level`: debug, info, warn, error")
	return f
}

// commandFlags returns the flags of ofCommands.
func commandFlags() *pflag.FlagSet {
	f := pflag.NewFlagSet("prestop", pflag.ContinueOnError)
	f.SortFlags = false
	f.String("output", "text", "`format` of what a command tells: text for people, json for programs; of status and check")
	f.Bool("watch", false, "show the page again each second until interrupted; of status; default off")
	return f
}

// late is a number or a switch whose text is judged together with every other setting: pflag stops at the first value that
// is not of its type, and says nothing of the rest.
type late struct{ text, kind string }

func (l *late) String() string     { return l.text }
func (l *late) Set(s string) error { l.text = s; return nil }
func (l *late) Type() string       { return l.kind }

// several is a flag that may be given more than once. Its text has one value a line.
type several []string

func (s *several) String() string     { return strings.Join(*s, "\n") }
func (s *several) Set(v string) error { *s = append(*s, v); return nil }
func (s *several) Type() string       { return "string" }

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "PRESTOP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
