package eureka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"prestop/registry"
)

// How long servers that have given no answer at all are waited for once another one is done, and the pace in which a
// server is looked at again that does not show what it accepted.
const (
	straggle = 2 * time.Second
	relook   = 200 * time.Millisecond
)

// replicated is when a peer that is well has told the others of a PUT; half of it is eureka's own delay.
const replicated = time.Second

// server is one service URL.
type server struct {
	url      *url.URL
	http     *registry.HTTP
	answered atomic.Bool // since the operation began

	mu      sync.Mutex // guards what follows, for instances are asked for in parallel
	seen    map[string]sight
	put     map[string]time.Time // when OUT_OF_SERVICE was put last
	probed  bool                 // apps/delta was asked for
	noDelta bool                 // and answered 403
	primed  map[string]bool      // applications whose cached list was read before
}

// sight is the last look at an instance.
type sight struct {
	rec record
	at  time.Time
}

func newServer(u *url.URL, h *registry.HTTP) *server {
	return &server{url: u, http: h, seen: map[string]sight{}, put: map[string]time.Time{}, primed: map[string]bool{}}
}

func (s *server) index(all []*server) int { return slices.Index(all, s) }

// sightings collects what servers say of instances.
type sightings struct {
	mu      sync.Mutex
	servers int
	of      map[string][]record // by held.key; the zero record says absent
}

func (s *sightings) add(h held, rec record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[h.key()] = append(s.of[h.key()], rec)
}

// goneFor reports whether every server said that the instance is absent.
func (s *sightings) goneFor(h held) bool {
	says := s.of[h.key()]
	return len(says) == s.servers && !slices.ContainsFunc(says, func(r record) bool { return r.Status != "" })
}

// collection is instances that several goroutines find.
type collection struct {
	mu   sync.Mutex
	list []held
}

func (c *collection) add(h held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.list, func(o held) bool { return o.key() == h.key() }) {
		c.list = append(c.list, h)
	}
}

// tell runs f, which changes something, with every server at the same time. A server is done without if it has given no
// answer of any kind until two seconds after another one was done; one that answers has to confirm.
func (r *Registry) tell(ctx context.Context, f func(context.Context, *server) error) error {
	return r.everywhere(ctx, f, func(s *server) bool { return !s.answered.Load() })
}

// ask runs f, which only reads, with every server at the same time. Any that has failed, or is not done two seconds
// after another one, is done without.
func (r *Registry) ask(ctx context.Context, f func(context.Context, *server) error) error {
	return r.everywhere(ctx, f, func(*server) bool { return true })
}

// everywhere returns nil when f succeeded with every server but those that can be done without once another one is done;
// else what it failed by.
func (r *Registry) everywhere(ctx context.Context, f func(context.Context, *server) error, without func(*server) bool) error {
	type result struct {
		s   *server
		err error
	}
	results := make(chan result, len(r.servers))
	cancels := map[*server]context.CancelFunc{}
	for _, s := range r.servers {
		s.answered.Store(false)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		cancels[s] = cancel
		go func() { results <- result{s, f(ctx, s)} }()
	}
	var errs []error
	var over <-chan time.Time
	done := 0
	for pending := len(r.servers); pending > 0; {
		select {
		case res := <-results:
			pending--
			delete(cancels, res.s)
			if res.err == nil {
				done++
				if over == nil {
					timer := time.NewTimer(straggle)
					defer timer.Stop()
					over = timer.C
				}
			} else {
				errs = append(errs, failure{res.s, res.err})
			}
		case <-over:
			for s, cancel := range cancels {
				if without(s) {
					cancel()
				}
			}
		}
	}
	if done > 0 {
		errs = slices.DeleteFunc(errs, func(err error) bool { return without(err.(failure).s) })
	}
	for i, err := range errs {
		errs[i] = err.(failure).error
	}
	return errors.Join(errs...)
}

// failure is an error with the server that it is of.
type failure struct {
	s *server
	error
}

// each runs f with every remembered instance on one server, some at the same time.
func (r *Registry) each(f func(*server, context.Context, held) error) func(context.Context, *server) error {
	return func(ctx context.Context, s *server) error {
		var wg sync.WaitGroup
		errs := make([]error, len(r.held))
		slots := make(chan struct{}, parallel)
		for i, h := range r.held {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				errs[i] = f(s, ctx, h)
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
}

// leave makes the instance Out on this server and reads that back.
func (s *server) leave(ctx context.Context, h held) error {
	rec, err := s.lately(ctx, h)
	for tries := 0; ; tries++ {
		if err != nil {
			return err
		}
		if state := stateOf(rec); state == registry.Absent || state == registry.Down || state == registry.Out && tries > 0 {
			return nil
		}
		if tries > 1 {
			if err := wait(ctx, relook); err != nil {
				return &registry.Error{Op: describe("set OUT_OF_SERVICE on", h), URL: registry.Redact(s.url),
					Err: fmt.Errorf("accepted, but the server still says %s: %w", rec.Status, err)}
			}
		}
		s.mu.Lock()
		s.put[h.key()] = time.Now()
		s.mu.Unlock()
		if err := s.write(ctx, describe("set OUT_OF_SERVICE on", h), http.MethodPut, statusPath(h), "OUT_OF_SERVICE"); err != nil {
			return err
		}
		rec, err = s.current(ctx, h, false)
	}
}

// rejoin removes on this server what keeps the instance out.
func (s *server) rejoin(ctx context.Context, h held) error {
	soft := false
	for tries := 0; ; tries++ {
		rec, err := s.current(ctx, h, false)
		if err != nil {
			return err
		}
		s.mu.Lock()
		put := s.put[h.key()]
		s.mu.Unlock()
		todo := remedy(rec, soft, put)
		if early := time.Until(put.Add(replicated)); todo == (step{}) && early > 0 && wait(ctx, early) == nil {
			continue // a peer may still bring back what was removed here
		}
		if todo == (step{}) {
			return nil
		}
		if tries > 1 {
			if err := wait(ctx, relook); err != nil {
				return &registry.Error{Op: describe("put back", h), URL: registry.Redact(s.url),
					Err: fmt.Errorf("accepted, but the server still says %s: %w", rec.Status, err)}
			}
		}
		if todo.deregister {
			err = s.write(ctx, describe("clear OUT_OF_SERVICE from", h), http.MethodDelete, instancePath(h), "")
		} else {
			soft = true
			err = s.write(ctx, describe("remove the override of", h), http.MethodDelete, statusPath(h), todo.override)
		}
		if err != nil {
			return err
		}
	}
}

// forget deletes the instance on this server if it holds it.
func (s *server) forget(ctx context.Context, h held) error {
	rec, err := s.current(ctx, h, false)
	if err != nil || rec.Status == "" {
		return err
	}
	return s.write(ctx, describe("delete", h), http.MethodDelete, instancePath(h), "")
}

// lately is the instance as this server holds it now or held it within fresh; one that was not up is looked at again.
func (s *server) lately(ctx context.Context, h held) (record, error) {
	s.mu.Lock()
	last, ok := s.seen[h.key()]
	s.mu.Unlock()
	if state := stateOf(last.rec); ok && time.Since(last.at) < fresh && (state == registry.In || state == registry.Out) {
		return last.rec, nil
	}
	return s.current(ctx, h, false)
}

// current is the instance as this server holds it now, the zero record when it does not or it is another Pod's.
func (s *server) current(ctx context.Context, h held, once bool) (record, error) {
	rec, err := s.instance(ctx, instancePath(h), describe("read", h), once)
	if err != nil {
		return record{}, err
	}
	if rec == nil || !h.is(*rec) {
		rec = &record{}
	} else if rec.Status == "" {
		rec.Status = "UNKNOWN"
	}
	s.mu.Lock()
	s.seen[h.key()] = sight{*rec, time.Now()}
	s.mu.Unlock()
	return *rec, nil
}

func instancePath(h held) string { return "apps/" + url.PathEscape(h.app) + "/" + url.PathEscape(h.id) }
func statusPath(h held) string   { return instancePath(h) + "/status" }

// instance reads one instance past the server's caches; nil when it answers 404.
func (s *server) instance(ctx context.Context, path, op string, once bool) (*record, error) {
	a, err := s.do(ctx, registry.Call{Op: op, Method: http.MethodGet, Path: path, Once: once})
	if err != nil || a.Code == http.StatusNotFound {
		return nil, err
	}
	rec, err := readInstance(a.Body)
	if err != nil {
		return nil, &registry.Error{Op: op, URL: a.URL, Code: a.Code, Remedy: "is this Eureka's service URL?", Err: err}
	}
	return &rec, nil
}

// write makes a call that changes something, with the status as value. A 404 is no error: what is not there needs no
// change.
func (s *server) write(ctx context.Context, op, method, path, value string) error {
	c := registry.Call{Op: op, Method: method, Path: path}
	if value != "" {
		c.Query = url.Values{"value": {value}}
	}
	_, err := s.do(ctx, c)
	return err
}

// application reads the cached list of one application; 404 is an empty one.
func (s *server) application(ctx context.Context, app string, once bool, each func(record)) error {
	_, err := s.list(ctx, []*url.URL{s.url}, registry.Call{Op: "list " + app, Path: "apps/" + url.PathEscape(app), Once: once}, each)
	if err == nil {
		s.mu.Lock()
		s.primed[app] = true
		s.mu.Unlock()
	}
	return err
}

// all reads the whole cached list from the first of urls that answers and returns which did.
func (s *server) all(ctx context.Context, urls []*url.URL, once bool, each func(record)) (string, error) {
	a, err := s.list(ctx, urls, registry.Call{Op: "list the instances", Path: "apps", Once: once}, each)
	if err == nil && a.Code == http.StatusNotFound {
		err = notHere("list the instances", a)
	}
	return a.URL, err
}

// notHere is the error of a list that every Eureka has.
func notHere(op string, a registry.Answer) error {
	return &registry.Error{Op: op, URL: a.URL, Code: a.Code, Final: true, Remedy: "set the service URL that the app uses, usually http://…:8761/eureka/"}
}

// prime prepares what Published will look at: it asks once per server whether the list of changes is there, and where it
// is not reads the cached lists of the applications, since only a list that was read before tells when it turns over.
func (s *server) prime(ctx context.Context, held []held) error {
	s.mu.Lock()
	probed, noDelta := s.probed, s.noDelta
	s.mu.Unlock()
	if !probed {
		var err error
		if noDelta, err = s.delta(ctx, func(record) {}); err != nil {
			return err
		}
	}
	for _, h := range held {
		s.mu.Lock()
		primed := s.primed[h.app]
		s.mu.Unlock()
		if noDelta && !primed {
			if err := s.application(ctx, h.app, true, func(record) {}); err != nil {
				return err
			}
		}
	}
	return nil
}

// delta reads the cached list of recent changes, or reports that this server has none.
func (s *server) delta(ctx context.Context, each func(record)) (none bool, err error) {
	const op = "list the changes"
	a, err := s.list(ctx, []*url.URL{s.url}, registry.Call{Op: op, Path: "apps/delta", Once: true}, each)
	if err == nil && a.Code == http.StatusNotFound {
		err = notHere(op, a)
	}
	if e := (*registry.Error)(nil); errors.As(err, &e) && e.Code == http.StatusForbidden {
		none, err = true, nil
	}
	if err == nil {
		s.mu.Lock()
		s.probed, s.noDelta = true, none
		s.mu.Unlock()
	}
	return none, err
}

// published reports whether what this server's callers read shows none of the instances as UP.
func (s *server) published(ctx context.Context, all []held) (bool, error) {
	changed := map[string]record{}
	none, err := s.delta(ctx, func(rec record) {
		h := newHeld(rec, 0)
		if old, ok := changed[h.key()]; !ok || stateOf(old) != registry.In {
			changed[h.key()] = rec
		}
	})
	if err != nil {
		return false, err
	}
	for _, h := range all {
		rec, ok := changed[h.key()]
		if ok && rec.Action != "DELETED" && stateOf(rec) == registry.In {
			return false, nil
		}
		if ok {
			continue
		}
		// Not among the changes: the cache is from before, or the change is older than the three minutes that they are kept.
		s.mu.Lock()
		last, looked := s.seen[h.key()]
		primed := s.primed[h.app]
		s.mu.Unlock()
		gone := looked && last.rec.Status == ""
		if none && !primed && !gone {
			return false, &registry.Error{Op: "see what callers read", URL: registry.Redact(s.url), Code: http.StatusForbidden, Final: true,
				Remedy: "the server's list of changes is off (eureka.server.disable-delta) and the application's was not read before"}
		}
		if !primed && !gone {
			return false, nil
		}
		up := false
		if err := s.application(ctx, h.app, true, func(rec record) {
			up = up || newHeld(rec, 0).key() == h.key() && stateOf(rec) == registry.In
		}); err != nil || up {
			return false, err
		}
	}
	return true, nil
}

// list reads a list as a stream.
func (s *server) list(ctx context.Context, urls []*url.URL, c registry.Call, each func(record)) (registry.Answer, error) {
	c.Method = http.MethodGet
	c.Read = func(body io.Reader) error {
		s.answered.Store(true)
		return readList(body, each)
	}
	a, err := s.call(ctx, urls, c)
	if errors.Is(err, errShape) {
		var e *registry.Error
		if errors.As(err, &e) {
			e.Remedy = "is this Eureka's service URL?"
		}
	}
	return a, err
}

func (s *server) do(ctx context.Context, c registry.Call) (registry.Answer, error) {
	return s.call(ctx, []*url.URL{s.url}, c)
}

// call makes a call and turns every answer but 200 and 404 into an error. Eureka answers XML unless it is asked for JSON,
// and in XML an OUT_OF_SERVICE instance is DOWN.
func (s *server) call(ctx context.Context, urls []*url.URL, c registry.Call) (registry.Answer, error) {
	c.Header = http.Header{"Accept": {"application/json"}}
	reads := c.Method == http.MethodGet && c.Read == nil
	c.Retry = func(a registry.Answer) bool {
		s.answered.Store(true)
		// A 200 with a page of HTML is a proxy's that has no server behind it for now.
		page := reads && a.Code == http.StatusOK && !bytes.HasPrefix(bytes.TrimSpace(a.Body), []byte("{"))
		return page || a.Code == http.StatusTooManyRequests || a.Code >= 500
	}
	a, err := s.http.Do(ctx, urls, c)
	if err != nil || a.Code == http.StatusOK || a.Code == http.StatusNotFound {
		return a, err
	}
	e := &registry.Error{Op: c.Op, URL: a.URL, Code: a.Code}
	e.Remedy, e.Final = advice(c.Method, a.Code)
	if text := registry.Excerpt(a.Body); text != "" {
		e.Err = errors.New(text[2:])
	}
	return a, e
}

// advice is what to do about a refusal, and whether it is one.
func advice(method string, code int) (remedy string, final bool) {
	reads := method == http.MethodGet
	switch {
	case code == http.StatusUnauthorized && reads:
		return "give user and password in the service URL: http://user:password@host:8761/eureka/", true
	case code == http.StatusUnauthorized:
		// spring-security's default, with the right password too.
		return "reading works or was not tried: check user and password in the service URL, else exempt /eureka/** from CSRF protection on the server", true
	case code == http.StatusForbidden && reads:
		return "the user may not read the registry", true
	case code == http.StatusForbidden:
		return "the user may read the registry but not write to it: give it a role that may, or exempt /eureka/** from CSRF protection on the server", true
	}
	return "", code >= 300 && code < 500
}

// wait waits for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
