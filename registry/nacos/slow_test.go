package nacos_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/nacos"
	"prestop/registry/registrytest"
)

// cluster is servers of one Nacos that are reached in memory, so that the time of a test bubble is
// theirs as well.
type cluster struct {
	t       *testing.T
	nacos   *registrytest.Nacos
	urls    []*url.URL
	servers map[string]pipes // by host and port

	mu   sync.Mutex
	sent map[string]int // requests by the sidecar's User-Agent
}

// pipes are the connections to a server.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// newCluster starts n servers, each behind front.
func newCluster(t *testing.T, n int, front func(http.Handler) http.Handler) *cluster {
	c := &cluster{t: t, nacos: registrytest.NewNacos(registrytest.NacosConfig{}), servers: map[string]pipes{}, sent: map[string]int{}}
	for k := range n {
		host := fmt.Sprintf("nacos-%d:8848", k)
		p := make(pipes)
		handler := front(c.nacos)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.sent[r.UserAgent()]++
			c.mu.Unlock()
			handler.ServeHTTP(w, r)
		})}
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(p) }) // net.ErrClosed
		t.Cleanup(func() { close(p); s.Close(); serving.Wait() })
		c.servers[host] = p
		c.urls = append(c.urls, &url.URL{Scheme: "http", Host: host, Path: "/nacos"})
	}
	return c
}

// client is a sidecar's.
func (c *cluster) client(agent string) *nacos.Registry {
	calls := client.New(nil, agent)
	calls.Lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	calls.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case c.servers[address] <- far:
			return near, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.t.Cleanup(calls.Close)
	return nacos.New(nacos.Options{Servers: c.urls, HTTP: calls})
}

// spent returns how many requests each sidecar has sent since the last call, and the most of one.
func (c *cluster) spent() (sum, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.sent {
		sum, most = sum+n, max(most, n)
	}
	clear(c.sent)
	return sum, most
}

// slowRaft answers a change only when the cluster has taken it.
func slowRaft(takes time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch || r.Method == http.MethodPut {
				time.Sleep(takes)
			}
			next.ServeHTTP(w, r)
		})
	}
}

// drainCallsEach is the bar for each of a thousand sidecars that leave at once.
const drainCallsEach = 8

// A thousand Pods leave at the same time, from a cluster of three that is slow to take a write.
func TestAFleetThatLeavesASlowClusterAtOnceAsksLittle(t *testing.T) {
	t.Parallel()
	for takes, pods := range map[time.Duration]int{0: 50, 3500 * time.Millisecond: 50, 5 * time.Second: 1000, 9500 * time.Millisecond: 50} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, slowRaft(takes))
				fleet := make([]*nacos.Registry, pods)
				for k := range fleet {
					i := registrytest.NacosInstance{Service: fmt.Sprintf("service-%03d", k%50), IP: fmt.Sprintf("10.1.%d.%d", k/250, 1+k%250), Port: 8080, Weight: 1}
					c.nacos.Register(i)
					fleet[k] = c.client(fmt.Sprintf("sidecar/%d", k))
				}
				all := func(what string, f func(k int) error) {
					var running sync.WaitGroup
					for k := range fleet {
						running.Go(func() {
							if err := f(k); err != nil {
								t.Errorf("%s %d: %v", what, k, err)
							}
						})
					}
					running.Wait()
				}
				time.Sleep(time.Second) // the lists are made half a second after a registration
				all("find", func(k int) error {
					pod := registry.Pod{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(k / 250), byte(1 + k%250)})},
						Ports: []uint16{8080}, Services: []string{fmt.Sprintf("service-%03d", k%50)}}
					found, err := fleet[k].Find(t.Context(), pod)
					if err == nil && len(found) != 1 {
						err = fmt.Errorf("found %+v", found)
					}
					return err
				})
				time.Sleep(time.Minute) // from then on the weight is looked up again
				c.spent()
				all("leave", func(k int) error { return fleet[k].Leave(t.Context()) })
				sum, most := c.spent()
				t.Logf("%d requests, %d of one sidecar at the most", sum, most)
				if most > drainCallsEach {
					t.Errorf("a sidecar sent %d requests, the bar is %d", most, drainCallsEach)
				}
				if patches := c.nacos.Requests()["PATCH /v2/ns/instance"]; patches != pods {
					t.Errorf("%d writes for %d instances", patches, pods)
				}
			})
		})
	}
}
