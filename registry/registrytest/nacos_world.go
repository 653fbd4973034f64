package registrytest

import (
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

// NacosWorld is Nacos servers, real or in memory, with apps that register over HTTP and send
// heartbeats, or as Connect does.
type NacosWorld struct {
	// Servers are the addresses with their context path.
	Servers []string
	// Client makes the Registry to judge, in a namespace and a group; "" are the product's own
	// defaults.
	Client func(t testing.TB, urls []*url.URL, namespace, group string) registry.Registry
	// HeldBack is Client for an app that registers itself disabled; nil does without that case.
	HeldBack func(t testing.TB, urls []*url.URL) registry.Registry
	// StartAgain restarts every server without its data; nil does without the cases that need it.
	StartAgain func(t testing.TB)
	// Heartbeat is the pace of apps that register over HTTP.
	Heartbeat time.Duration
	// Connect registers an app over gRPC, and registers it again when the connection is lost, until
	// closed; nil: the apps register over HTTP.
	Connect func(t testing.TB, i NacosInstance) NacosConnection
	// Major is the servers' version's: 1, 2 or 3.
	Major int
	// NoV1: the servers have nothing of v1, as from 3.2 on.
	NoV1 bool
	// User and Password are for the tests' own look at instances; "" needs no login.
	User, Password string
}

// NacosConnection is an app that is registered over gRPC.
type NacosConnection interface {
	// Close breaks the connection as the app's death does, without deregistering.
	Close() error
	// Deregister ends the registration in order and closes.
	Deregister() error
}

// Traits are those of Nacos.
func (w *NacosWorld) Traits() Traits {
	return Traits{Weights: true, UndoneByRestart: w.StartAgain != nil, StickyOut: w.Major >= 2} // on 1.x the flag dies with the instance
}

// URLs are the addresses.
func (w *NacosWorld) URLs() []string { return w.Servers }

// New returns the Registry to judge.
func (w *NacosWorld) New(t testing.TB, urls []string) registry.Registry {
	t.Helper()
	return w.client(t, urls, "", "")
}

func (w *NacosWorld) client(t testing.TB, urls []string, namespace, group string) registry.Registry {
	t.Helper()
	var parsed []*url.URL
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, u)
	}
	return w.Client(t, parsed, namespace, group)
}

// Restart restarts every server.
func (w *NacosWorld) Restart(t testing.TB) { w.StartAgain(t) }

// Start registers the app and waits until every server holds it, disabled or not: from then on it
// can be changed.
func (w *NacosWorld) Start(t testing.TB, app App) Running {
	t.Helper()
	return w.start(t, nacosInstance(app))
}

// nacosInstance is what an app publishes with everything else at its default.
func nacosInstance(app App) NacosInstance {
	i := NacosInstance{Service: app.Service, IP: app.Address.Addr().String(), Port: int(app.Address.Port()), Weight: app.Weight, Metadata: app.Metadata}
	if i.Weight == 0 {
		i.Weight = 1
	}
	return i
}

// start registers i: a persistent one over HTTP in any case.
func (w *NacosWorld) start(t testing.TB, i NacosInstance) *nacosApp {
	t.Helper()
	a := &nacosApp{world: w, instance: i}
	if w.Connect != nil && !i.Persistent {
		a.connection = w.Connect(t, i)
	} else {
		ctx, cancel := context.WithCancel(context.Background())
		a.cancel, a.ended, a.beaten = cancel, make(chan struct{}), make(chan chan struct{})
		if err := a.register(ctx); err != nil {
			t.Fatalf("register %s: %v", i.Service, err)
		}
		go a.beat(ctx)
	}
	t.Cleanup(func() { a.Crash(t) })
	for _, s := range w.Servers {
		a.held(t, s)
	}
	return a
}

// Callers reads the list that each server gives to callers over HTTP.
func (w *NacosWorld) Callers(t testing.TB, service string) [][]Seen {
	t.Helper()
	var lists [][]Seen
	for _, s := range w.Servers {
		list, err := w.list(s, NacosInstance{Service: service})
		if err != nil {
			t.Fatalf("list %s: %v", service, err)
		}
		lists = append(lists, list)
	}
	return lists
}

// NacosCallers is the list that a server gives to callers of the service of i over HTTP.
func NacosCallers(server string, i NacosInstance) ([]Seen, error) {
	return (&NacosWorld{}).list(server, i)
}

// nacosHost is an instance as callers read it.
type nacosHost struct {
	IP               string
	Port             uint16
	Weight           float64
	Healthy, Enabled bool
	Metadata         map[string]string
}

// list is what a server gives to callers of the service of i: of all clusters, where v1 tells.
func (w *NacosWorld) list(server string, of NacosInstance) ([]Seen, error) {
	var v struct{ Hosts, Data []nacosHost }
	i := of.named()
	q := url.Values{"namespaceId": {i.Namespace}, "groupName": {i.Group}, "serviceName": {i.Service}}
	path := "v1/ns/instance/list"
	if w.NoV1 {
		path = "v3/client/ns/instance/list"
		q.Set("clusterName", i.Cluster)
	}
	body, err := nacosCall(context.Background(), http.MethodGet, server, path, q)
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	if err != nil {
		return nil, err
	}
	list := []Seen{}
	for _, h := range append(v.Hosts, v.Data...) {
		if ip, err := netip.ParseAddr(h.IP); err == nil && h.Healthy && h.Enabled {
			list = append(list, Seen{netip.AddrPortFrom(ip, h.Port), h.Metadata, h.Weight})
		}
	}
	return list, nil
}

// nacosCall makes a call and returns the body of a 200; on purpose not by the code under test.
func nacosCall(ctx context.Context, method, server, path string, q url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(server, "/")+"/"+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// nacosApp is an app that is registered.
type nacosApp struct {
	world    *NacosWorld
	instance NacosInstance

	connection NacosConnection // over gRPC
	closed     sync.Once

	cancel context.CancelFunc // over HTTP
	ended  chan struct{}
	beaten chan chan struct{} // asks for a heartbeat, and to be told
}

func (a *nacosApp) query() url.Values {
	i := a.instance.named()
	metadata, _ := json.Marshal(i.Metadata)
	return url.Values{
		"enabled":     {strconv.FormatBool(!i.Disabled)},
		"namespaceId": {i.Namespace},
		"groupName":   {i.Group},
		"serviceName": {i.Service},
		"clusterName": {i.Cluster},
		"ip":          {i.IP},
		"port":        {strconv.Itoa(i.Port)},
		"ephemeral":   {strconv.FormatBool(!i.Persistent)},
		"weight":      {strconv.FormatFloat(i.Weight, 'f', -1, 64)},
		"metadata":    {string(metadata)},
	}
}

// path is where apps register and deregister over HTTP.
func (w *NacosWorld) path() string {
	if w.NoV1 {
		return "v3/client/ns/instance"
	}
	return "v1/ns/instance"
}

func (a *nacosApp) register(ctx context.Context) error {
	_, err := nacosCall(ctx, http.MethodPost, a.world.Servers[0], a.world.path(), a.query())
	return err
}

// beat sends heartbeats until ctx ends, and registers anew where the server does not know the
// instance any more.
func (a *nacosApp) beat(ctx context.Context) {
	defer close(a.ended)
	tick := time.NewTicker(a.world.Heartbeat)
	defer tick.Stop()
	for {
		var tell chan struct{}
		select {
		case <-ctx.Done():
			return
		case tell = <-a.beaten:
		case <-tick.C:
		}
		if a.instance.Persistent {
			if tell != nil {
				close(tell)
			}
			continue
		}
		q := a.query()
		q.Del("metadata")
		var answer struct{ Code int }
		body, err := nacosCall(ctx, http.MethodPut, a.world.Servers[0], "v1/ns/instance/beat", q)
		if err == nil && json.Unmarshal(body, &answer) == nil && answer.Code == 20404 {
			_ = a.register(ctx) // the next heartbeat tries again
		}
		if tell != nil {
			close(tell)
		}
	}
}

// held waits until the server tells about the instance, which it does for callers and for changes
// at the same time.
func (a *nacosApp) held(t testing.TB, server string) {
	t.Helper()
	q, path := a.query(), "v1/ns/instance"
	if a.world.Major >= 3 {
		path = "v3/admin/ns/instance"
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := a.world.login(server, q)
		if err == nil {
			_, err = nacosCall(context.Background(), http.MethodGet, server, path, q)
		}
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s at %s: not registered within %v: %v", a.instance.Service, server, patience, err)
		case <-tick.C:
		}
	}
}

// login adds the token to q where one is needed.
func (w *NacosWorld) login(server string, q url.Values) error {
	if w.User == "" || q.Has("accessToken") {
		return nil
	}
	var answer struct{ AccessToken string }
	body, err := nacosCall(context.Background(), http.MethodPost, server, "v1/auth/users/login", url.Values{"username": {w.User}, "password": {w.Password}})
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err == nil {
		q.Set("accessToken", answer.AccessToken)
	}
	return err
}

// Beat waits for a heartbeat of each server; a connection is itself the sign of life.
func (a *nacosApp) Beat(t testing.TB) {
	t.Helper()
	if a.beaten == nil {
		return
	}
	tell := make(chan struct{})
	a.beaten <- tell
	<-tell
}

// Report does not exist in Nacos.
func (a *nacosApp) Report(t testing.TB, _ bool) {
	t.Fatal("no app of Nacos can report that it is not ready")
}

// Crash closes the connection or stops the heartbeats.
func (a *nacosApp) Crash(t testing.TB) {
	t.Helper()
	if a.connection == nil {
		a.cancel()
		<-a.ended
		return
	}
	a.closed.Do(func() {
		if err := a.connection.Close(); err != nil {
			t.Errorf("close the connection of %s: %v", a.instance.Service, err)
		}
	})
}

// Stop deregisters.
func (a *nacosApp) Stop(t testing.TB) {
	t.Helper()
	if a.connection == nil {
		a.Crash(t)
		if _, err := nacosCall(context.Background(), http.MethodDelete, a.world.Servers[0], a.world.path(), a.query()); err != nil {
			t.Fatalf("deregister %s: %v", a.instance.Service, err)
		}
		return
	}
	a.closed.Do(func() {
		if err := a.connection.Deregister(); err != nil {
			t.Errorf("deregister %s: %v", a.instance.Service, err)
		}
	})
}
