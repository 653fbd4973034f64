package registrytest

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"prestop/registry"
)

// RunEureka judges a Registry of Eureka by what only Eureka has: overrides that outlive what they
// were put over, instance IDs that come back, peers that do not hear of each other, servers with a
// set-up of their own.
func RunEureka(t *testing.T, w *EurekaWorld) {
	t.Run("eureka", func(t *testing.T) {
		t.Run("at the same time", func(t *testing.T) {
			play(t, w, map[string]func(*eurekaPlace){
				"an app that began as out of service is left so and not deleted":               beganOut,
				"a status that sticks without an override is cured":                            sticksWithoutOverride,
				"an override that says up is removed":                                          overrideUp,
				"what somebody deleted while it was out comes back in, and is taken out again": deletedByAnother,
				"an instance whose lease ran out while it was out comes back in":               leaseRanOut,
				"a Pod that took over an ID is put in, by its own sidecar alone":               takenOver,
				"two apps of a Pod with one ID leave and rejoin":                               sharedID,
				"an instance is found by the Pod's host name":                                  byHostName,
				"an instance with a secure port alone is found":                                securePortAlone,
				"IDs with odd characters leave and rejoin":                                     oddIDs,
				"a service URL is used as it is, with and without a slash at its end":          urlAsItIs,
				"a service URL that is none is said, and not taken for absence":                wrongPath,
				"lists come compressed":                                                        compressed,
				"a record that may be a dead Pod's is not put up":                              strangersRecordOfEureka,
				"what is not there is not deleted on a guess":                                  notOnAGuess,
			}, true)
		})
		if w.Cut != nil {
			play(t, w, map[string]func(*eurekaPlace){
				"peers that do not hear of each other are all told and all restored":             deafPeers,
				"a second leave heals a peer that the link was cut to for a minute":              healsPeer,
				"a rejoin does not put up an app that has just said DOWN to another server":      freshDown,
				"a peer's late copy of the leave does not keep out an app that has spoken since": lateCopy,
			}, false)
		}
	})
}

func play(t *testing.T, w *EurekaWorld, cases map[string]func(*eurekaPlace), parallel bool) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if parallel {
				t.Parallel()
			}
			c(&eurekaPlace{newPlace(t, w), w})
		})
	}
}

// eurekaPlace is a place in a world of Eureka.
type eurekaPlace struct {
	*place
	world *EurekaWorld
}

func (p *eurekaPlace) start(shape eurekaShape) *eurekaApp {
	p.Helper()
	return p.world.start(p, shape)
}

// say waits until every server says want of the app: STATUS(OVERRIDE), "absent" where it does not
// hold it.
func (p *eurekaPlace) say(a *eurekaApp, want string) {
	p.Helper()
	a.everywhere(p, "say "+want, func(i *eurekaInstance) bool { return i.String() == want })
}

// call makes a request at every server, past the code under test.
func (p *eurekaPlace) call(method, path string) {
	p.Helper()
	for _, s := range p.world.Servers {
		if code, err := eurekaCall(p.Context(), method, s, path, nil, nil); err != nil || code != http.StatusOK {
			p.Fatalf("%s %s: %d, %v", method, path, code, err)
		}
	}
}

const (
	isUp  = up + "(" + unknown + ")"
	isOut = outOfService + "(" + outOfService + ")"
)

// An app with eureka.instance.initial-status=OUT_OF_SERVICE lets its callers in later, by itself.
// No override is told, so this is its own word: it is left as it is, and never deleted, which would
// make it flicker until somebody puts it UP.
func beganOut(p *eurekaPlace) {
	const itself = outOfService + "(" + unknown + ")"
	app := p.start(eurekaShape{App: p.app, status: outOfService})
	r := p.found(1)
	for range 3 {
		p.must(r.Rejoin(p.Context()), "rejoin")
		p.say(app, itself)
		app.Beat(p)
		p.say(app, itself)
	}
}

// strangersRecordOfEureka is a Pod whose address belonged to another one, which died while it was out.
func strangersRecordOfEureka(p *eurekaPlace) {
	stranger := p.another(p.app.Service+"-stranger", 8080)
	dead := p.start(eurekaShape{App: stranger})
	p.leave(p.found(1))
	p.notCalled(stranger)
	dead.Crash(p)
	p.start(eurekaShape{App: p.app})
	r := p.found(2)
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.must(r.Leave(p.Context()), "leave")
	p.notCalled(p.app)
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.eventually("be called again", func() error { return p.callersSee(p.app) })
	if err := absent(p.Callers(p, stranger.Service), stranger); err != nil {
		p.Errorf("the stranger's callers are sent to us: %v", err)
	}
}

// It is what the server's forgetting of overrides leaves after an hour without heartbeats, and what
// Spinnaker's enable does.
func sticksWithoutOverride(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	r := p.found(1)
	p.leave(r)
	p.say(app, isOut)
	p.call(http.MethodDelete, app.path()+"/status?value="+outOfService)
	p.say(app, outOfService+"("+unknown+")")
	app.Beat(p)
	p.say(app, outOfService+"("+unknown+")")
	p.rejoin(r)
	p.back(r)
	p.say(app, isUp)
	p.called(p.app)
}

func overrideUp(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	r := p.found(1)
	p.leave(r)
	p.eventually("have an override that says up", func() error { // again where a peer's late copy of the leave covers it
		p.call(http.MethodPut, app.path()+"/status?value="+up)
		return app.all(up + "(" + up + ")")
	})
	p.eventually("have no override", func() error {
		p.must(r.Rejoin(p.Context()), "rejoin")
		return app.all(isUp)
	})
	app.Beat(p)
	p.say(app, isUp)
}

func deletedByAnother(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	r := p.found(1)
	p.leave(r)
	p.say(app, isOut)
	if code, err := eurekaCall(p.Context(), http.MethodDelete, p.world.Servers[0], app.path(), nil, nil); err != nil || code != http.StatusOK {
		p.Fatalf("delete: %d, %v", code, err)
	}
	p.becomes(r, registry.In) // by its heartbeat
	p.leave(r)
	p.notCalled(p.app)
	app.Beat(p)
	p.mustBe(r, registry.Out)
}

func leaseRanOut(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app, lease: time.Second})
	r := p.found(1)
	p.leave(r)
	app.Crash(p)
	p.becomes(r, registry.Absent)
	for _, s := range p.world.Servers { // it is absent before it is evicted, but the override goes with that
		p.eventually("be evicted", func() error {
			code, err := eurekaCall(p.Context(), http.MethodGet, s, "apps/"+app.name, nil, nil)
			if err == nil && code != http.StatusNotFound {
				err = fmt.Errorf("%s lists it: %d", s, code)
			}
			return err
		})
	}
	next := p.start(eurekaShape{App: p.app})
	p.becomes(r, registry.In)
	p.say(next, isUp)
}

// A StatefulSet's Pod has the name of the one before it, and so its instance ID; but another
// address.
func takenOver(p *eurekaPlace) {
	p.app.ID = p.app.Service + "-0:" + p.app.Service
	before := p.start(eurekaShape{App: p.app})
	old := p.found(1)
	p.leave(old)
	p.say(before, isOut)
	before.Crash(p)

	moved := p.app
	ip := p.app.Address.Addr().As4()
	ip[1] -= 64 // no other place's
	moved.Address = netip.AddrPortFrom(netip.AddrFrom4(ip), 8080)
	app := p.start(eurekaShape{App: moved})
	app.Beat(p)
	p.say(app, isOut) // the override was its predecessor's
	p.becomes(old, registry.Absent)
	p.must(old.Rejoin(p.Context()), "rejoin what is another's")
	p.must(old.Forget(p.Context()), "forget what is another's")
	p.say(app, isOut)

	p.pod.Addresses = []netip.Addr{moved.Address.Addr()}
	r := p.found(1)
	p.mustBe(r, registry.Out)
	p.rejoin(r)
	p.back(r)
	p.say(app, isUp)
	p.must(old.Leave(p.Context()), "leave what is another's")
	p.say(app, isUp)
	p.called(moved)
}

// The server keeps overrides by ID alone, whatever the application.
func sharedID(p *eurekaPlace) {
	p.app.ID = p.app.Service + "-0"
	other := p.another(p.app.Service+"-admin", 8081)
	p.pod.Ports = []uint16{8080, 8081}
	p.start(eurekaShape{App: p.app})
	p.start(eurekaShape{App: other})
	r := p.found(2)
	p.leave(r)
	p.notCalled(p.app)
	p.notCalled(other)
	p.rejoin(r)
	p.back(r)
	p.called(p.app)
	p.called(other)
}

func byHostName(p *eurekaPlace) {
	ours := p.pod.Addresses
	p.pod.Addresses, p.pod.Names = []netip.Addr{netip.MustParseAddr("10.255.255.1")}, []string{strings.ToUpper(p.app.Service) + "-0"}
	p.start(eurekaShape{App: p.app, host: p.app.Service + "-0"})
	r := p.found(1)
	p.leave(r)
	p.notCalled(p.app)
	p.rejoin(r)
	p.back(r)
	p.pod.Addresses, p.pod.Names = ours, nil
	p.find(p.client(), 1) // and by its address still
}

func securePortAlone(p *eurekaPlace) {
	p.app.Address = netip.AddrPortFrom(p.app.Address.Addr(), 8443)
	app := p.start(eurekaShape{App: p.app, secureOnly: true})
	p.find(p.client(), 0) // by its port, which is not the Pod's
	p.pod.Ports = []uint16{8443}
	r := p.found(1)
	p.leave(r)
	p.say(app, isOut)
	p.rejoin(r)
	p.back(r)
	p.say(app, isUp)
}

func oddIDs(p *eurekaPlace) {
	p.pod.Ports = nil
	var all []*eurekaApp
	for i, odd := range []string{"a b", "ä:ö", "50%", "q?x#y", "a&b+c", "...", "x;y=1", `{"$":1}`, "<a>"} {
		app := p.another(p.app.Service, uint16(8080+i))
		app.ID = p.app.Service + odd
		p.pod.Ports = append(p.pod.Ports, app.Address.Port())
		all = append(all, p.start(eurekaShape{App: app}))
	}
	r := p.found(len(all))
	p.leave(r)
	for _, a := range all {
		p.say(a, isOut)
	}
	p.rejoin(r)
	p.back(r)
	for _, a := range all {
		p.say(a, isUp)
	}
}

func urlAsItIs(p *eurekaPlace) {
	p.start(eurekaShape{App: p.app})
	for _, end := range []string{"", "/", "/v2/"} {
		var urls []string
		for _, s := range p.world.Servers {
			urls = append(urls, strings.TrimRight(s, "/")+end)
		}
		r := p.New(p, urls)
		if end == "/v2/" && p.world.Jersey1 {
			if _, err := r.Find(p.Context(), p.pod); !registry.IsFinal(err) {
				p.Errorf("%v: there is nothing at /v2/ on this one", err)
			}
			continue
		}
		p.find(r, 1)
		p.leave(r)
		p.rejoin(r)
		p.back(r)
	}
}

func wrongPath(p *eurekaPlace) {
	p.start(eurekaShape{App: p.app})
	for _, services := range [][]string{nil, {p.app.Service}} {
		p.pod.Services = services
		var urls []string
		for _, s := range p.world.Servers {
			u, err := url.Parse(s)
			p.must(err, "parse")
			u.Path = "/"
			urls = append(urls, u.String())
		}
		_, err := p.New(p, urls).Find(p.Context(), p.pod)
		if e, ok := finalError(err); !ok || !strings.Contains(e.Remedy, "service URL") {
			p.Errorf("%v", err)
		}
	}
}

func compressed(p *eurekaPlace) {
	r, f := p.behind()
	p.leave(r)
	p.eventually("be published", func() error {
		done, err := r.Published(p.Context())
		if err == nil && !done {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	lists := 0
	for _, e := range f.exchanges() {
		if strings.HasSuffix(e.path, "/apps") || strings.HasSuffix(e.path, "/apps/delta") {
			lists++
			if e.header.Get("Content-Encoding") != "gzip" {
				p.Errorf("%s came without compression", e.path)
			}
		}
	}
	if lists < 2 {
		p.Errorf("%d lists were read", lists)
	}
}

// A DELETE that answers 404 drops the override of the ID all the same, whoever has it.
func notOnAGuess(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	f := newFaults(p, p.URLs())
	r := p.New(p, f.urls)
	p.find(r, 1)
	app.Stop(p)
	p.must(r.Leave(p.Context()), "leave")
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.must(r.Forget(p.Context()), "forget")
	for _, e := range f.exchanges() {
		if e.method == http.MethodDelete {
			p.Errorf("%s %s: %d", e.method, e.path, e.code)
		}
	}
}
