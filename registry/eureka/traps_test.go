package eureka_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
)

// fleet is in-memory servers with a switch in front of each.
type fleet struct {
	*testing.T
	eurekas []*registrytest.Eureka
	faults  []*atomic.Pointer[http.HandlerFunc]
	world   *registrytest.EurekaWorld
}

func newFleet(t *testing.T, n int, c registrytest.EurekaConfig) *fleet {
	if c.Cache == 0 {
		c.Cache = 50 * time.Millisecond
	}
	f := &fleet{T: t, world: &registrytest.EurekaWorld{Client: client, Heartbeat: 20 * time.Millisecond}}
	for range n {
		e, fault := registrytest.NewEureka(c), &atomic.Pointer[http.HandlerFunc]{}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h := fault.Load(); h != nil && strings.HasPrefix(r.UserAgent(), "prestop") {
				(*h)(w, r)
				return
			}
			e.ServeHTTP(w, r)
		}))
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		f.eurekas, f.faults = append(f.eurekas, e), append(f.faults, fault)
		f.world.Servers = append(f.world.Servers, s.URL+"/eureka/")
	}
	registrytest.PeerEurekas(f.eurekas...)
	return f
}

// fault makes the n-th server answer the code under test by h; nil as it should.
func (f *fleet) fault(n int, h http.HandlerFunc) {
	if h == nil {
		f.faults[n].Store(nil)
		return
	}
	f.faults[n].Store(&h)
}

var (
	orders = registrytest.App{Service: "orders", Address: netip.MustParseAddrPort("127.0.0.9:8080")}
	pod    = registry.Pod{Addresses: []netip.Addr{orders.Address.Addr()}, Ports: []uint16{8080}}
	id     = registrytest.EurekaID(orders)
)

// started returns a client for all servers that has found the app, which is started.
func (f *fleet) started() (registry.Registry, registrytest.Running) {
	f.Helper()
	app := f.world.Start(f, orders)
	r := f.world.New(f, f.world.Servers)
	f.find(r)
	return r, app
}

func (f *fleet) find(r registry.Registry) {
	f.Helper()
	f.eventually(func() error {
		found, err := r.Find(f.Context(), pod)
		if err == nil && len(found) != 1 {
			err = errors.New("found none")
		}
		return err
	})
}

func (f *fleet) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// statuses asserts each server's status and stored override.
func (f *fleet) statuses(want ...string) {
	f.Helper()
	var got []string
	for _, e := range f.eurekas {
		status, override := e.Status(orders.Service, id)
		got = append(got, status+"("+override+")")
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		f.Fatalf("the servers say %v, want %v", got, want)
	}
}

func (f *fleet) state(r registry.Registry) registry.State {
	f.Helper()
	instances, err := r.Check(f.Context())
	f.must(err)
	if len(instances) != 1 {
		f.Fatalf("%+v", instances)
	}
	return instances[0].State
}

func (f *fleet) eventually(what func() error) {
	f.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := what()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			f.Fatal(err)
		case <-tick.C:
		}
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
}

func TestAServerThatDoesNotAnswerHoldsNothingUp(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{"hangs": hang, "resets": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2, registrytest.EurekaConfig{})
			r, _ := f.started()
			f.eurekas[0].Cut(true)
			f.fault(0, h) // the first, which is asked first
			f.must(r.Leave(t.Context()))
			f.statuses("UP()", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
			if s := f.state(r); s != registry.Out {
				t.Errorf("%v on all that answer", s)
			}
			f.fault(0, nil)
			if s := f.state(r); s != registry.In {
				t.Errorf("%v, but the one that is back has missed it", s)
			}
			f.must(r.Leave(t.Context()))
			f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
		})
	}
}

func TestAServerThatIsSickIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	r, _ := f.started()
	f.fault(1, code(500))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := r.Leave(ctx)
	var e *registry.Error
	if !errors.As(err, &e) || e.Code != 500 || !strings.HasPrefix(f.world.Servers[1], e.URL) || registry.IsFinal(err) {
		t.Errorf("%v", err)
	}
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)") // by its peer
}

func TestARefusalOfOneServerIsAnErrorThoughTheOtherIsTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	r, _ := f.started()
	f.fault(0, code(401))
	if err := r.Leave(t.Context()); !registry.IsFinal(err) {
		t.Errorf("%v", err)
	}
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
}

func TestTheListIsTakenFromAServerThatAnswersAndKnowsUs(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	f.fault(0, code(503))
	f.started()
	f.fault(0, nil)

	f = newFleet(t, 2, registrytest.EurekaConfig{})
	f.eurekas[0].Cut(true)
	f.world.Servers[0], f.world.Servers[1] = f.world.Servers[1], f.world.Servers[0]
	only := *f.world
	only.Servers = only.Servers[:1] // where the app registers; the other server never hears of it
	only.Start(t, orders)
	f.find(f.world.New(t, []string{f.world.Servers[1], f.world.Servers[0]}))
}

func TestPeersThatDoNotHearOfEachOtherAreAllToldAndAllRestored(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, registrytest.EurekaConfig{})
	r, app := f.started()
	for _, e := range f.eurekas {
		e.Cut(true)
	}
	f.must(r.Leave(t.Context()))
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	f.must(r.Rejoin(t.Context()))
	f.statuses("UP()", "UP()", "UP()")
	f.must(r.Leave(t.Context()))
	app.Crash(t)
	f.must(r.Forget(t.Context()))
	f.statuses("()", "()", "()")
}

func TestLeavingAgainHealsAPeerThatIsNotConfigured(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	f.world.Start(t, orders)
	r := f.world.New(t, f.world.Servers[:1])
	f.find(r)
	f.eurekas[0].Cut(true)
	f.must(r.Leave(t.Context()))
	f.eurekas[0].Cut(false)
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "UP()")
	f.must(r.Leave(t.Context()))
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
}

func TestAStatusThatSticksWithoutAnOverrideIsCured(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	r, app := f.started()
	f.must(r.Leave(t.Context()))
	f.eurekas[0].ForgetOverride(id)
	app.Beat(t)
	f.statuses("OUT_OF_SERVICE()")
	f.must(r.Rejoin(t.Context()))
	app.Beat(t)
	f.statuses("UP()")
}

func TestALateCopyOfOurPutDoesNotMakeADownAppUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	first := *f.world
	first.Servers = first.Servers[:1]
	app := first.Start(t, orders)
	r := f.world.New(t, f.world.Servers)
	f.find(r)
	f.eurekas[0].Lag(true)
	f.eurekas[1].Lag(true)
	f.must(r.Leave(t.Context()))
	app.Report(t, false)
	f.statuses("DOWN(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	f.eurekas[1].Lag(false) // tells the first what it holds itself
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	f.eurekas[0].Lag(false)
	f.must(r.Rejoin(t.Context()))
	app.Beat(t)
	if s := f.state(r); s == registry.In {
		t.Error("the app has said that it is down")
	}
	app.Report(t, true)
	f.eventually(func() error {
		if s := f.state(r); s != registry.In {
			return errors.New(s.String())
		}
		return nil
	})
}

func TestAnOverrideThatSaysUpIsRemoved(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	r, _ := f.started()
	f.must(r.Leave(t.Context()))
	f.call(http.MethodPut, "apps/orders/"+id+"/status?value=UP")
	f.statuses("UP(UP)")
	f.must(r.Rejoin(t.Context()))
	f.statuses("UP()")
}

// call makes a request past the code under test.
func (f *fleet) call(method, path string) {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), method, f.world.Servers[0]+path, nil)
	f.must(err)
	resp, err := http.DefaultClient.Do(req)
	f.must(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		f.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// writes are the requests that changed a status or deleted something since the servers were started.
func (f *fleet) writes() (list []string) {
	for _, e := range f.eurekas {
		for r := range e.Requests() {
			if strings.HasPrefix(r, "DELETE") || strings.HasSuffix(r, "/status") {
				list = append(list, r)
			}
		}
	}
	return list
}

func TestWhatIsNotThereIsNotDeletedOnAGuess(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	r, _ := f.started()
	f.eurekas[0].Restart()
	for _, call := range []func(context.Context) error{r.Leave, r.Rejoin, r.Forget} {
		f.eurekas[0].Restart() // before a heartbeat brings it back
		f.must(call(t.Context()))
	}
	if w := f.writes(); len(w) > 1 { // the heartbeat may have been quicker once
		t.Errorf("%v", w)
	}
}

func TestAnIDThatAnotherPodTookOverIsNotTouched(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	r, app := f.started()
	app.Crash(t)
	elsewhere := orders
	elsewhere.ID, elsewhere.Address = id, netip.MustParseAddrPort("127.0.0.10:8080")
	f.world.Start(t, elsewhere)
	if s := f.state(r); s != registry.Absent {
		t.Errorf("%v", s)
	}
	for name, call := range map[string]func(context.Context) error{"leave": r.Leave, "rejoin": r.Rejoin, "forget": r.Forget} {
		f.must(call(t.Context()))
		if w := f.writes(); len(w) != 0 {
			t.Errorf("%s: %v", name, w)
		}
	}
	f.statuses("UP()")
}

func TestIDsWithOddCharacters(t *testing.T) {
	t.Parallel()
	for _, odd := range []string{"a b", "ä:ö", "x;y=1", "50%", "q?x#y", "a&b+c", "..."} {
		f := newFleet(t, 1, registrytest.EurekaConfig{})
		app := orders
		app.ID = odd
		f.world.Start(t, app)
		r := f.world.New(t, f.world.Servers)
		f.find(r)
		f.must(r.Leave(t.Context()))
		if status, override := f.eurekas[0].Status(orders.Service, odd); status != "OUT_OF_SERVICE" || override != status {
			t.Errorf("%s: %s (%s)", odd, status, override)
		}
		f.must(r.Rejoin(t.Context()))
		if status, override := f.eurekas[0].Status(orders.Service, odd); status != "UP" || override != "" {
			t.Errorf("%s: %s (%s)", odd, status, override)
		}
	}
}

func TestTheConfiguredIDIsOursWhateverItsAddress(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	f.world.Start(t, orders)
	u, err := url.Parse(f.world.Servers[0])
	f.must(err)
	h := registry.NewHTTP(nil, "prestop/test")
	t.Cleanup(h.Close)
	r := eureka.New(eureka.Options{URLs: []*url.URL{u}, InstanceID: id, HTTP: h})
	found, err := r.Find(t.Context(), registry.Pod{})
	if err != nil || len(found) != 1 || found[0].ID != id || found[0].State != registry.In {
		t.Fatalf("%+v, %v", found, err)
	}
	if n := f.eurekas[0].Requests()["GET /eureka/apps"]; n != 0 {
		t.Error("the whole list was read")
	}
	f.must(r.Leave(t.Context()))
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)")
}

func TestAWrongPathIsSaidAndNotTakenForAbsence(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	f.world.Start(t, orders)
	root := strings.TrimSuffix(f.world.Servers[0], "eureka/")
	for name, p := range map[string]registry.Pod{"any service": pod, "one service": {Addresses: pod.Addresses, Ports: pod.Ports, Services: []string{"orders"}}} {
		_, err := f.world.New(t, []string{root}).Find(t.Context(), p)
		var e *registry.Error
		if !errors.As(err, &e) || !e.Final || !strings.Contains(e.Remedy, "service URL") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAServiceURLIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{Path: "/ctx/registry/v2"})
	f.world.Servers[0] = strings.TrimSuffix(f.world.Servers[0], "eureka/") + "ctx/registry/v2"
	f.world.Start(t, orders)
	for _, end := range []string{"", "/"} {
		f.find(f.world.New(t, []string{f.world.Servers[0] + end}))
	}
}

func TestTheUserOfAServiceURLIsPercentDecoded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{User: "spring", Password: "p@ss/w:rd%"})
	with := func(userinfo string) string { return strings.Replace(f.world.Servers[0], "://", "://"+userinfo+"@", 1) }
	right := with("spring:p%40ss%2Fw%3Ard%25")
	plain := f.world.Servers[0]
	f.world.Servers[0] = right // for the app
	f.world.Start(t, orders)
	r := f.world.New(t, []string{right})
	f.find(r)
	f.must(r.Leave(t.Context()))
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)")
	for _, wrong := range []string{plain, with("spring:geheim")} {
		_, err := f.world.New(t, []string{wrong}).Find(t.Context(), pod)
		var e *registry.Error
		if !errors.As(err, &e) || !e.Final || e.Code != 401 || !strings.Contains(e.Remedy, "user") || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%v", err)
		}
	}
}

func TestARefusalToWriteSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config registrytest.EurekaConfig
		code   int
		remedy string
	}{
		"CSRF":           {registrytest.EurekaConfig{CSRF: true}, 401, "CSRF"},
		"read-only role": {registrytest.EurekaConfig{ReadOnly: true}, 403, "role"},
	} {
		c.config.Open = func(r *http.Request) bool { return !strings.HasPrefix(r.UserAgent(), "prestop") }
		f := newFleet(t, 1, c.config)
		r, _ := f.started()
		err := r.Leave(t.Context())
		var e *registry.Error
		if !errors.As(err, &e) || !e.Final || e.Code != c.code || !strings.Contains(e.Remedy, c.remedy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWithoutAListOfChangesTheApplicationsListTells(t *testing.T) {
	t.Parallel()
	now := &atomic.Pointer[time.Time]{}
	start := time.Now()
	now.Store(&start)
	c := registrytest.EurekaConfig{NoDelta: true, Cache: 30 * time.Second, Now: func() time.Time { return *now.Load() }}
	f := newFleet(t, 1, c)
	app := f.world.Start(t, orders)
	app.Crash(t) // no heartbeat for two minutes; the lease is good for longer
	r := f.world.New(t, f.world.Servers)
	f.find(r)
	f.must(r.Leave(t.Context()))
	if ok, err := r.Published(t.Context()); ok || err != nil {
		t.Errorf("%v, %v: the cache is as old as before", ok, err)
	}
	later := start.Add(31 * time.Second)
	now.Store(&later)
	if ok, err := r.Published(t.Context()); !ok || err != nil {
		t.Errorf("%v, %v: the cache has been turned over", ok, err)
	}
}

func TestPublishedWaitsForEveryServersCache(t *testing.T) {
	t.Parallel()
	now := &atomic.Pointer[time.Time]{}
	start := time.Now().Truncate(30 * time.Second)
	now.Store(&start)
	f := newFleet(t, 2, registrytest.EurekaConfig{Cache: 30 * time.Second, Now: func() time.Time { return *now.Load() }})
	r, app := f.started()
	app.Crash(t)
	f.must(r.Leave(t.Context()))
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {29 * time.Second, false}, {30 * time.Second, true}, {time.Minute, true}} {
		at := start.Add(c.after)
		now.Store(&at)
		if ok, err := r.Published(t.Context()); ok != c.want || err != nil {
			t.Errorf("after %v: %v, %v", c.after, ok, err)
		}
	}
}

func TestPublishedDoesNotWaitForAChangeThatIsTooOldToBeListed(t *testing.T) {
	t.Parallel()
	now := &atomic.Pointer[time.Time]{}
	start := time.Now()
	now.Store(&start)
	f := newFleet(t, 1, registrytest.EurekaConfig{Evict: -1, Now: func() time.Time { return *now.Load() }})
	earlier, app := f.started()
	f.must(earlier.Leave(t.Context()))
	app.Crash(t) // or its heartbeats would be of another time
	later := start.Add(4 * time.Minute)
	now.Store(&later)
	r := f.world.New(t, f.world.Servers)
	f.find(r)
	f.must(r.Leave(t.Context()))
	if ok, err := r.Published(t.Context()); ok || err == nil || registry.IsFinal(err) {
		t.Errorf("%v, %v: want an error, for this cannot be told", ok, err)
	}
}

func TestADrainIsFewRequests(t *testing.T) {
	t.Parallel()
	for servers, most := range map[int]int{1: 5, 2: 8} {
		f := newFleet(t, servers, registrytest.EurekaConfig{})
		app := f.world.Start(t, orders)
		app.Crash(t)
		r := f.world.New(t, f.world.Servers)
		f.find(r)
		p := pod
		p.Services = []string{"orders"}
		before := f.count()
		if _, err := r.Find(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		f.must(r.Leave(t.Context()))
		if n := f.count() - before; n > most {
			t.Errorf("%d servers: %d requests", servers, n)
		}
	}
}

func (f *fleet) count() (n int) {
	for _, e := range f.eurekas {
		for _, k := range e.Requests() {
			n += k
		}
	}
	return n
}
