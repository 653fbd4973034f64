//go:build all

package test

import (
	"testing"

	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// TestNacosContractOfOlderVersions takes some minutes: go test -tags all.
func TestNacosContractOfOlderVersions(t *testing.T) {
	clients := servers.RunNacosClients(t, nacosClientVersion)
	for _, version := range []string{"1.4.1", "2.0.4", "2.2.3"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := nacosWorld(runNacos(t, version))
			if w.Major >= 2 {
				t.Run("registered over gRPC", func(t *testing.T) {
					registrytest.Run(t, overGRPC(w, clients))
					registrytest.RunNacos(t, overGRPC(w, clients))
				})
				w.StartAgain = nil // once for each version is enough
			}
			t.Run("registered over HTTP", func(t *testing.T) {
				registrytest.Run(t, w)
				registrytest.RunNacos(t, w)
			})
		})
	}
}
