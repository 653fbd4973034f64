package nacos_test

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"

	"prestop/registry"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

func TestAChangeThatIsAnsweredOkAndNotMadeIsMadeAgain(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	n, u := serve(t, registrytest.NacosConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch && sent.Add(1) == 1 {
				w.Write([]byte(`{"code":0,"message":"success","data":"ok"}`))
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	must(t, r.Leave(t.Context()))
	if sent.Load() != 2 || len(n.Listed("orders")) != 0 {
		t.Errorf("%d changes sent, %d listed", sent.Load(), len(n.Listed("orders")))
	}
}

func TestARejoinThatIsRefusedIsAFinalError(t *testing.T) {
	t.Parallel()
	var refuses atomic.Bool
	_, u := serve(t, registrytest.NacosConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch && refuses.Load() {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	must(t, r.Leave(t.Context()))
	refuses.Store(true)
	if err := r.Rejoin(t.Context()); !registry.IsFinal(err) {
		t.Errorf("%v, want a final error", err)
	}
	if got := state(t, r); got != registry.Out {
		t.Errorf("it is %v", got)
	}
}

func TestServersThatDoNotTellTheirVersionAreSpokenToAsA2x(t *testing.T) {
	t.Parallel()
	n, u := serve(t, registrytest.NacosConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/nacos/v1/console/server/state" {
				w.Write([]byte(`{}`))
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	must(t, r.Leave(t.Context()))
	if len(n.Listed("orders")) != 0 {
		t.Error("it is listed")
	}
	must(t, r.Rejoin(t.Context()))
	if len(n.Listed("orders")) != 1 {
		t.Error("it is not listed")
	}
}
