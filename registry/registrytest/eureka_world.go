package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"prestop/registry"
)

// EurekaWorld is Eureka servers, real or in memory, with apps that do over REST what Netflix's
// client does.
type EurekaWorld struct {
	// Servers are the service URLs.
	Servers []string
	// Client makes the Registry to judge.
	Client func(t testing.TB, urls []*url.URL) registry.Registry
	// StartAgain restarts every server.
	StartAgain func(t testing.TB)
	// Heartbeat is the apps' pace.
	Heartbeat time.Duration
	// Cut cuts the link between two peers, or repairs it; nil where there are none. What could not
	// be told for Forgotten is not told any more.
	Cut       func(cut bool)
	Forgotten time.Duration
	// Hold holds back what one of two peers has to tell the other, or lets it go.
	Hold func(server int, hold bool)
	// Jersey1: the server is one before Spring Cloud 4, with no second path at /v2.
	Jersey1 bool
	// Polaris: the servers are Polaris, where a new registration undoes what was set from outside.
	Polaris bool
	// Special starts a server that is set up otherwise.
	Special func(t testing.TB, s EurekaSetup) *EurekaWorld
}

// EurekaSetup is how a Special server differs from a plain one.
type EurekaSetup struct {
	// Odd: the server is below the context path /registry, has no list of changes, and evicts no
	// expired lease.
	Odd bool
	// User and Password are asked for unless User is "".
	User, Password string
	// CSRF and ReadOnly refuse what prestop writes; OpenError makes a refusal by CSRF a 403, where
	// it is a 401 else.
	CSRF, OpenError, ReadOnly bool
}

// Traits are Eureka's.
func (w *EurekaWorld) Traits() Traits {
	return Traits{OwnDown: true, UndoneByRestart: true, StickyOut: !w.Polaris}
}

// URLs are the service URLs.
func (w *EurekaWorld) URLs() []string { return w.Servers }

// New returns the Registry to judge.
func (w *EurekaWorld) New(t testing.TB, urls []string) registry.Registry {
	t.Helper()
	var parsed []*url.URL
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, u)
	}
	return w.Client(t, parsed)
}

// Restart restarts every server.
func (w *EurekaWorld) Restart(t testing.TB) { w.StartAgain(t) }

// Start registers the app at the first server and heartbeats there.
func (w *EurekaWorld) Start(t testing.TB, app App) Running {
	t.Helper()
	return w.start(t, eurekaShape{App: app})
}

// StartOut is Start for an app that registers itself as OUT_OF_SERVICE, as one does with
// eureka.instance.initial-status.
func (w *EurekaWorld) StartOut(t testing.TB, app App) Running {
	t.Helper()
	return w.start(t, eurekaShape{App: app, status: outOfService})
}

// Reporting is an app of Eureka, which may report any status.
type Reporting interface {
	ReportStatus(t testing.TB, status string)
}

// eurekaShape is an App with what only Eureka's apps have.
type eurekaShape struct {
	App
	host       string        // the name by which it is called; "" is its address
	secureOnly bool          // its port is the secure one
	lease      time.Duration // 0 is 90 s; whole seconds
	status     string        // with which it begins; "" is UP
}

func (w *EurekaWorld) start(t testing.TB, shape eurekaShape) *eurekaApp {
	t.Helper()
	if shape.host == "" {
		shape.host = shape.Address.Addr().String()
	}
	if shape.lease == 0 {
		shape.lease = 90 * time.Second
	}
	if shape.status == "" {
		shape.status = up
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &eurekaApp{world: w, shape: shape, name: strings.ToUpper(shape.Service), id: EurekaID(shape.App), status: shape.status, ended: make(chan struct{}), cancel: cancel}
	if err := a.register(ctx); err != nil {
		t.Fatalf("register %s: %v", a.id, err)
	}
	registered := a.dirty
	go a.beat(ctx)
	t.Cleanup(func() { cancel(); <-a.ended })
	// Only with heartbeats: a peer that missed the registration is told again when one reaches it.
	a.everywhere(t, "be registered", func(i *eurekaInstance) bool { return i != nil && i.Dirty() >= registered })
	return a
}

// EurekaID is the instance ID of an app, if it has not chosen one as Spring Cloud makes it where
// the host has no name.
func EurekaID(app App) string {
	if app.ID != "" {
		return app.ID
	}
	return fmt.Sprintf("%v:%s:%d", app.Address.Addr(), app.Service, app.Address.Port())
}

// Callers reads what each server lists from its read-only cache.
func (w *EurekaWorld) Callers(t testing.TB, service string) [][]Seen {
	t.Helper()
	var lists [][]Seen
	for _, s := range w.Servers {
		var v struct {
			Application struct{ Instance []eurekaInstance }
		}
		if _, err := eurekaCall(context.Background(), http.MethodGet, s, "apps/"+strings.ToUpper(service), nil, &v); err != nil {
			t.Fatalf("list %s: %v", service, err)
		}
		list := []Seen{}
		for _, i := range v.Application.Instance {
			if ip, err := netip.ParseAddr(i.IPAddr); err == nil && i.Status == up {
				list = append(list, Seen{Address: netip.AddrPortFrom(ip, i.Port.Number), Metadata: i.Metadata, Weight: 1})
			}
		}
		lists = append(lists, list)
	}
	return lists
}

// eurekaInstance is what the tests read of an instance; on purpose not by the code under test.
type eurekaInstance struct {
	IPAddr           string
	Status           string
	OverriddenStatus string
	Port             struct {
		Number uint16 `json:"$"`
	}
	Metadata           map[string]string
	LastDirtyTimestamp string
	LeaseInfo          struct{ LastRenewalTimestamp int64 }
}

// String is STATUS(OVERRIDE), "absent" for nil.
func (i *eurekaInstance) String() string {
	if i == nil {
		return "absent"
	}
	return i.Status + "(" + i.OverriddenStatus + ")"
}

// Dirty is the time of the app's last registration that the server knows, in milliseconds.
func (i *eurekaInstance) Dirty() int64 {
	n, _ := strconv.ParseInt(i.LastDirtyTimestamp, 10, 64)
	return n
}

// eurekaCall makes a call and decodes a 200 into out. It returns the code.
func eurekaCall(ctx context.Context, method, base, path string, body, out any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+"/"+path, r)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && out != nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(raw, out)
	}
	return resp.StatusCode, err
}

// eurekaApp is an app that is registered.
type eurekaApp struct {
	world    *EurekaWorld
	shape    eurekaShape
	name, id string
	cancel   context.CancelFunc
	ended    chan struct{} // closed when it sends no heartbeats any more

	mu     sync.Mutex // guards what follows, and is held during a registration
	status string
	dirty  int64
}

func (a *eurekaApp) path() string { return "apps/" + a.name + "/" + url.PathEscape(a.id) }

// register sends the app's true status with a newer time than ever before.
func (a *eurekaApp) register(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dirty = max(a.dirty+1, time.Now().UnixMilli())
	port, on, off := a.shape.Address.Port(), "true", "false"
	plain, secure := map[string]any{"$": port, "@enabled": on}, map[string]any{"$": 443, "@enabled": off}
	if a.shape.secureOnly {
		plain, secure = map[string]any{"$": 80, "@enabled": off}, map[string]any{"$": port, "@enabled": on}
	}
	body := map[string]any{"instance": map[string]any{
		"instanceId": a.id, "hostName": a.shape.host, "app": a.name, "ipAddr": a.shape.Address.Addr().String(), "status": a.status,
		"port": plain, "securePort": secure,
		"vipAddress": a.shape.Service, "metadata": a.shape.Metadata, "lastDirtyTimestamp": strconv.FormatInt(a.dirty, 10),
		"leaseInfo":      map[string]any{"renewalIntervalInSecs": 30, "durationInSecs": int(a.shape.lease / time.Second)},
		"dataCenterInfo": map[string]any{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
	}}
	code, err := eurekaCall(ctx, http.MethodPost, a.world.Servers[0], "apps/"+a.name, body, nil)
	if err == nil && code != http.StatusNoContent {
		err = fmt.Errorf("status %d", code)
	}
	return err
}

// beat sends heartbeats until ctx ends. Like Netflix's client it registers anew where the server
// answers 404, and goes on when the server cannot be reached.
func (a *eurekaApp) beat(ctx context.Context) {
	defer close(a.ended)
	tick := time.NewTicker(a.world.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if code, err := a.sendBeat(ctx); err == nil && code == http.StatusNotFound {
			_ = a.register(ctx) // the next heartbeat tries again
		}
	}
}

// sendBeat sends one heartbeat and returns the answer's code.
func (a *eurekaApp) sendBeat(ctx context.Context) (int, error) {
	a.mu.Lock()
	query := url.Values{"status": {a.status}, "lastDirtyTimestamp": {strconv.FormatInt(a.dirty, 10)}}
	a.mu.Unlock()
	return eurekaCall(ctx, http.MethodPut, a.world.Servers[0], a.path()+"?"+query.Encode(), nil, nil)
}

// everywhere waits until ok is true of the instance as each server holds it; nil is not at all.
func (a *eurekaApp) everywhere(t testing.TB, what string, ok func(*eurekaInstance) bool) {
	t.Helper()
	for _, s := range a.world.Servers {
		a.at(t, s, what, ok)
	}
}

// all is an error unless every server says want, see eurekaInstance.String.
func (a *eurekaApp) all(want string) error {
	for _, s := range a.world.Servers {
		if i, err := a.read(s); err != nil || i.String() != want {
			return fmt.Errorf("%s says %v, %v", s, i, err)
		}
	}
	return nil
}

func (a *eurekaApp) at(t testing.TB, server, what string, ok func(*eurekaInstance) bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		i, err := a.read(server)
		if err == nil && ok(i) {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s at %s: %s: not within %v: %v, %v", a.id, server, what, patience, i, err)
		case <-tick.C:
		}
	}
}

func (a *eurekaApp) read(server string) (*eurekaInstance, error) {
	var v struct{ Instance *eurekaInstance }
	_, err := eurekaCall(context.Background(), http.MethodGet, server, a.path(), nil, &v)
	return v.Instance, err
}

// Beat waits for a later renewal on every server.
func (a *eurekaApp) Beat(t testing.TB) {
	t.Helper()
	for _, s := range a.world.Servers {
		before := int64(0)
		if i, err := a.read(s); err != nil {
			t.Fatal(err)
		} else if i != nil {
			before = i.LeaseInfo.LastRenewalTimestamp
		}
		a.at(t, s, "have a heartbeat", func(i *eurekaInstance) bool { return i != nil && i.LeaseInfo.LastRenewalTimestamp > before })
	}
}

// Report registers with the new status, as Netflix's client does.
func (a *eurekaApp) Report(t testing.TB, ready bool) {
	t.Helper()
	status := down
	if ready {
		status = up
	}
	a.ReportStatus(t, status)
}

// ReportStatus registers with the status.
func (a *eurekaApp) ReportStatus(t testing.TB, status string) {
	t.Helper()
	a.mu.Lock()
	a.status = status
	a.mu.Unlock()
	if err := a.register(context.Background()); err != nil {
		t.Fatalf("report of %s: %v", a.id, err)
	}
	a.everywhere(t, "have reported", func(i *eurekaInstance) bool { return i != nil && i.Dirty() >= a.dirty })
}

// Crash stops the heartbeats.
func (a *eurekaApp) Crash(testing.TB) {
	a.cancel()
	<-a.ended
}

// Stop deregisters.
func (a *eurekaApp) Stop(t testing.TB) {
	t.Helper()
	a.Crash(t)
	if code, err := eurekaCall(context.Background(), http.MethodDelete, a.world.Servers[0], a.path(), nil, nil); err != nil || code != http.StatusOK {
		t.Fatalf("deregister %s: %d, %v", a.id, code, err)
	}
	a.everywhere(t, "be gone", func(i *eurekaInstance) bool { return i == nil })
}
