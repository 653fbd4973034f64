package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"prestop/test/kube"
)

// readiness is about what a Service's endpoints and a rollout make of /readyz.
var readiness = []row{
	{sentence: "while it drains a Pod is terminating and still serving", play: servesWhileDraining},
	{sentence: "with unready-when-draining a Pod does not serve from the hook on", play: unreadyWhenDraining},
	{sentence: "with ready-when-registered a rollout goes on only when the new Pod is in the registries", play: readyWhenRegistered},
}

// probed has the sidecar's readiness count for the Pod.
func (g *stage) probed(p *parts) {
	p.sidecar["readinessProbe"] = probe("/readyz", g.ports.sidecar)
	p.sidecar["readinessProbe"].(kube.Object)["failureThreshold"] = 1
}

// serviceFor makes the Service that selects the stage's Pods.
func (g *stage) serviceFor() {
	g.Helper()
	g.create("v1/services", kube.Object{
		"apiVersion": "v1", "kind": "Service", "metadata": kube.Object{"name": service},
		"spec": kube.Object{"selector": kube.Object{"app": service}, "ports": []kube.Object{{"port": g.ports.app}}},
	})
}

// endpoint is an error unless that is what the slices say of the Pod.
func (g *stage) endpoint(pod string, ready, serving, terminating bool) error {
	c := g.rec.endpoint(pod).Conditions
	if c.Ready != ready || c.Serving != serving || c.Terminating != terminating {
		return fmt.Errorf("%+v", c)
	}
	return nil
}

func servesWhileDraining(g *stage) {
	g.serviceFor()
	p := g.play(cast{change: g.probed})
	await(g.T, "the endpoint is ready", func() error { return g.endpoint(service, true, true, false) })
	g.hold(p, "slow")
	g.delete(service)
	g.waitsFor(service, 1)
	await(g.T, "the endpoint is terminating", func() error { return g.endpoint(service, false, true, true) })
	// Three times as long as the kubelet needs to notice an answer that is not 200.
	g.stays("the endpoint serves", 4*time.Second, func() error { return g.endpoint(service, false, true, true) })
	g.order(service, "/release?id=slow")
	g.endsInOrder(p)
}

func unreadyWhenDraining(g *stage) {
	g.serviceFor()
	p := g.play(cast{env: map[string]string{"UNREADY_WHEN_DRAINING": "true"}, change: g.probed})
	g.hold(p, "slow")
	g.delete(service)
	g.waitsFor(service, 1)
	await(g.T, "the endpoint does not serve", func() error { return g.endpoint(service, false, false, true) })
	g.notStopped()
	g.order(service, "/release?id=slow")
	g.endsInOrder(p)
}

// deployment is what is read of one.
type deployment struct {
	Metadata struct{ Generation int }
	Status   struct{ ObservedGeneration, Replicas, UpdatedReplicas, AvailableReplicas int }
}

func readyWhenRegistered(g *stage) {
	manifest := func(app map[string]string) kube.Object {
		return kube.Object{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kube.Object{"name": service},
			"spec": kube.Object{
				"replicas": 1, "selector": kube.Object{"matchLabels": kube.Object{"app": service}},
				"strategy": kube.Object{"rollingUpdate": kube.Object{"maxSurge": 1, "maxUnavailable": 0}},
				"template": g.template(cast{env: map[string]string{"READY_WHEN_REGISTERED": "true"}, app: app, change: g.probed}),
			},
		}
	}
	g.create("apps/v1/deployments", manifest(nil))
	before := g.ready(g.only())
	g.callersGo(before)

	body, err := json.Marshal(manifest(map[string]string{"REGISTER_ON": "command"}))
	if err != nil {
		g.Fatal(err)
	}
	if _, err := g.Call(g.Context(), http.MethodPut, g.path("apps/v1/deployments/"+service), "", body); err != nil {
		g.Fatal(err)
	}
	after := g.another(before)
	g.until(after, "runs and listens", func(p *kube.Pod) bool { return p.Container("app").Ready })
	g.stays("the old Pod serves on and the new one is not ready", 3*time.Second, func() error {
		var p, q kube.Pod
		err := errors.Join(g.Get(g.Context(), g.path("v1/pods/"+before.Metadata.Name), &p), g.Get(g.Context(), g.path("v1/pods/"+after), &q))
		if err == nil && (p.Metadata.DeletionTimestamp != nil || q.Is("Ready")) {
			err = errors.New(summary(p) + "; " + summary(q))
		}
		return err
	})
	g.callersGo(before)
	g.order(after, "/register")
	g.endsInOrder(before)
	g.callersGo(g.ready(after))
	await(g.T, "the rollout is complete", func() error {
		var d deployment
		err := g.Get(g.Context(), g.path("apps/v1/deployments/"+service), &d)
		if err == nil && (d.Status.ObservedGeneration < d.Metadata.Generation || d.Status.Replicas != 1 || d.Status.UpdatedReplicas != 1 || d.Status.AvailableReplicas != 1) {
			err = fmt.Errorf("%+v", d)
		}
		return err
	})
}

// another waits until there is a Pod beside p, and returns its name.
func (g *stage) another(p kube.Pod) string {
	g.Helper()
	name := ""
	await(g.T, "there is another Pod", func() error {
		var list struct{ Items []kube.Pod }
		if err := g.Get(g.Context(), g.path("v1/pods"), &list); err != nil {
			return err
		}
		for _, q := range list.Items {
			if q.Metadata.UID != p.Metadata.UID && q.Metadata.DeletionTimestamp == nil {
				name = q.Metadata.Name
				return nil
			}
		}
		return fmt.Errorf("of %d Pods none", len(list.Items))
	})
	return name
}
