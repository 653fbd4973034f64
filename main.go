// Command prestop stops a Kubernetes Pod without losing a request: the target of the app container's preStop hook.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"prestop/drain"
	"prestop/drain/conns"
	"prestop/drain/scrape"
	"prestop/registry"
	"prestop/registry/eureka"
	"prestop/registry/nacos"
)

// version and commit are set by the linker.
var version, commit = "dev", ""

// Exit codes. 2 and 3 are only of `prestop shutdown`.
const (
	exitOK        = 0
	exitFailed    = 1
	exitExpired   = 2
	exitCancelled = 3
	exitUsage     = 64
)

func main() { os.Exit(run(os.Args[1:], environ(os.Environ()), os.Stdout, os.Stderr)) }

// subcommand is one: it gets a valid configuration and returns the exit code.
type subcommand func(c Config, stdout, stderr io.Writer) int

func run(args []string, env environment, stdout, stderr io.Writer) int {
	name, args, err := parseCommand(args)
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitUsage
	}
	switch name {
	case "help":
		return help(args, stdout)
	case "version":
		return showVersion(stdout)
	case "install": // it has no configuration
		return install(args, stdout, stderr)
	}
	c, err := LoadConfig(name, args, env)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return help([]string{name}, stdout)
	case err != nil && name == "check" && !fromFlags(err):
		c.Wrong = err // a running sidecar may have other settings
	case err != nil:
		fmt.Fprintf(stderr, "prestop: the configuration cannot be used:\n%s\n", indent(err.Error()))
		return exitUsage
	}
	do := map[string]subcommand{"": sidecar, "shutdown": shutdown, "resume": resume, "status": status, "check": check}[name]
	return do(c, stdout, stderr)
}

// parseCommand separates the command's name from its arguments; "" is the sidecar. --help and --version anywhere
// before another command are commands too.
func parseCommand(args []string) (string, []string, error) {
	if len(args) == 0 {
		return "", nil, nil
	}
	switch first := args[0]; {
	case first == "--version" || first == "-v" || first == "-version" || first == "-V":
		return "version", nil, nil
	case first == "-h" || first == "-help" || first == "--help":
		return "help", args[1:], nil
	case strings.HasPrefix(first, "-"):
		return "", args, nil
	case !slices.Contains(commandNames(), first):
		text := fmt.Sprintf("unknown command %q; see prestop --help", first)
		if near := nearestCommand(first); near != "" {
			text = fmt.Sprintf("unknown command %q; is %s meant? see prestop --help", first, near)
		}
		return "", nil, errors.New(text)
	case len(args) > 1 && slices.Contains([]string{"-h", "-help", "--help"}, args[1]):
		return "help", args[:1], nil
	default:
		return first, args[1:], nil
	}
}

// nearestCommand is the command that was probably meant; "" where none is near.
func nearestCommand(word string) string {
	switch strings.ToLower(word) {
	case "stop", "drain", "terminate", "pre-stop":
		return "shutdown"
	case "start", "undrain", "rejoin":
		return "resume"
	}
	return nearest(word, commandNames())
}

// fromFlags reports whether a part of err is about the command line, and not about the environment.
func fromFlags(err error) bool {
	all, joined := err.(interface{ Unwrap() []error })
	if !joined {
		return true
	}
	return slices.ContainsFunc(all.Unwrap(), func(err error) bool {
		p := Problem{}
		return !errors.As(err, &p) || strings.HasPrefix(p.Setting, "--")
	})
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

func showVersion(stdout io.Writer) int {
	from := ""
	if commit != "" {
		from = "commit " + commit + ", "
	}
	fmt.Fprintf(stdout, "prestop %s (%s%s %s/%s)\n", version, from, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}

// sidecar runs until it was told to stop and nothing is left to do.
func sidecar(c Config, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a log whose reader has gone ends nothing
	log, end := openLog(c, stderr)
	defer end()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		log.Error("cannot listen; is another one running in this Pod? set --listen", "address", c.Listen, "error", err)
		return exitFailed
	}
	counter := openCounter(c, listener.Addr(), log)
	if counter != nil {
		defer counter.Close()
	}
	registries, traffic := newRegistries(c)
	d := drain.New(drain.Options{
		Registries: registries, Counter: counter, Pod: pod(c), Ports: c.Ports, OnlyPorts: len(c.Ports) > 0, Budget: c.GracePeriod - c.Reserve, Linger: c.Linger,
		QuietPeriod: c.QuietPeriod, RegistryTimeout: c.RegistryTimeout, MinOpen: c.MinOpen, ReadyFile: c.ReadyFile, TerminationLog: c.TerminationLog,
		Calls: c.DrainCalls, Traffic: traffic, Elsewhere: elsewhere(c), Log: log,
	})
	ctx, now := context.WithCancelCause(context.Background())
	defer now(nil)
	tokens := newTokens(c.Token)
	go tokens.follow(ctx, tokenEvery)
	server := drain.NewServer(d, drain.HandlerOptions{
		Tokens: tokens.all, ReadyWhenRegistered: c.ReadyRegistered, UnreadyWhenDraining: c.UnreadyDraining, Version: version, Settings: c.InForce, Log: log,
	})
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if c.Bare {
		within(time.Second, func() { fmt.Fprintf(stdout, firstTry, listener.Addr().(*net.TCPAddr).Port) })
	}
	introduce(c, registries, counter, listener.Addr(), log)
	go obey(signals, d, now, end, log)
	over := make(chan struct{})
	go func() { d.Run(ctx); close(over) }()
	select {
	case <-over:
	case err := <-failed:
		log.Error("the HTTP server failed", "error", err)
		now(err)
		<-over
	}
	return farewell(ctx, server, log)
}

// within does f, but waits no longer for it than that.
func within(most time.Duration, f func()) {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// waitingTold is how often the log tells what prestop still waits for, once it was told to stop.
const waitingTold = 10 * time.Second

// obey hears the signals. The first one has the drain end by itself. The second one ends the process
// at once, whatever hangs: callers of the hook have forcedWait to get their answers.
func obey(signals chan os.Signal, d *drain.Drain, now context.CancelCauseFunc, end func(), log *slog.Logger) {
	s := <-signals
	log.Info("told to stop", "signal", s.String())
	go func() {
		d.Terminate()
		for again := time.NewTicker(waitingTold); ; <-again.C {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st := d.Status(ctx)
			cancel()
			log.Info("not stopped yet; a second signal ends it now", "state", st.State, "waits_for", stopsWhen(st, time.Now()), "deadline", st.Deadline)
		}
	}()
	<-signals
	now(errForced)
	time.AfterFunc(forcedWait, func() {
		end()
		os.Exit(exitFailed)
	})
}

// forcedWait is what a second signal leaves to those who wait for an answer.
const forcedWait = 300 * time.Millisecond

// stopsWhen says what a process that was told to stop still waits for.
func stopsWhen(s drain.Status, now time.Time) string {
	if s.State == "draining" {
		return waitsFor(s, now)
	}
	return "the app, which still listens"
}

// memoryLimit is where garbage is collected eagerly. The container has 16 to 32 MiB, and a registry that sends megabytes of
// nonsense, or a crowd at the hook, would else leave twice as much behind as they hold.
const memoryLimit = 16 << 20

// errForced is why a process that got a second signal ends.
var errForced = errors.New("a second signal")

// farewell lets the answers that are being written out, and tells how it ended.
func farewell(ctx context.Context, server *drain.Server, log *slog.Logger) int {
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		log.Warn("cut off an HTTP client that was still there", "error", err)
	}
	if err := context.Cause(ctx); err != nil && ctx.Err() != nil {
		log.Warn("stopped before the end", "cause", err.Error())
		return exitFailed
	}
	log.Info("stopped")
	return exitOK
}

// newRegistries connects the configured registries; nothing is called yet. Their requests are counted by kind.
func newRegistries(c Config) ([]registry.Registry, map[string]*registry.Traffic) {
	var all []registry.Registry
	traffic := map[string]*registry.Traffic{}
	client := func() *registry.HTTP { return registry.NewHTTP(c.RegistryTLS, "prestop/"+version) }
	add := func(r registry.Registry, h *registry.HTTP) {
		all = append(all, r)
		traffic[r.Kind()] = h.Traffic()
	}
	h := client()
	for _, urls := range c.Eurekas {
		add(eureka.New(eureka.Options{URLs: urls, InstanceID: c.EurekaInstanceID, HTTP: h}), h)
	}
	h = client()
	for _, servers := range c.Nacoses {
		add(nacos.New(nacos.Options{
			Servers: servers, Namespace: c.NacosNamespace, Group: c.NacosGroup,
			Username: c.NacosUsername, Password: c.NacosPassword.Get, HTTP: h,
		}), h)
	}
	return all, traffic
}

func pod(c Config) registry.Pod {
	return registry.Pod{Addresses: c.Addresses, Names: c.Names, Services: c.Services}
}

// elsewhere returns what looks for whatever a registry holds at the Pod's addresses, by the registry's
// number: on any port, in any group and under any name. It is asked where nothing is found.
func elsewhere(c Config) func(context.Context, int) ([]registry.Instance, error) {
	wide := c
	wide.Services, wide.NacosGroup, wide.EurekaInstanceID = nil, "", ""
	return func(ctx context.Context, i int) ([]registry.Instance, error) {
		registries, _ := newRegistries(wide)
		p := pod(wide)
		p.AnyPort = true
		return registries[i].Find(ctx, p)
	}
}

// openCounter opens the connection count; nil, said in the log, where the kernel cannot be asked. Our own port never counts.
func openCounter(c Config, own net.Addr, log *slog.Logger) conns.Counter {
	port := ownPort(c)
	if a, ok := own.(*net.TCPAddr); ok {
		port = uint16(a.Port)
	}
	counter, err := newCounter(c, port, log)
	if err != nil {
		text := "connections cannot be counted, and it is not seen where the app listens: a drain ends with its linger, and an app that dies is not noticed; "
		if len(c.Ports) == 0 {
			text += "every instance at the Pod's addresses is taken for the app's (--port tells which); "
		}
		log.Error(text+allowCount, "error", err)
		return nil
	}
	return counter
}

// allowCount is what must be allowed for connections to be counted.
const allowCount = "allow a netlink socket (seccomp: socket(AF_NETLINK)), or reading /proc/net/tcp"

// newCounter opens the source that is set; the port own is the sidecar's.
func newCounter(c Config, own uint16, log *slog.Logger) (conns.Counter, error) {
	rule := conns.Rule{IdleAfter: c.IdleAfter, RequestTimeout: c.RequestTimeout, Hear: c.QuietPeriod > 0, ExcludePorts: append(slices.Clone(c.ExcludePorts), own), Own: own, Shared: c.HostNetwork, ExcludePeers: c.ExcludePeers}
	if c.Count == conns.Prometheus {
		return scrape.Open(c.Metrics, rule, log)
	}
	return conns.Open(c.Count, rule, log)
}
