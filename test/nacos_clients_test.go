package test

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/nacos-group/nacos-sdk-go/v2/clients"
	"github.com/nacos-group/nacos-sdk-go/v2/clients/naming_client"
	"github.com/nacos-group/nacos-sdk-go/v2/common/constant"
	"github.com/nacos-group/nacos-sdk-go/v2/vo"

	"prestop/registry"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// registers makes a client register an app at the server on port of loopback.
type registers func(t testing.TB, port int, i registrytest.NacosInstance) registrytest.NacosConnection

// javaClient is the official one of a version; before 2.0 it sends heartbeats.
func javaClient(jvm *servers.NacosClients) registers {
	return func(t testing.TB, port int, i registrytest.NacosInstance) registrytest.NacosConnection {
		t.Helper()
		c, err := connect(jvm, fmt.Sprintf("http://127.0.0.1:%d/nacos", port), i)
		mustNot(t, err, "register")
		return c
	}
}

// goClient is nacos-sdk-go; batch registers with its call for several instances at once, whose record no server removes.
func goClient(batch bool) registers {
	return func(t testing.TB, port int, i registrytest.NacosInstance) registrytest.NacosConnection {
		t.Helper()
		dir := t.TempDir()
		naming, err := clients.NewNamingClient(vo.NacosClientParam{
			ClientConfig: constant.NewClientConfig(constant.WithLogDir(dir), constant.WithCacheDir(dir), constant.WithNotLoadCacheAtStart(true),
				constant.WithLogLevel("error"), constant.WithTimeoutMs(5000)),
			ServerConfigs: []constant.ServerConfig{*constant.NewServerConfig("127.0.0.1", uint64(port))},
		})
		mustNot(t, err, "make a client")
		c := goConnection{naming, i}
		one := vo.RegisterInstanceParam{Ip: i.IP, Port: uint64(i.Port), Weight: i.Weight, Enable: true, Healthy: true, Ephemeral: true,
			ServiceName: i.Service, Metadata: i.Metadata}
		waitFor(t, "register", func() error { // it connects in the background
			done := false
			if batch {
				done, err = naming.BatchRegisterInstance(vo.BatchRegisterInstanceParam{ServiceName: i.Service, Instances: []vo.RegisterInstanceParam{one}})
			} else {
				done, err = naming.RegisterInstance(one)
			}
			if err == nil && !done {
				err = fmt.Errorf("not done")
			}
			return err
		})
		return c
	}
}

type goConnection struct {
	naming naming_client.INamingClient
	i      registrytest.NacosInstance
}

func (c goConnection) Close() error { c.naming.CloseClient(); return nil }

func (c goConnection) Deregister() error {
	_, err := c.naming.DeregisterInstance(vo.DeregisterInstanceParam{Ip: c.i.IP, Port: uint64(c.i.Port), ServiceName: c.i.Service, Ephemeral: true})
	c.naming.CloseClient()
	return err
}

// clientsLeave judges what a leave and a rejoin do to the instances of each client, on one server. The line of those that hold
// a connection is cut in mid-drain.
func clientsLeave(t *testing.T, n *servers.Nacos) {
	port, err := portOf(n.URL)
	mustNot(t, err, "read the port")
	metered, requests := metered(t, n.URL)
	beaten, err := portOf(metered)
	mustNot(t, err, "read the port")
	for k, c := range []struct {
		name   string
		client registers
		beats  *atomic.Int64 // counts the client's requests where it sends heartbeats
	}{
		{"Java 1.4.8", javaClient(servers.RunNacosClients(t, "1.4.8")), requests},
		{"Java 3.1.1", javaClient(servers.RunNacosClients(t, "3.1.1")), nil},
		{"Go 2.3.2", goClient(false), nil},
		{"Go 2.3.2, in a batch", goClient(true), nil},
	} {
		ip := fmt.Sprintf("127.9.8.%d", k+1)
		a := &registered{n: n, client: c.client, port: beaten, beats: c.beats,
			i:   registrytest.NacosInstance{Service: fmt.Sprintf("of-client-%d", k), IP: ip, Port: 8080, Weight: 2.5, Metadata: map[string]string{"zone": "b"}},
			pod: registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Ports: []uint16{8080}}}
		if c.beats == nil {
			a.line = servers.RunLine(t, port, 1000)
			a.port = a.line.Port
		}
		t.Run("an instance of the client "+c.name+" leaves, stays out, rejoins as it was, and is cured after a crash", func(t *testing.T) {
			t.Parallel()
			a.leaves(t)
		})
	}
}

// registered is an app with its client.
type registered struct {
	n      *servers.Nacos
	client registers
	port   int           // where the client finds the server
	line   *servers.Line // to there; nil for one that sends heartbeats
	beats  *atomic.Int64
	i      registrytest.NacosInstance
	pod    registry.Pod
}

func (a *registered) leaves(t *testing.T) {
	r := nacosAs(t, a.n.URL, a.n.User, a.n.Password, "")
	app := a.client(t, a.port, a.i)
	a.becomes(t, r, registry.In)
	mustNot(t, r.Leave(t.Context()), "leave")
	a.mustBe(t, r, registry.Out)
	if a.line == nil {
		a.beaten(t)
	} else {
		a.line.Cut()
		a.becomes(t, r, registry.Absent)
		a.line.Mend()
		a.becomes(t, r, registry.Out) // the client has connected and registered again
	}
	a.mustBe(t, r, registry.Out)
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
	a.called(t)

	mustNot(t, r.Leave(t.Context()), "leave")
	mustNot(t, app.Close(), "crash")
	if a.line != nil { // what sends heartbeats is held for half a minute after them
		a.becomes(t, r, registry.Absent)
	}
	next := a.client(t, a.port, a.i)
	second := nacosAs(t, a.n.URL, a.n.User, a.n.Password, "")
	a.becomes(t, second, registry.Out)
	mustNot(t, second.Rejoin(t.Context()), "rejoin")
	a.called(t)
	mustNot(t, next.Deregister(), "deregister")
	a.becomes(t, second, registry.Absent)
}

// mustBe asserts the state of the instance now.
func (a *registered) mustBe(t *testing.T, r registry.Registry, want registry.State) {
	t.Helper()
	if err := a.is(t, r, want); err != nil {
		t.Fatal(err)
	}
}

// becomes waits for the state of the instance.
func (a *registered) becomes(t *testing.T, r registry.Registry, want registry.State) {
	t.Helper()
	waitFor(t, "be "+want.String(), func() error { return a.is(t, r, want) })
}

func (a *registered) is(t *testing.T, r registry.Registry, want registry.State) error {
	found, err := r.Check(t.Context())
	if err == nil && len(found) == 0 {
		found, err = r.Find(t.Context(), a.pod)
	}
	switch {
	case err != nil:
		return err
	case len(found) == 0 && want == registry.Absent, len(found) == 1 && found[0].State == want:
		return nil
	}
	return fmt.Errorf("it is %+v, want %v", found, want)
}

// beaten waits until the app has sent two heartbeats.
func (a *registered) beaten(t *testing.T) {
	t.Helper()
	before := a.beats.Load()
	waitFor(t, "beat", func() error {
		if n := a.beats.Load() - before; n < 2 {
			return fmt.Errorf("%d heartbeats", n)
		}
		return nil
	})
}

// called waits until callers are sent to the app as it registered.
func (a *registered) called(t *testing.T) {
	t.Helper()
	waitFor(t, "be called", func() error {
		list, err := registrytest.NacosCallers(a.n.URL, a.i)
		if err == nil && (len(list) != 1 || list[0].Weight != a.i.Weight || list[0].Metadata["zone"] != "b") {
			err = fmt.Errorf("callers see %+v", list)
		}
		return err
	})
}

func portOf(server string) (int, error) {
	u, err := url.Parse(server)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Port())
}
