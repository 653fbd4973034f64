package registrytest

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"prestop/registry"
)

// RunEurekaSetups judges a Registry of Eureka on servers that are set up otherwise, which w starts.
func RunEurekaSetups(t *testing.T, w *EurekaWorld) {
	t.Run("eureka", func(t *testing.T) {
		t.Run("an odd server", func(t *testing.T) {
			t.Parallel()
			play(t, w.Special(t, EurekaSetup{Odd: true}), map[string]func(*eurekaPlace){
				"the service URL has a context path":                            behindPath,
				"without a list of changes the application's list tells":        withoutDelta,
				"an expired lease that is not evicted is absent until it beats": notEvicted,
			}, true)
		})
		for name, c := range map[string]struct {
			setup EurekaSetup
			play  func(*eurekaPlace)
		}{
			"basic auth, percent-encoded, by URL":               {EurekaSetup{}, basicAuth},
			"CSRF protection is on":                             {EurekaSetup{CSRF: true}, mayNotWrite(http.StatusUnauthorized, "CSRF")},
			"CSRF protection is on, and the error page is open": {EurekaSetup{CSRF: true, OpenError: true}, mayNotWrite(http.StatusForbidden, "CSRF")},
			"a user that may only read":                         {EurekaSetup{ReadOnly: true}, mayNotWrite(http.StatusForbidden, "role")},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.setup.User, c.setup.Password = "spring", "p@ss/w:rd%"
				special := w.Special(t, c.setup)
				c.play(&eurekaPlace{newPlace(t, special), special})
			})
		}
	})
}

func behindPath(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	for _, end := range []string{"", "/"} {
		r := p.New(p, []string{strings.TrimRight(p.world.Servers[0], "/") + end})
		p.find(r, 1)
		p.leave(r)
		p.say(app, isOut)
		p.rejoin(r)
		p.say(app, isUp)
	}
}

func withoutDelta(p *eurekaPlace) {
	p.start(eurekaShape{App: p.app})
	r := p.found(1)
	p.called(p.app)
	p.leave(r)
	p.eventually("be published", func() error {
		done, err := r.Published(p.Context())
		if err == nil && !done {
			err = errors.New("not yet")
		}
		return err
	})
	p.eventuallyWithin(turnedOver, "be published for callers", func() error { return absent(p.Callers(p, p.app.Service), p.app) })
}

func notEvicted(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app, lease: time.Second})
	r := p.found(1)
	p.leave(r)
	app.Crash(p)
	p.becomes(r, registry.Absent)
	p.must(r.Leave(p.Context()), "leave")
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.must(r.Forget(p.Context()), "forget")
	if code, err := app.sendBeat(p.Context()); err != nil || code != http.StatusOK {
		p.Fatalf("the heartbeat: %d, %v", code, err)
	}
	again := p.start(eurekaShape{App: p.app}) // it is as it was, with the override
	again.Beat(p)
	p.say(again, isOut)
	p.find(r, 1)
	p.rejoin(r)
	p.back(r)
	p.say(again, isUp)
}

// with is the world's first service URL with other userinfo; nil is none.
func (p *eurekaPlace) with(user *url.Userinfo) string {
	u, err := url.Parse(p.world.Servers[0])
	p.must(err, "parse")
	u.User = user
	return u.String()
}

func basicAuth(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	wrong := strings.TrimSuffix(p.with(url.UserPassword("spring", "geheim")), "/") // another URL of the same server
	for _, u := range []string{p.with(nil), wrong} {
		_, err := p.New(p, []string{u}).Find(p.Context(), p.pod)
		p.refusal(err, http.StatusUnauthorized, "user")
	}
	p.find(p.New(p, []string{p.world.Servers[0], wrong}), 1) // one of two that may look is enough
	r := p.New(p, []string{wrong, p.world.Servers[0]})
	p.find(r, 1)
	p.refusal(r.Leave(p.Context()), http.StatusUnauthorized, "user") // who is refused is named, though the other is told
	p.say(app, isOut)
	r = p.client()
	p.find(r, 1)
	p.rejoin(r)
	p.say(app, isUp)
}

// mayNotWrite is about a server that lets prestop look and not write.
func mayNotWrite(code int, remedy string) func(*eurekaPlace) {
	return func(p *eurekaPlace) {
		p.start(eurekaShape{App: p.app})
		r := p.found(1)
		p.refusal(r.Leave(p.Context()), code, remedy)
	}
}

func (p *eurekaPlace) refusal(err error, code int, remedy string) {
	p.Helper()
	if e, ok := finalError(err); !ok || e.Code != code || !strings.Contains(e.Remedy, remedy) {
		p.Errorf("%v: want a final %d with a remedy about %s", err, code, remedy)
	}
	if err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "p@ss")) {
		p.Errorf("the password is in %v", err)
	}
}

func finalError(err error) (*registry.Error, bool) {
	var e *registry.Error
	ok := errors.As(err, &e) && e.Final
	return e, ok
}
