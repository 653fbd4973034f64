package nacos_test

import (
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

// client makes a Registry for servers that want nacos/nacos for a login where they want one.
func newClient(t testing.TB, urls []*url.URL, namespace, group string) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	o := nacos.Options{Servers: urls, Namespace: namespace, Group: group, HTTP: h}
	if urls[0].User == nil {
		o.Username, o.Password = "nacos", func() (string, error) { return "nacos", nil }
	}
	return nacos.New(o)
}

// heldBack is newClient for an app that registers itself disabled.
func heldBack(t testing.TB, urls []*url.URL) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	return nacos.New(nacos.Options{Servers: urls, HTTP: h, HeldBack: true, Username: "nacos", Password: password("nacos")})
}

// world is an in-memory server of the version and apps that register over gRPC or over HTTP.
func world(t *testing.T, version string, major int, grpc bool) *registrytest.NacosWorld {
	memory := registrytest.NewNacos(registrytest.NacosConfig{Version: version, Rebuild: 100 * time.Millisecond})
	s := httptest.NewServer(memory)
	t.Cleanup(s.Close)
	w := &registrytest.NacosWorld{
		Servers: []string{s.URL + "/nacos"}, Client: newClient, HeldBack: heldBack, Heartbeat: 50 * time.Millisecond, Major: major, User: "nacos", Password: "nacos",
		StartAgain: func(testing.TB) { memory.Restart() }, NoV1: version == "3.2.0",
	}
	if grpc {
		w.Connect = func(_ testing.TB, i registrytest.NacosInstance) registrytest.NacosConnection {
			return connection{memory.Register(i)}
		}
	}
	return w
}

type connection struct{ *registrytest.NacosClient }

func (c connection) Close() error      { c.NacosClient.Close(); return nil }
func (c connection) Deregister() error { return c.Close() }

func TestContract(t *testing.T) {
	for name, w := range map[string]*registrytest.NacosWorld{
		"2.3.2, registered over gRPC": world(t, "2.3.2", 2, true),
		"2.0.4, registered over HTTP": world(t, "2.0.4", 2, false),
		"2.3.2, registered over HTTP": world(t, "2.3.2", 2, false),
		"3.1.0, registered over gRPC": world(t, "3.1.0", 3, true),
		"3.1.0, registered over HTTP": world(t, "3.1.0", 3, false),
		"3.2.0, registered over gRPC": world(t, "3.2.0", 3, true),
		"1.4.1, registered over HTTP": world(t, "1.4.1", 1, false),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Attr("server", "Nacos in memory")
			registrytest.Run(t, w)
			registrytest.RunNacos(t, w)
		})
	}
}
