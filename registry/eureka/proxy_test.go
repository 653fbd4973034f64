package eureka_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
)

// page answers as a proxy does that has no Eureka behind it.
func page(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(code)
		fmt.Fprint(w, "<html><body>nginx</body></html>")
	}
}

func TestAProxysAnswerIsNoAbsence(t *testing.T) {
	empty := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
	for name, fault := range map[string]http.HandlerFunc{
		"a page with 200": page(200), "a page with 403": page(403), "a page with 404": page(404), "a page with 502": page(502),
		"a 404 without a body": empty,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1, registrytest.EurekaConfig{})
			r, _ := f.started()
			f.fault(0, fault)
			for verb, call := range map[string]func(context.Context) error{
				"leave": r.Leave, "rejoin": r.Rejoin, "forget": r.Forget,
				"check": func(ctx context.Context) error { _, err := r.Check(ctx); return err },
				"find":  func(ctx context.Context) error { _, err := r.Find(ctx, pod); return err },
			} {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				if err := call(ctx); err == nil {
					t.Errorf("%s: no error", verb)
				}
				cancel()
			}
			f.fault(0, nil)
			if state := f.state(r); state != registry.In {
				t.Errorf("it is %v after that", state)
			}
		})
	}
}

// A dead Pod's record is left out of service at our address, which has been given to our Pod since.
func TestADeadStrangersRecordIsNotPutUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, registrytest.EurekaConfig{})
	stranger := registrytest.App{Service: "payments", Address: orders.Address, ID: "payments-0:payments:8080"}
	dead := f.world.Start(f, stranger)
	theirs := f.world.New(f, f.world.Servers)
	f.find(theirs)
	f.must(theirs.Leave(t.Context()))
	dead.Crash(f)
	ours := f.world.New(f, f.world.Servers)
	f.find(ours)
	f.must(ours.Rejoin(t.Context()))
	if status, _ := f.eurekas[0].Status("PAYMENTS", stranger.ID); status == "UP" {
		t.Error("callers of payments are sent to our app")
	}
}
