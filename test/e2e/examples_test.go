package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"syscall"

	"prestop/test/kube"
	"prestop/test/servers"
)

// sample is an example of deploy/ as a case plays it. Only what a user has to change is changed, the images and the addresses,
// and the times that a test does not wait for.
type sample struct {
	workload string // the Deployment's name and its container's
	registry string // where its application is registered; "" for none
	// config is the ConfigMap's: what it has in place of the example's.
	config map[string]string
}

// samples are those whose application is the user's, whose part ours plays: it answers every path. By the name of their
// file, example-NAME.yaml. A Spring application by itself is in the rolling update; the gateway's part is only played where
// the cluster cannot reach the one that is built here.
func samples(g *stage) map[string]sample {
	return map[string]sample{
		"eureka":  {workload: service, registry: "eureka", config: map[string]string{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": g.world + "/eureka/"}},
		"nacos":   {workload: service, registry: "nacos", config: map[string]string{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": g.world + "/nacos"}},
		"gateway": {workload: "gateway"},
	}
}

// example plays an example's Pod: a request in flight, a stop, and the end in order.
func example(g *stage, root, name string) {
	s := samples(g)[name]
	g.registries = nil
	if s.registry != "" {
		g.registries = []string{s.registry}
	}
	g.apply(g.kustomize(root, kube.Object{
		"resources": []string{"deploy/example-" + name + ".yaml"},
		"patches":   []kube.Object{g.patch(s.deployment(g)), g.patch(kube.Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kube.Object{"name": s.workload}, "data": s.config})},
		"images":    []kube.Object{image(placeholder, g.Prestop), image("app.invalid/"+s.workload, g.Fixture)},
	}, nil))
	p := g.ready(g.only())
	g.callersGo(p)
	g.hold(p, "slow")
	g.deletes(p)
	g.waitsFor(p.Metadata.Name, 1)
	g.notStopped()
	g.order(p.Metadata.Name, "/release?id=slow")
	if answer := g.journaled("call slow: a"); !strings.Contains(answer.Text, "answered 200") {
		g.Error(answer.Text)
	}
	last := g.rec.await(g.T, p.Metadata.UID)
	if over, term := g.said(p, "prestop", `"result":"drained"`, 1), g.journaled("SIGTERM"); term.Time.Before(over) {
		g.Errorf("the app got SIGTERM at %s, before the drain was over at %s", term.Time, over)
	}
	for _, name := range []string{"prestop", s.workload} {
		if s := last.Container(name).State.Terminated; s == nil || s.ExitCode != 0 {
			g.Errorf("%s ended with %+v", name, s)
		}
	}
}

// deployment is a patch of the example's: one Pod, with our application in it.
func (s sample) deployment(g *stage) kube.Object {
	app := map[string]string{"WORLD": g.world, "SERVICE": service, "PORT": fmt.Sprint(g.ports.app), "CONTROL": fmt.Sprint(g.ports.control), "REGISTER": s.registry}
	container := kube.Object{
		"name": s.workload, "args": []string{"app"}, "resources": kube.Object{"requests": kube.Object{"cpu": "20m", "memory": "16Mi"}},
		"env": append(variables(app), kube.Object{"name": "POD_IP", "valueFrom": kube.Object{"fieldRef": kube.Object{"fieldPath": "status.podIP"}}}),
	}
	sidecar := map[string]string{"PRESTOP_LINGER": "2s", "PRESTOP_REGISTRY_TIMEOUT": "60s"}
	spec := kube.Object{"initContainers": []kube.Object{{"name": "prestop", "env": variables(sidecar)}}, "containers": []kube.Object{container}}
	return kube.Object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kube.Object{"name": s.workload},
		"spec": kube.Object{"replicas": 1, "template": kube.Object{"metadata": kube.Object{"finalizers": []string{finalizer}}, "spec": spec}},
	}
}

// patch is an entry of a kustomization's patches.
func (g *stage) patch(p kube.Object) kube.Object {
	g.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		g.Fatal(err)
	}
	return kube.Object{"patch": string(text)}
}

// program is one of an example that is not ours: its image, and where that is not fetched but the node is this machine, its
// command and the folders of this machine that it needs, by where they are mounted.
type program struct {
	image   string
	command []string
	mounts  map[string]string
	// config is the ConfigMap's: what it has in place of the example's.
	config map[string]string
	// code is with what it ends on SIGTERM when all is well.
	code int
}

// programOf is the example's, made ready to run.
func programOf(g *stage, name string) (p program) {
	g.Helper()
	var err error
	switch name {
	case "nginx":
		p.image, p.command = "docker.io/nginxinc/nginx-unprivileged", []string{"/usr/sbin/nginx", "-e", "/dev/stderr", "-c", "/config/nginx.conf"}
	case "envoy":
		var envoy string
		envoy, err = servers.Envoy(g.Context())
		p.image, p.command, p.mounts = "docker.io/envoyproxy/envoy", []string{"/envoy/envoy"}, map[string]string{"/envoy": filepath.Dir(envoy)}
	case "gateway":
		p.image, p.config = "app.invalid/gateway", map[string]string{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": g.world + "/eureka/"}
		p.command, p.mounts, err = gateway(g)
		p.code = 128 + int(syscall.SIGTERM) // a JVM's, after its shutdown hooks
	}
	if err != nil {
		g.Fatal(err)
	}
	return p
}

// gateway is the command of a Spring Cloud Gateway whose one route leads to http://orders:8080, and the folders that it needs.
func gateway(g *stage) (command []string, mounts map[string]string, err error) {
	java, err := servers.Java()
	if err == nil {
		java, err = filepath.EvalSymlinks(java) // its name in /usr/bin leads to /etc, which is the image's
	}
	if err != nil {
		return nil, nil, err
	}
	spring, err := servers.BuildSpring(g.Context(), filepath.Join("..", "servers", "gateway"))
	if err != nil {
		return nil, nil, err
	}
	cache, err := servers.CacheDir()
	if err != nil {
		return nil, nil, err
	}
	mounts = map[string]string{cache: cache}
	settings, err := filepath.Glob("/etc/java-*-openjdk")
	for _, dir := range settings {
		mounts[dir] = dir
	}
	return append([]string{java}, spring...), mounts, err
}

// proxy plays the example of a proxy in front of an application of ours.
func proxy(g *stage, root, name string) {
	upstream := g.pod(cast{name: "upstream", app: map[string]string{"REGISTER": ""}, unrecorded: true})
	spec := upstream["spec"].(kube.Object)
	delete(spec, "initContainers")
	delete(spec["containers"].([]kube.Object)[0], "lifecycle")
	upstream["metadata"].(kube.Object)["labels"] = kube.Object{"app": "upstream"}
	spec["terminationGracePeriodSeconds"] = 1
	g.create("v1/pods", upstream)
	behind := g.ready("upstream")

	deployment := sample{workload: name}.deployment(g)
	template := deployment["spec"].(kube.Object)["template"].(kube.Object)["spec"].(kube.Object)
	container := template["containers"].([]kube.Object)[0]
	maps.DeleteFunc(container, func(k string, _ any) bool { return k != "name" })
	// In the place of a DNS, which this cluster may not have.
	template["hostAliases"] = []kube.Object{{"ip": behind.Status.PodIP, "hostnames": []string{service}}}
	images := []kube.Object{image(placeholder, g.Prestop)}
	program := programOf(g, name)
	patches := []kube.Object{}
	if program.config != nil {
		patches = append(patches, g.patch(kube.Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kube.Object{"name": name}, "data": program.config}))
	}
	if g.OnThisMachine() {
		container["command"] = program.command
		images = append(images, image(program.image, g.Fixture))
		all := map[string]string{"/usr": "/usr", "/lib": "/usr/lib", "/lib64": "/usr/lib64", "/etc/nsswitch.conf": "/etc/nsswitch.conf"}
		maps.Copy(all, program.mounts)
		var mounts, volumes []kube.Object
		for at, from := range all {
			v := fmt.Sprintf("host-%d", len(mounts))
			mounts = append(mounts, kube.Object{"name": v, "mountPath": at, "readOnly": true})
			volumes = append(volumes, kube.Object{"name": v, "hostPath": kube.Object{"path": from}})
		}
		container["volumeMounts"], template["volumes"] = mounts, volumes
	}
	g.apply(g.kustomize(root, kube.Object{"resources": []string{"deploy/example-" + name + ".yaml"}, "patches": append(patches, g.patch(deployment)), "images": images}, nil))
	p := g.ready(g.another(behind))
	g.call("slow", hostPort(p.Status.PodIP, g.ports.app), "/hold?id=slow")
	g.holds("upstream", "slow")
	g.deletes(p)
	g.waitsFor(p.Metadata.Name, 1)
	g.order("upstream", "/release?id=slow")
	if answer := g.journaled("call slow: a"); !strings.Contains(answer.Text, "answered 200") {
		g.Error(answer.Text)
	}
	last := g.rec.await(g.T, p.Metadata.UID)
	g.said(p, "prestop", `"result":"drained"`, 1)
	for name, code := range map[string]int{"prestop": 0, name: program.code} {
		if s := last.Container(name).State.Terminated; s == nil || int(s.ExitCode) != code {
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
