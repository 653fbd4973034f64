package e2e

import (
	"encoding/json"
	"fmt"
	"strings"

	"prestop/test/kube"
)

// example plays the manifest of deploy/ that has prestop beside an application on a registry. Only what a user has to change
// is changed: the images, the addresses; and the times that a test does not wait for. The application is ours, which answers
// every path.
func example(g *stage, root, registry string) {
	g.registries = []string{registry}
	address := map[string]string{
		"eureka": "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "nacos": "SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR",
	}[registry]
	url := map[string]string{"eureka": g.world + "/eureka/", "nacos": g.world + "/nacos"}[registry]
	app := map[string]string{"WORLD": g.world, "SERVICE": service, "PORT": fmt.Sprint(g.ports.app), "CONTROL": fmt.Sprint(g.ports.control), "REGISTER": registry}
	deployment := kube.Object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kube.Object{"name": service},
		"spec": kube.Object{"replicas": 1, "template": kube.Object{
			"metadata": kube.Object{"finalizers": []string{finalizer}},
			"spec": kube.Object{
				"initContainers": []kube.Object{{"name": "prestop", "env": variables(map[string]string{"PRESTOP_LINGER": "2s", "PRESTOP_REGISTRY_TIMEOUT": "60s"})}},
				"containers": []kube.Object{{
					"name": service, "args": []string{"app"}, "resources": kube.Object{"requests": kube.Object{"cpu": "20m", "memory": "16Mi"}},
					"env": append(variables(app), kube.Object{"name": "POD_IP", "valueFrom": kube.Object{"fieldRef": kube.Object{"fieldPath": "status.podIP"}}}),
				}},
			},
		}},
	}
	config := kube.Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kube.Object{"name": service}, "data": kube.Object{address: url}}
	patches := []kube.Object{}
	for _, p := range []kube.Object{deployment, config} {
		text, err := json.Marshal(p)
		if err != nil {
			g.Fatal(err)
		}
		patches = append(patches, kube.Object{"patch": string(text)})
	}
	g.apply(g.kustomize(root, kube.Object{
		"resources": []string{"deploy/example-" + registry + ".yaml"}, "patches": patches,
		"images": []kube.Object{image("ghcr.io/example/prestop", g.Prestop), image("ghcr.io/example/orders", g.Fixture)},
	}, nil))
	p := g.ready(g.only())
	g.callersGo(p)
	g.hold(p, "slow")
	g.deletes(p)
	g.waitsFor(p.Metadata.Name, 1)
	g.notStopped()
	g.order(p.Metadata.Name, "/release?id=slow")
	last := g.rec.await(g.T, p.Metadata.UID)
	if over, term := g.said(p, "prestop", `"result":"drained"`, 1), g.journaled("SIGTERM"); term.Time.Before(over) {
		g.Errorf("the app got SIGTERM at %s, before the drain was over at %s", term.Time, over)
	}
	for _, name := range []string{"prestop", service} {
		if s := last.Container(name).State.Terminated; s == nil || s.ExitCode != 0 {
			g.Errorf("%s ended with %+v", name, s)
		}
	}
}

// image is an entry of a kustomization's images.
func image(name, by string) kube.Object {
	to, tag, _ := strings.Cut(by, ":")
	return kube.Object{"name": name, "newName": to, "newTag": tag}
}

// apply makes what kustomize has made.
func (g *stage) apply(manifest string) {
	g.Helper()
	if _, err := g.Kubectl(g.Context(), []byte(manifest), "apply", "-n", g.ns, "-f", "-"); err != nil {
		g.Fatal(err)
	}
}
