package e2e

import (
	"strings"

	"prestop/test/kube"
)

// checks are what `prestop check` says in a running Pod.
var checks = []row{
	{sentence: "prestop check in the Pod finds everything in place", play: inPlace},
	{sentence: "prestop check in the Pod tells in numbers that the grace period is too short", play: tooShort},
}

// check runs `prestop check` in the Pod's sidecar.
func (g *stage) check(p kube.Pod) (page string, err error) {
	return g.Kubectl(g.Context(), nil, "exec", "-n", g.ns, p.Metadata.Name, "-c", "prestop", "--", "/prestop", "check")
}

func inPlace(g *stage) {
	page, err := g.check(g.play(cast{}))
	for _, want := range []string{"the sidecar answers on", "its state is serving", "orders", "Everything is in place."} {
		if err != nil || !strings.Contains(page, want) {
			g.Fatalf("it does not say %q: %v\n%s", want, err, page)
		}
	}
}

func tooShort(g *stage) {
	page, err := g.check(g.play(cast{grace: 60, env: map[string]string{"LINGER": "95s"}}))
	if err == nil || !strings.Contains(err.Error(), "exit code 1") {
		g.Errorf("it ends with %v", err)
	}
	for _, want := range []string{"PROBLEM", "60s", "95s", "--grace-period to 110 or more", "1 problem."} {
		if !strings.Contains(page, want) {
			g.Errorf("it does not say %q:\n%s", want, page)
		}
	}
}
