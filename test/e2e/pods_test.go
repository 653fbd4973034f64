// Package e2e shows on a real Kubernetes what prestop promises: the real binary in real Pods, told to stop, restarted and
// killed by the real kubelet. The applications and registries are those of fixture.
package e2e

import (
	"slices"
	"testing"
)

// A row is one case: a sentence, and what shows it.
type row struct {
	sentence string
	play     func(g *stage)
	security string // what Pod Security enforces; "" is restricted
}

// TestPods plays every case that does not disturb the others, at the same time.
func TestPods(t *testing.T) {
	s := set(t)
	for _, r := range slices.Concat(stops, restarts, readiness, checks) {
		t.Run(r.sentence, func(t *testing.T) {
			t.Parallel()
			if r.security == "" {
				r.security = "restricted"
			}
			r.play(s.stage(t, r.security))
		})
	}
}
