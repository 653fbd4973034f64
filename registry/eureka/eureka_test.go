package eureka_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
)

func TestMain(m *testing.M) {
	// The contract's cases wait, they do not work. Before the command line is read, so that it can
	// say otherwise.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections() // of the apps and callers that the tests play
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func newClient(t testing.TB, urls []*url.URL) registry.Registry {
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	return eureka.New(eureka.Options{URLs: urls, HTTP: h})
}

func TestContractInMemory(t *testing.T) {
	w := world(t, 1, registrytest.EurekaConfig{})
	registrytest.Run(t, w)
	registrytest.RunEureka(t, w)
}

func TestContractInMemoryOfSpecialServers(t *testing.T) {
	registrytest.RunEurekaSetups(t, &registrytest.EurekaWorld{Special: special})
}

func TestContractInMemoryWithPeers(t *testing.T) {
	w := world(t, 2, registrytest.EurekaConfig{})
	registrytest.Run(t, w)
	registrytest.RunEureka(t, w)
}

func TestContractInMemoryOfPolaris(t *testing.T) {
	registrytest.Run(t, world(t, 1, registrytest.EurekaConfig{Polaris: true}))
}

// world is n servers in memory that are peers.
func world(t testing.TB, n int, c registrytest.EurekaConfig) *registrytest.EurekaWorld {
	name := "Eureka in memory"
	switch {
	case n > 1:
		name += ", two peers"
	case c.Polaris:
		name += ", Polaris"
	}
	t.Attr("server", name)
	if c.Path == "" {
		c.Path = "/eureka"
	}
	if c.Evict == 0 {
		c.Evict = time.Second
	}
	c.Cache = 500 * time.Millisecond
	w := &registrytest.EurekaWorld{Client: newClient, Heartbeat: 50 * time.Millisecond, Special: special, Polaris: c.Polaris}
	var servers []*registrytest.Eureka
	for range n {
		e := registrytest.NewEureka(c)
		s := httptest.NewServer(e)
		t.Cleanup(s.Close)
		u, err := url.Parse(s.URL + c.Path + "/")
		if err != nil {
			t.Fatal(err)
		}
		if c.User != "" {
			u.User = url.UserPassword(c.User, c.Password)
		}
		servers = append(servers, e)
		w.Servers = append(w.Servers, u.String())
	}
	registrytest.PeerEurekas(servers...)
	w.StartAgain = func(testing.TB) {
		for _, e := range servers {
			e.Restart()
		}
	}
	if n > 1 {
		w.Cut = servers[0].Cut
		w.Hold = func(server int, hold bool) { servers[server].Lag(hold) }
	}
	return w
}

// special is one server that is set up otherwise. The tests' apps may do everything there.
func special(t testing.TB, s registrytest.EurekaSetup) *registrytest.EurekaWorld {
	c := registrytest.EurekaConfig{User: s.User, Password: s.Password, CSRF: s.CSRF, OpenError: s.OpenError, ReadOnly: s.ReadOnly}
	if s.Odd {
		c.Path, c.NoDelta, c.Evict = "/registry/eureka", true, time.Hour
	}
	c.Open = func(r *http.Request) bool { return !strings.HasPrefix(r.UserAgent(), "prestop") }
	return world(t, 1, c)
}
