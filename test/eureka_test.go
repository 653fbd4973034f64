package test

import (
	"net/url"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

func eurekaClient(t testing.TB, urls []*url.URL) registry.Registry {
	h := registry.NewHTTP(nil, "prestop/test")
	t.Cleanup(h.Close)
	return eureka.New(eureka.Options{URLs: urls, HTTP: h})
}

// eurekaWorld is the contract suite's world of running servers. A restart ends them all before it starts one, so that none
// is told by a peer what it should have forgotten.
func eurekaWorld(running []*servers.Eureka) *registrytest.EurekaWorld {
	w := &registrytest.EurekaWorld{Client: eurekaClient, Heartbeat: 500 * time.Millisecond}
	for _, e := range running {
		w.Servers = append(w.Servers, e.URL)
	}
	w.StartAgain = func(t testing.TB) {
		t.Helper()
		for _, e := range running {
			if err := e.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		started := make(chan error, len(running))
		for _, e := range running {
			go func() { started <- e.Again(t.Context()) }()
		}
		for range running {
			if err := <-started; err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

func TestEurekaContract(t *testing.T) {
	t.Parallel()
	registrytest.Run(t, eurekaWorld(servers.RunEureka(t, 1, servers.EurekaOptions{})))
}

func TestEurekaContractWithPeers(t *testing.T) {
	t.Parallel()
	registrytest.Run(t, eurekaWorld(servers.RunEureka(t, 2, servers.EurekaOptions{})))
}
