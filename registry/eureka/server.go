package eureka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

// firstPause is the first pause before a server is looked at again that does not show what it
// accepted.
const firstPause = 200 * time.Millisecond

// repeatAfter is when what a server has accepted and does not show is put once more.
const repeatAfter = 3 * time.Second

// replicationTime is when a peer that is well has told the others of a PUT; half of it is eureka's
// own delay.
const replicationTime = time.Second

// changesKept is how long a server lists a change
// (eureka.server.retention-time-in-m-s-in-delta-queue).
const changesKept = 3 * time.Minute

// server is one service URL.
type server struct {
	url      *url.URL
	http     *client.Client
	heldBack bool        // see Options
	answered atomic.Bool // since the operation began

	mu             sync.Mutex // guards what follows, for instances are asked for in parallel
	seen           map[string]sight
	puts           map[string]ourPut // the instances that we have put OUT_OF_SERVICE
	ownWords       map[string]bool   // OUT_OF_SERVICE without an override, which removing one does not change
	showsOverrides bool              // the server has shown an override of ours
	longOut        map[string]bool   // it was out already when that was put first: the change may be in no list any more
	probed         bool              // apps/delta was asked for
	noDelta        bool              // and answered 403
	primed         map[string]bool   // applications whose cached list was read before
}

// ourPut is what is known of an instance that this process has put OUT_OF_SERVICE.
type ourPut struct {
	// put is when that was done last.
	put time.Time
	// heard is the time of the app's last word before it, as the server told it, and up says that
	// this word left the instance UP.
	heard text
	up    bool
}

// sight is the last look at an instance.
type sight struct {
	rec record
	at  time.Time
}

func newServer(u *url.URL, h *client.Client, heldBack bool) *server {
	return &server{
		url: u, http: h, heldBack: heldBack, seen: map[string]sight{}, puts: map[string]ourPut{},
		ownWords: map[string]bool{}, longOut: map[string]bool{}, primed: map[string]bool{},
	}
}

// leave makes the instance Out on this server and reads that back. A server may show only after
// seconds what it has accepted (Polaris).
func (s *server) leave(ctx context.Context, h held) error {
	rec, err := s.recent(ctx, h)
	var put time.Time
	for tries := 0; ; tries++ {
		if err != nil {
			return err
		}
		switch state := stateOf(rec); {
		case state == registry.Absent, state == registry.Down, state == registry.Out && tries > 0:
			return nil
		case state == registry.Out && !s.ours(h) && !rec.overridden():
			return nil // nothing of ours keeps it out, and there is nothing to repeat
		}
		if tries > 1 {
			if err := client.Wait(ctx, pace(tries)); err != nil {
				return s.unshown(describe("set OUT_OF_SERVICE on", h), rec, err)
			}
		}
		if time.Since(put) >= repeatAfter {
			put = time.Now()
			s.notePut(h, rec)
			op := describe("set OUT_OF_SERVICE on", h)
			if err := s.write(ctx, op, http.MethodPut, statusPath(h), "OUT_OF_SERVICE"); err != nil {
				return err
			}
		}
		rec, err = s.current(ctx, h, false)
	}
}

// pace is the pause before a further look at a server that does not show what it accepted.
func pace(tries int) time.Duration { return min(firstPause<<min(tries-2, 8), repeatAfter/2) }

// unshown is the error of a change that a server accepted and did not show until cause.
func (s *server) unshown(op string, rec record, cause error) error {
	return &registry.Error{Op: op, URL: registry.Redact(s.url),
		Err: fmt.Errorf("accepted, but the server still says %s: %w", rec.Status, cause)}
}

// ours reports whether this process has put the instance OUT_OF_SERVICE.
func (s *server) ours(h held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.puts[h.key()].put.IsZero()
}

// notePut notes that the instance, which the server holds as rec, is being put OUT_OF_SERVICE.
func (s *server) notePut(h held, rec record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.puts[h.key()]
	if stateOf(rec) == registry.In {
		delete(s.longOut, h.key())
		m.up, m.heard = true, rec.Dirty
	} else {
		if time.Since(m.put) > changesKept {
			s.longOut[h.key()] = true
		}
		m.up = m.up && m.heard == rec.Dirty
	}
	m.put = time.Now()
	s.puts[h.key()] = m
}

// rejoin removes on this server what keeps the instance out; all is how the servers held it just
// now.
func (s *server) rejoin(ctx context.Context, h held, all []record) error {
	removed := 0
	var last time.Time
	rec, err := s.recent(ctx, h)
	for tries := 0; ; tries++ {
		if tries > 0 {
			rec, err = s.current(ctx, h, false)
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		m, stores := s.puts[h.key()], s.showsOverrides
		s.mu.Unlock()
		todo := remedy(rec, all, removed, m, stores)
		if early := time.Until(m.put.Add(replicationTime)); todo == (step{}) && early > 0 && client.Wait(ctx, early) == nil {
			continue // a peer may still bring back what was removed here
		}
		if todo == (step{}) {
			if stateOf(rec) == registry.Out {
				s.mu.Lock()
				s.ownWords[h.key()] = true // it is not ours
				s.mu.Unlock()
			}
			return nil
		}
		if tries > 1 {
			if err := client.Wait(ctx, pace(tries)); err != nil {
				return s.unshown(describe("put back", h), rec, err)
			}
		}
		if !m.put.IsZero() && !stores && time.Since(last) < repeatAfter {
			continue // it has its time to show the removal
		}
		last = time.Now()
		if todo.deregister {
			op := describe("clear OUT_OF_SERVICE from", h)
			err = s.write(ctx, op, http.MethodDelete, instancePath(h), "")
		} else {
			removed++
			op := describe("remove the override of", h)
			err = s.write(ctx, op, http.MethodDelete, statusPath(h), todo.override)
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

// recent is the instance as this server holds it now or held it within recentLook; one that was not
// up is looked at again.
func (s *server) recent(ctx context.Context, h held) (record, error) {
	s.mu.Lock()
	last, ok := s.seen[h.key()]
	s.mu.Unlock()
	if state := stateOf(last.rec); ok && time.Since(last.at) < recentLook && (state == registry.In || state == registry.Out) {
		return last.rec, nil
	}
	return s.current(ctx, h, false)
}

// current is the instance as this server holds it now, the zero record when it does not or it is
// another Pod's.
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
	s.learn(h, rec)
	return *rec, nil
}

// learn takes over what the server says of an instance, and tells whose word that is.
func (s *server) learn(h held, rec *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.puts[h.key()]
	out := rec.Status == "OUT_OF_SERVICE"
	switch {
	case out && !rec.overridden() && m.put.IsZero():
		rec.Own = s.heldBack || s.ownWords[h.key()]
	case !out:
		delete(s.ownWords, h.key())
		if rec.Status == "UP" && !rec.overridden() && time.Since(m.put) > peersTold {
			delete(s.puts, h.key()) // it is back: the next OUT_OF_SERVICE is somebody else's
		}
	case rec.overridden() && !m.put.IsZero():
		s.showsOverrides = true
	}
	s.seen[h.key()] = sight{*rec, time.Now()}
}

func instancePath(h held) string { return "apps/" + url.PathEscape(h.app) + "/" + url.PathEscape(h.id) }
func statusPath(h held) string   { return instancePath(h) + "/status" }

// instance reads one instance past the server's caches; nil when it answers 404.
func (s *server) instance(ctx context.Context, path, op string, once bool) (*record, error) {
	c := client.Call{Op: op, Method: http.MethodGet, Path: path, Once: once}
	a, err := s.do(ctx, c)
	if err == nil && a.Code == http.StatusNotFound {
		if err := s.confirm(ctx, op); err != nil {
			return nil, err
		}
		a, err = s.do(ctx, c) // the first 404 may still have been a proxy's
	}
	if err != nil || a.Code == http.StatusNotFound {
		return nil, err
	}
	rec, err := readInstance(a.Body)
	if err != nil {
		return nil, &registry.Error{Op: op, URL: a.URL, Code: a.Code, Remedy: "is this Eureka's service URL?", Err: err}
	}
	return &rec, nil
}

// write makes a call that changes something, with the status as value. A 404 is no error: what is
// not there needs no change.
func (s *server) write(ctx context.Context, op, method, path, value string) error {
	c := client.Call{Op: op, Method: method, Path: path}
	if value != "" {
		c.Query = url.Values{"value": {value}}
	}
	_, err := s.do(ctx, c)
	return err
}

// application reads the cached list of one application; 404 is an empty one.
func (s *server) application(ctx context.Context, app string, once bool, each func(record)) error {
	c := client.Call{Op: "list " + app, Path: "apps/" + url.PathEscape(app), Once: once}
	_, err := s.list(ctx, []*url.URL{s.url}, c, each)
	if err == nil {
		s.mu.Lock()
		s.primed[app] = true
		s.mu.Unlock()
	}
	return err
}

// all reads the whole cached list from the first of urls that answers and returns which did.
func (s *server) all(ctx context.Context, urls []*url.URL, once bool, each func(record)) (string, error) {
	a, err := s.list(ctx, urls, client.Call{Op: "list the instances", Path: "apps", Once: once, Large: true}, each)
	if err == nil && a.Code == http.StatusNotFound {
		err = notHere("list the instances", a)
	}
	return a.URL, err
}

// notHere is the error of a list that every Eureka has.
func notHere(op string, a client.Answer) error {
	return &registry.Error{
		Op: op, URL: a.URL, Code: a.Code, Final: true,
		Remedy: "set the service URL that the app uses, usually http://…:8761/eureka/",
	}
}

// prime prepares what Published will look at: it asks once per server whether the list of changes
// is there, and where it is not reads the cached lists of the applications, since only a list that
// was read before tells when it turns over.
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
	a, err := s.list(ctx, []*url.URL{s.url}, client.Call{Op: op, Path: "apps/delta", Once: true}, each)
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
		// Not among the changes: the cache is from before, or the change is older than the three
		// minutes that they are kept.
		s.mu.Lock()
		last, looked := s.seen[h.key()]
		primed, old := s.primed[h.app], s.longOut[h.key()]
		s.mu.Unlock()
		gone := looked && last.rec.Status == ""
		if none && !primed && !gone {
			return false, &registry.Error{
				Op: "see what callers read", URL: registry.Redact(s.url), Code: http.StatusForbidden, Final: true,
				Remedy: "the server's list of changes is off (eureka.server.disable-delta) " +
					"and the application's was not read before",
			}
		}
		if !primed && !gone && old {
			return false, &registry.Error{Op: "see what callers read", URL: registry.Redact(s.url),
				Err: errors.New("the instance was out already, longer ago than the server lists changes")}
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
func (s *server) list(ctx context.Context, urls []*url.URL, c client.Call, each func(record)) (client.Answer, error) {
	c.Method = http.MethodGet
	c.Read = func(body io.Reader) error {
		s.answered.Store(true)
		return readList(body, each)
	}
	a, err := s.call(ctx, urls, c)
	if errors.Is(err, client.ErrShape) {
		var e *registry.Error
		if errors.As(err, &e) {
			e.Remedy = "is this Eureka's service URL?"
		}
	}
	return a, err
}

func (s *server) do(ctx context.Context, c client.Call) (client.Answer, error) {
	return s.call(ctx, []*url.URL{s.url}, c)
}

// call makes a call and turns every answer but 200 and 404 into an error. Eureka answers XML unless
// it is asked for JSON, and in XML an OUT_OF_SERVICE instance is DOWN.
func (s *server) call(ctx context.Context, urls []*url.URL, c client.Call) (client.Answer, error) {
	c.Header = http.Header{"Accept": {"application/json"}}
	reads := c.Method == http.MethodGet && c.Read == nil
	c.Retry = func(a client.Answer) bool {
		s.answered.Store(true)
		return proxys(a, reads) || client.Transient(a.Code)
	}
	a, err := s.http.Do(ctx, urls, c)
	e := (*registry.Error)(nil)
	if errors.As(err, &e) && e.Code > 0 && !client.Transient(e.Code) && e.Remedy == "" {
		e.Remedy = "is this Eureka's service URL? It looks as if a proxy answered in its place"
	}
	if err != nil || a.Code == http.StatusOK || a.Code == http.StatusNotFound {
		return a, err
	}
	e = &registry.Error{Op: c.Op, URL: a.URL, Code: a.Code}
	e.Remedy, e.Final = advice(c.Method, a.Code)
	if text := client.Excerpt(a.Body); text != "" {
		e.Err = errors.New(text[2:])
	}
	return a, e
}

// proxys reports whether an answer is one that a proxy gave in Eureka's place, having no server
// behind it for now. Eureka's own 404 and 403 are empty or JSON, as is what it answers to a write;
// what is read is JSON.
func proxys(a client.Answer, reads bool) bool {
	body := bytes.TrimSpace(a.Body)
	json := bytes.HasPrefix(body, []byte("{"))
	switch a.Code {
	case http.StatusOK:
		return reads && !json || bytes.HasPrefix(body, []byte("<"))
	case http.StatusNotFound, http.StatusForbidden:
		return len(body) > 0 && !json
	}
	return false
}

// confirm returns nil if a 404 that op got is Eureka's word: a server that does not have its list
// of changes either, or refuse it, is none, but a proxy whose 404 has no body.
func (s *server) confirm(ctx context.Context, op string) error {
	if _, err := s.delta(ctx, func(record) {}); err != nil {
		return &registry.Error{Op: op, URL: registry.Redact(s.url), Code: http.StatusNotFound, Err: err,
			Remedy: "is this Eureka's service URL? It looks as if a proxy answered in its place"}
	}
	return nil
}

// exempt is what to do about a server with spring-security's defaults.
const exempt = "exempt /eureka/** from CSRF protection on the server"

// advice is what to do about a refusal, and whether it is one.
func advice(method string, code int) (remedy string, final bool) {
	reads := method == http.MethodGet
	switch {
	case code == http.StatusUnauthorized && reads:
		return "give user and password in the service URL: http://user:password@host:8761/eureka/", true
	case code == http.StatusUnauthorized:
		// spring-security's default, with the right password too.
		return "reading works or was not tried: check user and password in the service URL, else " + exempt, true
	case code == http.StatusForbidden && reads:
		return "the user may not read the registry", true
	case code == http.StatusForbidden:
		return "the user may read the registry but not write to it: give it a role that may, or " + exempt, true
	}
	return "", code >= 300 && code < 500
}
