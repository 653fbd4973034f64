package nacos

import (
	"cmp"
	"context"
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
	"prestop/registry/client"
)

const (
	// patience is how much longer than the first one to answer the other servers may take.
	patience = time.Second
	// lookTimeout bounds a look at servers of which none answers.
	lookTimeout = 3 * time.Second
	// fewPlaces is up to how many clusters of services are looked at one by one; for more the whole
	// catalog is cheaper.
	fewPlaces = 8
	// fewNames is the same for services that are looked for by name.
	fewNames = 4
	// sweepAgain is when the whole catalog is read again for a named service that was not found,
	// while others were.
	sweepAgain = 10 * time.Minute
)

// discover finds the Pod's instances at one server. It is repeated until ctx ends.
func (r *Registry) discover(ctx context.Context) (map[key]record, error) {
	for pause := poll; ; pause = min(2*pause, 10*poll) {
		found, err := r.sweep(ctx, r.servers)
		if err == nil || registry.IsFinal(err) || ctx.Err() != nil {
			return found, err
		}
		r.nextReader(err)
		if client.Wait(ctx, pause) != nil {
			return nil, &registry.Error{Op: "find instances", URL: r.url, Err: fmt.Errorf("%w, last: %w", ctx.Err(), err)}
		}
	}
}

// sweep reads the catalog at the first of addrs that answers: the services that were named, or all
// of them.
func (r *Registry) sweep(ctx context.Context, addrs []*url.URL) (map[key]record, error) {
	found := map[key]record{}
	if n := len(r.pod.Services); n > 0 && n <= fewNames {
		for _, name := range r.pod.Services {
			if err := r.catalog(ctx, addrs, name, found); err != nil {
				return r.byName(ctx, addrs, err)
			}
		}
		if r.allNamed(found) || len(found) > 0 && time.Since(r.swept) < sweepAgain {
			return found, nil
		}
		// The server compares names with case, and we do not.
		r.swept = time.Now()
	}
	if err := r.catalog(ctx, addrs, "", found); err != nil {
		return r.byName(ctx, addrs, err)
	}
	return found, nil
}

// allNamed reports whether there is an instance of each service that was named.
func (r *Registry) allNamed(found map[key]record) bool {
	return !slices.ContainsFunc(r.pod.Services, func(name string) bool {
		for k := range found {
			if strings.EqualFold(k.name, name) {
				return false
			}
		}
		return true
	})
}

// byName looks into each service that was named by itself, where the user may read those and not
// the catalog, which was refused with err. It sees the cluster DEFAULT alone, and without a group
// DEFAULT_GROUP alone.
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
	for _, a := range r.readerFirst(addrs) {
		found, err := r.hosts(ctx, a, places, "look at", api.instances)
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
// Pages overlap and go on without end on some versions: 2.x answers any page number with everything
// while there are fewer services than a page has, 1.4 also when there are just as many, and 3.1
// counts its pages wrongly. So it ends with a page that is short or has nothing new.
func (r *Registry) catalog(
	ctx context.Context, addrs []*url.URL, name string, found map[key]record,
) error {
	seen := map[service]bool{}
	for n := 0; ; n++ {
		var size, news int
		_, err := r.call(ctx, addrs, "list the services", func(g api) client.Call {
			call := g.catalog(r.namespace, r.group, name, g.firstPage()+n)
			call.Large = true
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

// wants is exact where the servers' filter is not: they look for names that contain what was asked
// for.
func (r *Registry) wants(p place) bool {
	return (r.group == "" || p.group == r.group) && r.pod.Wants(p.name)
}

// looking is a look at one server: the Pod's instances that it has found there.
type looking func(context.Context, *url.URL) (map[key]record, error)

// everywhere looks at every server in parallel. Once one has answered, the others get patience
// more, so that a dead or hanging one holds nothing up; without any answer it ends after
// lookTimeout.
func (r *Registry) everywhere(ctx context.Context, look looking) []view {
	return r.lookAt(ctx, r.servers, look)
}

// lookAt is everywhere for some of the servers.
func (r *Registry) lookAt(ctx context.Context, servers []*url.URL, look looking) []view {
	bounded, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if _, err := r.apiSpoken(ctx); err != nil {
		return []view{{err: err}}
	}
	views := make([]view, len(servers))
	at := make([]int, len(servers))
	for i := range at {
		at[i] = i
	}
	spared := func(int) bool { return true }
	errs := client.Everywhere(bounded, at, patience, spared, func(ctx context.Context, i int) (err error) {
		views[i].held, err = look(ctx, servers[i])
		return err
	})
	for i, err := range errs {
		views[i].err = err
	}
	return views
}

// anywhere looks at the first server that answers, beginning with the one that answered last.
func (r *Registry) anywhere(ctx context.Context) view {
	var v view
	for _, s := range r.readerFirst(r.servers) {
		looking, cancel := context.WithTimeout(ctx, patience)
		v.held, v.err = r.look(looking, s)
		cancel()
		if v.err == nil {
			return v
		}
	}
	return v
}

// lookUntil looks at every server until one has answered or ctx ends.
func (r *Registry) lookUntil(ctx context.Context) ([]view, error) {
	for {
		views := r.everywhere(ctx, r.look)
		err := failed(views)
		if err == nil || registry.IsFinal(err) || ctx.Err() != nil {
			return views, err
		}
		if client.Wait(ctx, poll) != nil {
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
	return r.hosts(ctx, server, places, "look at", api.instances)
}

// listed reads what callers get of the remembered instances at one server. The catalog comes out of
// the same list.
func (r *Registry) listed(ctx context.Context, server *url.URL) (map[key]record, error) {
	if len(r.places()) > fewPlaces {
		found, err := r.look(ctx, server)
		maps.DeleteFunc(found, func(_ key, rec record) bool { return !rec.enabled })
		return found, err
	}
	return r.hosts(ctx, server, r.places(), "read what callers get of", api.listed)
}

// hosts reads those of the Pod's instances that one server has in places.
func (r *Registry) hosts(ctx context.Context, server *url.URL, places []record, op string,
	call func(api, string, place) (client.Call, string)) (map[key]record, error) {
	var mu sync.Mutex
	found := map[key]record{}
	err := each(ctx, places, func(ctx context.Context, rec record) error {
		p := rec.place
		var here []record
		_, err := r.call(ctx, []*url.URL{server}, op+" "+p.group+"@@"+p.name, func(g api) client.Call {
			c, field := call(g, r.namespace, p)
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
