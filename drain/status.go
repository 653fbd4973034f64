package drain

import (
	"context"
	"fmt"
	"strings"
	"time"

	"prestop/registry"
)

// snapshot is what others may read of the owner.
type snapshot struct {
	state state
	run   *drainRun // the current or the last drain; nil before the first
	// ended is how many drains ended with each result, and last what came of the last of them.
	ended map[Result]int
	last  Outcome
}

// over reports whether the outcome may be read; a nil run is none.
func (w *drainRun) over() bool {
	if w == nil {
		return false
	}
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *drainRun) ended(r Result) bool { return w.over() && w.outcome.Result == r }

// Status is a Drain seen from outside; its JSON is the answer of /status.
type Status struct {
	State       string           `json:"state"`
	Since       time.Time        `json:"since"`
	Deadline    *time.Time       `json:"deadline"`
	LingerUntil *time.Time       `json:"lingerUntil"`
	Connections Connections      `json:"connections"`
	Registries  []RegistryStatus `json:"registries"`
	Result      string           `json:"result"`
	// App is each port of the app.
	App []PortStatus `json:"app"`
	// LastDrain is the drain that ended last; nil before the first.
	LastDrain *DrainStatus `json:"lastDrain,omitempty"`
}

// PortStatus is one port of the app in a Status. Since is when it began to listen or stopped; of
// one that has never listened, when it became known.
type PortStatus struct {
	Port      uint16    `json:"port"`
	Listening bool      `json:"listening"`
	Since     time.Time `json:"since"`
}

// DrainStatus is a drain that has ended, in a Status. Its times are in seconds.
type DrainStatus struct {
	Result string    `json:"result"`
	Cause  string    `json:"cause"`
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended"`
	Leave  float64   `json:"leave"`
	Linger float64   `json:"linger"`
	Count  float64   `json:"count"`
	// Active is how many connections were in use at its end.
	Active int `json:"active"`
}

// Connections is the last count in a Status.
type Connections struct {
	Open   int          `json:"open"`
	Active int          `json:"active"`
	Idle   int          `json:"idle"`
	Source string       `json:"source"`
	Peers  []PeerStatus `json:"peers"`
	// LeftOut are the connections to the app's ports that do not count, and why.
	LeftOut []LeftOutStatus `json:"leftOut,omitempty"`
	// LastHeard is the last thing that a client said; nil if that is not watched: only
	// --quiet-period asks for it.
	LastHeard *LastHeard `json:"lastHeard,omitempty"`
}

// LeftOutStatus is how many open connections to a port do not count: prestop's own, those that were
// opened inside the Pod with no client outside behind them, outgoing ones of the app, and those of
// excluded clients.
type LeftOutStatus struct {
	Reason string `json:"reason"` // own, inside, outgoing or excluded
	Port   uint16 `json:"port"`
	Open   int    `json:"open"`
}

// PeerStatus is one client address in a Status, with its connections to one port of the app. Since
// is when the one of the active connections that has been silent for longest was last used, and
// ClientPort the client's port of it; they are left out where nothing is known of it.
type PeerStatus struct {
	Address    string     `json:"address"`
	Port       uint16     `json:"port"`
	Active     int        `json:"active"`
	Idle       int        `json:"idle"`
	ClientPort uint16     `json:"clientPort,omitempty"`
	Since      *time.Time `json:"since,omitempty"`
}

// LastHeard is the last moment at which a client connected or sent a byte, and his address if it is
// known.
type LastHeard struct {
	At      time.Time `json:"at"`
	Address string    `json:"address,omitempty"`
}

// RegistryStatus is one registry in a Status.
type RegistryStatus struct {
	Kind string `json:"kind"`
	URL  string `json:"url"`
	// Reached: it has answered since the process started; without that no instance means nothing.
	Reached   bool             `json:"reached"`
	Instances []InstanceStatus `json:"instances"`
	Error     string           `json:"error"`
}

// InstanceStatus is one instance in a Status.
type InstanceStatus struct {
	ID      string `json:"id"`
	Service string `json:"service"`
	Status  string `json:"status"`
}

// errorLimit bounds a registry's error in a Status: it has a part for each server.
const errorLimit = 1 << 10

// shownInstances bounds what a Status lists of one registry, so that the answer stays small with
// hundreds of services.
const shownInstances = 30

// Status returns what is true now, with a fresh count.
func (d *Drain) Status(ctx context.Context) Status {
	d.watcher.refresh(ctx)
	// What was reported before is in the state then. That of a stuck owner is shown as it is.
	_ = d.Alive(ctx)
	now := d.status.Load()
	s := now.state
	st := Status{
		State: s.phase.String(), Since: s.since.UTC(), Connections: d.connections(s),
		Registries: []RegistryStatus{}, App: []PortStatus{},
	}
	if s.phase != serving && !s.began.IsZero() {
		deadline := s.deadline.UTC()
		st.Deadline = &deadline
		if until, known := d.policy.lingerUntil(s); known {
			until = until.UTC()
			st.LingerUntil = &until
		}
	}
	for _, p := range s.ports.shown() {
		st.App = append(st.App, PortStatus{p.number, p.up(), p.since.UTC()})
	}
	for i, v := range s.views {
		st.Registries = append(st.Registries, v.status(d.options.Registries[i]))
	}
	if now.run.over() {
		st.Result = now.run.outcome.String()
	}
	if last := now.last; len(now.ended) > 0 {
		st.LastDrain = &DrainStatus{string(last.Result), last.Cause, last.Began.UTC(), last.Ended.UTC(),
			last.Leave.Seconds(), last.Linger.Seconds(), last.Count.Seconds(), last.Connections.Active}
	}
	return st
}

func (d *Drain) connections(s state) Connections {
	t := s.last
	c := Connections{
		Open: t.Open, Active: t.Active, Idle: t.Idle, Source: d.source(), Peers: []PeerStatus{},
	}
	for _, l := range t.LeftOut {
		c.LeftOut = append(c.LeftOut, LeftOutStatus{string(l.Reason), l.Port, l.Open})
	}
	for _, p := range t.Peers {
		told := PeerStatus{
			Address: p.Address.String(), Port: p.Port,
			Active: p.Active, Idle: p.Open - p.Active, ClientPort: p.ClientPort,
		}
		if p.Since > 0 {
			since := t.Began.Add(-p.Since).UTC()
			told.Since = &since
		}
		c.Peers = append(c.Peers, told)
	}
	if !t.Heard.IsZero() {
		c.LastHeard = &LastHeard{At: t.Heard.UTC()}
		if t.HeardFrom.IsValid() {
			c.LastHeard.Address = t.HeardFrom.String()
		}
	}
	return c
}

// source names where the count comes from.
func (d *Drain) source() string {
	if d.options.Counter == nil {
		return "none"
	}
	return d.options.Counter.Source()
}

func (v regView) status(of registry.Registry) RegistryStatus {
	r := RegistryStatus{
		Kind: of.Kind(), URL: of.URL(), Reached: v.reached, Instances: []InstanceStatus{},
	}
	for _, i := range v.instances {
		if len(r.Instances) == shownInstances {
			break
		}
		r.Instances = append(r.Instances, InstanceStatus{i.ID, i.Service, i.Status})
	}
	if v.err != nil {
		r.Error = v.err.Error()
		r.Error = strings.ToValidUTF8(r.Error[:min(len(r.Error), errorLimit)], "")
	}
	return r
}

// in is how many instances callers are sent to.
func (v regView) in() int {
	n := 0
	for _, i := range v.instances {
		if i.State == registry.In {
			n++
		}
	}
	return n
}

// Safe reports whether the Pod may be terminated, and why not.
func (d *Drain) Safe() (bool, string) {
	now := d.status.Load()
	s := now.state
	late := s.phase == expired || s.phase == forgotten && now.run.ended(Expired)
	switch {
	case late:
		return false, "the deadline came before the drain was over"
	case s.phase == drained || s.phase == forgotten:
		return true, "OK"
	case s.phase == draining:
		return false, "draining: " + d.policy.waitsFor(s, time.Now())
	}
	return false, "serving; call /shutdown first"
}

// waitsFor says what keeps a drain from its end.
func (p policy) waitsFor(s state, now time.Time) string {
	for _, r := range s.regs {
		if r.left.IsZero() && r.gaveUp.IsZero() {
			return "leaving the registries"
		}
	}
	if until, known := p.lingerUntil(s); s.reachable() && (!known || now.Before(until)) {
		return "callers may not know yet"
	}
	return fmt.Sprintf("%d connections in use", s.counted.active)
}

// Ready reports whether the Pod should get traffic by its own account, and why not. A port of the
// app that is gone is a no; draining is not, unless unreadyWhenDraining; with whenRegistered every
// registry must hold an instance that is in.
func (d *Drain) Ready(whenRegistered, unreadyWhenDraining bool) (bool, string) {
	s := d.status.Load().state
	switch s.app {
	case appGone:
		return false, "the app does not listen"
	case appPartly:
		return false, fmt.Sprintf("the app does not listen on %v any more", s.ports.deciding().dead())
	}
	if s.phase != serving {
		return !unreadyWhenDraining, s.phase.String()
	}
	if whenRegistered {
		for i, v := range s.views {
			if v.in() == 0 {
				return false, "not up in " + d.options.Registries[i].Kind() + " yet"
			}
		}
	}
	return true, s.phase.String()
}

// Figures are what is true now of a Drain, in numbers.
type Figures struct {
	// State is one of States, and Since when it began.
	State string
	Since time.Time
	// Listening: every port of the app is listened on.
	Listening bool
	// Active and Idle are the connections at the last count, and Source is where that came from.
	Active, Idle int
	Source       string
	// Drains is how many ended with each result.
	Drains map[Result]int
	// Leave, Linger and Count are the times of the drain that goes on, or of the last one.
	Leave, Linger, Count time.Duration
	// Budget is the longest that a drain may take.
	Budget     time.Duration
	Registries []RegistryFigures
}

// RegistryFigures are one registry in Figures.
type RegistryFigures struct {
	Kind string
	// In is how many instances callers are sent to, and Undone how often it put the Pod back in
	// during a drain.
	In, Undone int
	// Trouble: something is wrong at it.
	Trouble bool
}

// States are the names of a Drain's states.
func States() []string {
	var all []string
	for p := serving; p <= forgotten; p++ {
		all = append(all, p.String())
	}
	return all
}

// Figures returns what is true now. A drain that goes on is among them: a Pod is seldom asked again
// after its drain.
func (d *Drain) Figures() Figures {
	now := d.status.Load()
	s, last := now.state, now.last
	if s.phase == draining {
		last = d.policy.phaseTimes(s, time.Now())
	}
	f := Figures{
		State: s.phase.String(), Since: s.since, Listening: s.app == appUp,
		Active: s.last.Active, Idle: s.last.Idle, Source: d.source(), Drains: now.ended,
		Leave: last.Leave, Linger: last.Linger, Count: last.Count, Budget: d.policy.budget,
	}
	for i, v := range s.views {
		f.Registries = append(f.Registries, RegistryFigures{
			Kind: d.options.Registries[i].Kind(), In: v.in(), Undone: v.undone, Trouble: v.err != nil,
		})
	}
	return f
}
