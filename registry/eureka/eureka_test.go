package eureka_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"prestop/registry"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil { // the contract's cases wait, they do not work
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

func client(t testing.TB, urls []*url.URL) registry.Registry {
	h := registry.NewHTTP(nil, "prestop/test")
	t.Cleanup(h.Close)
	return eureka.New(eureka.Options{URLs: urls, HTTP: h})
}

func TestContractInMemory(t *testing.T) {
	registrytest.Run(t, world(t, 1))
}

func TestContractInMemoryWithPeers(t *testing.T) {
	registrytest.Run(t, world(t, 2))
}

// world is n servers in memory that are peers.
func world(t *testing.T, n int) *registrytest.EurekaWorld {
	t.Attr("server", "Eureka in memory"+map[bool]string{true: ", two peers"}[n > 1])
	w := &registrytest.EurekaWorld{Client: client, Heartbeat: 50 * time.Millisecond}
	var servers []*registrytest.Eureka
	for range n {
		e := registrytest.NewEureka(registrytest.EurekaConfig{Cache: 500 * time.Millisecond, Evict: time.Second})
		s := httptest.NewServer(e)
		t.Cleanup(s.Close)
		servers = append(servers, e)
		w.Servers = append(w.Servers, s.URL+"/eureka/")
	}
	registrytest.PeerEurekas(servers...)
	w.StartAgain = func(testing.TB) {
		for _, e := range servers {
			e.Restart()
		}
	}
	return w
}
