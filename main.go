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
	"prestop/registry"
	"prestop/registry/eureka"
	"prestop/registry/nacos"
)

// version and commit are set by the linker.
var version, commit = "dev", ""

// Exit codes. 2 is only of `prestop shutdown`.
const (
	exitOK      = 0
	exitFailed  = 1
	exitExpired = 2
	exitUsage   = 64
)

const usage = `prestop stops a Pod without losing a request.

  prestop [flags]            run the sidecar
  prestop shutdown [flags]   exec hook: start or join the drain of the running sidecar and wait for its end;
                             exit 0 drained, 2 expired, 1 not reached
  prestop resume [flags]     cancel a drain and rejoin every registry
  prestop status [flags]     what the running sidecar does and waits for; --watch shows it again and again
  prestop check [flags]      is everything in place for a drain? each problem with its remedy; exit 1 if there is one
  prestop install FOLDER     copy this program into a folder, for an exec hook in an image without a shell
  prestop version

Each flag is also an environment variable: PRESTOP_ and its name in capitals, e.g. PRESTOP_GRACE_PERIOD; the flag wins.
Times are 30s, 1m30s or a bare number of seconds. A flag that is repeatable has one value a line in its variable; a comma
parts two as well.

`

func main() { os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }

// subcommand is one: it gets a valid configuration and returns the exit code.
type subcommand func(c Config, stdout, stderr io.Writer) int

func run(args []string, env func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "install" { // it has no configuration
		return install(args[1:], stdout, stderr)
	}
	name, do := "", subcommand(sidecar)
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
		do = map[string]subcommand{"shutdown": shutdown, "resume": resume, "status": status, "check": check, "version": showVersion, "help": help}[name]
		if do == nil {
			fmt.Fprintf(stderr, "prestop: unknown command %q; see prestop --help\n", name)
			return exitUsage
		}
	}
	c, err := LoadConfig(name, args, env)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return help(c, stdout, stderr)
	case err != nil && (name == "version" || name == "help"):
	case err != nil:
		fmt.Fprintf(stderr, "prestop: the configuration cannot be used:\n%s\n", indent(err.Error()))
		return exitUsage
	}
	return do(c, stdout, stderr)
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

func help(_ Config, stdout, _ io.Writer) int {
	fmt.Fprint(stdout, usage)
	f := flags()
	f.VisitAll(func(f *pflag.Flag) {
		if also := variables[f.Name]; len(also) > 0 {
			f.Usage += " [also " + strings.Join(also, ", ") + "]"
		}
	})
	fmt.Fprintf(stdout, "%s\nOf status and check alone, without a variable:\n\n%s", f.FlagUsages(), commandFlags().FlagUsages())
	return exitOK
}

func showVersion(_ Config, stdout, _ io.Writer) int {
	from := ""
	if commit != "" {
		from = "commit " + commit + ", "
	}
	fmt.Fprintf(stdout, "prestop %s (%s%s %s/%s)\n", version, from, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}

// sidecar runs until it was told to stop and nothing is left to do.
func sidecar(c Config, stdout, stderr io.Writer) int {
	log := newLog(c, stderr)
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
		Registries: registries, Counter: counter, Pod: pod(c), Ports: c.Ports, OnlyPorts: len(c.Ports) > 0, Budget: c.GracePeriod - c.Reserve, Linger: c.Linger, QuietPeriod: c.QuietPeriod,
		RegistryTimeout: c.RegistryTimeout, MinOpen: c.MinOpen, ReadyFile: c.ReadyFile, TerminationLog: c.TerminationLog,
		Calls: c.DrainCalls, Traffic: traffic, Log: log,
	})
	server := drain.NewServer(d, drain.HandlerOptions{
		Tokens: func() ([]string, error) { t, err := c.Token.Get(); return []string{t}, err }, ReadyWhenRegistered: c.ReadyRegistered, UnreadyWhenDraining: c.UnreadyDraining, Version: version, Log: log,
	})
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if c.Bare {
		fmt.Fprintf(stdout, firstTry, listener.Addr().(*net.TCPAddr).Port)
	}
	introduce(c, registries, counter, listener.Addr(), log)

	ctx, now := context.WithCancelCause(context.Background())
	defer now(nil)
	over := make(chan struct{})
	go func() { d.Run(ctx); close(over) }()
	for {
		select {
		case <-over:
			return farewell(ctx, server, log)
		case err := <-failed:
			log.Error("the HTTP server failed", "error", err)
			now(err)
		case s := <-signals:
			log.Info("told to stop", "signal", s.String())
			d.Terminate()
			signals = second(signals, now)
		}
	}
}

// memoryLimit is where garbage is collected eagerly. The container has 16 to 32 MiB, and a registry that sends megabytes of
// nonsense, or a crowd at the hook, would else leave twice as much behind as they hold.
const memoryLimit = 16 << 20

// errForced is why a process that got a second signal ends.
var errForced = errors.New("a second signal")

// second makes the next signal end everything at once.
func second(signals chan os.Signal, now context.CancelCauseFunc) chan os.Signal {
	go func() { <-signals; now(errForced) }()
	return nil
}

// farewell lets the answers that are being written out, and tells how it ended.
func farewell(ctx context.Context, server *drain.Server, log *slog.Logger) int {
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		log.Warn("cut off an HTTP client that was still there", "error", err)
	}
	if err := context.Cause(ctx); err != nil {
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

// openCounter opens the connection count; nil, said in the log, where the kernel cannot be asked. Our own port never counts.
func openCounter(c Config, own net.Addr, log *slog.Logger) conns.Counter {
	port := ownPort(c)
	if a, ok := own.(*net.TCPAddr); ok {
		port = uint16(a.Port)
	}
	counter, err := newCounter(c, port, log)
	if err != nil {
		log.Error("connections cannot be counted; a drain ends with its linger", "error", err)
		return nil
	}
	return counter
}

// newCounter opens the source that is set; the port own is the sidecar's.
func newCounter(c Config, own uint16, log *slog.Logger) (conns.Counter, error) {
	rule := conns.Rule{IdleAfter: c.IdleAfter, RequestTimeout: c.RequestTimeout, Hear: c.QuietPeriod > 0, ExcludePorts: append(slices.Clone(c.ExcludePorts), own), ExcludePeers: c.ExcludePeers}
	if c.Count == conns.Prometheus {
		return conns.OpenMetrics(c.Metrics, rule, log)
	}
	return conns.Open(c.Count, rule, log)
}
