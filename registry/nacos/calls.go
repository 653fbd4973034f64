package nacos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"prestop/registry"
)

const (
	// patience is how much longer than the first one to answer the other servers may take.
	patience = time.Second
	// lookTimeout bounds a look at servers of which none answers.
	lookTimeout = 3 * time.Second
	// fewPlaces is up to how many clusters of services are looked at one by one; for more the whole catalog is cheaper.
	fewPlaces = 8
	// fewNames is the same for services that are looked for by name.
	fewNames = 4
	// fresh is how long servers are believed to be of the generation that they told: a Pod outlives their upgrades.
	fresh = 5 * time.Minute
)

// ask makes a call in the dialect of the servers, logs in when one asks for it, and changes to the other dialect when the
// servers have been upgraded. The answer it returns is one that is done or absent.
func (r *Registry) ask(ctx context.Context, addrs []*url.URL, op string, build func(dialect) registry.Call) (bool, error) {
	d, err := r.speak(ctx)
	if err != nil {
		return false, err
	}
	var loggedIn, changed bool
	for {
		call := build(d)
		call.Op = op
		var token string
		call.Header, token = r.login.header()
		call.Retry = func(a registry.Answer) bool { return judge(a, call.Read == nil) == sick }
		a, err := r.http.Do(ctx, r.lastFirst(addrs), call)
		if err != nil {
			return false, err
		}
		switch v := judge(a, call.Read == nil); {
		case v == done || v == absent:
			r.answered(a.URL)
			return v == done, nil
		case v == refused && r.login.username != "" && !loggedIn:
			loggedIn = true
			if err := r.login.renew(ctx, r.http, r.lastFirst(addrs), token, d.login(), v1{}.login()); err != nil {
				return false, err
			}
		case v == otherGeneration && !changed:
			changed = true
			d = r.change(d)
		default:
			return false, r.no(op, a, v)
		}
	}
}

// no is the error of an answer that trying again does not change.
func (r *Registry) no(op string, a registry.Answer, v verdict) error {
	e := &registry.Error{Op: op, URL: a.URL, Code: a.Code, Final: true}
	if text := says(a.Body); text != "" {
		e.Err = errors.New(text)
	}
	switch {
	case v == refused && r.login.username == "":
		e.Remedy = "set --nacos-username and --nacos-password; Nacos 3 wants a login for its admin API unless the server " +
			"has nacos.core.auth.admin.enabled=false"
	case v == refused:
		e.Remedy = fmt.Sprintf("give the user the right to read and write in the namespace %s (resource %[1]s:*:*, "+
			"for public on 2.x :*:*)", r.namespace)
	case v == otherGeneration:
		e.Remedy = "is this the address of a Nacos server with its context path, e.g. http://nacos:8848/nacos? " +
			"On Nacos 3 port 8080 is the console, 8848 the server"
	}
	return e
}

// says is what an answer that is no success gives for its reason, in one line.
func says(body []byte) string {
	var page struct{ Message, Data string }
	if json.Unmarshal(body, &page) == nil && page.Message != "" {
		body = []byte(strings.TrimSpace(page.Message + " " + page.Data))
	}
	return strings.TrimPrefix(registry.Excerpt(body), ": ")
}

// speak returns the servers' dialect and asks for their version if it is not known. Servers that do not tell are taken for
// 2.x, for this call: ask changes the dialect where that is wrong.
func (r *Registry) speak(ctx context.Context) (dialect, error) {
	if d := r.spoken(); d != nil {
		return d, nil
	}
	version, by, err := r.version(ctx)
	if err != nil {
		return nil, err
	}
	d := spokenBy(version)
	if d == nil {
		return v1{}, nil
	}
	r.mu.Lock()
	r.dialect, r.told = d, time.Now()
	r.mu.Unlock()
	r.answered(registry.Redact(by))
	return d, nil
}

// version asks the first server that answers for its version, "" if it tells none.
func (r *Registry) version(ctx context.Context) (version string, by *url.URL, err error) {
	for _, path := range []string{"v3/admin/core/state", "v1/console/server/state"} {
		call := registry.Call{Op: "ask for the version", Method: http.MethodGet, Path: path}
		a, err := r.http.Do(ctx, r.lastFirst(r.servers), call)
		if err != nil {
			return "", nil, err
		}
		if version := versionIn(a); version != "" {
			return version, r.server(a.URL), nil
		}
	}
	return "", nil, nil
}

// versionIn is what a server's state says, "" if it is none.
func versionIn(a registry.Answer) string {
	var state struct {
		Version string `json:"version"`
		Data    struct {
			Version string `json:"version"`
		} `json:"data"`
	}
	if a.Code != http.StatusOK || json.Unmarshal(a.Body, &state) != nil {
		return ""
	}
	if state.Version != "" {
		return state.Version
	}
	return state.Data.Version
}

// spoken is the dialect, nil if it is not known yet.
func (r *Registry) spoken() dialect {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dialect
}

// change takes the servers for the other generation than d from now on.
func (r *Registry) change(d dialect) dialect {
	other := dialect(v3{})
	if d == other {
		other = v1{} // a server that was a 3.x is not a 1.x now
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialect = other
	return other
}

// grown forgets the dialect when it has been known for long.
func (r *Registry) grown() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.told) > fresh {
		r.dialect = nil
	}
}

// lastFirst is addrs, where those are all servers, beginning with the one that answered last: a dead one costs time once.
func (r *Registry) lastFirst(addrs []*url.URL) []*url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := slices.IndexFunc(addrs, func(a *url.URL) bool { return registry.Redact(a) == r.last })
	if k <= 0 {
		return addrs
	}
	return append(slices.Clone(addrs[k:]), addrs[:k]...)
}

func (r *Registry) answered(by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = by
}

// server is the one that is shown as by.
func (r *Registry) server(by string) *url.URL {
	k := slices.IndexFunc(r.servers, func(s *url.URL) bool { return registry.Redact(s) == by })
	return r.servers[max(k, 0)]
}

// discover finds the Pod's instances at one server. It is repeated until ctx ends.
func (r *Registry) discover(ctx context.Context) (map[key]record, error) {
	for pause := poll; ; pause = min(2*pause, 10*poll) {
		found, err := r.sweep(ctx, r.servers)
		if err == nil || registry.IsFinal(err) || ctx.Err() != nil {
			return found, err
		}
		if wait(ctx, pause) != nil {
			return nil, &registry.Error{Op: "find instances", URL: r.url, Err: fmt.Errorf("%w, last: %w", ctx.Err(), err)}
		}
	}
}

// sweep reads the catalog at the first of addrs that answers: the services that were named, or all of them.
func (r *Registry) sweep(ctx context.Context, addrs []*url.URL) (map[key]record, error) {
	found := map[key]record{}
	if n := len(r.pod.Services); n > 0 && n <= fewNames {
		for _, name := range r.pod.Services {
			if err := r.catalog(ctx, addrs, name, found); err != nil {
				return r.byName(ctx, addrs, err)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
		// The server compares names with case, and we do not.
	}
	if err := r.catalog(ctx, addrs, "", found); err != nil {
		return r.byName(ctx, addrs, err)
	}
	return found, nil
}

// byName looks into each service that was named by itself, where the user may read those and not the catalog, which was
// refused with err. It sees the cluster DEFAULT alone, and without a group DEFAULT_GROUP alone.
func (r *Registry) byName(ctx context.Context, addrs []*url.URL, err error) (map[key]record, error) {
	if !forbidden(err) || len(r.pod.Services) == 0 {
		return nil, err
	}
	var places []record
	for _, name := range r.pod.Services {
		of := service{cmp.Or(r.group, "DEFAULT_GROUP"), name}
		places = append(places, record{key: key{place: place{of, "DEFAULT"}}})
	}
	var last error
	for _, a := range r.lastFirst(addrs) {
		found, err := r.hosts(ctx, a, places, "look at", dialect.instances)
		if err == nil {
			return found, nil
		}
		last = err
	}
	return nil, last
}

func forbidden(err error) bool {
	e := (*registry.Error)(nil)
	return errors.As(err, &e) && e.Code == http.StatusForbidden
}

// catalog adds the Pod's instances in services whose name contains name to found.
//
// Pages overlap and go on without end on some versions: 2.x answers any page number with everything while there are fewer
// services than a page has, 1.4 also when there are just as many, and 3.1 counts its pages wrongly. So it ends with a page
// that is short or has nothing new.
func (r *Registry) catalog(ctx context.Context, addrs []*url.URL, name string, found map[key]record) error {
	seen := map[service]bool{}
	for n := 0; ; n++ {
		var size, news int
		_, err := r.ask(ctx, addrs, "list the services", func(d dialect) registry.Call {
			call := d.catalog(r.namespace, r.group, name, d.firstPage()+n)
			call.Read = func(body io.Reader) error {
				size, news = 0, 0
				return readCatalog(body, r.ours, func(s service) {
					size++
					if !seen[s] {
						news++
						seen[s] = true
					}
				}, func(rec record) {
					if r.wants(rec.place) {
						found[rec.key] = rec
					}
				})
			}
			return call
		})
		if err != nil {
			return err
		}
		if size < pageSize || news == 0 {
			return nil
		}
	}
}

func (r *Registry) ours(h host) bool {
	return h.Port > 0 && h.Port < 1<<16 && r.pod.Owns(h.IP, uint16(h.Port))
}

// wants is exact where the servers' filter is not: they look for names that contain what was asked for.
func (r *Registry) wants(p place) bool {
	return (r.group == "" || p.group == r.group) && r.pod.Wants(p.name)
}

// everywhere looks at every server in parallel. Once one has answered, the others get patience more, so that a dead or
// hanging one holds nothing up; without any answer it ends after lookTimeout.
func (r *Registry) everywhere(ctx context.Context, look func(context.Context, *url.URL) (map[key]record, error)) []view {
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if _, err := r.speak(ctx); err != nil {
		return []view{{err: err}}
	}
	views := make([]view, len(r.servers))
	var wg sync.WaitGroup
	for i, s := range r.servers {
		wg.Go(func() {
			held, err := look(looking, s)
			views[i] = view{held, err}
			if err == nil {
				time.AfterFunc(patience, cancel)
			}
		})
	}
	wg.Wait()
	return views
}

// lookUntil looks at every server until one has answered or ctx ends.
func (r *Registry) lookUntil(ctx context.Context) ([]view, error) {
	for {
		views := r.everywhere(ctx, r.look)
		err := failed(views)
		if err == nil || registry.IsFinal(err) || ctx.Err() != nil {
			return views, err
		}
		if wait(ctx, poll) != nil {
			return views, err
		}
	}
}

// look reads the remembered instances at one server, the disabled ones too.
func (r *Registry) look(ctx context.Context, server *url.URL) (map[key]record, error) {
	places := r.places()
	if len(places) > fewPlaces {
		found := map[key]record{}
		err := r.catalog(ctx, []*url.URL{server}, "", found)
		if !forbidden(err) {
			return found, err
		}
	}
	return r.hosts(ctx, server, places, "look at", dialect.instances)
}

// listed reads what callers get of the remembered instances at one server. The catalog comes out of the same list.
func (r *Registry) listed(ctx context.Context, server *url.URL) (map[key]record, error) {
	if len(r.places()) > fewPlaces {
		found, err := r.look(ctx, server)
		maps.DeleteFunc(found, func(_ key, rec record) bool { return !rec.enabled })
		return found, err
	}
	return r.hosts(ctx, server, r.places(), "read what callers get of", dialect.listed)
}

// hosts reads those of the Pod's instances that one server has in places.
func (r *Registry) hosts(ctx context.Context, server *url.URL, places []record, op string,
	call func(dialect, string, place) (registry.Call, string)) (map[key]record, error) {
	var mu sync.Mutex
	found := map[key]record{}
	err := each(ctx, places, func(ctx context.Context, rec record) error {
		p := rec.place
		var here []record
		_, err := r.ask(ctx, []*url.URL{server}, op+" "+p.group+"@@"+p.name, func(d dialect) registry.Call {
			c, field := call(d, r.namespace, p)
			c.Read = func(body io.Reader) error {
				here = nil
				return readHosts(body, field, func(h host) {
					if !r.ours(h) || h.Cluster != "" && h.Cluster != p.cluster {
						return
					}
					if rec, ok := h.record(p); ok {
						here = append(here, rec)
					}
				})
			}
			return c
		})
		mu.Lock()
		defer mu.Unlock()
		for _, rec := range here {
			found[rec.key] = rec
		}
		return err
	})
	return found, err
}

// places are those of the remembered instances, one record for each.
func (r *Registry) places() []record {
	var list []record
	for _, rec := range r.remembered() {
		if !slices.ContainsFunc(list, func(l record) bool { return l.place == rec.place }) {
			list = append(list, rec)
		}
	}
	return list
}

// enable sets the flag of an instance at any server, which tells the others; held is false if there is no such instance.
// For a second after the registration there is none for this call, so an absence is asked for again before until.
func (r *Registry) enable(ctx context.Context, rec record, enabled bool, until time.Time) (held bool, err error) {
	op := "disable "
	if enabled {
		op = "enable "
	}
	for {
		held, err = r.ask(ctx, r.servers, op+r.id(rec.key), func(d dialect) registry.Call {
			return d.enable(r.namespace, rec, enabled)
		})
		if held || err != nil || time.Now().After(until) {
			return held, err
		}
		if err := wait(ctx, poll); err != nil {
			return false, &registry.Error{Op: op + r.id(rec.key), URL: r.url, Err: err}
		}
	}
}

// wipe enables what the servers remember of instances that are gone. Without it the next instance at their address would
// come up disabled: within a minute after a disabled one, and for ever when the instance vanished in the moment in which
// it was disabled, or was a persistent one on 2.x.
func (r *Registry) wipe(ctx context.Context, gone []record) error {
	if len(gone) == 0 {
		return nil
	}
	server, err := r.recorder(ctx)
	if err != nil || server == nil {
		return err
	}
	return each(ctx, gone, func(ctx context.Context, rec record) error {
		_, err := r.ask(ctx, []*url.URL{server}, "wipe the record of "+r.id(rec.key), func(d dialect) registry.Call {
			return d.wipe(r.namespace, rec)
		})
		return err
	})
}

// recorder is a server that keeps records beside its instances, nil if there is none: a 1.x keeps none, and would register
// what is wiped. So does a 2.0 or 2.1 in a cluster that still has a 1.x in it, or behind an address that leads to either;
// both say so, and it is asked for each time, since a cluster can be upgraded, or back, under a Pod.
func (r *Registry) recorder(ctx context.Context) (*url.URL, error) {
	version, server, err := r.version(ctx)
	if err != nil || !recordsBeside(version) {
		return nil, err
	}
	if !mixesWith1x(version) {
		return server, nil
	}
	call := registry.Call{Op: "ask whether the upgrade to 2.x is over", Method: http.MethodGet, Path: "v1/ns/upgrade/ops/metrics",
		Query: url.Values{"json": {"true"}}}
	a, err := r.http.Do(ctx, []*url.URL{server}, call)
	if err != nil || !upgraded(a) {
		return nil, err
	}
	return server, nil
}

// upgraded is what a 2.0 or 2.1 says of its cluster.
func upgraded(a registry.Answer) bool {
	var state struct{ Upgraded bool }
	return a.Code == http.StatusOK && json.Unmarshal(a.Body, &state) == nil && state.Upgraded
}

// remove deletes an instance of a dead app. Deleting it as what it is not does nothing, and is answered ok.
func (r *Registry) remove(ctx context.Context, rec record) error {
	kinds := []bool{rec.persistent}
	if d := r.spoken(); d != nil && d.blurs() {
		kinds = []bool{rec.persistent, !rec.persistent}
	}
	for _, rec.persistent = range kinds {
		_, err := r.ask(ctx, r.servers, "delete "+r.id(rec.key), func(d dialect) registry.Call {
			return d.remove(r.namespace, rec)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
