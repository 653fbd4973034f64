// Package eureka takes a Pod's instances out of Eureka and puts them back.
//
// Out is the status override OUT_OF_SERVICE: an instance that is deleted while its app lives is
// registered again, UP, by the app's next heartbeat (Netflix/eureka#1110). The override lives in
// each server's memory under the instance's ID alone, outlives the app's process as long as
// something heartbeats with that ID, and is lost when a server restarts; so each service URL is
// treated as a server of its own: told itself, and read back itself, past its caches.
package eureka

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

// What callers with default settings add to what a server's read cache shows: the client's fetch
// (30 s) and Spring Cloud LoadBalancer's cache (35 s); Ribbon's is 30 s. Callers were seen to go on
// for 64 s, so 2 s are spare. Before that comes the server's read-only cache (30 s).
const (
	lingerAfterPublished = 67 * time.Second
	lingerAfterLeave     = 97 * time.Second
)

// parallel bounds the requests to one server at a time, for a Pod with many instances.
const parallel = 4

// recentLook is how old a look at a server may be that Leave still acts on without looking again.
const recentLook = time.Second

// Options configure a Registry.
type Options struct {
	// URLs are the service URLs as the app's own client has them; at least one. Userinfo is basic
	// auth. A name of several addresses is a server at each, see [client.Client.Servers].
	URLs []*url.URL
	// InstanceID, if not "", is the one instance that is ours, whatever its address and port.
	InstanceID string
	// HeldBack says that the app registers itself as OUT_OF_SERVICE and is let in by somebody else
	// later (eureka.instance.initial-status). What is found so is then the app's own word from the
	// first look on.
	HeldBack bool
	// HTTP makes the calls.
	HTTP *client.Client
}

// Registry is one Eureka, a [registry.Registry]. A server that cannot be reached holds nothing up
// for more than two seconds once another one has answered: nobody reads from it either. Leave,
// Rejoin and Forget then succeed without it, and the caller's next look tells when it is back with
// something else.
type Registry struct {
	id         string
	heldBack   bool
	http       *client.Client
	configured []*url.URL
	servers    []*server // the ones behind them
	held       []held
	only       []uint16 // the ports whose instances are changed; none: all
	left       bool     // Leave was asked for last, not Rejoin
}

// held is an instance that is remembered.
type held struct {
	app, id string
	// host and ip are as it was registered: another Pod may take over an ID (StatefulSet), not the
	// address with it.
	host, ip string
	port     uint16
}

// key is what an instance is known by on a server.
func (h held) key() string { return h.app + "/" + h.id }

// is reports whether a server's record is of the same Pod as the remembered one.
func (h held) is(r record) bool {
	if h.ip != "" {
		return h.ip == string(r.IP)
	}
	return strings.EqualFold(h.host, string(r.Host))
}

// New returns a Registry for o. It makes no call.
func New(o Options) *Registry {
	r := &Registry{id: o.InstanceID, heldBack: o.HeldBack, http: o.HTTP, configured: o.URLs}
	r.serve(o.URLs)
	return r
}

// resolve brings the servers behind the service URLs up to date.
func (r *Registry) resolve(ctx context.Context) { r.serve(r.http.Servers(ctx, r.configured)) }

// serve makes the servers those at urls; what is known of one that stays is kept.
func (r *Registry) serve(urls []*url.URL) {
	servers := make([]*server, len(urls))
	for i, u := range urls {
		if known := slices.IndexFunc(r.servers, func(s *server) bool { return *s.url == *u }); known >= 0 {
			servers[i] = r.servers[known]
		} else {
			servers[i] = newServer(u, r.http, r.heldBack)
		}
	}
	r.servers = servers
}

// Kind is "eureka".
func (r *Registry) Kind() string { return "eureka" }

// URL is the service URLs without userinfo.
func (r *Registry) URL() string {
	var urls []string
	for _, u := range r.configured {
		urls = append(urls, registry.Redact(u))
	}
	return strings.Join(urls, ",")
}

// Linger is 67 s after Published, 97 s after Leave.
func (r *Registry) Linger() (afterPublished, afterLeave time.Duration) {
	return lingerAfterPublished, lingerAfterLeave
}

// Find looks by what is known, the cheapest way: the configured ID, the names of services, or else
// the whole list.
func (r *Registry) Find(ctx context.Context, pod registry.Pod) ([]registry.Instance, error) {
	r.resolve(ctx)
	found, err := r.discover(ctx, pod)
	if err != nil {
		return r.instances(nil), err
	}
	for _, h := range found {
		if i := slices.IndexFunc(r.held, func(o held) bool { return o.key() == h.key() }); i >= 0 {
			r.held[i] = h
		} else {
			r.held = append(r.held, h)
		}
	}
	if len(r.held) == 0 {
		// A wrong path answers 404 as well. Each Eureka has a list of changes or refuses it.
		return nil, r.readAll(ctx, func(ctx context.Context, s *server) error { return s.prime(ctx, nil) })
	}
	seen, err := r.look(ctx, false)
	if err != nil {
		return r.instances(nil), err
	}
	r.held = slices.DeleteFunc(r.held, func(h held) bool { return seen.goneFor(h) })
	// What fails here fails again, and is told, in Published.
	_ = r.readAll(ctx, func(ctx context.Context, s *server) error { return s.prime(ctx, r.held) })
	return r.instances(seen), nil
}

// Check asks every server once for every instance.
func (r *Registry) Check(ctx context.Context) ([]registry.Instance, error) {
	if len(r.held) == 0 {
		return nil, nil
	}
	seen, err := r.look(ctx, true)
	if err != nil {
		return r.instances(nil), err
	}
	return r.instances(seen), nil
}

// Only implements registry.Registry.
func (r *Registry) Only(ports []uint16) { r.only = ports }

// Leave puts OUT_OF_SERVICE over every instance that is In, or Out by an override: the same status
// once more stores nothing but is replicated, and so heals a peer that missed it. One that is Out
// without an override was not put so by us. One that is Down is left alone: the override would hide
// what the app said last, and the app is not called; should it come up during the drain, the
// caller's next look says In.
func (r *Registry) Leave(ctx context.Context) error {
	r.left = true
	return r.change(ctx, (*server).leave)
}

// Rejoin removes what keeps an instance out, by the softest means that helps; see remedy. It looks
// at every server before: what the app has just told one of them, the others may not have heard
// yet.
func (r *Registry) Rejoin(ctx context.Context) error {
	r.left = false
	if len(r.held) == 0 {
		return nil
	}
	r.resolve(ctx)
	seen, err := r.look(ctx, false)
	if err != nil {
		return err
	}
	return r.changeAll(ctx, r.perInstance(func(s *server, ctx context.Context, h held) error {
		return s.rejoin(ctx, h, seen.of[h.key()])
	}))
}

// Forget deletes the instances where they are held and are still this Pod's. It never sends a
// DELETE on a guess: even where Eureka answers it with 404 it drops the override that another
// instance with that ID may live under.
func (r *Registry) Forget(ctx context.Context) error {
	return r.change(ctx, (*server).forget)
}

// change changes every chosen instance.
func (r *Registry) change(ctx context.Context, f func(*server, context.Context, held) error) error {
	if len(r.held) == 0 {
		return nil
	}
	r.resolve(ctx)
	return r.changeAll(ctx, r.perInstance(f))
}

// Published looks at the list of recent changes that every Java client polls, and reports whether
// it shows no instance as UP any more: then this server's read cache has been turned over. Where
// the list is switched off it looks at the cached list of the application, if Find could read that
// before; a list that nobody has read before is made on the spot and so would show it too early.
func (r *Registry) Published(ctx context.Context) (bool, error) {
	if len(r.held) == 0 {
		return true, nil
	}
	var notYet atomic.Bool
	err := r.readAll(ctx, func(ctx context.Context, s *server) error {
		ok, err := s.published(ctx, r.held)
		if err == nil && !ok {
			notYet.Store(true)
		}
		return err
	})
	return err == nil && !notYet.Load(), err
}

// discover returns the Pod's instances as the servers list them, which may be half a minute old.
func (r *Registry) discover(ctx context.Context, pod registry.Pod) ([]held, error) {
	var found collection
	take := func(rec record) {
		if h, ok := mine(rec, pod); ok {
			found.add(h)
		}
	}
	switch {
	case r.id != "":
		err := r.readAll(ctx, func(ctx context.Context, s *server) error {
			rec, err := s.instance(ctx, "instances/"+url.PathEscape(r.id), "find the instance "+r.id, false)
			if err == nil && rec != nil {
				found.add(heldByID(*rec, pod))
			}
			return err
		})
		return found.list, err
	case !pod.Known():
		return nil, nil
	case len(pod.Services) > 0:
		err := r.readAll(ctx, func(ctx context.Context, s *server) error {
			for _, service := range pod.Services {
				if err := s.application(ctx, strings.ToUpper(service), false, take); err != nil {
					return err
				}
			}
			return nil
		})
		return found.list, err
	}
	// One list is enough in nearly every case, and it is megabytes: the next server's only if this
	// one knows us not.
	answered, err := r.servers[0].all(ctx, r.urls(), false, take)
	if err != nil && !registry.IsFinal(err) {
		return nil, err
	}
	for _, s := range r.servers {
		if len(found.list) > 0 {
			break
		}
		if registry.Redact(s.url) == answered {
			continue
		}
		// The first answer stands, whatever the others say; unless it was a refusal, which is about
		// one server.
		if _, other := s.all(ctx, []*url.URL{s.url}, true, take); other == nil {
			err = nil
		}
	}
	return found.list, err
}

func (r *Registry) urls() []*url.URL {
	var urls []*url.URL
	for _, s := range r.servers {
		urls = append(urls, s.url)
	}
	return urls
}

// mine makes what is remembered of a listed record, if it is the Pod's.
func mine(rec record, pod registry.Pod) (held, bool) {
	if !pod.Wants(string(rec.App)) {
		return held{}, false
	}
	for _, p := range []uint16{uint16(rec.Port), uint16(rec.SecurePort)} {
		if pod.Owns(string(rec.IP), p) || pod.Owns(string(rec.Host), p) {
			return newHeld(rec, p), true
		}
	}
	return held{}, false
}

// heldByID makes what is remembered of the configured instance.
func heldByID(rec record, pod registry.Pod) held {
	h, ok := mine(rec, pod)
	if !ok {
		p := rec.Port
		if p == 0 {
			p = rec.SecurePort
		}
		h = newHeld(rec, uint16(p))
	}
	return h
}

func newHeld(rec record, port uint16) held {
	app := strings.ToUpper(string(rec.App))
	return held{app: app, id: rec.id(), host: string(rec.Host), ip: string(rec.IP), port: port}
}

// look asks every server for every instance.
func (r *Registry) look(ctx context.Context, once bool) (*sightings, error) {
	seen := &sightings{servers: len(r.servers), of: map[string][]record{}}
	err := r.readAll(ctx, r.perInstance(func(s *server, ctx context.Context, h held) error {
		rec, err := s.current(ctx, h, once)
		if err == nil {
			seen.add(h, rec)
		}
		return err
	}))
	return seen, err
}

// instances tells of the remembered instances as seen; nil is not at all.
func (r *Registry) instances(seen *sightings) []registry.Instance {
	var list []registry.Instance
	for _, h := range r.held {
		i := registry.Instance{ID: h.id, Service: h.app, Port: h.port, Status: "not known"}
		if seen != nil {
			i.Status, i.State = seen.sum(h, r.left)
		}
		list = append(list, i)
	}
	return list
}

// sum is what the servers say together, see merge.
func (s *sightings) sum(h held, left bool) (status string, state registry.State) {
	var words []string
	var states []registry.State
	for _, rec := range s.of[h.key()] {
		states = append(states, stateOf(rec))
		word := string(rec.Status)
		if word == "" {
			word = "absent"
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return strings.Join(words, ","), merge(states, left)
}

// stateOf is what the record means; the zero record is absent.
func stateOf(rec record) registry.State {
	switch rec.Status {
	case "":
		return registry.Absent
	case "UP":
		return registry.In
	case "OUT_OF_SERVICE":
		if rec.Own {
			return registry.Down
		}
		return registry.Out
	case rec.Override: // an override says so, not the app: a peer's late copy of a status makes one
		if rec.Status != "UNKNOWN" {
			return registry.Out
		}
	}
	return registry.Down // DOWN, STARTING, UNKNOWN: clients drop all but UP
}

// merge sums up what servers say of one instance. Where they disagree it is what was not asked for
// last: In after a Leave, Out otherwise; so that the caller repeats what it asked for.
func merge(states []registry.State, left bool) registry.State {
	order := []registry.State{registry.Out, registry.In, registry.Down}
	if left {
		order = []registry.State{registry.In, registry.Out, registry.Down}
	}
	for _, s := range order {
		if slices.Contains(states, s) {
			return s
		}
	}
	return registry.Absent
}

// step is one thing to do to an instance on one server on the way back in.
type step struct {
	// override, if not "", is the status to leave when the override is removed.
	override string
	// deregister: delete the instance; the app's next heartbeat registers it again with its true
	// status.
	deregister bool
}

// softTries is how often an override is removed before that is believed not to help.
const softTries = 3

// remedy decides how to put an instance back in that a server holds as rec, and the servers
// together as all. tried is how often an override was removed before, m what is known of our PUT,
// and stores says that this server has shown an override of ours. The zero step means that there is
// nothing to do.
//
// An override is removed by DELETE …/status with the status to show instead. That is UP if the last
// word of the app left it UP before our PUT, and no server has heard another word since. In every
// other case it is UNKNOWN, which makes the app say it again at its next heartbeat: it may have
// said DOWN just before the PUT, which covers that, or another server may have heard it; a new
// process may have registered itself as OUT_OF_SERVICE; and an override that we have not put may be
// a dead Pod's, which had our address.
//
// Where no override is stored any more, after an hour without a heartbeat, the status sticks all
// the same and that DELETE does nothing (200 nevertheless); then only deleting the instance helps.
// A server that never shows an override (Polaris) may need its time to show the removal; there
// nothing is deleted. UP by an override is what peers make of a Leave and a Rejoin within half a
// second (replication carries the status of the time at which it is sent); it would hide what the
// app says of itself later. Never PUT UP: it would leave just that.
func remedy(rec record, all []record, tried int, m ourPut, stores bool) step {
	state := stateOf(rec)
	switch {
	case state == registry.Absent, state != registry.Out && !rec.overridden():
		return step{}
	case state == registry.In && m.put.IsZero():
		return step{} // somebody has let it in
	case state == registry.Out && tried >= softTries && m.put.IsZero() && !rec.overridden():
		// The app registered itself so, or it is a stranger's. A live record is never deleted.
		return step{}
	case state == registry.Out && tried >= softTries && (stores || rec.overridden()):
		return step{deregister: true}
	case state != registry.Out && tried > 0:
		return step{} // what is left of the override goes with the app's next registration
	case state != registry.Down && m.up && m.heard == rec.Dirty && !outdated(rec, all):
		return step{override: "UP"}
	}
	return step{override: "UNKNOWN"}
}

// peersTold is when peers have told each other of a PUT: half a second, and some tries over.
const peersTold = 5 * time.Second

// outdated reports whether another server holds a later word of the app than rec.
func outdated(rec record, all []record) bool {
	return slices.ContainsFunc(all, func(other record) bool {
		return other.registered().After(rec.registered())
	})
}

// describe is the beginning of an error about an instance.
func describe(what string, h held) string { return what + " " + h.key() }
