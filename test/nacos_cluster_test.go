//go:build all

package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"testing"
	"time"

	"prestop/registry"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// TestNacosCluster takes three JVMs of 650 MB and a minute until they are one cluster: go test -tags all.
func TestNacosCluster(t *testing.T) {
	nodes := servers.RunNacosCluster(t, "2.3.2")
	clients := servers.RunNacosClients(t, nacosClientVersion)
	var all []*url.URL
	for _, n := range nodes {
		u, err := url.Parse(n.URL)
		mustNot(t, err, "parse")
		all = append(all, u)
	}
	c := &nacosCluster{nodes: nodes, urls: all, i: nacosOrder("clustered")}
	_, err := connect(clients, nodes[0].URL, c.i)
	mustNot(t, err, "register")

	t.Run("what left by any node is out on all of them when it has been read back", c.leavesByAny)
	t.Run("a node that hangs holds up neither a leave nor a rejoin", c.oneHangs)
	t.Run("a node that ends in mid-drain undoes nothing, and the others do without it", c.oneEnds)
	t.Run("without a leader a leave is tried until there is one", c.noLeader)
}

type nacosCluster struct {
	nodes []*servers.Nacos
	urls  []*url.URL
	i     registrytest.NacosInstance
}

// registry is one that knows the nodes in that order.
func (c *nacosCluster) registry(t *testing.T, order ...int) registry.Registry {
	var urls []*url.URL
	for _, k := range order {
		urls = append(urls, c.urls[k])
	}
	return nacosClient(t, urls, "", "")
}

// called waits until the callers at each of the nodes are sent to the instance, or are not.
func (c *nacosCluster) called(t *testing.T, want bool, nodes ...int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("be called: %v", want), func() error { return c.seen(want, nodes...) })
}

func (c *nacosCluster) seen(want bool, nodes ...int) error {
	for _, k := range nodes {
		list, err := registrytest.NacosCallers(c.nodes[k].URL, c.i)
		if err != nil {
			return err
		}
		at := netip.AddrPortFrom(netip.MustParseAddr(c.i.IP), uint16(c.i.Port))
		if slices.ContainsFunc(list, func(s registrytest.Seen) bool { return s.Address == at && s.Weight == c.i.Weight }) != want {
			return fmt.Errorf("node %d's callers see %+v", k, list)
		}
	}
	return nil
}

func (c *nacosCluster) leavesByAny(t *testing.T) {
	for k := range c.nodes {
		r := c.registry(t, k, (k+1)%3, (k+2)%3)
		findOne(t, r)
		c.called(t, true, 0, 1, 2)
		began := time.Now()
		mustNot(t, r.Leave(t.Context()), "leave")
		t.Logf("left by node %d in %v", k, time.Since(began))
		if err := c.seen(false, 0, 1, 2); err != nil {
			t.Fatal(err)
		}
		one := c.registry(t, (k+1)%3) // a sidecar that knows one address alone
		if i := findOne(t, one); i.State != registry.Out {
			t.Fatalf("another node shows %+v", i)
		}
		mustNot(t, one.Rejoin(t.Context()), "rejoin")
		c.called(t, true, 0, 1, 2)
	}
}

func (c *nacosCluster) oneHangs(t *testing.T) {
	r := c.registry(t, 2, 1, 0)
	findOne(t, r)
	mustNot(t, c.nodes[2].Signal(syscall.SIGSTOP), "stop")
	began := time.Now()
	err := r.Leave(t.Context())
	t.Logf("left beside a node that hangs in %v", time.Since(began))
	if err == nil {
		err = c.seen(false, 0, 1)
	}
	if err == nil {
		err = r.Rejoin(t.Context())
	}
	mustNot(t, errors.Join(err, c.nodes[2].Signal(syscall.SIGCONT)), "leave and rejoin")
	c.called(t, true, 0, 1, 2)
}

func (c *nacosCluster) oneEnds(t *testing.T) {
	r := c.registry(t, 2, 0, 1)
	findOne(t, r)
	mustNot(t, r.Leave(t.Context()), "leave")
	mustNot(t, c.nodes[2].Kill(), "kill")
	began := time.Now()
	mustNot(t, r.Leave(t.Context()), "leave again")
	t.Logf("left again, without the node, in %v", time.Since(began))
	if i := findOne(t, r); i.State != registry.Out {
		t.Fatalf("it is %+v", i)
	}
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
	c.called(t, true, 0, 1)
	mustNot(t, r.Leave(t.Context()), "leave")
	c.called(t, false, 0, 1)
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
	c.called(t, true, 0, 1)
}

// noLeader: one of three nodes is left.
func (c *nacosCluster) noLeader(t *testing.T) {
	alone := c.registry(t, 0)
	findOne(t, alone)
	mustNot(t, c.nodes[1].Kill(), "kill")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	err := alone.Leave(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || registry.IsFinal(err) {
		t.Fatalf("leave without a leader: %v", err)
	}
	t.Logf("without a leader: %v", err)
	r := c.registry(t, 2, 1, 0)
	findOne(t, r) // it is still listed
	mustNot(t, c.nodes[1].Again(t.Context()), "start again")
	began := time.Now()
	mustNot(t, r.Leave(t.Context()), "leave")
	t.Logf("left with a leader again in %v", time.Since(began))
	if err := c.seen(false, 0, 1); err != nil {
		t.Fatal(err)
	}
}
