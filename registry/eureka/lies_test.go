package eureka_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
)

// A server that accepts a change and does not make it is told so, whatever the change.
func TestAChangeThatIsAcceptedAndNotMadeIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		refuses func(*http.Request) bool
		call    func(registry.Registry) func(context.Context) error
		says    string
	}{
		"a leave": {
			func(r *http.Request) bool { return r.Method == http.MethodPut },
			func(r registry.Registry) func(context.Context) error { return r.Leave }, "UP",
		},
		"a rejoin": {
			func(r *http.Request) bool { return r.Method == http.MethodDelete },
			func(r registry.Registry) func(context.Context) error { return r.Rejoin }, "OUT_OF_SERVICE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1, registrytest.EurekaConfig{})
			r, _ := f.started()
			if name == "a rejoin" {
				f.must(r.Leave(t.Context()))
			}
			f.fault(0, func(w http.ResponseWriter, r *http.Request) {
				if !c.refuses(r) {
					f.eurekas[0].ServeHTTP(w, r)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := c.call(r)(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%v, want the context's error", err)
			}
			for _, want := range []string{id, c.says} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not name %s", err, want)
				}
			}
		})
	}
}

func TestServersThatDisagreeAreToldInOneOrder(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, registrytest.EurekaConfig{})
	r, _ := f.started()
	for _, e := range f.eurekas {
		e.Cut(true)
	}
	alone := f.world.New(f, f.world.Servers[:1])
	f.find(alone)
	f.must(alone.Leave(t.Context()))
	for range 20 {
		instances, err := r.Check(t.Context())
		f.must(err)
		if got := instances[0].Status; got != "OUT_OF_SERVICE,UP" {
			t.Fatalf("the status is %q", got)
		}
	}
}

func TestARefusalOfAReadHasItsOwnRemedy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	r, _ := f.started()
	for status, want := range map[int]string{http.StatusUnauthorized: "give user and password", http.StatusForbidden: "may not read"} {
		f.fault(0, code(status))
		_, err := r.Check(t.Context())
		if e := (*registry.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Remedy, want) || !e.Final {
			t.Errorf("%d: %v, want %q", status, err, want)
		}
	}
}
