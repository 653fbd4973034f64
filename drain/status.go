package drain

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// Result is how a drain ended.
type Result string

const (
	// Drained: callers know, and no more connections are in use than --min-open-connections.
	Drained Result = "drained"
	// Expired: the deadline came first.
	Expired Result = "expired"
	// Cancelled: by /resume, by the app that listens again, or by a second signal.
	Cancelled Result = "cancelled"
)

// outcomeLimit bounds an Outcome's line: the kubelet stops reading an answer at 10 KiB.
const outcomeLimit = 3 << 10

// Outcome is what came of a drain.
type Outcome struct {
	Result Result
	// Took is the whole time; it is the sum of Leave (until every registry was read back as out, or given up), Linger
	// (until the callers had had their time) and Count (until no connection was in use).
	Took, Leave, Linger, Count time.Duration
	// Early is by how much --quiet-period made the linger shorter.
	Early time.Duration
	// Connections is the last count. Its zero value, with Uncounted, means that there was none.
	Connections conns.Tally
	Uncounted   bool
	// LastInUse are the clients whose connections were the last in use, as address×count, where the drain waited for them.
	LastInUse []string
	// Why says what most of the time went for; "" when it was short.
	Why string
	// Registries tell when each was left, one sentence for each.
	Registries []string
	// Trouble is what is wrong at a registry or with a drain call, one sentence for each.
	Trouble []string
	// Cause is what started the drain: "hook", "pod" or "SIGTERM"; Began and Ended are when.
	Cause        string
	Began, Ended time.Time
}

// String is the outcome in one line, at most 3 KiB.
func (o Outcome) String() string {
	var b strings.Builder
	switch o.Result {
	case Drained:
		fmt.Fprintf(&b, "OK drained in %s", short(o.Took))
	case Expired:
		fmt.Fprintf(&b, "EXPIRED after %s", short(o.Took))
	default:
		fmt.Fprintf(&b, "CANCELLED after %s", short(o.Took))
	}
	fmt.Fprintf(&b, " (leave %s, linger %s, count %s", short(o.Leave), short(o.Linger), short(o.Count))
	if o.Early > 0 {
		fmt.Fprintf(&b, "; the linger ended %s early, as no client said anything", short(o.Early))
	}
	b.WriteString(")")
	if o.Uncounted {
		b.WriteString("; connections not counted")
	} else {
		fmt.Fprintf(&b, "; %d connections in use, %d idle", o.Connections.Active, o.Connections.Idle)
	}
	if o.Connections.Active > 0 {
		b.WriteString(": " + strings.Join(peers(o.Connections), ", "))
	}
	for _, t := range slices.Concat(o.Registries, o.Trouble) {
		b.WriteString("; " + t)
	}
	if o.Why != "" {
		b.WriteString("; most of it: " + o.Why)
	}
	line := strings.ReplaceAll(b.String(), "\n", " ")
	return strings.ToValidUTF8(line[:min(len(line), outcomeLimit)], "") // cut inside no character
}

// namedPeers is how many clients a line names; /status lists more.
const namedPeers = 10

// peers lists who has connections in use: address×count, and of the one that has been silent for longest since when and from
// which port of the client.
func peers(t conns.Tally) []string {
	var names []string
	more := t.Active
	for _, p := range t.Peers {
		if p.Active == 0 || len(names) == namedPeers {
			break
		}
		more -= p.Active
		name := fmt.Sprintf("%s×%d", p.Address, p.Active)
		if p.Port != 0 {
			name += fmt.Sprintf(" (to %d from %d", p.Port, p.ClientPort)
			if p.Since > 0 { // else it is not known, or now
				name += fmt.Sprintf(", silent for %s", p.Since.Round(time.Millisecond))
			}
			name += ")"
		}
		names = append(names, name)
	}
	if more > 0 && len(names) > 0 {
		names = append(names, fmt.Sprintf("others×%d", more))
	}
	return names
}

func (o Outcome) attrs() []slog.Attr {
	a := []slog.Attr{
		slog.String("result", string(o.Result)), slog.String("took", short(o.Took)), slog.String("leave", short(o.Leave)),
		slog.String("linger", short(o.Linger)), slog.String("count", short(o.Count)),
	}
	if o.Early > 0 {
		a = append(a, slog.String("linger_early", short(o.Early)))
	}
	if o.Uncounted {
		a = append(a, slog.String("connections", "not counted"))
	} else {
		a = append(a, slog.Int("in_use", o.Connections.Active), slog.Int("idle", o.Connections.Idle), slog.String("source", o.Connections.Source))
	}
	if o.Connections.Active > 0 {
		a = append(a, slog.Any("peers", peers(o.Connections)))
	}
	for _, list := range []struct {
		key  string
		text []string
	}{{"last_in_use", o.LastInUse}, {"registries", o.Registries}, {"trouble", o.Trouble}} {
		if len(list.text) > 0 {
			a = append(a, slog.Any(list.key, list.text))
		}
	}
	if o.Why != "" {
		a = append(a, slog.String("why", o.Why))
	}
	return a
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }

// outcome sums up the current drain at now.
func (o *owner) outcome(s state, r Result, now time.Time) Outcome {
	out := o.policy.spent(s, now)
	out.Result, out.Uncounted = r, s.counted.none || s.counted.began.IsZero()
	out.Cause, out.Began, out.Ended = string(s.cause), s.began, now
	out.Trouble = append(o.trouble(s), o.calls.trouble()...)
	if !out.Uncounted {
		out.Connections = s.counted.whole
	}
	if r == Cancelled || s.drains == 0 {
		return out
	}
	if out.Count >= worthTelling && out.Connections.Active == 0 && s.busy.Began.After(s.began) {
		out.LastInUse = peers(s.busy)
	}
	out.Registries = o.partings(s)
	out.Why = o.why(s, out)
	return out
}

// worthTelling is a time that somebody may ask the reason of.
const worthTelling = time.Second

// why says what the longest part of a drain was spent on.
func (o *owner) why(s state, out Outcome) string {
	switch longest := max(out.Leave, out.Linger, out.Count); {
	case longest < worthTelling:
		return ""
	case longest == out.Leave:
		return "leave: a registry did not say that the Pod is out"
	case longest == out.Count && len(out.LastInUse) > 0:
		text := "count: connections in use, the last of " + strings.Join(out.LastInUse, ", ")
		if n := out.Connections.Expired; n > 0 {
			text += fmt.Sprintf("; on %d of them nothing was said for --request-timeout, so no request is believed to be in flight", n)
		}
		return text
	case longest == out.Count:
		return "count: connections in use"
	case out.Early > 0:
		return "linger: until no client had said anything for " + o.policy.quiet.String() + ", since callers could know"
	case o.policy.linger >= 0:
		return "linger: --linger is " + o.policy.linger.String()
	}
	last, of := s.began, -1
	for i, r := range s.regs {
		if until, known := o.policy.registryLinger(s, i, r); known && until.After(last) && r.held {
			last, of = until, i
		}
	}
	if of < 0 {
		return "linger: the time in which kube-proxies learn of it"
	}
	return "linger: callers of " + o.reconcilers[of].registry.Kind() + ", whose caches run out that late"
}

// partings tell when each registry was left during the drain, and what came of it.
func (o *owner) partings(s state) []string {
	var all []string
	for i, r := range s.regs {
		kind := o.reconcilers[i].registry.Kind()
		after := func(t time.Time) string { return short(max(0, t.Sub(s.began))) }
		text := kind + " not left"
		switch {
		case !r.gaveUp.IsZero():
			text = kind + " given up after " + after(r.gaveUp)
		case !r.left.IsZero() && !r.held:
			text = kind + " held nothing of the Pod"
			if s.reachable() {
				text += ", though the app serves: see prestop check"
			}
		case !r.left.IsZero():
			text = kind + " left after " + after(r.left)
		}
		if !r.published.IsZero() {
			text += ", seen by callers after " + after(r.published)
		}
		if n := s.views[i].undone - o.runs.undone[i]; n > 0 {
			text += fmt.Sprintf(", put back in by somebody %d times", n)
		}
		all = append(all, text)
	}
	return all
}

// spent is an Outcome with nothing but the times of the drain that began last, as of now; without one they are zero.
func (p policy) spent(s state, now time.Time) Outcome {
	if s.began.IsZero() {
		return Outcome{}
	}
	away, callers := p.ends(s, now)
	out := Outcome{Took: now.Sub(s.began), Leave: away.Sub(s.began), Linger: callers.Sub(away), Count: now.Sub(callers)}
	if whole, known := p.lingerWhole(s); known && s.reachable() && callers.Before(whole) && callers.After(away) {
		if early, quiet := p.quietUntil(s); quiet && !now.Before(early) {
			out.Early = whole.Sub(callers)
		}
	}
	return out
}

// ends are when the registries were left and when the callers had had their time, as far as that came before now.
func (p policy) ends(s state, now time.Time) (away, callers time.Time) {
	away = s.began
	for _, r := range s.regs {
		at := r.left
		if at.IsZero() {
			at = r.gaveUp
		}
		if at.IsZero() {
			at = now
		}
		if at.After(away) {
			away = at
		}
	}
	callers = now
	if !s.reachable() {
		callers = later(away, s.appSince)
	} else if until, known := p.lingerUntil(s); known && until.Before(now) {
		callers = until
	}
	if callers.Before(away) {
		callers = away
	}
	return away, callers
}

// trouble is what is wrong at the registries now.
func (d *Drain) trouble(s state) []string {
	var t []string
	for i, v := range s.views {
		if v.err != nil {
			t = append(t, fmt.Sprintf("registry %s: %v", d.reconcilers[i].registry.Kind(), v.err))
		}
	}
	return t
}

// snapshot is what others may read of the owner.
type snapshot struct {
	state state
	run   *drainRun // the current or the last drain; nil before the first
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

// PortStatus is one port of the app in a Status. Since is when it began to listen or stopped; of one that has never
// listened, when it became known.
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
	// LastHeard is the last thing that a client said; nil if that is not watched: only --quiet-period asks for it.
	LastHeard *LastHeard `json:"lastHeard,omitempty"`
}

// LeftOutStatus is how many open connections to a port do not count: prestop's own, those that were opened
// inside the Pod with no client outside behind them, outgoing ones of the app, and those of excluded clients.
type LeftOutStatus struct {
	Reason string `json:"reason"` // own, inside, outgoing or excluded
	Port   uint16 `json:"port"`
	Open   int    `json:"open"`
}

// PeerStatus is one client address in a Status, with its connections to one port of the app. Since is when the one of the
// active connections that has been silent for longest was last used, and ClientPort the client's port of it; they are left
// out where nothing is known of it.
type PeerStatus struct {
	Address    string     `json:"address"`
	Port       uint16     `json:"port"`
	Active     int        `json:"active"`
	Idle       int        `json:"idle"`
	ClientPort uint16     `json:"clientPort,omitempty"`
	Since      *time.Time `json:"since,omitempty"`
}

// LastHeard is the last moment at which a client connected or sent a byte, and his address if it is known.
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

// shownInstances bounds what a Status lists of one registry, so that the answer stays small with hundreds of services.
const shownInstances = 30

// shorten halves the longest list of instances; false if there is nothing left to halve.
func (s *Status) shorten() bool {
	longest := 0
	for i, r := range s.Registries {
		if len(r.Instances) > len(s.Registries[longest].Instances) {
			longest = i
		}
	}
	if len(s.Registries) == 0 || len(s.Registries[longest].Instances) == 0 {
		return false
	}
	r := &s.Registries[longest]
	r.Instances = r.Instances[:len(r.Instances)/2]
	return true
}

// Status returns what is true now, with a fresh count.
func (d *Drain) Status(ctx context.Context) Status {
	d.watcher.refresh(ctx)
	_ = d.Alive(ctx) // what was reported before is in the state then; a stuck owner's is shown as it is
	now := d.status.Load()
	s := now.state
	st := Status{State: s.phase.String(), Since: s.since.UTC(), Connections: d.connections(s), Registries: []RegistryStatus{}, App: []PortStatus{}}
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
	if ended, last := d.history.ended(); len(ended) > 0 {
		st.LastDrain = &DrainStatus{string(last.Result), last.Cause, last.Began.UTC(), last.Ended.UTC(),
			last.Leave.Seconds(), last.Linger.Seconds(), last.Count.Seconds(), last.Connections.Active}
	}
	return st
}

func (d *Drain) connections(s state) Connections {
	t := s.last
	c := Connections{Open: t.Open, Active: t.Active, Idle: t.Idle, Source: d.source(), Peers: []PeerStatus{}}
	for _, l := range t.LeftOut {
		c.LeftOut = append(c.LeftOut, LeftOutStatus{string(l.Reason), l.Port, l.Open})
	}
	for _, p := range t.Peers {
		told := PeerStatus{Address: p.Address.String(), Port: p.Port, Active: p.Active, Idle: p.Open - p.Active, ClientPort: p.ClientPort}
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
	r := RegistryStatus{Kind: of.Kind(), URL: of.URL(), Reached: v.reached, Instances: []InstanceStatus{}}
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

// Ready reports whether the Pod should get traffic by its own account, and why not. A port of the app that is gone is a
// no; draining is not, unless unreadyWhenDraining; with whenRegistered every registry must hold an instance that is in.
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
			if !slices.ContainsFunc(v.instances, func(i registry.Instance) bool { return i.State == registry.In }) {
				return false, "not up in " + d.options.Registries[i].Kind() + " yet"
			}
		}
	}
	return true, s.phase.String()
}
