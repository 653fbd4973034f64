package eureka_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/eureka"
	"prestop/registry/registrytest"
)

// writes is how many requests there were that change what the servers hold of the app's instance
// from outside.
func (f *fleet) writes() int {
	sum := 0
	for _, e := range f.eurekas {
		for r, n := range e.Requests() {
			if strings.HasPrefix(r, "DELETE ") || strings.HasPrefix(r, "PUT ") && strings.HasSuffix(r, "/status") {
				sum += n
			}
		}
	}
	return sum
}

// heldBack makes a Registry that is told that the app registers itself out of service.
func (f *fleet) heldBack() registry.Registry {
	var urls []*url.URL
	for _, s := range f.world.Servers {
		u, err := url.Parse(s)
		f.must(err)
		urls = append(urls, u)
	}
	h := client.New(nil, "prestop/test")
	f.Cleanup(h.Close)
	return eureka.New(eureka.Options{URLs: urls, HTTP: h, HeldBack: true})
}

// An app that registers itself OUT_OF_SERVICE is let in by somebody else, when it can serve.
func TestAnAppThatRegistersItselfOutOfServiceIsLeftSo(t *testing.T) {
	for name, told := range map[string]bool{"told so": true, "not told": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1, registrytest.EurekaConfig{})
			f.world.StartOut(f, orders)
			r := f.world.New(f, f.world.Servers)
			if told {
				r = f.heldBack()
			}
			f.find(r)
			f.must(r.Leave(t.Context())) // before anything was tried
			f.must(r.Rejoin(t.Context()))
			tried := f.writes()
			if told && tried != 0 || tried > 3 {
				t.Errorf("%d writes", tried)
			}
			for range 3 {
				if got := f.state(r); got != registry.Down {
					t.Errorf("it is %v, as if it were ours to put in", got)
				}
				f.must(r.Rejoin(t.Context()))
				f.must(r.Leave(t.Context()))
			}
			if f.writes() != tried {
				t.Errorf("%d writes more, each of them in vain", f.writes()-tried)
			}
			f.statuses("OUT_OF_SERVICE()")

			// Somebody lets it in: from then on it leaves and rejoins as any other.
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, f.world.Servers[0]+"apps/ORDERS/"+id+"/status?value=UP", nil)
			f.must(err)
			resp, err := http.DefaultClient.Do(req)
			f.must(err)
			resp.Body.Close()
			f.must(r.Rejoin(t.Context()))
			f.statuses("UP(UP)")
			if got := f.state(r); got != registry.In {
				t.Errorf("it was let in, and is %v", got)
			}
			f.must(r.Leave(t.Context()))
			f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)")
			f.must(r.Rejoin(t.Context()))
			f.statuses("UP()")
		})
	}
}

// The app says DOWN after the last look before the PUT, which covers it.
func TestADownJustBeforeALeaveIsTheAppsAgainAfterIt(t *testing.T) {
	for _, status := range []string{"DOWN", "STARTING"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1, registrytest.EurekaConfig{})
			r, app := f.started()
			var said atomic.Bool
			f.fault(0, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut && !said.Swap(true) {
					app.(registrytest.Reporting).ReportStatus(t, status)
				}
				f.eurekas[0].ServeHTTP(w, r)
			})
			f.must(r.Leave(t.Context()))
			f.statuses("OUT_OF_SERVICE(OUT_OF_SERVICE)")
			f.must(r.Rejoin(t.Context()))
			app.Beat(t)
			f.statuses(status + "()")
		})
	}
}

// A process that takes the place of the one that was up may register itself out of service.
func TestANewProcessSaysItselfWhatItIsAfterALeave(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	r, app := f.started()
	f.must(r.Leave(t.Context()))
	app.Crash(t)
	next := f.world.StartOut(f, orders)
	f.must(r.Rejoin(t.Context()))
	next.Beat(t)
	f.statuses("OUT_OF_SERVICE()")
}

// Polaris shows nothing before its cache's next turn, and no override at all.
func TestPolarisIsGivenTheTimeToShowAChange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{Polaris: true, Cache: 4 * time.Second})
	r, app := f.started()
	f.must(r.Leave(t.Context()))
	if got := f.state(r); got != registry.Out {
		t.Errorf("it left, and is %v", got)
	}
	f.must(r.Rejoin(t.Context()))
	if got := f.state(r); got != registry.In {
		t.Errorf("it rejoined, and is %v", got)
	}
	app.Beat(t)
	f.statuses("UP()")
	if f.writes() > 5 {
		t.Errorf("%d writes", f.writes())
	}
	for r := range f.eurekas[0].Requests() {
		if strings.HasPrefix(r, "DELETE ") && !strings.HasSuffix(r, "/status") {
			t.Errorf("%s: a live record was deleted", r)
		}
	}
}
