package nacos_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

// slowRaft answers a change only after the cluster has taken it.
func slowRaft(takes time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch || r.Method == http.MethodPut {
				<-time.After(takes)
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestASlowClusterIsNotWrittenToAgain(t *testing.T) {
	for name, takes := range map[string]time.Duration{"5 s": 5 * time.Second, "9.5 s": 9500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := registrytest.NewNacos(registrytest.NacosConfig{})
			n.Register(order)
			var servers []*url.URL
			for range 3 {
				servers = append(servers, listen(t, n, slowRaft(takes)))
			}
			r := newRegistry(t, nacos.Options{Servers: servers})
			for len(n.Listed("orders")) == 0 {
				<-time.After(100 * time.Millisecond)
			}
			mustFind(t, r, 1)
			<-time.After(5 * time.Second) // so that the weight is looked up again
			before := total(n)
			must(t, r.Leave(t.Context()))
			if writes := changes(n); writes != 1 {
				t.Errorf("it was written %d times", writes)
			}
			if sum := total(n) - before; sum > 8 {
				t.Errorf("%d requests", sum)
			}
		})
	}
}

// total is how many requests there were.
func total(n *registrytest.Nacos) int {
	sum := 0
	for _, k := range n.Requests() {
		sum += k
	}
	return sum
}

// A thousand Pods leave at the same time, from a cluster of three whose writes take 5 s.
func TestAFleetThatLeavesASlowClusterAtOnceAsksLittle(t *testing.T) {
	t.Parallel()
	const pods, bar = 1000, 8
	var (
		mu   sync.Mutex
		sent = map[string]int{} // by the sidecar's User-Agent
	)
	counted := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			sent[r.UserAgent()]++
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	}
	n := registrytest.NewNacos(registrytest.NacosConfig{})
	var servers []*url.URL
	for range 3 {
		servers = append(servers, listen(t, n, func(h http.Handler) http.Handler { return counted(slowRaft(5 * time.Second)(h)) }))
	}
	var fleet []*nacos.Registry
	for k := range pods {
		name := fmt.Sprintf("service-%03d", k%50)
		ip := netip.AddrFrom4([4]byte{10, 1, byte(k / 250), byte(1 + k%250)})
		n.Register(registrytest.NacosInstance{Service: name, IP: ip.String(), Port: 8080, Weight: 1})
		calls := client.New(nil, fmt.Sprintf("sidecar/%d", k))
		t.Cleanup(calls.Close)
		fleet = append(fleet, nacos.New(nacos.Options{Servers: servers, HTTP: calls}))
	}
	<-time.After(time.Second) // the lists are made half a second after a registration
	find := func(k int) error {
		ip := netip.AddrFrom4([4]byte{10, 1, byte(k / 250), byte(1 + k%250)})
		found, err := fleet[k].Find(t.Context(), registry.Pod{Addresses: []netip.Addr{ip}, Ports: []uint16{8080},
			Services: []string{fmt.Sprintf("service-%03d", k%50)}})
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	}
	atOnce := func(what string, f func(k int) error) {
		var all sync.WaitGroup
		for k := range fleet {
			all.Go(func() {
				if err := f(k); err != nil {
					t.Errorf("%s %d: %v", what, k, err)
				}
			})
		}
		all.Wait()
	}
	atOnce("find", find)
	<-time.After(5 * time.Second) // from then on the weight is looked up again
	mu.Lock()
	clear(sent)
	mu.Unlock()
	atOnce("leave", func(k int) error { return fleet[k].Leave(t.Context()) })
	mu.Lock()
	defer mu.Unlock()
	most, sum := 0, 0
	for _, k := range sent {
		most, sum = max(most, k), sum+k
	}
	t.Logf("%d requests, %d of one sidecar at the most", sum, most)
	if most > bar {
		t.Errorf("a sidecar sent %d requests, the bar is %d", most, bar)
	}
}
