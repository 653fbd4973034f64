package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"prestop/drain"
	"prestop/drain/conns"
	"prestop/internal/config"
	"prestop/internal/httpapi"
	"prestop/registry"
)

// sidecar runs until it was told to stop and nothing is left to do.
func sidecar(c config.Config, build Build, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a log whose reader has gone ends nothing
	log, flush := openLog(c.Log, stderr)
	defer flush()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		log.Error("cannot listen; is another one running in this Pod? set --listen", "address",
			c.Listen, "error", err)
		return exitFailed
	}
	d := newDaemon(c, build, listener, log)
	defer d.close()
	go func() { d.failed <- d.server.Serve(listener) }()
	if c.Bare {
		within(time.Second,
			func() { fmt.Fprintf(stdout, firstTry, listener.Addr().(*net.TCPAddr).Port) })
	}
	introduce(c, build, d.registries, d.counter, listener.Addr(), log)
	go d.obey(signals, flush)
	return d.run()
}

// memoryLimit is where garbage is collected eagerly. The container has 16 to 32 MiB, and a registry
// that sends megabytes of nonsense, or thousands of callers at the hook, would else leave twice as
// much behind as they hold.
const memoryLimit = 16 << 20

// daemon is the sidecar and what it is made of.
type daemon struct {
	registries []registry.Registry
	counter    conns.Counter // nil where the kernel cannot be asked
	drain      *drain.Drain
	server     *httpapi.Server
	failed     chan error // gets why the server has ended
	log        *slog.Logger
	// ctx ends with the process, and now ends it at once.
	ctx context.Context
	now context.CancelCauseFunc
}

// newDaemon makes everything of the sidecar. Nothing runs yet but what reads the token's file.
func newDaemon(c config.Config, build Build, listener net.Listener, log *slog.Logger) *daemon {
	d := &daemon{failed: make(chan error, 1), log: log}
	d.ctx, d.now = context.WithCancelCause(context.Background())
	d.counter = openCounter(c, listener.Addr(), log)
	all, traffic := newRegistries(c.Registry, build.agent())
	d.registries = all
	d.drain = drain.New(drain.Options{
		Registries: all, RegistryTimeout: c.RegistryTimeout, Counter: d.counter,
		Pod: pod(c.Pod), Ports: c.Ports, OnlyPorts: c.SharedAddress, Loopback: callersHere(c),
		Budget: c.Budget(), Linger: c.Linger, QuietPeriod: c.QuietPeriod, MinOpen: c.MinOpen,
		ReadyFile: c.ReadyFile, TerminationLog: c.TerminationLog, Calls: drainCalls(c.Drain),
		Elsewhere: elsewhere(c, build.agent()), Log: log,
	})
	tokens := config.NewTokens(c.Token)
	go tokens.Follow(d.ctx, config.TokenEvery)
	d.server = httpapi.NewServer(d.drain, httpapi.Options{
		Tokens: tokens.All, ReadyWhenRegistered: c.ReadyRegistered,
		UnreadyWhenDraining: c.UnreadyDraining, Version: build.Version,
		Traffic: traffic, Settings: c.InForce, Log: log,
	})
	return d
}

func (d *daemon) close() {
	d.now(nil)
	if d.counter != nil {
		d.counter.Close()
	}
}

// run returns the exit code when nothing is left to do.
func (d *daemon) run() int {
	over := make(chan struct{})
	go func() { d.drain.Run(d.ctx); close(over) }()
	select {
	case <-over:
	case err := <-d.failed:
		d.log.Error("the HTTP server failed", "error", err)
		d.now(err)
		<-over
	}
	return d.farewell()
}

// farewell lets the answers that are being written out, and tells how it ended.
func (d *daemon) farewell() int {
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := d.server.Shutdown(last); err != nil {
		d.log.Warn("cut off an HTTP client that was still there", "error", err)
	}
	if err := context.Cause(d.ctx); err != nil && d.ctx.Err() != nil {
		d.log.Warn("stopped before the end", "cause", err.Error())
		return exitFailed
	}
	d.log.Info("stopped")
	return exitOK
}

const (
	// forcedWait is what a second signal leaves to those who wait for an answer.
	forcedWait = 500 * time.Millisecond
	// waitingFirst is when the log first tells what prestop still waits for, once it was told to
	// stop: most often the app is gone, and it waits for nothing.
	waitingFirst = 300 * time.Millisecond
	// waitingTold is how often it tells again.
	waitingTold = 10 * time.Second
)

// errForced is why a process that got a second signal ends.
var errForced = errors.New("a second signal")

// obey hears the signals. The first one has the drain end by itself. The second one ends the
// process at once, whatever hangs: callers of the hook have forcedWait to get their answers.
func (d *daemon) obey(signals chan os.Signal, flush func()) {
	s := <-signals
	d.log.Info("told to stop", "signal", s.String())
	go d.drain.Terminate()
	go d.tellWaiting()
	<-signals
	d.now(errForced)
	time.AfterFunc(forcedWait, func() {
		flush()
		os.Exit(exitFailed)
	})
}

// tellWaiting tells again and again what a process that was told to stop still waits for.
func (d *daemon) tellWaiting() {
	for next := time.NewTimer(waitingFirst); ; next.Reset(waitingTold) {
		<-next.C
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		st := d.drain.Status(ctx)
		cancel()
		d.log.Info("not stopped yet; a second signal ends it now",
			"state", st.State, "waits_for", stopsWhen(st, time.Now()), "deadline", st.Deadline)
	}
}

// stopsWhen says what a process that was told to stop still waits for.
func stopsWhen(s drain.Status, now time.Time) string {
	var on []string
	for _, p := range s.App {
		if p.Listening {
			on = append(on, fmt.Sprint(p.Port))
		}
	}
	switch {
	case s.State == "draining":
		return waitsFor(s, now)
	case s.State == "forgotten":
		return "the registries: what they still hold of the Pod is deleted"
	case s.State == "serving":
		return "the registries, until they have the app back"
	case len(on) > 0:
		return "the app, which still listens on " + strings.Join(on, ", ")
	}
	return "the last answers"
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

func pod(c config.Pod) registry.Pod {
	p := registry.Pod{Addresses: c.Addresses, Names: c.Names, Services: c.Services}
	// The container runtime writes this file when it makes the Pod's network.
	if info, err := os.Stat("/etc/hostname"); err == nil && !c.HostNetwork {
		p.Since = info.ModTime()
	}
	return p
}

// drainCalls are what is called when a drain begins.
func drainCalls(c config.Drain) []drain.Call {
	var all []drain.Call
	for _, to := range c.DrainCalls {
		all = append(all, drain.Call{Name: to.String(), Make: to.Do})
	}
	return all
}

// callersHere reports whether callers are on this machine: somebody tries it out, or the app's
// address is a loopback one.
func callersHere(c config.Config) bool {
	return c.Bare || slices.ContainsFunc(c.Addresses, netip.Addr.IsLoopback) ||
		len(c.Addresses) == 0
}
