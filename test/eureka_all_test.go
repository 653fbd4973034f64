//go:build all

package test

import (
	"testing"

	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// TestEurekaContractOfAnOlderVersion is the generation of Spring Boot 2: go test -tags all.
func TestEurekaContractOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	w := eurekaWorld(servers.RunEureka(t, 1, servers.EurekaOptions{Project: "server1", Heap: "96m"}))
	w.Jersey1 = true
	registrytest.Run(t, w)
	registrytest.RunEureka(t, w)
}
