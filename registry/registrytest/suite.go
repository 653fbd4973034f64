// Package registrytest judges implementations of registry.Registry: a contract suite that runs the
// same on in-memory and on real servers, and the in-memory Eureka and Nacos themselves, which other
// tests and the demo use.
package registrytest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"prestop/registry"
)

// World is the servers of one registry, real or in memory, with the apps that are registered there
// and the callers that read it. Its methods are called by several tests at the same time, but
// Restart only while no other test runs.
type World interface {
	// Traits tell the suite what this kind of registry can do.
	Traits() Traits
	// URLs are the servers' addresses as a user would configure them, without userinfo.
	URLs() []string
	// New returns the Registry to judge for the servers at urls, each an HTTP URL whose userinfo,
	// if any, is the user and the password. The suite passes URLs() or the addresses of proxies
	// that forward to them, one for each.
	New(t testing.TB, urls []string) registry.Registry
	// Start starts an app, registers it and returns when every server holds it. It keeps itself
	// registered like the registry's own clients do (heartbeats, a new registration where a server
	// has lost it), fast, until it is stopped, at the latest at the end of the test. An app of the
	// same App that has crashed comes back with the same identity.
	Start(t testing.TB, app App) Running
	// Callers returns what a caller of the service reads now from each server, with the servers'
	// own caches (which should be short here): the instances that it may call, and so none that is
	// disabled or down. One list for each server.
	Callers(t testing.TB, service string) [][]Seen
	// Restart ends every server and starts it again at the same address without any memory of
	// instances. It returns when they answer.
	Restart(t testing.TB)
}

// Traits are the differences between kinds of registries that the suite has to know.
type Traits struct {
	// OwnDown: an app can report that it is not ready, by Running.Report, and the registry keeps
	// that.
	OwnDown bool
	// Weights: instances have one.
	Weights bool
	// UndoneByRestart: a server that was restarted while an instance was Out says In once the app
	// has registered again.
	UndoneByRestart bool
	// StickyOut: an instance that crashes while it is Out and comes back at once with the same
	// identity is Out.
	StickyOut bool
}

// App is one instance to register.
type App struct {
	Service  string
	Address  netip.AddrPort
	Metadata map[string]string
	Weight   float64 // 0 is the registry's default
	ID       string  // "" is the registry's default; only where an app may choose one
}

// Running is an app that is registered.
type Running interface {
	// Beat returns once every server has had a sign of life that the app sent after the call.
	Beat(t testing.TB)
	// Report makes the app report that it is ready or is not, and returns when the servers know.
	// See Traits.OwnDown.
	Report(t testing.TB, ready bool)
	// Crash ends the app like SIGKILL: it deregisters nothing.
	Crash(t testing.TB)
	// Stop ends the app in order: it deregisters.
	Stop(t testing.TB)
}

// Seen is one instance as a caller reads it.
type Seen struct {
	Address  netip.AddrPort
	Metadata map[string]string
	Weight   float64
}

// turnedOver is how long a server may take to turn all its caches over once it does; less than
// these last in any World.
const turnedOver = 500 * time.Millisecond

// patience is how long the suite waits for what must come true: a Nacos that looks for the dead
// takes half a minute.
const patience = 90 * time.Second

// Run judges the Registry that w.New returns. It takes a few seconds with the in-memory servers and
// a minute or so with real ones.
func Run(t *testing.T, w World) {
	t.Run("at the same time", func(t *testing.T) {
		for name, c := range cases(w.Traits()) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c(newPlace(t, w))
			})
		}
	})
	for name, c := range restartCases(w.Traits()) {
		t.Run(name, func(t *testing.T) { c(newPlace(t, w)) })
	}
}

// cases are the ones that can play at the same time.
func cases(traits Traits) map[string]func(*place) {
	all := map[string]func(*place){
		"an instance is found by the Pod's address and port alone":              foundByAddress,
		"an instance of another Pod or port is not touched":                     othersUntouched,
		"only the services asked for are found":                                 onlyServices,
		"an absent instance is nothing to leave, rejoin or forget":              nothingThere,
		"callers see no instance that left":                                     leaves,
		"leaving twice changes nothing":                                         leavesTwice,
		"an instance that left stays out through its heartbeats":                staysOut,
		"what callers read is known to be turned over":                          published,
		"an instance that rejoined is called again, as it was before":           rejoins,
		"an instance that rejoined comes back by itself after a later crash":    nothingLeftByRejoin,
		"rejoining what never left changes nothing":                             rejoinsTwice,
		"all services and ports of a Pod leave and rejoin":                      severalServices,
		"only the instances of chosen ports are changed":                        onlyPorts,
		"where ports cannot be seen every instance at the address is the Pod's": anyPort,
		"a service registered after the first look is found by the next":        registeredLater,
		"a clean stop while out is absent, and a later start is called":         stopsWhileOut,
		"what a dead app left is forgotten, and its next life is called":        forgets,
		"a second sidecar process takes over what the first one did":            secondProcess,
		"a call ends soon after its context, whatever hangs":                    hangs,
		"a server that answers 503 for a while does not fail a leave":           sickForAWhile,
		"a server that resets connections for a while does not fail a leave":    resetsForAWhile,
		"a page of HTML from a proxy is an error, not an absent instance":       answersHTML,
		"a body without an end is cut":                                          endless,
		"a refusal is returned at once with its remedy and without a secret":    refused,
		"no error holds a password, whatever fails":                             noSecrets,
		"a server that is gone is an error, not an absent instance":             serverGone,
		"a redirect to another host is not followed":                            redirectedElsewhere,
		"instances that are lost and found are remembered until they are gone":  vanishes,
	}
	if traits.OwnDown {
		all["the app's own down is never turned into in"] = ownDownKept
		all["an app that reports down while out is not put in by a rejoin"] = downWhileOut
	}
	if traits.StickyOut {
		all["an instance that crashed while out and came back is put in by a rejoin"] = stickyOut
	}
	return all
}

// restartCases restart the servers and so play alone.
func restartCases(traits Traits) map[string]func(*place) {
	all := map[string]func(*place){}
	if traits.UndoneByRestart {
		all["a leave that a server's restart has undone is seen and repeated"] = undoneByRestart
	}
	return all
}

func foundByAddress(p *place) {
	p.Start(p, p.app)
	i := p.find(p.client(), 1)[0]
	if i.State != registry.In || i.Port != 8080 || !strings.EqualFold(i.Service, p.app.Service) || i.ID == "" || i.Status == "" {
		p.Fatalf("found %+v", i)
	}
}

func othersUntouched(p *place) {
	neighbour, sibling := p.app, p.another(p.app.Service, 9090)
	neighbour.Address = netip.AddrPortFrom(netip.MustParseAddr("127.63.0.1"), 8080)
	for _, a := range []App{p.app, neighbour, sibling} {
		p.Start(p, a)
	}
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	p.called(neighbour)
	p.called(sibling)
	p.rejoin(r)
	p.called(p.app)
}

func onlyServices(p *place) {
	other := p.another(p.app.Service+"-admin", 8080)
	p.Start(p, p.app)
	p.Start(p, other)
	p.find(p.client(), 2)
	p.pod.Services = []string{strings.ToUpper(other.Service)}
	r := p.found(1)
	p.leave(r)
	p.notCalled(other)
	p.called(p.app)
}

func nothingThere(p *place) {
	r := p.client()
	found, err := r.Find(p.Context(), p.pod)
	if err != nil || len(found) != 0 {
		p.Fatalf("found %+v, %v", found, err)
	}
	p.must(r.Leave(p.Context()), "leave")
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.must(r.Forget(p.Context()), "forget")
	if done, err := r.Published(p.Context()); err != nil || !done {
		p.Fatalf("published %v, %v: nothing has to be turned over", done, err)
	}
	if left, err := r.Check(p.Context()); err != nil || len(left) != 0 {
		p.Fatalf("checked %+v, %v", left, err)
	}
}

func leaves(p *place) {
	p.Start(p, p.app)
	p.called(p.app)
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
}

func leavesTwice(p *place) {
	p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.leave(r)
	p.notCalled(p.app)
	p.rejoin(r)
	p.back(r)
	p.called(p.app)
}

func staysOut(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	for range 3 {
		app.Beat(p)
		p.mustBe(r, registry.Out)
	}
	if err := absent(p.Callers(p, p.app.Service), p.app); err != nil {
		p.Fatal(err)
	}
}

func published(p *place) {
	p.Start(p, p.app)
	r := p.found(1)
	p.called(p.app) // a caller has the servers' caches filled with it
	p.leave(r)
	p.eventually("be published", func() error {
		done, err := r.Published(p.Context())
		if err == nil && !done {
			err = errors.New("not yet")
		}
		return err
	})
	// A server turns its caches over one after the other, which takes milliseconds on a machine
	// that is not busy.
	p.eventuallyWithin(turnedOver, "be published for callers", func() error { return absent(p.Callers(p, p.app.Service), p.app) })
	if before, after := r.Linger(); before <= 0 || after < before {
		p.Fatalf("linger %v after it was published, %v after a leave", before, after)
	}
}

func rejoins(p *place) {
	p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	p.rejoin(r)
	p.back(r)
	p.called(p.app)
}

func nothingLeftByRejoin(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.rejoin(r)
	p.becomes(r, registry.In)
	app.Crash(p)
	app = p.Start(p, p.app)
	app.Beat(p)
	p.becomes(r, registry.In)
	p.called(p.app)
}

func rejoinsTwice(p *place) {
	p.Start(p, p.app)
	r := p.found(1)
	p.rejoin(r)
	p.mustBe(r, registry.In)
	p.rejoin(r)
	p.mustBe(r, registry.In)
	p.called(p.app)
}

func severalServices(p *place) {
	apps := []App{p.app, p.another(p.app.Service, 8081), p.another(p.app.Service+"-admin", 8081), p.another(p.app.Service+"-grpc", 8080)}
	p.pod.Ports = []uint16{8080, 8081}
	for _, a := range apps {
		p.Start(p, a)
	}
	r := p.found(len(apps))
	p.leave(r)
	for _, a := range apps {
		p.notCalled(a)
	}
	p.rejoin(r)
	p.back(r)
	for _, a := range apps {
		p.called(a)
	}
}

// onlyPorts is a Pod of which one container is restarted, or dies, while the other serves.
func onlyPorts(p *place) {
	serves, other := p.app, p.another(p.app.Service, 8081)
	p.pod.Ports = []uint16{8080, 8081}
	p.Start(p, serves)
	dies := p.Start(p, other)
	r := p.found(2)
	r.Only([]uint16{8081})
	p.must(r.Leave(p.Context()), "leave")
	p.notCalled(other)
	p.called(serves)
	p.rejoin(r)
	p.called(other)

	r.Only(nil)
	p.leave(r)
	r.Only([]uint16{8080})
	p.eventually("be back alone", func() error {
		p.must(r.Rejoin(p.Context()), "rejoin")
		return p.callersSee(serves)
	})
	p.notCalled(other)

	dies.Crash(p)
	r.Only([]uint16{8081})
	p.must(r.Forget(p.Context()), "forget")
	p.called(serves)
	r.Only(nil)
	p.eventually("be the only one", func() error {
		found, err := r.Find(p.Context(), p.pod)
		if err == nil && (len(found) != 1 || found[0].Port != 8080) {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
}

func anyPort(p *place) {
	p.app.Address = netip.AddrPortFrom(p.app.Address.Addr(), 9999)
	neighbour := p.app
	neighbour.Address = netip.AddrPortFrom(netip.MustParseAddr("127.63.0.2"), 9999)
	p.Start(p, p.app)
	p.Start(p, neighbour)
	p.pod.Ports = nil
	p.find(p.client(), 0)
	p.pod.AnyPort = true
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	p.called(neighbour)
	p.rejoin(r)
	p.called(p.app)
}

func registeredLater(p *place) {
	later := p.another(p.app.Service+"-later", 8080)
	p.Start(p, p.app)
	r := p.found(1)
	p.Start(p, later)
	p.find(r, 2)
	p.leave(r)
	p.notCalled(p.app)
	p.notCalled(later)
}

func stopsWhileOut(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	app.Stop(p)
	p.becomes(r, registry.Absent)
	p.must(r.Leave(p.Context()), "leave what is gone")
	p.rejoin(r)
	p.Start(p, p.app)
	p.called(p.app)
}

func forgets(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	app.Beat(p) // by then the servers have told each other of it
	app.Crash(p)
	p.must(r.Forget(p.Context()), "forget")
	p.becomes(r, registry.Absent)
	// A copy of the last heartbeat that reaches a peer only now registers there again what was
	// deleted: the sidecar sees it with its next look, and deletes it again.
	p.eventually("be forgotten", func() error {
		p.must(r.Forget(p.Context()), "forget again")
		found, err := p.client().Find(p.Context(), p.pod)
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	app = p.Start(p, p.app)
	app.Beat(p)
	next := p.found(1)
	if len(p.URLs()) > 1 {
		// A copy of the last heartbeat that reaches a peer after the deletion registers there again
		// what was deleted; the sidecar of the next life finds it, as it does what a crash left.
		p.back(next)
	} else {
		p.becomes(next, registry.In)
	}
	p.called(p.app)
}

func secondProcess(p *place) {
	p.Start(p, p.app)
	p.leave(p.found(1))
	second := p.client()
	if i := p.find(second, 1)[0]; i.State != registry.Out {
		p.Fatalf("the second process found %+v", i)
	}
	p.rejoin(second)
	p.becomes(second, registry.In)
	p.called(p.app)
}

func vanishes(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	app.Stop(p)
	p.becomes(r, registry.Absent)
	p.find(r, 0)
	if left, err := r.Check(p.Context()); err != nil || len(left) != 0 {
		p.Fatalf("still remembered: %+v, %v", left, err)
	}
	p.Start(p, p.app)
	p.find(r, 1)
}

func ownDownKept(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	app.Report(p, false)
	p.becomes(r, registry.Down)
	p.rejoin(r)
	p.mustBe(r, registry.Down)
	p.must(r.Leave(p.Context()), "leave while down")
	p.notCalled(p.app)
	p.rejoin(r)
	app.Beat(p)
	if instances, err := r.Check(p.Context()); err != nil || instances[0].State == registry.In {
		p.Fatalf("%+v, %v: the app has not said that it is ready", instances, err)
	}
	app.Report(p, true)
	p.back(r)
	p.called(p.app)
}

func downWhileOut(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	app.Beat(p) // by then the servers have told each other of it
	app.Report(p, false)
	p.rejoin(r)
	if instances, err := r.Check(p.Context()); err != nil || instances[0].State == registry.In {
		p.Fatalf("%+v, %v: the app has not said that it is ready", instances, err)
	}
	app.Report(p, true)
	p.back(r)
	p.called(p.app)
}

func stickyOut(p *place) {
	app := p.Start(p, p.app)
	first := p.found(1)
	p.leave(first)
	app.Crash(p)
	app = p.Start(p, p.app)
	app.Beat(p)
	r := p.client()
	if i := p.find(r, 1)[0]; i.State != registry.Out {
		p.Fatalf("found %+v, but this kind of registry is said to keep it out", i)
	}
	p.rejoin(r)
	p.becomes(r, registry.In)
	p.called(p.app)
	app.Crash(p)
	p.Start(p, p.app).Beat(p)
	p.becomes(r, registry.In)
}

func undoneByRestart(p *place) {
	app := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.Restart(p)
	app.Beat(p)
	p.becomes(r, registry.In)
	p.leave(r)
	p.notCalled(p.app)
	app.Beat(p)
	p.mustBe(r, registry.Out)
}
