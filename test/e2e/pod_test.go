package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"prestop/test/kube"
)

const (
	service   = "orders"
	finalizer = "e2e.prestop/recorded"
)

// style is how the sidecar is built into the Pod.
type style int

const (
	native         style = iota
	old                  // an ordinary container with a hook of its own
	oldWithoutHook       // SIGTERM comes before anything else
)

// cast is a Pod with prestop and an app that is registered in both registries; the zero value is a good one.
type cast struct {
	name   string // "" is orders
	grace  int    // 0 is 300: one that no test waits for
	style  style
	env    map[string]string // of prestop, without the PRESTOP_
	app    map[string]string // of the app
	hook   kube.Object       // nil is httpGet /shutdown
	change func(pod *parts)
	// unrecorded: without the finalizer, which would keep a Pod in the API that is deleted by force.
	unrecorded bool
}

// parts are what a case may change: a Pod's spec and its containers.
type parts struct{ spec, sidecar, app kube.Object }

// pod is the manifest of a Pod.
func (g *stage) pod(c cast) kube.Object {
	p := g.template(c)
	p["apiVersion"], p["kind"] = "v1", "Pod"
	p["metadata"].(kube.Object)["name"] = c.named()
	return p
}

func (c cast) named() string {
	if c.name == "" {
		return service
	}
	return c.name
}

// template is a Pod's without its name. It keeps to the restricted Pod Security standard.
func (g *stage) template(c cast) kube.Object {
	if c.grace == 0 {
		c.grace = 300
	}
	if c.hook == nil {
		c.hook = kube.Object{"httpGet": kube.Object{"path": "/shutdown", "port": g.ports.sidecar}}
	}
	spec := kube.Object{
		"automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": c.grace, "securityContext": podSecurity(),
	}
	sidecar, app := g.sidecar(c), g.app(c)
	if c.change != nil {
		c.change(&parts{spec, sidecar, app})
	}
	containers := []kube.Object{sidecar, app}
	if c.style == native {
		sidecar["restartPolicy"] = "Always"
		before, _ := spec["initContainers"].([]kube.Object)
		spec["initContainers"], containers = append(before, sidecar), []kube.Object{app}
	}
	spec["containers"] = containers
	meta := kube.Object{"labels": kube.Object{"app": service}}
	if !c.unrecorded {
		meta["finalizers"] = []string{finalizer}
	}
	return kube.Object{"metadata": meta, "spec": spec}
}

func (g *stage) sidecar(c cast) kube.Object {
	env := map[string]string{
		"PRESTOP_GRACE_PERIOD": strconv.Itoa(c.grace), "PRESTOP_LINGER": "2s", "PRESTOP_REGISTRY_TIMEOUT": "60s", "PRESTOP_LISTEN": fmt.Sprintf(":%d", g.ports.sidecar), "PRESTOP_EXCLUDE_PORT": strconv.Itoa(g.ports.control),
		"PRESTOP_EUREKA_URL": g.world + "/eureka/", "PRESTOP_NACOS_URL": g.world + "/nacos",
	}
	for k, v := range c.env {
		env["PRESTOP_"+k] = v
	}
	sidecar := kube.Object{
		"name": "prestop", "image": g.Prestop, "imagePullPolicy": "IfNotPresent", "securityContext": security(),
		"env": append(variables(env), kube.Object{"name": "POD_IPS", "valueFrom": kube.Object{"fieldRef": kube.Object{"fieldPath": "status.podIPs"}}}),
		// So that a configuration that it refuses is told by kubectl describe.
		"terminationMessagePolicy": "FallbackToLogsOnError",
		"startupProbe":             kube.Object{"httpGet": kube.Object{"path": "/healthz", "port": g.ports.sidecar}, "periodSeconds": 1, "failureThreshold": 30},
		"resources":                kube.Object{"requests": kube.Object{"cpu": "20m", "memory": "16Mi"}, "limits": kube.Object{"memory": "32Mi"}},
	}
	switch c.style {
	case native:
		sidecar["lifecycle"] = kube.Object{"preStop": g.stopping(c.hook)}
	case old:
		sidecar["lifecycle"] = kube.Object{"preStop": c.hook}
	}
	return sidecar
}

// stopping is the own hook of a native sidecar, reached as the application's hook reaches it.
func (g *stage) stopping(hook kube.Object) kube.Object {
	get := kube.Object{"port": g.ports.sidecar}
	if like, ok := hook["httpGet"].(kube.Object); ok {
		maps.Copy(get, like)
	}
	get["path"] = "/stopping"
	return kube.Object{"httpGet": get}
}

func (g *stage) app(c cast) kube.Object {
	env := map[string]string{
		"WORLD": g.world, "SERVICE": service, "PORT": strconv.Itoa(g.ports.app), "CONTROL": strconv.Itoa(g.ports.control), "REGISTER": "eureka,nacos",
	}
	maps.Copy(env, c.app)
	return kube.Object{
		"name": "app", "image": g.Fixture, "imagePullPolicy": "IfNotPresent", "args": []string{"app"}, "securityContext": security(),
		"env":            append(variables(env), kube.Object{"name": "POD_IP", "valueFrom": kube.Object{"fieldRef": kube.Object{"fieldPath": "status.podIP"}}}),
		"readinessProbe": probe("/", g.ports.app),
		"lifecycle":      kube.Object{"preStop": c.hook},
		"resources":      kube.Object{"requests": kube.Object{"cpu": "20m", "memory": "16Mi"}},
	}
}

func variables(env map[string]string) []kube.Object {
	var list []kube.Object
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, kube.Object{"name": k, "value": env[k]})
	}
	return list
}

// probe is one that notices a change soon, and takes no slow answer of a busy machine for a no.
func probe(path string, port int) kube.Object {
	return kube.Object{"httpGet": kube.Object{"path": path, "port": port}, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 60}
}

func podSecurity() kube.Object {
	return kube.Object{"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": kube.Object{"type": "RuntimeDefault"}}
}

func security() kube.Object {
	return kube.Object{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": kube.Object{"drop": []string{"ALL"}}}
}

// play creates the Pod and waits until it is ready, callers of both registries are sent to it, and its sidecar knows that: it
// looks for the app now and then, and what came and went in between it has not seen.
func (g *stage) play(c cast) kube.Pod {
	g.Helper()
	g.create("v1/pods", g.pod(c))
	p := g.ready(c.named())
	g.callersGo(p)
	g.said(p, "prestop", `"msg":"registered"`, len(g.registries))
	g.rec.note("", fmt.Sprintf("test: %s is ready at %s", c.named(), p.Status.PodIP))
	return p
}
