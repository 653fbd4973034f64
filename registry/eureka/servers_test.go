package eureka_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
)

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
}

func TestAServerThatDoesNotAnswerHoldsNothingUp(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{"hangs": hang, "resets": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2, registrytest.EurekaConfig{})
			r, _ := f.started()
			f.eurekas[0].Cut(true)
			f.fault(0, h) // the first, which is asked first
			f.must(r.Leave(t.Context()))
			f.statuses("UP()", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
			if s := f.state(r); s != registry.Out {
				t.Errorf("%v on all that answer", s)
			}
			f.fault(0, nil)
			if s := f.state(r); s != registry.In {
				t.Errorf("%v, but the one that is back has missed it", s)
			}
			f.must(r.Leave(t.Context()))
			f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
		})
	}
}

func TestAServerThatIsSickIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	r, _ := f.started()
	f.fault(1, code(500))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := r.Leave(ctx)
	var e *registry.Error
	if !errors.As(err, &e) || e.Code != 500 || !strings.HasPrefix(f.world.Servers[1], e.URL) || registry.IsFinal(err) {
		t.Errorf("%v", err)
	}
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)") // by its peer
}

func TestARefusalOfOneServerIsAnErrorThoughTheOtherIsTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	r, _ := f.started()
	f.fault(0, code(401))
	if err := r.Leave(t.Context()); !registry.IsFinal(err) {
		t.Errorf("%v", err)
	}
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
}

func TestTheListIsTakenFromAServerThatAnswersAndKnowsUs(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	f.fault(0, code(503))
	f.started()
	f.fault(0, nil)

	f = newFleet(t, 2, registrytest.EurekaConfig{})
	f.eurekas[0].Cut(true)
	f.world.Servers[0], f.world.Servers[1] = f.world.Servers[1], f.world.Servers[0]
	only := *f.world
	only.Servers = only.Servers[:1] // where the app registers; the other server never hears of it
	only.Start(t, orders)
	f.find(f.world.New(t, []string{f.world.Servers[1], f.world.Servers[0]}))
}

// A headless Service is one name for all servers, and they may be no peers of each other.
func TestANameOfSeveralServersStandsForAllOfThem(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	f.eurekas[0].Cut(true)
	f.eurekas[1].Cut(true)
	first, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	port := first.Addr().(*net.TCPAddr).Port
	second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	f.must(err)
	for i, l := range []net.Listener{first, second} {
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: f.eurekas[i]}}
		s.Start()
		t.Cleanup(s.Close)
		world := *f.world
		world.Servers = f.world.Servers[i : i+1]
		world.Start(t, orders)
	}
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	h.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
	}
	name := fmt.Sprintf("http://eureka-headless:%d/eureka/", port)
	u, err := url.Parse(name)
	f.must(err)
	r := eureka.New(eureka.Options{URLs: []*url.URL{u}, HTTP: h})
	f.find(r)
	f.must(r.Leave(t.Context()))
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)", "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	if r.URL() != name {
		t.Errorf("the service URL is shown as %s", r.URL())
	}
}

func TestTheConfiguredIDIsOursWhateverItsAddress(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	f.world.Start(t, orders)
	u, err := url.Parse(f.world.Servers[0])
	f.must(err)
	h := client.New(nil, "prestop/test")
	t.Cleanup(h.Close)
	r := eureka.New(eureka.Options{URLs: []*url.URL{u}, InstanceID: id, HTTP: h})
	found, err := r.Find(t.Context(), registry.Pod{})
	if err != nil || len(found) != 1 || found[0].ID != id || found[0].State != registry.In {
		t.Fatalf("%+v, %v", found, err)
	}
	if n := f.eurekas[0].Requests()["GET /eureka/apps"]; n != 0 {
		t.Error("the whole list was read")
	}
	f.must(r.Leave(t.Context()))
	f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)")
}

func TestADrainIsFewRequests(t *testing.T) {
	t.Parallel()
	for servers, most := range map[int]int{1: 5, 2: 8} {
		f := newFleet(t, servers, registrytest.EurekaConfig{})
		app := f.world.Start(t, orders)
		app.Crash(t)
		r := f.world.New(t, f.world.Servers)
		f.find(r)
		p := pod
		p.Services = []string{"orders"}
		before := f.count()
		if _, err := r.Find(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		f.must(r.Leave(t.Context()))
		if n := f.count() - before; n > most {
			t.Errorf("%d servers: %d requests", servers, n)
		}
		before = f.count()
		f.state(r)
		if n := f.count() - before; n != servers { // all that an idle sidecar asks, once a minute
			t.Errorf("%d servers: %d requests for a look", servers, n)
		}
	}
}

func (f *fleet) count() (n int) {
	for _, e := range f.eurekas {
		for _, k := range e.Requests() {
			n += k
		}
	}
	return n
}
