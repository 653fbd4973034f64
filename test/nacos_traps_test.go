package test

import (
	"fmt"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

var nacosPod = registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.9.9.9")}, Ports: []uint16{8080}}

// nacosOrder is an instance of that Pod.
func nacosOrder(service string) registrytest.NacosInstance {
	return registrytest.NacosInstance{Service: service, IP: "127.9.9.9", Port: 8080, Weight: 2.5}
}

func nacosAs(t testing.TB, server, user, password, namespace string) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	return nacos.New(nacos.Options{Servers: []*url.URL{u}, Namespace: namespace, Username: user, HTTP: h,
		Password: func() (string, error) { return password, nil }})
}

// waitFor calls f until it returns nil, for a minute at most.
func waitFor(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// findOne waits until r finds one instance.
func findOne(t testing.TB, r registry.Registry) registry.Instance {
	t.Helper()
	var found []registry.Instance
	waitFor(t, "find the instance", func() (err error) {
		found, err = r.Find(t.Context(), nacosPod)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	return found[0]
}

func mustNot(t testing.TB, err error, doing string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}
