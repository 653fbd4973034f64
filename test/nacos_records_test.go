package test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// away is longer than what the servers here remember of a disabled instance that is gone: 4 s and a look every second,
// instead of 60 s and 5 s.
const away = 7 * time.Second

// TestNacosRecords: the record of a disabled instance and the instance's connection have lives of their own, and a leave
// has to hold whatever comes of either.
func TestNacosRecords(t *testing.T) {
	clients := servers.RunNacosClients(t, nacosClientVersion)
	for _, version := range []string{"2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := runNacos(t, version, "nacos.naming.clean.expired-metadata.expired-time=4000", "nacos.naming.clean.expired-metadata.interval=1000")
			port, err := portOf(n.URL)
			mustNot(t, err, "read the port")
			new := func(t *testing.T, k byte) *registered {
				ip := netip.AddrFrom4([4]byte{127, 9, 7, k})
				line := servers.RunLine(t, port, 1000)
				return &registered{n: n, client: javaClient(clients), line: line, port: line.Port,
					i:   registrytest.NacosInstance{Service: fmt.Sprintf("record-%d", k), IP: ip.String(), Port: 8080, Weight: 2.5, Metadata: map[string]string{"zone": "b"}},
					pod: registry.Pod{Addresses: []netip.Addr{ip}, Ports: []uint16{8080}}}
			}
			t.Run("at once", func(t *testing.T) {
				t.Run("an instance whose connection was lost for longer than its record lives is taken out again", func(t *testing.T) {
					t.Parallel()
					new(t, 1).losesItsRecord(t)
				})
				t.Run("an instance that lives on when an older one of its address dies late is rejoined", func(t *testing.T) {
					t.Parallel()
					new(t, 2).outlivesAnother(t)
				})
			})
			t.Run("a server that is killed and started again in mid-drain is left again", func(t *testing.T) {
				new(t, 3).survivesARestart(t)
			})
		})
	}
}

func (a *registered) registry(t *testing.T) registry.Registry {
	return nacosAs(t, a.n.URL, a.n.User, a.n.Password, "")
}

// stayAway lets time pass: nothing shows when a record expires.
func stayAway(t *testing.T) {
	t.Helper()
	timer := time.NewTimer(away)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

func (a *registered) losesItsRecord(t *testing.T) {
	r := a.registry(t)
	a.client(t, a.port, a.i)
	a.becomes(t, r, registry.In)
	mustNot(t, r.Leave(t.Context()), "leave")
	a.line.Cut()
	a.becomes(t, r, registry.Absent)
	stayAway(t)
	a.line.Mend()
	a.becomes(t, r, registry.In) // or there is no trap here
	mustNot(t, r.Leave(t.Context()), "leave again")
	a.mustBe(t, r, registry.Out)
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
	a.called(t)
}

// outlivesAnother: the later connection's instance is shown as disabled although its record is gone, until something else
// changes in its service, since nothing makes the list anew.
func (a *registered) outlivesAnother(t *testing.T) {
	r := a.registry(t)
	a.client(t, a.port, a.i)
	a.becomes(t, r, registry.In)
	mustNot(t, r.Leave(t.Context()), "leave")
	port, err := portOf(a.n.URL)
	mustNot(t, err, "read the port")
	a.client(t, port, a.i)
	a.line.Cut()
	stayAway(t)
	second := a.registry(t)
	a.becomes(t, second, registry.Out) // or there is no trap here
	mustNot(t, second.Rejoin(t.Context()), "rejoin")
	a.called(t)
	stayAway(t)
	a.called(t)
}

// survivesARestart: with its data. Whatever the server remembers, the instance is out after another Leave.
func (a *registered) survivesARestart(t *testing.T) {
	r := a.registry(t)
	a.client(t, a.port, a.i)
	a.becomes(t, r, registry.In)
	mustNot(t, r.Leave(t.Context()), "leave")
	mustNot(t, a.n.Kill(), "kill")
	mustNot(t, a.n.Again(t.Context()), "start again")
	waitFor(t, "be registered again", func() error {
		i, err := r.Check(t.Context())
		switch {
		case err != nil:
			return err
		case i[0].State == registry.Absent:
			return errors.New("absent")
		}
		t.Logf("after the restart it is %s", i[0].Status)
		return nil
	})
	mustNot(t, r.Leave(t.Context()), "leave again")
	a.mustBe(t, r, registry.Out)
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
	a.called(t)
}
