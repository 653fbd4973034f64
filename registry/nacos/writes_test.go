package nacos_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

// The server has disabled the instance, and its answer is lost; the app dies. The record that is
// left must be wiped.
func TestADisableWhoseAnswerWasLostIsForgotten(t *testing.T) {
	t.Parallel()
	var lost atomic.Bool
	n, u := serve(t, registrytest.NacosConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lost.Load() && r.Method == http.MethodPatch {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	lost.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := r.Leave(ctx); err != nil && registry.IsFinal(err) {
		t.Fatal(err)
	}
	lost.Store(false)
	n.Disconnect() // the app dies
	must(t, r.Forget(t.Context()))
	n.Register(order) // the next at that address, within a minute
	if len(n.Listed("orders")) != 1 {
		t.Error("after a Forget without an error the next instance at that address comes up disabled")
	}
}

// A write through Raft that takes longer than 3 s (Nacos waits for it up to 10 s) is done, but
// never believed.
func TestASlowWriteIsReadBack(t *testing.T) {
	t.Parallel()
	var patches atomic.Int64
	n, u := serve(t, registrytest.NacosConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch {
				patches.Add(1)
				next.ServeHTTP(httptest.NewRecorder(), r)
				time.Sleep(3500 * time.Millisecond) // the slowness that is tested
				w.Write([]byte(`{"code":0,"message":"success","data":"ok"}`))
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, r, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := r.Leave(ctx)
	if len(n.Listed("orders")) != 0 || patches.Load() != 1 {
		t.Errorf("after %d writes it is listed %d times", patches.Load(), len(n.Listed("orders")))
	}
	if err != nil {
		t.Errorf("it was disabled and off the list since the first second: %v", err)
	}
}

// One instance, of anybody, with a weight that Jackson writes as a string hides every Pod of the
// namespace.
func TestAnOddInstanceOfAnotherDoesNotHideOurs(t *testing.T) {
	t.Parallel()
	_, u := serve(t, registrytest.NacosConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/nacos/v1/ns/catalog/services" {
				fmt.Fprint(w, `[{"serviceName":"odd","groupName":"DEFAULT_GROUP","clusterMap":{"DEFAULT":{"hosts":[{"ip":"10.9.9.9","port":1,"weight":"NaN","enabled":true,"valid":true}]}}},
				{"serviceName":"orders","groupName":"DEFAULT_GROUP","clusterMap":{"DEFAULT":{"hosts":[{"ip":"10.0.0.1","port":8080,"weight":1.0,"enabled":true,"valid":true}]}}}]`)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	found, err := r.Find(ctx, registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: []uint16{8080}})
	if err != nil || len(found) != 1 {
		t.Errorf("found %+v: %v", found, err)
	}
}
