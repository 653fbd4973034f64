package registrytest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The words of Eureka for an instance's status.
const (
	up           = "UP"
	down         = "DOWN"
	starting     = "STARTING"
	outOfService = "OUT_OF_SERVICE"
	unknown      = "UNKNOWN"
)

var statuses = []string{up, down, starting, outOfService, unknown}

// EurekaConfig sets up an in-memory Eureka. The zero value is an open server at /eureka with Spring
// Cloud's defaults.
type EurekaConfig struct {
	// Path is where the REST interface begins; "" is /eureka.
	Path string
	// Cache is how often the read-only cache, from which lists are answered, is made anew; 0 is 30
	// s, negative: no cache.
	Cache time.Duration
	// Evict is how often expired leases are evicted; 0 is 60 s, negative: never
	// (self-preservation).
	Evict time.Duration
	// User and Password are asked for where User is not "".
	User, Password string
	// CSRF refuses what writes by 401, as spring-security does where /eureka/** is not exempt; by
	// 403 if OpenError, since the 401 comes from the error page that a refusal is forwarded to.
	CSRF, OpenError bool
	// ReadOnly refuses what writes by 403.
	ReadOnly bool
	// Open, if not nil, exempts requests from User, CSRF and ReadOnly.
	Open func(*http.Request) bool
	// Polaris behaves as the Eureka interface of Polaris does: nothing is shown before the cache's
	// next turn (Cache, 10 s there), no override is told, and a new registration undoes one.
	Polaris bool
	// NoDelta answers 403 to GET apps/delta.
	NoDelta bool
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Eureka is one in-memory Eureka server, an http.Handler. It keeps leases, overrides, the queue of
// recent changes and the read-only cache like eureka 2.0.6 does, with its oddities; the contract
// suite runs on it and on the real one. Safe for concurrent use. It starts no goroutine: what a
// real server does by timers is made up for at the next call.
type Eureka struct {
	config EurekaConfig

	// mu guards all below. A change is replicated to the peers after it is released.
	mu        sync.Mutex
	leases    map[string]map[string]*lease // by application in upper case, by instance ID
	overrides map[string]string            // by instance ID alone, as the real one does
	changes   []change                     // of the last three minutes
	cache     map[string]entry             // the read-only cache, by path and format
	cached    time.Time                    // when the cache was made
	turned    view                         // what a Polaris shows: the state of then
	evicted   time.Time                    // when expired leases were evicted last
	peers     []*Eureka
	cut       bool // replicates neither way
	lags      bool
	waiting   []func() // what is not replicated yet
	requests  map[string]int
}

type lease struct {
	info     instance
	duration time.Duration
	expires  time.Time // what the real one calls lastUpdateTimestamp, plus duration
}

// instance is what a client registered, as it sent it, and what the server keeps of it.
type instance struct {
	sent                        map[string]json.RawMessage
	id, app, status, overridden string
	action                      string
	dirty, updated, registered  int64 // milliseconds
}

type change struct {
	at   time.Time
	info *lease
}

// view is what a server tells of.
type view struct {
	leases  map[string]map[string]*lease
	changes []change
}

// view is what is told now.
func (e *Eureka) view() view {
	if e.config.Polaris {
		return e.turned
	}
	return view{e.leases, e.changes}
}

// turn keeps the state of now to be told until the next turn.
func (e *Eureka) turn() {
	if !e.config.Polaris {
		return
	}
	copies := map[*lease]*lease{}
	copied := func(l *lease) *lease {
		if copies[l] == nil {
			c := *l
			copies[l] = &c
		}
		return copies[l]
	}
	e.turned = view{leases: map[string]map[string]*lease{}}
	for app, leases := range e.leases {
		e.turned.leases[app] = map[string]*lease{}
		for id, l := range leases {
			e.turned.leases[app][id] = copied(l)
		}
	}
	for _, c := range e.changes {
		e.turned.changes = append(e.turned.changes, change{c.at, copied(c.info)})
	}
}

// NewEureka returns a server that holds nothing.
func NewEureka(c EurekaConfig) *Eureka {
	if c.Path == "" {
		c.Path = "/eureka"
	}
	c.Path = "/" + strings.Trim(c.Path, "/")
	if c.Cache == 0 {
		c.Cache = 30 * time.Second
	}
	if c.Evict == 0 {
		c.Evict = time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	e := &Eureka{config: c}
	e.Restart()
	return e
}

// PeerEurekas makes servers replicate to each other.
func PeerEurekas(servers ...*Eureka) {
	for _, e := range servers {
		e.mu.Lock()
		e.peers = slices.DeleteFunc(slices.Clone(servers), func(p *Eureka) bool { return p == e })
		e.mu.Unlock()
	}
}

// Restart forgets everything, as a stand-alone server does that is started anew.
func (e *Eureka) Restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leases, e.overrides, e.cache = map[string]map[string]*lease{}, map[string]string{}, map[string]entry{}
	e.changes = nil
	e.cached, e.evicted = e.config.Now(), e.config.Now()
	e.turn()
	e.requests = map[string]int{}
}

// Cut ends the replication between this server and its peers, in both directions, or takes it up
// again. What was not replicated meanwhile is lost, as it is after 30 s with the real one.
func (e *Eureka) Cut(cut bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cut = cut
}

// Lag holds back what this server should tell its peers, until it is called with false. What is
// sent then carries the status of then, as the real one's batches do, which is how a peer's late
// copy of a PUT can cover what the app said since.
func (e *Eureka) Lag(on bool) {
	e.mu.Lock()
	waiting := e.waiting
	e.lags, e.waiting = on, nil
	e.mu.Unlock()
	for _, send := range waiting {
		send()
	}
}

// Requests is how many requests there were since the start, by method and path.
func (e *Eureka) Requests() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	counts := map[string]int{}
	for k, n := range e.requests {
		counts[k] = n
	}
	return counts
}

// Status is the instance's status, and the override that is stored for its ID; "" where there is
// none.
func (e *Eureka) Status(app, id string) (status, override string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.leases[strings.ToUpper(app)][id]; l != nil {
		status = l.info.status
	}
	return status, e.overrides[id]
}

// advance makes up for the timers: the cache is made anew with the state of now at the latest
// before that changes, and expired leases go. Called with mu held, first by everything that reads
// or changes state.
func (e *Eureka) advance() time.Time {
	now := e.config.Now()
	if e.config.Evict > 0 && now.Sub(e.evicted) >= e.config.Evict {
		e.refresh(now)
		e.evicted = now
		for _, leases := range e.leases {
			for _, l := range leases {
				if l.expired(now) {
					e.drop(now, l)
				}
			}
		}
	}
	e.refresh(now)
	return now
}

func (e *Eureka) refresh(now time.Time) {
	if e.config.Cache < 0 || now.Sub(e.cached) >= e.config.Cache {
		// The timer fires at multiples of the interval.
		e.cached = now
		if e.config.Cache > 0 {
			e.cached = now.Truncate(e.config.Cache)
		}
		e.turn()
		for k, p := range e.cache {
			e.cache[k] = e.render(p.path, p.xml, now)
		}
	}
}

func (l *lease) renew(now time.Time) { l.expires = now.Add(2 * l.duration) } // Lease.java adds the duration twice

func (l *lease) expired(now time.Time) bool { return now.After(l.expires) }

// find returns the lease, nil when there is none or it has expired, which heartbeats alone do not
// mind.
func (e *Eureka) find(app, id string, now time.Time) *lease {
	l := e.leases[app][id]
	if l == nil || (e.config.Evict > 0 && l.expired(now)) {
		return nil
	}
	return l
}

func (e *Eureka) changed(now time.Time, l *lease, action string) {
	l.info.action, l.info.updated = action, now.UnixMilli()
	e.changes = slices.DeleteFunc(e.changes, func(c change) bool { return now.Sub(c.at) > 3*time.Minute })
	e.changes = append(e.changes, change{now, l})
}

// drop removes a lease and the override with it.
func (e *Eureka) drop(now time.Time, l *lease) {
	delete(e.leases[l.info.app], l.info.id)
	delete(e.overrides, l.info.id)
	if len(e.leases[l.info.app]) == 0 {
		delete(e.leases, l.info.app)
	}
	e.changed(now, l, "DELETED")
}

// rule decides the status at a registration or a heartbeat; the first of the real one's rules that
// matches.
func (e *Eureka) rule(i instance, old *lease, replica bool) string {
	if i.status != up && i.status != outOfService { // DownOrStartingRule
		return i.status
	}
	if override, ok := e.overrides[i.id]; ok { // OverrideExistsRule
		return override
	}
	if !replica && old != nil && (old.info.status == up || old.info.status == outOfService) { // LeaseExistsRule
		return old.info.status
	}
	return i.status
}

func (e *Eureka) register(i instance, duration time.Duration, replica bool) {
	e.mu.Lock()
	now := e.advance()
	old := e.leases[i.app][i.id]
	if old != nil && old.info.dirty > i.dirty {
		i = old.info
	}
	if _, ok := e.overrides[i.id]; i.overridden != unknown && i.overridden != "" && !ok {
		e.overrides[i.id] = i.overridden
	}
	if o, ok := e.overrides[i.id]; ok {
		i.overridden = o
	} else {
		i.overridden = unknown
	}
	sent := i.status
	if !e.config.Polaris {
		i.status = e.rule(i, old, replica)
	}
	i.registered = now.UnixMilli()
	if old != nil {
		i.registered = old.info.registered
	}
	l := &lease{info: i, duration: duration, expires: now.Add(duration)}
	if e.leases[i.app] == nil {
		e.leases[i.app] = map[string]*lease{}
	}
	e.leases[i.app][i.id] = l
	e.changed(now, l, "ADDED")
	toPeers := i
	if toPeers.overridden == unknown { // a replica applies the rules to what the client sent
		toPeers.status = sent
	}
	e.mu.Unlock()
	e.replicate(replica, func(p *Eureka) { p.register(toPeers, duration, true) })
}

// heartbeat answers false for 404.
func (e *Eureka) heartbeat(app, id string, dirty int64, replica bool, override string) bool {
	e.mu.Lock()
	now := e.advance()
	l := e.leases[app][id]
	if l == nil {
		e.mu.Unlock()
		return false
	}
	status := e.rule(l.info, l, replica)
	if status == unknown {
		e.mu.Unlock()
		return false
	}
	l.info.status = status // without a change in the delta
	l.renew(now)
	known := true
	if dirty > l.info.dirty {
		if replica && override != "" && override != unknown {
			e.overrides[id], l.info.overridden = override, override
		}
		known = false
	}
	dirty, override = l.info.dirty, e.overrides[id]
	info, duration := l.info, l.duration
	e.mu.Unlock()
	e.replicate(replica, func(p *Eureka) {
		if !p.heartbeat(app, id, dirty, true, override) {
			p.register(info, duration, true)
		}
	})
	return known
}

// setStatus answers false for 404.
func (e *Eureka) setStatus(app, id, status string, replica bool) bool {
	e.mu.Lock()
	now := e.advance()
	l := e.find(app, id, now)
	if l == nil {
		e.mu.Unlock()
		return false
	}
	l.renew(now)
	if l.info.status != status { // the same status stores no override, but is replicated
		if l.info.status = status; !e.config.Polaris {
			e.overrides[id], l.info.overridden = status, status
		}
		e.changed(now, l, "MODIFIED")
	}
	e.mu.Unlock()
	e.replicate(replica, func(p *Eureka) {
		if now := e.now(app, id); now != "" {
			p.setStatus(app, id, now, true)
		}
	})
	return true
}

// removeStatus answers false for 404.
func (e *Eureka) removeStatus(app, id, status string, replica bool) bool {
	e.mu.Lock()
	now := e.advance()
	l := e.find(app, id, now)
	if l == nil {
		e.mu.Unlock()
		return false
	}
	l.renew(now)
	_, overridden := e.overrides[id]
	if e.config.Polaris && l.info.status == outOfService {
		overridden = true
		if status == unknown {
			status = up
		}
	}
	if overridden { // else nothing happens, 200 all the same
		delete(e.overrides, id)
		l.info.overridden, l.info.status = unknown, status
		e.changed(now, l, "MODIFIED")
	}
	e.mu.Unlock()
	e.replicate(replica, func(p *Eureka) {
		if now := e.now(app, id); now != "" {
			p.removeStatus(app, id, now, true)
		}
	})
	return true
}

// now is the status to replicate; "" when there is no lease any more.
func (e *Eureka) now(app, id string) string {
	status, _ := e.Status(app, id)
	return status
}

// cancel answers false for 404. It removes the override of the ID in any case.
func (e *Eureka) cancel(app, id string, replica bool) bool {
	e.mu.Lock()
	now := e.advance()
	delete(e.overrides, id)
	l := e.leases[app][id]
	if l == nil {
		e.mu.Unlock()
		return false
	}
	e.drop(now, l)
	e.mu.Unlock()
	e.replicate(replica, func(p *Eureka) { p.cancel(app, id, true) })
	return true
}

// replicate calls f with every peer, in order and without delay; the real one takes up to half a
// second.
func (e *Eureka) replicate(replica bool, f func(*Eureka)) {
	if replica {
		return
	}
	e.mu.Lock()
	peers, cut, lags := slices.Clone(e.peers), e.cut, e.lags
	send := func() {
		for _, p := range peers {
			p.mu.Lock()
			reachable := !cut && !p.cut
			p.mu.Unlock()
			if reachable {
				f(p)
			}
		}
	}
	if lags {
		e.waiting = append(e.waiting, send)
	}
	e.mu.Unlock()
	if !lags {
		send()
	}
}
