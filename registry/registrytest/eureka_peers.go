package registrytest

import (
	"errors"
	"fmt"
	"time"

	"prestop/registry"
)

// cut cuts the link between the peers until the returned function repairs it, at the latest at the
// end of the test.
func (p *eurekaPlace) cut() (repair func()) {
	p.world.Cut(true)
	repair = func() { p.world.Cut(false) }
	p.Cleanup(repair)
	return repair
}

// atFirst starts an app that knows the first server alone.
func (p *eurekaPlace) atFirst(shape eurekaShape) *eurekaApp {
	p.Helper()
	first := *p.world
	first.Servers = first.Servers[:1]
	return first.start(p, shape)
}

func deafPeers(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	r := p.found(1)
	repair := p.cut()
	p.leave(r)
	p.say(app, isOut)
	p.rejoin(r)
	p.back(r)
	p.say(app, isUp)
	p.leave(r)
	p.say(app, isOut)
	app.Crash(p)
	p.must(r.Forget(p.Context()), "forget")
	p.say(app, "absent")
	repair()
	p.eventually("be forgotten for good", func() error { // a heartbeat that could not be told may be told now
		p.must(r.Forget(p.Context()), "forget")
		return app.all("absent")
	})
}

// The server drops what it could not tell a peer for half a minute, and tells that peer the next
// change alone.
func healsPeer(p *eurekaPlace) {
	app := p.start(eurekaShape{App: p.app})
	r := p.New(p, p.URLs()[:1])
	p.find(r, 1)
	repair := p.cut()
	p.leave(r)
	app.at(p, p.world.Servers[0], "be out", func(i *eurekaInstance) bool { return i.String() == isOut })
	forgotten := time.NewTimer(p.world.Forgotten)
	defer forgotten.Stop()
	select {
	case <-forgotten.C:
	case <-p.Context().Done():
	}
	repair()
	if i, err := app.read(p.world.Servers[1]); err != nil || i.String() != isUp {
		p.Fatalf("the peer says %v, %v: it was to miss the leave", i, err)
	}
	p.leave(r)
	p.say(app, isOut)
	p.rejoin(r)
	p.eventually("be back everywhere", func() error {
		p.must(r.Rejoin(p.Context()), "rejoin")
		return app.all(isUp)
	})
}

// toHold starts an app that knows the first server alone and that both have heard of, and a client
// for both. hold holds back what the servers have to tell each other, or lets it go, at the latest
// at the end of the test.
func (p *eurekaPlace) toHold() (app *eurekaApp, r registry.Registry, hold func(bool)) {
	app = p.atFirst(eurekaShape{App: p.app})
	r = p.New(p, p.URLs())
	p.find(r, 1)
	app.at(p, p.world.Servers[1], "be known", func(i *eurekaInstance) bool { return i != nil })
	hold = func(held bool) { p.world.Hold(1, held); p.world.Hold(0, held) }
	p.Cleanup(func() { hold(false) })
	return app, r, hold
}

// The app says DOWN to one server, and the other has not heard of it when the Pod is put back.
func freshDown(p *eurekaPlace) {
	app, r, hold := p.toHold()
	hold(true)
	p.leave(r)
	app.ReportStatus(p, down)
	p.must(r.Rejoin(p.Context()), "rejoin")
	if i, err := app.read(p.world.Servers[1]); err != nil || i == nil || i.Status == up {
		p.Fatalf("the other server says %v, %v", i, err)
	}
	hold(false)
	p.eventually("be down everywhere, and never up", func() error {
		p.must(r.Rejoin(p.Context()), "rejoin")
		for _, s := range p.world.Servers {
			if i, err := app.read(s); err != nil || i == nil || i.Status == up {
				p.Fatalf("%s says %v, %v", s, i, err)
			} else if i.Status != down {
				return fmt.Errorf("%s says %v", s, i)
			}
		}
		return nil
	})
	app.ReportStatus(p, up)
	p.back(r)
}

// A peer tells the others of a PUT with the status that the instance has there when it tells, which
// covers what the app has said at another one since.
func lateCopy(p *eurekaPlace) {
	app, r, hold := p.toHold()
	p.eventually("leave and report in a moment", func() error {
		hold(true)
		began := time.Now()
		p.leave(r)
		app.ReportStatus(p, down)
		took := time.Since(began)
		hold(false)
		if took < 4*time.Second {
			return nil
		}
		app.ReportStatus(p, up) // too slow: by then a peer is taken to have been told
		p.rejoin(r)
		p.back(r)
		return errors.New(took.String())
	})
	p.eventually("be not in, whatever the servers tell each other", func() error {
		p.must(r.Rejoin(p.Context()), "rejoin")
		return p.stillOut(r)
	})
	app.ReportStatus(p, up)
	p.back(r)
	p.called(p.app)
}
