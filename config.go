package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Config is the settings, validated: whatever is in it can be used.
type Config struct {
	Listen           string
	EurekaURLs       []*url.URL
	EurekaInstanceID string
	NacosURLs        []*url.URL
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
	Reserve          time.Duration
	Linger           time.Duration // negative: by registry
	MinOpen          int
	IdleAfter        time.Duration
	RequestTimeout   time.Duration
	Count            string
	ReadyRegistered  bool
	UnreadyDraining  bool
	ReadyFile        string
	Token            secret
	TerminationLog   string
	LogFormat        string
	LogLevel         slog.Level
	// Notes are what is odd but no reason not to start; said in the log.
	Notes []string
}

// secret is a value that is never shown: given, or read from a file each time, so that a rotated one is taken up.
type secret struct{ value, file string }

// Get returns the secret, "" if none is set. The error names the file.
func (s secret) Get() (string, error) {
	if s.file == "" {
		return s.value, nil
	}
	b, err := os.ReadFile(s.file)
	return strings.TrimSpace(string(b)), err
}

func (s secret) set() bool { return s != secret{} }

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Setting is the flag, or the variable that the value came from.
	Setting string
	// Value is what was given; "" for a secret.
	Value string
	// Wrong says what is wrong, Remedy what would do.
	Wrong, Remedy string
}

func (p Problem) Error() string {
	if p.Value == "" {
		return fmt.Sprintf("%s: %s; %s", p.Setting, p.Wrong, p.Remedy)
	}
	return fmt.Sprintf("%s=%q: %s; %s", p.Setting, p.Value, p.Wrong, p.Remedy)
}

// variables are the environment variables that a Spring application already has, by flag; the first that is set wins.
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

// secrets are the flags whose values are never shown.
var secrets = []string{"nacos-password", "token"}

// flags returns the flag set of the contract, each with its default, unit and the meaning of zero.
func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("prestop", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetOutput(io.Discard) // errors are reported with the other problems
	f.String("listen", ":8090", "`address` for the hook, probes and metrics; the kubelet calls from the node, so all addresses")
	f.String("eureka-url", "", "comma list of Eureka service `URLs` as the app has them; user:password@ is basic auth; empty: no Eureka")
	f.String("eureka-instance-id", "", "the app's instance `ID`; empty: found by the Pod's address and port")
	f.String("nacos-url", "", "comma list of Nacos servers, `host:port` or URL; context path /nacos unless given; empty: no Nacos")
	f.String("nacos-namespace", "public", "`ID` of the namespace, not its name")
	f.String("nacos-group", "", "`group` of the instances; empty: every group")
	f.String("nacos-username", "", "`name` to log in with; empty: no login")
	f.String("nacos-password", "", "`password` of that user; better by the variable or the file")
	f.String("nacos-password-file", "", "`file` with the password, read at each login")
	f.String("registry-ca-file", "", "PEM `file` of the CAs that the registries' certificates come from; empty: the system's")
	f.String("registry-cert-file", "", "PEM `file` of the client certificate for the registries; empty: none")
	f.String("registry-key-file", "", "PEM `file` of its key")
	f.String("registry-timeout", "10s", "longest `time` to try to leave or rejoin a registry before going on without; more than 0")
	f.String("service", "", "comma list of `names`; empty: every service in which the Pod's address is registered")
	f.String("instance-ip", "", "comma list of `addresses` of the instances; empty: the addresses of this Pod")
	f.String("port", "", "comma list of the app's `ports`; empty or 0: every port that the Pod listens on but ours and the excluded")
	f.String("exclude-port", "", "comma list of `ports` that do not count, e.g. those of other sidecars; empty: none")
	f.String("exclude-peer", "", "comma list of client addresses or `CIDRs` that do not count, e.g. scrapers; empty: none")
	f.String("grace-period", "30s", "the Pod's terminationGracePeriodSeconds, a `time`; more than 0")
	f.String("reserve", "5s", "`time` kept back for the app's own stop: deadline = grace period - reserve; 0: none")
	f.String("linger", "", "`time` that callers may go on after the registries were read back; 0: none; empty: by registry (none 3s, Nacos 40s, Eureka until its cache shows it, then 65s)")
	f.Int("min-open-connections", 0, "the drain is over at this `number` of connections in use; 0: at none")
	f.String("idle-after", "5s", "a connection answered and then quiet for this `time` is not in use; 0: every open connection is in use")
	f.String("request-timeout", "60s", "a request without a byte either way for this `time` is not believed in flight any more; 0: it is believed for ever")
	f.String("count", "auto", "`source` of the connection count: auto (netlink, else proc), netlink, proc")
	f.Bool("ready-when-registered", false, "/readyz is 503 until the instance is up in every registry")
	f.Bool("unready-when-draining", false, "/readyz is 503 from the hook on")
	f.String("ready-file", "", "`file` that exists while drained; empty: none")
	f.String("token", "", "`secret` that /shutdown and /resume require as a bearer token; better by the variable or the file; empty: none")
	f.String("token-file", "", "`file` with that secret, read at each call")
	f.String("termination-log", "/dev/termination-log", "`file` that gets the outcome in a line if it can be written; empty: none")
	f.String("log-format", "json", "`format` on standard error: json, text")
	f.String("log-level", "info", "`level`: debug, info, warn, error")
	return f
}

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "PRESTOP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// reader takes settings from flags and environment and collects what is wrong with them.
type reader struct {
	flags    *pflag.FlagSet
	env      func(string) string
	from     map[string]string // flag → the setting that its value came from
	problems []error
}

// LoadConfig reads args and the environment. The error joins every Problem; the flag set's own comes alone, as it says
// nothing of the rest. It is pflag.ErrHelp for --help.
func LoadConfig(args []string, env func(string) string) (Config, error) {
	f := flags()
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return Config{}, err
		}
		return Config{}, Problem{Setting: "command line", Wrong: err.Error(), Remedy: "see prestop --help"}
	}
	if f.NArg() > 0 {
		return Config{}, Problem{Setting: "command line", Value: f.Arg(0), Wrong: "unknown command", Remedy: "see prestop --help"}
	}
	r := &reader{flags: f, env: env, from: map[string]string{}}
	f.VisitAll(r.fromEnvironment)
	c := r.config()
	return c, errors.Join(r.problems...)
}

// fromEnvironment sets a flag that the command line has not set.
func (r *reader) fromEnvironment(f *pflag.Flag) {
	r.from[f.Name] = "--" + f.Name
	if f.Changed {
		return
	}
	for i, name := range append([]string{variable(f.Name)}, variables[f.Name]...) {
		value := strings.TrimSpace(r.env(name))
		if value == "" || serviceLink(value) {
			continue
		}
		r.from[f.Name] = name
		if i > 0 {
			value = r.placeholders(f.Name, name, value)
		}
		if err := r.flags.Set(f.Name, value); err != nil {
			r.problem(f.Name, "not a value of its type", "see prestop --help")
		}
		return
	}
}

// serviceLink reports whether the value is one that Kubernetes sets for a Service: one named prestop makes PRESTOP_PORT.
func serviceLink(value string) bool {
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://")
}

// placeholders resolves ${name} and ${name:default} in a Spring application's variable from the environment, as Spring does.
func (r *reader) placeholders(flag, name, value string) string {
	var b strings.Builder
	rest := value
	for {
		before, after, found := strings.Cut(rest, "${")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		inner, tail, closed := strings.Cut(after, "}")
		key, fallback, hasFallback := strings.Cut(inner, ":")
		got := r.env(key)
		if got == "" {
			got = r.env(relaxed(key))
		}
		if !closed || got == "" && !hasFallback {
			r.from[flag] = name
			r.problems = append(r.problems, Problem{name, value, "the placeholder ${" + inner + "} is set nowhere in the environment",
				"set it, or give the value by --" + flag + " or " + variable(flag)})
			return ""
		}
		if got == "" {
			got = fallback
		}
		b.WriteString(got)
		rest = tail
	}
}

// relaxed is the variable that Spring reads a property from.
func relaxed(property string) string {
	return strings.ToUpper(strings.NewReplacer(".", "_", "-", "").Replace(property))
}

// problem notes what is wrong with a flag's value.
func (r *reader) problem(flag, wrong, remedy string) {
	p := Problem{Setting: r.from[flag], Wrong: wrong, Remedy: remedy}
	if !slices.Contains(secrets, flag) {
		p.Value = r.flags.Lookup(flag).Value.String()
	}
	if strings.HasSuffix(flag, "-url") {
		p.Value = withoutUserinfo(p.Value)
	}
	r.problems = append(r.problems, p)
}

// withoutUserinfo blanks what stands before an @ in a list of URLs.
func withoutUserinfo(list string) string {
	parts := strings.Split(list, ",")
	for i, p := range parts {
		if at := strings.LastIndex(p, "@"); at >= 0 {
			scheme, _, found := strings.Cut(p[:at], "://")
			if found {
				parts[i] = scheme + "://…@" + p[at+1:]
			} else {
				parts[i] = "…@" + p[at+1:]
			}
		}
	}
	return strings.Join(parts, ",")
}

func (r *reader) string(flag string) string {
	s, _ := r.flags.GetString(flag) // every flag read here is declared above
	return strings.TrimSpace(s)
}

func (r *reader) bool(flag string) bool {
	b, _ := r.flags.GetBool(flag)
	return b
}

// list returns the non-empty parts of a comma list.
func (r *reader) list(flag string) []string {
	var l []string
	for _, s := range strings.Split(r.string(flag), ",") {
		if s = strings.TrimSpace(s); s != "" {
			l = append(l, s)
		}
	}
	return l
}

// config makes the Config, noting every problem on the way.
func (r *reader) config() Config {
	c := Config{
		Listen:           r.listen(),
		EurekaURLs:       r.urls("eureka-url", eurekaURL),
		EurekaInstanceID: r.string("eureka-instance-id"),
		NacosURLs:        r.urls("nacos-url", nacosURL),
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
		IdleAfter:        r.duration("idle-after", false),
		RequestTimeout:   r.duration("request-timeout", false),
		Count:            r.choice("count", "auto", "netlink", "proc"),
		ReadyRegistered:  r.bool("ready-when-registered"),
		UnreadyDraining:  r.bool("unready-when-draining"),
		ReadyFile:        r.string("ready-file"),
		Token:            r.secret("token"),
		TerminationLog:   r.string("termination-log"),
		LogFormat:        r.choice("log-format", "json", "text"),
	}
	if r.string("linger") != "" {
		c.Linger = r.duration("linger", false)
	}
	if c.MinOpen, _ = r.flags.GetInt("min-open-connections"); c.MinOpen < 0 {
		r.problem("min-open-connections", "is negative", "give 0 or more")
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
	host, err := netip.ParseAddr(strings.TrimSpace(r.env("HOST_IP")))
	if err == nil && slices.Contains(c.Addresses, host.Unmap()) && len(c.Ports) == 0 {
		r.problem("port", "is needed with hostNetwork (HOST_IP is the Pod's address), where other Pods' instances and ports look like ours", "set --port to the app's ports")
	}
}

func (r *reader) listen() string {
	s := r.string("listen")
	if _, err := portOf(s); err != nil {
		r.problem("listen", "is not an address to listen on", "give host:port or :port, e.g. :8090")
	}
	return s
}

func portOf(address string) (uint16, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err
}

func (r *reader) urls(flag string, parse func(string) (*url.URL, error)) []*url.URL {
	var urls []*url.URL
	for _, s := range r.list(flag) {
		u, err := parse(s)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
			err = errors.New("is not an http or https URL with a host")
		}
		if err != nil {
			r.problem(flag, plainURLError(err), "give http://host:port/path, several separated by commas")
			return nil
		}
		urls = append(urls, u)
	}
	return urls
}

// plainURLError leaves out the URL, which may hold a password.
func plainURLError(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return "is not a URL: " + u.Err.Error()
	}
	return err.Error()
}

func eurekaURL(s string) (*url.URL, error) { return url.Parse(s) }

// nacosURL completes a Nacos address as Nacos' own clients do.
func nacosURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Port() == "" && u.Scheme == "http" && u.Hostname() != "" {
		u.Host = net.JoinHostPort(u.Hostname(), "8848")
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/nacos"
	}
	return u, nil
}

func (r *reader) secret(flag string) secret {
	s := secret{value: r.string(flag), file: r.string(flag + "-file")}
	if s.value != "" && s.file != "" {
		r.problem(flag+"-file", "is given beside "+r.from[flag], "give one of the two")
	}
	if s.file != "" {
		if _, err := os.Stat(s.file); err != nil {
			r.problem(flag+"-file", "cannot be read", "mount the Secret there")
		}
	}
	return s
}

func (r *reader) tls() *tls.Config {
	ca, cert, key := r.string("registry-ca-file"), r.string("registry-cert-file"), r.string("registry-key-file")
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		c.RootCAs = x509.NewCertPool()
		if err != nil || !c.RootCAs.AppendCertsFromPEM(pem) {
			r.problem("registry-ca-file", "holds no certificate that can be read", "give a PEM file of the CA")
		}
	}
	switch {
	case cert != "" && key == "":
		r.problem("registry-key-file", "is missing beside --registry-cert-file", "give both")
	case cert == "" && key != "":
		r.problem("registry-cert-file", "is missing beside --registry-key-file", "give both")
	case cert != "":
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			r.problem("registry-cert-file", "does not load together with --registry-key-file: "+err.Error(), "give PEM files that belong together")
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// duration reads a time: Go's form, or a bare number of seconds as in terminationGracePeriodSeconds.
func (r *reader) duration(flag string, positive bool) time.Duration {
	s := r.string(flag)
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.ParseUint(s, 10, 31); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	switch {
	case err != nil:
		r.problem(flag, "is not a time", "give e.g. 30s, 1m30s or a number of seconds")
	case d < 0 || positive && d == 0:
		r.problem(flag, "is too short", "give more than "+map[bool]string{true: "0", false: "or exactly 0"}[positive])
	}
	return d
}

func (r *reader) choice(flag string, values ...string) string {
	s := strings.ToLower(r.string(flag))
	if !slices.Contains(values, s) {
		r.problem(flag, "is not one of its values", "give "+strings.Join(values, ", "))
		return values[0]
	}
	return s
}

// ports reads a comma list of ports. 0 stands for "found": Spring's SERVER_PORT=0 is a random port.
func (r *reader) ports(flag string) []uint16 {
	var ports []uint16
	for _, s := range r.list(flag) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			r.problem(flag, "is not a comma list of ports", "give numbers from 1 to 65535")
			return nil
		}
		if n != 0 {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}

func (r *reader) prefixes(flag string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range r.list(flag) {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil {
			r.problem(flag, "is not a comma list of addresses or CIDRs", "give e.g. 10.0.0.7, 10.1.0.0/16, fd00::/8")
			return nil
		}
		all = append(all, p.Masked())
	}
	return all
}

// addresses are the Pod's: as given, else those of its interfaces.
func (r *reader) addresses() []netip.Addr {
	var all []netip.Addr
	for _, s := range r.list("instance-ip") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			r.problem("instance-ip", "is not a comma list of IP addresses", "give the Pod's, by the downward API's status.podIP")
			return nil
		}
		all = append(all, a.Unmap())
	}
	if len(all) > 0 {
		return all
	}
	found, err := net.InterfaceAddrs()
	if err != nil {
		r.problem("instance-ip", "the Pod's addresses cannot be found: "+err.Error(), "set POD_IP by the downward API's status.podIP")
	}
	for _, f := range found {
		if p, err := netip.ParsePrefix(f.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all
}
