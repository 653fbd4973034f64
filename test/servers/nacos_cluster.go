package servers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// nodeOffsets are the ports of a cluster's nodes beside each other: no two of what they listen on are the same.
var nodeOffsets = []int{0, 10, 20}

// RunNacosCluster starts three nodes of the version, 2.0 or later, that are one cluster, and ends them with the test.
func RunNacosCluster(t testing.TB, version string) []*Nacos {
	t.Helper()
	t.Attr("server", "Nacos "+version+", three nodes")
	nodes, err := nacosCluster(t, version)
	if err != nil {
		t.Fatal(err)
	}
	starting.Lock()
	defer starting.Unlock()
	// All at once: none is ready before two are there.
	errs := make([]error, len(nodes))
	var started sync.WaitGroup
	for k, n := range nodes {
		started.Go(func() { n.Process, errs[k] = Start(t.Context(), n.spec) })
	}
	started.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), readyWithin)
	defer cancel()
	for k, n := range nodes {
		if errs[k] == nil {
			errs[k] = n.led(ctx)
		}
		if errs[k] != nil {
			t.Fatal(errs[k])
		}
	}
	return nodes
}

// nacosCluster prepares the nodes.
func nacosCluster(t testing.TB, version string) (nodes []*Nacos, err error) {
	var offsets []int
	for _, node := range nodeOffsets {
		offsets = append(offsets, node)
		for _, o := range nacosVersions[version].offsets {
			offsets = append(offsets, node+o)
		}
	}
	port, err := FreePort(offsets...)
	if err != nil {
		return nil, err
	}
	var members string
	for _, node := range nodeOffsets {
		members += fmt.Sprintf("127.0.0.1:%d\n", port+node)
	}
	for _, node := range nodeOffsets {
		home := t.TempDir()
		n, err := nacosAt(t.Context(), port+node, home, version, []string{"nacos.standalone=false", "embeddedStorage=true", "nacos.server.ip=127.0.0.1"})
		if err == nil {
			err = os.Mkdir(filepath.Join(home, "conf"), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(home, "conf", "cluster.conf"), []byte(members), 0o644)
		}
		if err != nil {
			return nil, err
		}
		n.endWith(t)
		nodes = append(nodes, n)
	}
	return nodes, nil
}
