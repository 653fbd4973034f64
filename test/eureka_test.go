package test

import (
	"net/url"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

func eurekaClient(t testing.TB, urls []*url.URL) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	return eureka.New(eureka.Options{URLs: urls, HTTP: h})
}

// eurekaWorld is the contract suite's world of running servers. A restart ends them all before it starts one, so that none
// is told by a peer what it should have forgotten.
func eurekaWorld(running []*servers.Eureka) *registrytest.EurekaWorld {
	w := &registrytest.EurekaWorld{Client: eurekaClient, Heartbeat: 500 * time.Millisecond, Special: specialEureka}
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
	if running[0].Link != nil {
		w.Cut = func(cut bool) {
			for _, e := range running {
				e.Link.Cut(cut)
			}
		}
		w.Hold = func(server int, hold bool) { running[server].Link.Hold(hold) }
		w.Forgotten = 40 * time.Second // eureka.server.max-time-for-replication is 30 s
	}
	return w
}

// specialEureka is a server that is set up otherwise.
func specialEureka(t testing.TB, s registrytest.EurekaSetup) *registrytest.EurekaWorld {
	t.Helper()
	o := servers.EurekaOptions{User: s.User, Password: s.Password}
	if s.User != "" {
		o.Project = "server-sec"
	}
	if s.Odd {
		o.Path = "/registry"
		o.Flags = append(o.Flags, "--eureka.server.disable-delta=true", "--eureka.server.eviction-interval-timer-in-ms=3600000")
	}
	for flag, on := range map[string]bool{"--sec.csrf=on": s.CSRF, "--sec.error=open": s.OpenError, "--sec.readonly=on": s.ReadOnly} {
		if on {
			o.Flags = append(o.Flags, flag)
		}
	}
	w := eurekaWorld(servers.RunEureka(t, 1, o))
	if s.User != "" {
		for i, plain := range w.Servers {
			u, err := url.Parse(plain)
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.UserPassword(s.User, s.Password)
			w.Servers[i] = u.String()
		}
	}
	return w
}

func TestEurekaContract(t *testing.T) {
	t.Parallel()
	w := eurekaWorld(servers.RunEureka(t, 1, servers.EurekaOptions{}))
	registrytest.Run(t, w)
	registrytest.RunEureka(t, w)
}

func TestEurekaContractWithPeers(t *testing.T) {
	t.Parallel()
	w := eurekaWorld(servers.RunEureka(t, 2, servers.EurekaOptions{Links: true}))
	registrytest.Run(t, w)
	registrytest.RunEureka(t, w)
}

func TestEurekaContractOfSpecialServers(t *testing.T) {
	t.Parallel()
	registrytest.RunEurekaSetups(t, &registrytest.EurekaWorld{Special: specialEureka})
}
