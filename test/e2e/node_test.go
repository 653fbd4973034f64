package e2e

import (
	"context"
	"os"
	"testing"
	"time"

	"prestop/test/kube"
	"prestop/test/servers"
)

// TestNode is about what happens to a whole node. It disturbs everybody on the cluster, so its cases run alone, one after
// the other; E2E_LOCK names a file that others who use the cluster keep locked while they must not be disturbed.
func TestNode(t *testing.T) {
	if file := os.Getenv("E2E_LOCK"); file != "" {
		unlock, err := servers.Lock(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(unlock)
	}
	s := set(t)
	for _, r := range []row{
		{sentence: "a kubelet that is restarted while a hook runs calls it again and joins the same drain", play: kubeletRestart},
		{sentence: "a node is drained when its Pods are", play: nodeDrain},
	} {
		t.Run(r.sentence, func(t *testing.T) { r.play(s.stage(t, "restricted")) })
	}
}

func kubeletRestart(g *stage) {
	p := g.play(cast{})
	g.hold(p, "slow")
	g.delete(service)
	g.waitsFor(service, 1)
	if err := g.RestartKubelet(g.Context()); err != nil {
		g.Fatal(err)
	}
	g.said(p, "prestop", `"msg":"hook called"`, 2)
	g.notStopped()
	g.order(service, "/release?id=slow")
	g.endsInOrder(p)
	g.callersGo()
}

func nodeDrain(g *stage) {
	manifest := g.pod(cast{})
	manifest["metadata"].(kube.Object)["labels"].(kube.Object)["drained"] = g.ns
	g.create("v1/pods", manifest)
	p := g.ready(service)
	g.callersGo(p)
	drained := make(chan error, 1)
	g.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if _, err := g.Kubectl(ctx, nil, "uncordon", p.Spec.NodeName); err != nil {
			g.Error(err)
		}
	})
	g.stops(p, func(p kube.Pod) {
		go func() {
			// Nobody else's Pods: the label is ours.
			_, err := g.Kubectl(g.Context(), nil, "drain", p.Spec.NodeName, "--pod-selector=drained="+g.ns, "--force", "--timeout=80s")
			drained <- err
		}()
	})
	if err := <-drained; err != nil {
		g.Error(err)
	}
}
