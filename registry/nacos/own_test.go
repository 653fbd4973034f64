package nacos_test

import (
	"net/url"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

// changes is how many requests there were that change an instance.
func changes(n *registrytest.Nacos) int {
	sum := 0
	for r, k := range n.Requests() {
		if r[:3] != "GET" {
			sum += k
		}
	}
	return sum
}

// An app that registers itself disabled is let in by somebody else, when it can serve.
func TestAnAppThatRegistersItselfDisabledIsLeftSo(t *testing.T) {
	for _, version := range []string{"1.4.1", "2.0.4", "2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := registrytest.NewNacos(registrytest.NacosConfig{Version: version, NoAdminAuth: true, Rebuild: -1})
			itself := order
			itself.Disabled = true
			n.Register(itself)
			u := listen(t, n, nil)
			r := newRegistry(t, nacos.Options{Servers: []*url.URL{u}, HeldBack: true})
			if found := mustFind(t, r, 1)[0]; found.State != registry.Down || found.Status != "disabled" {
				t.Fatalf("found %+v", found)
			}
			must(t, r.Rejoin(t.Context()))
			must(t, r.Leave(t.Context()))
			must(t, r.Rejoin(t.Context()))
			if got := changes(n); got != 0 || state(t, r) != registry.Down {
				t.Fatalf("%d requests changed it: %v", got, n.Requests())
			}

			// Somebody lets it in: from then on it leaves and rejoins as any other.
			letIn := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
			mustFind(t, letIn, 1)
			must(t, letIn.Rejoin(t.Context()))
			if got := state(t, r); got != registry.In {
				t.Fatalf("it was let in, and is %v", got)
			}
			must(t, r.Leave(t.Context()))
			if got := state(t, r); got != registry.Out {
				t.Fatalf("it left, and is %v", got)
			}
			must(t, r.Rejoin(t.Context()))
			if got := state(t, r); got != registry.In {
				t.Fatalf("it rejoined, and is %v", got)
			}
		})
	}
}

// A Pod that had our address has died while it was disabled. Our app is another service.
func TestADeadStrangersRecordIsNotEnabled(t *testing.T) {
	payment := registrytest.NacosInstance{Service: "payments", IP: order.IP, Port: order.Port, Weight: 1}
	for _, version := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := registrytest.NewNacos(registrytest.NacosConfig{Version: version, NoAdminAuth: true, Rebuild: -1})
			n.Register(payment)
			u := listen(t, n, nil)
			theirs := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
			mustFind(t, theirs, 1)
			must(t, theirs.Leave(t.Context()))

			n.Register(order)
			ours := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
			for range 2 {
				for _, i := range mustFind(t, ours, 2) {
					if want := map[string]registry.State{"orders": registry.In, "payments": registry.Down}[i.Service]; i.State != want {
						t.Errorf("%+v, want %v", i, want)
					}
				}
				must(t, ours.Rejoin(t.Context()))
				must(t, ours.Leave(t.Context()))
				if len(n.Listed("orders")) != 0 {
					t.Error("orders did not leave")
				}
				must(t, ours.Rejoin(t.Context()))
				if len(n.Listed("payments")) != 0 {
					t.Fatal("callers of payments are sent to orders")
				}
				if len(n.Listed("orders")) != 1 {
					t.Error("orders did not rejoin")
				}
			}
		})
	}
}

// A record that is alone at an address which the Pod has just got may be the former Pod's, unless
// it was registered while we looked.
func TestARecordAtANewAddressIsOursIfItWasRegisteredSince(t *testing.T) {
	t.Parallel()
	n := registrytest.NewNacos(registrytest.NacosConfig{Rebuild: -1})
	app := n.Register(order)
	u := listen(t, n, nil)
	theirs := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	mustFind(t, theirs, 1)
	must(t, theirs.Leave(t.Context()))
	young := pod
	young.Since = time.Now()

	before := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	if found, err := before.Find(t.Context(), young); err != nil || len(found) != 1 || found[0].State != registry.Down {
		t.Fatalf("found %+v, %v", found, err)
	}
	must(t, before.Rejoin(t.Context()))
	if len(n.Listed("orders")) != 0 {
		t.Fatal("a record that may be the former Pod's was enabled")
	}

	app.Close()
	since := newRegistry(t, nacos.Options{Servers: []*url.URL{u}})
	if found, err := since.Find(t.Context(), young); err != nil || len(found) != 0 {
		t.Fatalf("found %+v, %v", found, err)
	}
	n.Register(order) // it comes up disabled
	if found, err := since.Find(t.Context(), young); err != nil || len(found) != 1 || found[0].State != registry.Out {
		t.Fatalf("found %+v, %v", found, err)
	}
	must(t, since.Rejoin(t.Context()))
	if len(n.Listed("orders")) != 1 {
		t.Fatal("it is not back")
	}
}
