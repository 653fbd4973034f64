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

// EurekaWorld is Eureka servers, real or in memory, with apps that do over REST what Netflix's client does.
type EurekaWorld struct {
	// Servers are the service URLs.
	Servers []string
	// Client makes the Registry to judge.
	Client func(t testing.TB, urls []*url.URL) registry.Registry
	// StartAgain restarts every server.
	StartAgain func(t testing.TB)
	// Heartbeat is the apps' pace.
	Heartbeat time.Duration
}

// Traits are Eureka's.
func (w *EurekaWorld) Traits() Traits {
	return Traits{OwnDown: true, UndoneByRestart: true, StickyOut: true}
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
	ctx, cancel := context.WithCancel(context.Background())
	a := &eurekaApp{world: w, app: app, name: strings.ToUpper(app.Service), id: EurekaID(app), status: up, ended: make(chan struct{}), cancel: cancel}
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

// EurekaID is the instance ID of an app, if it has not chosen one as Spring Cloud makes it where the host has no name.
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
	app      App
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
	body := map[string]any{"instance": map[string]any{
		"instanceId": a.id, "hostName": a.app.Address.Addr().String(), "app": a.name, "ipAddr": a.app.Address.Addr().String(), "status": a.status,
		"port": map[string]any{"$": a.app.Address.Port(), "@enabled": "true"}, "securePort": map[string]any{"$": 443, "@enabled": "false"},
		"vipAddress": a.app.Service, "metadata": a.app.Metadata, "lastDirtyTimestamp": strconv.FormatInt(a.dirty, 10),
		"leaseInfo":      map[string]any{"renewalIntervalInSecs": 30, "durationInSecs": 90},
		"dataCenterInfo": map[string]any{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
	}}
	code, err := eurekaCall(ctx, http.MethodPost, a.world.Servers[0], "apps/"+a.name, body, nil)
	if err == nil && code != http.StatusNoContent {
		err = fmt.Errorf("status %d", code)
	}
	return err
}

// beat sends heartbeats until ctx ends. Like Netflix's client it registers anew where the server answers 404, and goes on
// when the server cannot be reached.
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
		a.mu.Lock()
		query := url.Values{"status": {a.status}, "lastDirtyTimestamp": {strconv.FormatInt(a.dirty, 10)}}
		a.mu.Unlock()
		if code, err := eurekaCall(ctx, http.MethodPut, a.world.Servers[0], a.path()+"?"+query.Encode(), nil, nil); err == nil && code == http.StatusNotFound {
			_ = a.register(ctx) // the next heartbeat tries again
		}
	}
}

// everywhere waits until ok is true of the instance as each server holds it; nil is not at all.
func (a *eurekaApp) everywhere(t testing.TB, what string, ok func(*eurekaInstance) bool) {
	t.Helper()
	for _, s := range a.world.Servers {
		a.at(t, s, what, ok)
	}
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
			t.Fatalf("%s at %s: %s: not within %v: %+v, %v", a.id, server, what, patience, i, err)
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
	a.mu.Lock()
	a.status = down
	if ready {
		a.status = up
	}
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
