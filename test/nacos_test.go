package test

import (
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// nacosClientVersion is the official Java client's.
const nacosClientVersion = "2.5.1"

// twoNacos is how many servers of Nacos run at the same time: each takes 600 MB and, at its start, a processor.
var twoNacos = make(chan struct{}, 2)

// runNacos starts a server when there is room for it.
func runNacos(t testing.TB, version string, settings ...string) *servers.Nacos {
	t.Helper()
	twoNacos <- struct{}{}
	t.Cleanup(func() { <-twoNacos })
	return servers.RunNacos(t, version, settings...)
}

// nacosClient makes a Registry with the administrator's login where the URL has none.
func nacosClient(t testing.TB, urls []*url.URL, namespace, group string) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	o := nacos.Options{Servers: urls, Namespace: namespace, Group: group, HTTP: h}
	if urls[0].User == nil {
		o.Username, o.Password = "nacos", func() (string, error) { return "nacos", nil }
	}
	return nacos.New(o)
}

// nacosHeldBack is nacosClient for an app that registers itself disabled.
func nacosHeldBack(t testing.TB, urls []*url.URL) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	return nacos.New(nacos.Options{
		Servers: urls, HTTP: h, HeldBack: true, Username: "nacos", Password: func() (string, error) { return "nacos", nil },
	})
}

// nacosWorld is the contract suite's world of a running server.
func nacosWorld(n *servers.Nacos) *registrytest.NacosWorld {
	w := &registrytest.NacosWorld{
		Servers: []string{n.URL}, Client: nacosClient, HeldBack: nacosHeldBack, Heartbeat: time.Second, Major: n.Major,
		StartAgain: func(t testing.TB) {
			t.Helper()
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := n.Wipe(); err != nil {
				t.Fatal(err)
			}
			if err := n.Again(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	}
	if n.Major >= 3 { // whose admin API wants a login in any case
		w.User, w.Password = n.User, n.Password
	}
	return w
}

// overGRPC makes the apps of w register by the official Java client.
func overGRPC(w *registrytest.NacosWorld, clients *servers.NacosClients) *registrytest.NacosWorld {
	v := *w
	v.Connect = func(t testing.TB, i registrytest.NacosInstance) registrytest.NacosConnection {
		t.Helper()
		c, err := connect(clients, w.Servers[0], i)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return &v
}

// nacosConnection is an app of the Java client.
type nacosConnection struct {
	clients *servers.NacosClients
	id      url.Values
}

var connections atomic.Int64

// connect registers i by the Java client.
func connect(clients *servers.NacosClients, server string, i registrytest.NacosInstance) (nacosConnection, error) {
	return connectWith(clients, server, i, nil)
}

// connectWith is connect with more parameters of Client.java.
func connectWith(clients *servers.NacosClients, server string, i registrytest.NacosInstance, more url.Values) (nacosConnection, error) {
	id := url.Values{"id": {fmt.Sprint(connections.Add(1))}}
	var metadata []string
	for k, v := range i.Metadata {
		metadata = append(metadata, k+"="+v)
	}
	q := url.Values{"id": id["id"], "server": {host(server)}, "service": {i.Service}, "ip": {i.IP}, "port": {fmt.Sprint(i.Port)},
		"weight": {fmt.Sprint(i.Weight)}, "metadata": {strings.Join(metadata, ",")}}
	for k, v := range map[string]string{"namespace": i.Namespace, "group": i.Group, "cluster": i.Cluster} {
		if v != "" {
			q.Set(k, v)
		}
	}
	for k, v := range more {
		q[k] = v
	}
	_, err := clients.Do("register", q)
	return nacosConnection{clients, id}, err
}

// host is the address as the Java client wants it.
func host(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	return u.Host
}

func (c nacosConnection) Close() error      { _, err := c.clients.Do("close", c.id); return err }
func (c nacosConnection) Deregister() error { _, err := c.clients.Do("deregister", c.id); return err }

func TestNacosContract(t *testing.T) {
	clients := servers.RunNacosClients(t, nacosClientVersion)
	for _, version := range []string{"2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := runNacos(t, version)
			w := nacosWorld(n)
			t.Run("registered over gRPC", func(t *testing.T) {
				registrytest.Run(t, overGRPC(w, clients))
				registrytest.RunNacos(t, overGRPC(w, clients))
			})
			t.Run("by other clients", func(t *testing.T) { clientsLeave(t, n) })
			w.StartAgain = nil // once for each version is enough
			t.Run("registered over HTTP", func(t *testing.T) {
				registrytest.Run(t, w)
				registrytest.RunNacos(t, w)
			})
		})
	}
}
