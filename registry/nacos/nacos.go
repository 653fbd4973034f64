// Package nacos takes the instances of one Pod out of Nacos 1.4, 2.x and 3.x over its HTTP API and
// puts them back.
//
// An instance is disabled (enabled=false), never deregistered while it lives: a DELETE answers ok
// and does nothing for an app that registered over gRPC, and is undone by the next heartbeat of one
// that registered over HTTP (nacos#6274, nacos#12788). From 2.0 on the flag is a record beside the
// instance, kept in Raft under ip:port:cluster and laid over whoever publishes that address. The
// record outlives the instance by a minute, or for ever, so that the next owner of the address
// would come up disabled (nacos#14606): whoever disables must also clean up, see Rejoin and Forget.
//
// Everything that a server tells about an instance, to its console and to its callers, comes out of
// one list for each service that is rebuilt half a second after a change, together with the push to
// the subscribers. So a change is believed only once it has been read back.
package nacos

import (
	"cmp"
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

const (
	// linger is how long callers may go on after the list has changed. A client 2.x is pushed the
	// change within 0.6 s. A client 1.x whose UDP push is lost polls every 10 s. Then comes Spring
	// Cloud LoadBalancer's cache, which does not listen to either (35 s; Ribbon's is 30 s). Callers
	// were seen to go on for 42.1 s.
	linger = 47 * time.Second
	// parallel bounds the calls under way at the same time; a Dubbo app has hundreds of names, and
	// each write is one of Raft.
	parallel = 8
	// rebuilt is when a server's lists show a change, after the answer to it
	// (nacos.naming.push.pushTaskDelay, 500 ms).
	rebuilt = 600 * time.Millisecond
	// poll is the pause between two looks after that.
	poll = 200 * time.Millisecond
	// repeat is how often a change that does not show is made again.
	repeat = 3 * time.Second
	// raft is how long a server may wait for its cluster with a write (JRaftProtocol).
	raft = 10 * time.Second
	// slow is when a write that has no answer yet makes us look whether its server is alive.
	slow = 2 * time.Second
	// notYet is how long after its registration an instance can be listed nowhere: then an absence
	// becomes final.
	notYet = 1200 * time.Millisecond
	// oldWeight is when a weight that was read is too old to be written back.
	oldWeight = 5 * time.Second
)

// Options say where Nacos is and who we are.
type Options struct {
	// Servers are the addresses of one cluster's servers with their context path, e.g.
	// http://nacos-0:8848/nacos. At least one; a name that leads to several servers stands for all
	// of them, see client.Client.Servers. Userinfo is Username and Password where those are not
	// given.
	Servers []*url.URL
	// Namespace is a namespace's ID; "" is "public".
	Namespace string
	// Group restricts to one group; "" is every group.
	Group string
	// Username logs in where the server asks for it. "" never does.
	Username string
	// Password is called at each login, so that a file that holds it can change; nil is no
	// password.
	Password func() (string, error)
	// HeldBack says that the app registers itself with enabled=false and is let in by somebody else
	// later (spring.cloud.nacos.discovery.instance-enabled). What is found disabled is then the
	// app's own word. Nacos tells it from nothing else: without HeldBack it is a leftover.
	HeldBack bool
	// HTTP makes the calls.
	HTTP *client.Client
}

// Registry is one Nacos cluster as the instances of one Pod see it; it implements
// registry.Registry.
type Registry struct {
	configured []*url.URL
	servers    []*url.URL // the ones behind them
	url        string
	namespace  string
	group      string
	http       *client.Client
	login      login

	mu       sync.Mutex // guards what follows, since calls are made in parallel
	api      api        // nil until a server has told its generation
	apiKnown time.Time  // when it did
	reader   string     // the server that answered last, as it is shown
	writesTo string     // the server that changes are sent to, as it is shown

	pod     registry.Pod
	records map[key]record
	// disabled are the records that this process has disabled or found disabled, and has not yet
	// enabled again. An instance that has vanished stays here: its record on the servers does not
	// vanish with it.
	disabled map[key]record
	// leftover are those of the disabled that this process has only found so.
	leftover map[key]bool
	// first is when a record was found for the first time.
	first  map[key]finding
	looked map[uint16]bool // the ports that Find has looked for before; 0 is any
	// heldBack: what is found disabled is the app's own word.
	heldBack bool
	swept    time.Time // when the whole catalog was last read for a name that was not found
	read     time.Time // when records were last read from a server
	only     []uint16  // the ports whose records are changed; none: all
}

// New returns a Registry that has found nothing yet. It makes no call.
func New(o Options) *Registry {
	r := &Registry{
		namespace: cmp.Or(o.Namespace, "public"),
		group:     o.Group,
		http:      o.HTTP,
		records:   map[key]record{},
		disabled:  map[key]record{},
		leftover:  map[key]bool{},
		first:     map[key]finding{},
		looked:    map[uint16]bool{},
		heldBack:  o.HeldBack,
		login:     login{username: o.Username, password: o.Password},
	}
	var shown []string
	for _, s := range o.Servers {
		u := *s
		if u.User != nil && r.login.username == "" {
			password, _ := u.User.Password()
			r.login.username, r.login.password = u.User.Username(), func() (string, error) { return password, nil }
		}
		u.User = nil // or it would be sent as basic auth and take the place of the token
		r.configured = append(r.configured, &u)
		shown = append(shown, registry.Redact(&u))
	}
	r.url = strings.Join(shown, ",")
	r.servers = r.configured
	return r
}

// resolve brings the servers behind the configured addresses up to date.
func (r *Registry) resolve(ctx context.Context) { r.servers = r.http.Servers(ctx, r.configured) }

// Kind implements registry.Registry.
func (r *Registry) Kind() string { return "nacos" }

// URL implements registry.Registry.
func (r *Registry) URL() string { return r.url }

// Linger implements registry.Registry. Both are the same: what Leave reads back changes together
// with what callers read.
func (r *Registry) Linger() (afterPublished, afterLeave time.Duration) { return linger, linger }

// Find implements registry.Registry. An instance that registered less than a second ago may not be
// found yet.
func (r *Registry) Find(ctx context.Context, pod registry.Pod) ([]registry.Instance, error) {
	r.resolve(ctx)
	r.expireAPI()
	r.pod = pod
	found, err := r.discover(ctx)
	if err != nil {
		return r.instances(nil), err
	}
	views := []view{{held: found}}
	if r.misses(found) {
		// The server that was asked may be the one that does not know: an instance is forgotten
		// only if no server holds it.
		more := r.everywhere(ctx, r.look)
		if err := failed(more); err != nil {
			return r.instances(nil), err
		}
		views = append(views, more...)
	}
	for k := range r.records {
		if merged(views, k) == nil {
			delete(r.records, k)
		}
	}
	for k, rec := range found {
		r.records[k] = rec
		if _, known := r.first[k]; !known {
			r.first[k] = finding{at: time.Now(), registeredSince: r.looked[k.port] || r.looked[0]}
		}
	}
	maps.DeleteFunc(r.first, func(k key, _ finding) bool {
		_, known := r.records[k]
		return !known
	})
	for _, port := range pod.Ports {
		r.looked[port] = true
	}
	r.looked[0] = r.looked[0] || pod.AnyPort
	r.learn(views)
	return r.instances(views), nil
}

// Only implements registry.Registry.
func (r *Registry) Only(ports []uint16) { r.only = ports }

// Leave implements registry.Registry. It returns half a second after the servers have taken the
// change at the earliest: only then do they show it, and have begun to push it to the callers.
func (r *Registry) Leave(ctx context.Context) error {
	if len(r.records) == 0 {
		return nil
	}
	r.resolve(ctx)
	if time.Since(r.read) > oldWeight {
		// For the weights that they have now: a change of the flag writes the weight too.
		r.learn([]view{r.anywhere(ctx)})
	}
	leaving := slices.DeleteFunc(r.chosen(r.records), func(rec record) bool {
		return !rec.enabled && !r.isDisabled(rec.key) // it is not ours, and is out already
	})
	return r.settle(ctx, "left", leaving, func(ctx context.Context) error {
		until := time.Now().Add(notYet)
		return each(ctx, leaving, func(ctx context.Context, rec record) error {
			// Noted before it is sent: a disable whose answer is lost has to be undone all the
			// same.
			known := r.noteDisabled(rec)
			held, err := r.enable(ctx, rec, false, until)
			if err == nil && !held && !known {
				r.dropDisabled(rec.key)
			}
			return err
		})
	}, func(h *record) bool { return h == nil || !h.enabled })
}

// Published implements registry.Registry: it asks for the list that callers ask for.
func (r *Registry) Published(ctx context.Context) (bool, error) {
	if len(r.records) == 0 {
		return true, nil
	}
	r.resolve(ctx)
	views := r.everywhere(ctx, r.listed)
	if err := failed(views); err != nil {
		return false, err
	}
	for k := range r.records {
		if merged(views, k) != nil {
			return false, nil
		}
	}
	return true, nil
}

// Check implements registry.Registry. Nacos lets nobody look past the lists of its servers, so a
// change shows after 0.6 s.
func (r *Registry) Check(ctx context.Context) ([]registry.Instance, error) {
	if len(r.records) == 0 {
		return nil, nil
	}
	r.resolve(ctx)
	views := r.everywhere(ctx, r.look)
	if err := failed(views); err != nil {
		return r.instances(nil), err
	}
	r.learn(views)
	return r.instances(views), nil
}

// Rejoin implements registry.Registry. It writes enabled=true wherever a server shows the opposite
// or this process has written it, and never waits for the servers' record to expire: when it does,
// the list is not rebuilt and the instance stays out of it until something else changes in its
// service. Of an instance that is gone it wipes the record, so that the next one at its address
// comes up enabled.
func (r *Registry) Rejoin(ctx context.Context) error {
	if len(r.records) == 0 && len(r.disabled) == 0 {
		return nil
	}
	r.resolve(ctx)
	views, err := r.lookUntil(ctx)
	if err != nil {
		return err
	}
	r.learn(views)
	if len(r.chosen(r.disabled)) == 0 {
		return nil
	}
	var (
		mu   sync.Mutex
		gone = map[key]record{}
	)
	err = r.settle(ctx, "rejoined", r.chosen(r.disabled), func(ctx context.Context) error {
		until := time.Now().Add(notYet)
		return each(ctx, r.chosen(r.disabled), func(ctx context.Context, rec record) error {
			held, err := r.enable(ctx, rec, true, until)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				if delete(gone, rec.key); !held {
					gone[rec.key] = rec
				}
			}
			return err
		})
	}, func(h *record) bool { return h == nil || h.enabled })
	if err == nil {
		err = r.wipe(ctx, sorted(gone))
	}
	if err == nil {
		r.enabledAgain()
	}
	return err
}

// Forget implements registry.Registry. What registered over HTTP is deleted; what registered over
// gRPC goes with its connection, and is waited for. Then the record of the disabled is wiped.
func (r *Registry) Forget(ctx context.Context) error {
	if len(r.records) == 0 && len(r.disabled) == 0 {
		return nil
	}
	r.resolve(ctx)
	views, err := r.lookUntil(ctx)
	if err != nil {
		return err
	}
	r.learn(views)
	forgotten := r.chosen(r.records)
	err = r.settle(ctx, "gone", forgotten, func(ctx context.Context) error {
		return each(ctx, forgotten, func(ctx context.Context, rec record) error {
			if merged(views, rec.key) == nil {
				return nil
			}
			return r.remove(ctx, rec)
		})
	}, func(h *record) bool { return h == nil })
	if err != nil {
		return err
	}
	err = r.wipe(ctx, r.chosen(r.disabled))
	if err == nil {
		r.enabledAgain()
	}
	return err
}

// remembered are the records in a fixed order.
func (r *Registry) remembered() []record { return sorted(r.records) }

// chosen are those of the records that are changed now, in a fixed order.
func (r *Registry) chosen(of map[key]record) []record {
	return slices.DeleteFunc(sorted(of), func(rec record) bool {
		return len(r.only) > 0 && !slices.Contains(r.only, rec.port)
	})
}

// enabledAgain forgets that the records that are changed now were disabled.
func (r *Registry) enabledAgain() {
	for _, rec := range r.chosen(r.disabled) {
		delete(r.disabled, rec.key)
		delete(r.leftover, rec.key)
	}
}

// misses reports whether a remembered record is not among found.
func (r *Registry) misses(found map[key]record) bool {
	for k := range r.records {
		if _, ok := found[k]; !ok {
			return true
		}
	}
	return false
}

// instances are the remembered ones as views show them; without any view as they were last seen.
func (r *Registry) instances(views []view) []registry.Instance {
	list := make([]registry.Instance, 0, len(r.records))
	for _, rec := range r.remembered() {
		h := &rec
		if views != nil {
			h = merged(views, rec.key)
		}
		i := registry.Instance{
			ID: r.id(rec.key), Service: rec.name, Port: rec.port, Status: status(h), State: state(h),
		}
		if i.State == registry.Out && !r.isDisabled(rec.key) {
			i.State = registry.Down // its own app's word, or another Pod's record
		}
		list = append(list, i)
	}
	return list
}

// id is the name of a record for people: group@@service@cluster@ip:port, with namespace@@ in front
// where it is not public.
func (r *Registry) id(k key) string {
	if r.namespace == "public" {
		return k.String()
	}
	return r.namespace + "@@" + k.String()
}

// each calls f for every record, parallel at a time, and returns the errors joined. After a Final
// one it starts no more.
func each(ctx context.Context, records []record, f func(context.Context, record) error) error {
	return client.Each(ctx, parallel, records, f)
}

func sorted(m map[key]record) []record {
	list := make([]record, 0, len(m))
	for _, rec := range m {
		list = append(list, rec)
	}
	slices.SortFunc(list, func(a, b record) int { return strings.Compare(a.String(), b.String()) })
	return list
}
