package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"prestop/test/kube"
	"prestop/test/tools"
)

// TestInstall is the way of somebody who installs the chart from a registry: a namespace is labelled, a Deployment that knows
// nothing of prestop is rolled under load, the chart is upgraded and uninstalled while Pods drain, and nothing is left. Its
// objects are of the whole cluster, so it runs alone.
func TestInstall(t *testing.T) {
	s := set(t)
	root, err := kube.Root()
	if err != nil {
		t.Fatal(err)
	}
	g := s.stage(t, "restricted")
	h := newHelm(g, root)
	chart := h.published()
	values := []string{
		"--version", "1.2.3", "--namespace", h.namespace,
		"--set", "settings.enabled=true,settings.namespaces={" + g.ns + "}",
		"--set", "settings.values.PRESTOP_LINGER=5s,settings.values.PRESTOP_REGISTRY_TIMEOUT=60s,settings.values.PRESTOP_EXCLUDE_PORT=" + fmt.Sprint(g.ports.control),
		"--set", "settings.values.PRESTOP_EUREKA_URL=" + g.world + "/eureka/,settings.values.PRESTOP_NACOS_URL=" + g.world + "/nacos",
		"--set", "networkPolicy.enabled=true,networkPolicy.namespaces={" + g.ns + "},dashboard.enabled=true",
	}
	if g.Minor < 34 {
		_, err := h.run(append([]string{"install", "prestop", chart}, values...)...)
		if err == nil || !strings.Contains(err.Error(), "has nothing that could add prestop to Pods") {
			t.Errorf("Kubernetes 1.%d without Kyverno: %v", g.Minor, err)
		}
		t.Logf("Kubernetes 1.%d adds nothing to Pods without Kyverno: that this is said is all there is to see", g.Minor)
		return
	}
	h.must(append([]string{"install", "prestop", chart, "--create-namespace"}, values...)...)
	g.label(g.ns)
	g.injects(true)

	t.Run("what is added to a Pod, and to which", func(t *testing.T) { added(on(g, t)) })
	t.Run("a Deployment is rolled under load and no request is lost", func(t *testing.T) { rolled(on(g, t)) })
	t.Run("a Pod that drains while the chart is upgraded goes on", func(t *testing.T) {
		drainsMeanwhile(on(g, t), func() {
			h.must(append([]string{"upgrade", "prestop", chart, "--set", "injection.resources.requests.memory=17Mi"}, values...)...)
		})
		g := on(g, t)
		await(t, "new Pods get what the upgrade says", func() error {
			made, err := g.made(g.plain(nil))
			if err == nil && (len(made.InitContainers) != 1 || made.InitContainers[0].Resources.Requests.Memory != "17Mi") {
				err = fmt.Errorf("%+v", made)
			}
			return err
		})
	})
	t.Run("a Pod that drains while the chart is uninstalled goes on, and nothing is left", func(t *testing.T) {
		g := on(g, t)
		drainsMeanwhile(g, func() { h.must("uninstall", "prestop", "--namespace", h.namespace, "--wait") })
		g.injects(false)
		g.nothingLeft()
	})
}

// on is the stage for a part of its case.
func on(g *stage, t *testing.T) *stage {
	part := *g
	part.T = t
	return &part
}

// helmClient runs Helm on the cluster.
type helmClient struct {
	g              *stage
	root           string
	binary, server string
	namespace      string // of the release
}

func newHelm(g *stage, root string) *helmClient {
	g.Helper()
	binary, err := tools.Helm(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	h := &helmClient{g: g, root: root, binary: binary, server: g.URL(g.T), namespace: g.ns + "-system"}
	g.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _ = h.runs(ctx, "uninstall", "prestop", "--namespace", h.namespace, "--ignore-not-found") // where the test has failed
		if _, err := g.Kubectl(ctx, nil, "delete", "namespace", h.namespace, "--ignore-not-found", "--wait=false"); err != nil {
			g.Error(err)
		}
	})
	return h
}

func (h *helmClient) run(args ...string) (string, error) { return h.runs(h.g.Context(), args...) }

func (h *helmClient) runs(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, h.binary, append([]string{"--kube-apiserver", h.server, "--registry-config", filepath.Join(h.g.TempDir(), "none")}, args...)...)
	c.Env = append(os.Environ(), "KUBECONFIG="+os.DevNull)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

func (h *helmClient) must(args ...string) {
	h.g.Helper()
	h.g.rec.note("", "test: helm "+args[0])
	if out, err := h.run(args...); err != nil {
		h.g.Fatal(err)
	} else if strings.Contains(out, "WARNING: image") {
		h.g.Errorf("the image is taken for the placeholder:\n%s", out)
	}
}

// published makes the chart with the image of this run, as `make manifests` does, pushes it to a registry that ends with the
// test, and returns its address there.
func (h *helmClient) published() string {
	h.g.Helper()
	image, tag, _ := strings.Cut(h.g.Prestop, ":")
	dir := h.g.TempDir()
	manifests := exec.CommandContext(h.g.Context(), "go", "-C", h.root, "run", "./release", "manifests", image, tag, "", filepath.Join(dir, "manifests"))
	if out, err := manifests.CombinedOutput(); err != nil {
		h.g.Fatalf("%v\n%s", err, out)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	h.g.Cleanup(server.Close)
	charts := "oci://" + strings.TrimPrefix(server.URL, "http://") + "/charts"
	for _, args := range [][]string{
		{"package", filepath.Join(dir, "manifests", "chart"), "--version", "1.2.3", "--destination", dir},
		{"push", filepath.Join(dir, "prestop-1.2.3.tgz"), charts, "--plain-http"},
	} {
		if out, err := h.run(args...); err != nil {
			h.g.Fatalf("%v\n%s", err, out)
		}
	}
	return charts + "/prestop"
}

// label has a namespace's Pods injected.
func (g *stage) label(namespace string) {
	g.Helper()
	if err := g.Patch(g.Context(), "/api/v1/namespaces/"+namespace, `{"metadata":{"labels":{"prestop":"inject"}}}`); err != nil {
		g.Fatal(err)
	}
}

// injects waits until new Pods of the namespace get a sidecar, or get none any more: the API server takes a policy up when it
// has heard of it.
func (g *stage) injects(does bool) {
	g.Helper()
	await(g.T, fmt.Sprintf("new Pods get a sidecar: %t", does), func() error {
		made, err := g.made(g.plain(nil))
		if err == nil && (len(made.InitContainers) == 1) != does {
			err = fmt.Errorf("a Pod is %+v", made)
		}
		return err
	})
}

// plain is the Pod of somebody who knows nothing of prestop; change may be nil.
func (g *stage) plain(change func(meta, spec kube.Object)) kube.Object {
	pod := g.pod(cast{grace: 82, unrecorded: true})
	spec := pod["spec"].(kube.Object)
	delete(spec, "initContainers")
	delete(spec["containers"].([]kube.Object)[0], "lifecycle")
	if change != nil {
		change(pod["metadata"].(kube.Object), spec)
	}
	return pod
}

// podSpec is what an injecting policy changes of a Pod.
type podSpec struct {
	InitContainers, Containers []injected
}

type injected struct {
	Name, Image, RestartPolicy string
	Env                        []struct{ Name, Value string }
	EnvFrom                    []struct{ ConfigMapRef struct{ Name string } }
	Lifecycle                  *struct {
		PostStart, PreStop *struct {
			HTTPGet struct {
				Path string
				Port int
			}
		}
	}
	Resources struct{ Requests struct{ Memory string } }
}

// hook is the path and port of the container's preStop hook; "" without one.
func (c injected) hook() string {
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", c.Lifecycle.PreStop.HTTPGet.Path, c.Lifecycle.PreStop.HTTPGet.Port)
}

// made is what the API server would make of a Pod.
func (g *stage) made(pod kube.Object) (podSpec, error) { return g.madeIn(g.ns, pod) }

func (g *stage) madeIn(namespace string, pod kube.Object) (podSpec, error) {
	var made struct{ Spec podSpec }
	body, err := json.Marshal(pod)
	if err != nil {
		return made.Spec, err
	}
	answer, err := g.Call(g.Context(), http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods?dryRun=All", "", body)
	if err != nil {
		return made.Spec, err
	}
	return made.Spec, json.Unmarshal(answer, &made)
}

// added shows what the policy makes of Pods of every kind.
func added(g *stage) {
	const hook, own = "/shutdown:8090", "/bye:8081"
	container := func(spec kube.Object) kube.Object { return spec["containers"].([]kube.Object)[0] }
	second := func(spec kube.Object, name string) {
		other := kube.Object{}
		for k, v := range container(spec) {
			other[k] = v
		}
		other["name"] = name
		spec["containers"] = append(spec["containers"].([]kube.Object), other)
	}
	ownHook := kube.Object{"preStop": kube.Object{"httpGet": kube.Object{"path": "/bye", "port": 8081}}}
	unlabelled, privileged := g.namespace(g.T, "restricted"), g.namespace(g.T, "privileged")
	g.label(privileged)
	for _, c := range []struct {
		sentence  string
		namespace string
		change    func(meta, spec kube.Object)
		sidecar   bool
		grace     string
		hooks     []string // of the containers
	}{
		{"a Pod of a namespace with the label", g.ns, nil, true, "82", []string{hook}},
		{"a Pod of a namespace without the label", unlabelled, nil, false, "", []string{""}},
		{"a Pod with the label itself", unlabelled, func(meta, _ kube.Object) { meta["labels"] = kube.Object{"prestop": "inject"} }, true, "82", []string{hook}},
		{"a Pod with the label in a namespace with it", g.ns, func(meta, _ kube.Object) { meta["labels"] = kube.Object{"prestop": "inject"} }, true, "82", []string{hook}},
		{"a Pod that opts out", g.ns, func(meta, _ kube.Object) { meta["labels"] = kube.Object{"prestop": "skip"} }, false, "", []string{""}},
		{"a Pod with hostNetwork", privileged, func(_, spec kube.Object) { spec["hostNetwork"] = true }, false, "", []string{""}},
		{"a Pod that says nothing of its grace period", g.ns, func(_, spec kube.Object) { delete(spec, "terminationGracePeriodSeconds") }, true, "30", []string{hook}},
		{"a Pod with a hook of its own", g.ns, func(_, spec kube.Object) { container(spec)["lifecycle"] = ownHook }, true, "82", []string{own}},
		{"a Pod with a postStart hook", g.ns, func(_, spec kube.Object) {
			container(spec)["lifecycle"] = kube.Object{"postStart": kube.Object{"httpGet": kube.Object{"path": "/hello", "port": 8081}}}
		}, true, "82", []string{hook}},
		{"a Pod of two containers", g.ns, func(_, spec kube.Object) { second(spec, "agent") }, true, "82", []string{hook, ""}},
		{"a Pod of two containers, the second kubectl's default", g.ns, func(meta, spec kube.Object) {
			second(spec, "agent")
			meta["annotations"] = kube.Object{"kubectl.kubernetes.io/default-container": "agent"}
		}, true, "82", []string{"", hook}},
		{"a Pod of two containers, both named", g.ns, func(meta, spec kube.Object) {
			second(spec, "agent")
			container(spec)["lifecycle"] = ownHook
			meta["annotations"] = kube.Object{"prestop/containers": "app, agent"}
		}, true, "82", []string{own, hook}},
		{"a Pod that names a container that it has not", g.ns, func(meta, _ kube.Object) {
			meta["annotations"] = kube.Object{"kubectl.kubernetes.io/default-container": "gone"}
		}, true, "82", []string{hook}},
	} {
		made, err := g.madeIn(c.namespace, g.plain(c.change))
		if err != nil {
			g.Errorf("%s: %v", c.sentence, err)
			continue
		}
		if (len(made.InitContainers) == 1) != c.sidecar || len(made.InitContainers) > 1 {
			g.Errorf("%s has the init containers %+v", c.sentence, made.InitContainers)
			continue
		}
		for i, want := range c.hooks {
			if got := made.Containers[i].hook(); got != want {
				g.Errorf("%s: the hook of container %d is %q; want %q", c.sentence, i, got, want)
			}
		}
		if !c.sidecar {
			continue
		}
		side := made.InitContainers[0]
		if side.Name != "prestop" || side.RestartPolicy != "Always" || side.Image != g.Prestop || side.hook() != "/stopping:8090" ||
			len(side.Env) < 1 || side.Env[0].Value != c.grace || len(side.EnvFrom) != 1 || side.EnvFrom[0].ConfigMapRef.Name != "prestop" {
			g.Errorf("%s: the sidecar is %+v", c.sentence, side)
		}
	}
	if made, err := g.made(g.pod(cast{grace: 82, unrecorded: true})); err != nil || len(made.InitContainers) != 1 || made.InitContainers[0].Env[0].Name == "PRESTOP_GRACE_PERIOD" && made.InitContainers[0].Env[0].Value != "82" {
		g.Errorf("a Pod that has prestop already: %+v, %v", made, err)
	}
}

// workload is a Deployment of somebody who knows nothing of prestop.
func (g *stage) workload(replicas int, revision string) kube.Object {
	template := g.plain(nil)
	meta := kube.Object{"labels": kube.Object{"app": service}, "annotations": kube.Object{"revision": revision}, "finalizers": []string{finalizer}}
	return kube.Object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kube.Object{"name": service},
		"spec": kube.Object{
			"replicas": replicas, "selector": kube.Object{"matchLabels": kube.Object{"app": service}},
			"strategy": kube.Object{"rollingUpdate": kube.Object{"maxSurge": 1, "maxUnavailable": 0}},
			"template": kube.Object{"metadata": meta, "spec": template["spec"]},
		},
	}
}

// running waits until the Deployment is as it was written last and its old Pods are gone, and returns its Pods.
func (g *stage) running(replicas int) (pods []kube.Pod) {
	g.Helper()
	await(g.T, "the Deployment is rolled out", func() error {
		var d deployment
		var list struct{ Items []kube.Pod }
		err := errors.Join(g.Get(g.Context(), g.path("apps/v1/deployments/"+service), &d), g.Get(g.Context(), g.path("v1/pods")+"?labelSelector=app="+service, &list))
		pods = list.Items
		if err == nil && (d.Status.ObservedGeneration < d.Metadata.Generation || d.Status.UpdatedReplicas != replicas || d.Status.AvailableReplicas != replicas || len(pods) != replicas) {
			err = fmt.Errorf("%+v, %d Pods", d, len(pods))
		}
		return err
	})
	return pods
}

// rolled rolls two Pods that have nothing of prestop in their Deployment, while callers of every kind call.
func rolled(g *stage) {
	g.serviceFor()
	g.create("apps/v1/deployments", g.workload(2, "1"))
	before := g.running(2)
	g.callersGo(before...)
	for _, p := range before {
		g.said(p, "prestop", `"msg":"registered"`, len(g.registries))
	}
	var svc struct{ Spec struct{ ClusterIP string } }
	if err := g.Get(g.Context(), g.path("v1/services/"+service), &svc); err != nil {
		g.Fatal(err)
	}
	callers := map[string]string{"service": hostPort(svc.Spec.ClusterIP, g.ports.app), "eureka": "eureka", "nacos": "nacos"}
	const enough = 100 // requests of each caller, before and after the rolling update
	for id, from := range callers {
		g.tellWorld("load?do=start&id=" + id + "&from=" + from + "&service=" + service)
	}
	for id := range callers {
		g.called(id, enough)
	}
	began := time.Now()
	if err := g.Patch(g.Context(), g.path("apps/v1/deployments/"+service), `{"spec":{"template":{"metadata":{"annotations":{"revision":"2"}}}}}`); err != nil {
		g.Fatal(err)
	}
	for _, p := range before {
		g.rec.await(g.T, p.Metadata.UID)
	}
	g.callersGo(g.running(2)...)
	took := time.Since(began)
	for id := range callers {
		n := g.called(id, 0)
		g.called(id, n.Sent+enough)
		var all calls
		if err := json.Unmarshal(g.tellWorld("load?do=stop&id="+id), &all); err != nil {
			g.Fatal(err)
		}
		g.Logf("%s: %d of %d requests failed, over a rolling update of %s", id, all.Failed, all.Sent, took.Round(time.Second))
		if all.Failed > 0 {
			g.Errorf("%s: %d of %d requests failed: %s", id, all.Failed, all.Sent, strings.Join(all.Reasons, "; "))
		}
	}
	for _, p := range before {
		g.said(p, "prestop", `"cause":"pod"`, 1)
		g.said(p, "prestop", `"result":"drained"`, 1)
	}
}

// calls is what a caller under load has seen.
type calls struct {
	Sent, Failed int
	Reasons      []string
}

// called waits until a caller has made n requests.
func (g *stage) called(id string, n int) (c calls) {
	g.Helper()
	await(g.T, fmt.Sprintf("%s has made %d requests", id, n), func() error {
		if err := json.Unmarshal(g.tellWorld("load?do=look&id="+id), &c); err != nil {
			return err
		}
		if c.Sent < n {
			return fmt.Errorf("%d", c.Sent)
		}
		return nil
	})
	return c
}

// drainsMeanwhile does something while one of the Deployment's Pods drains, which must not disturb it.
func drainsMeanwhile(g *stage, do func()) {
	p := g.running(2)[0]
	name := p.Metadata.Name
	id := name
	g.hold(p, id)
	g.delete(name)
	g.waitsFor(name, 1)
	do()
	g.waitsFor(name, 1)
	if over := g.rec.logs.with(p.Metadata.UID, "prestop", "the drain is over"); len(over) > 0 {
		g.Errorf("the drain ended meanwhile: %v", over)
	}
	g.order(name, "/release?id="+id)
	if answer := g.journaled("call " + id + ": a"); !strings.Contains(answer.Text, "answered 200") {
		g.Errorf("the request in flight: %s", answer.Text)
	}
	last := g.rec.await(g.T, p.Metadata.UID)
	g.said(p, "prestop", `"result":"drained"`, 1)
	g.endedWell(last)
	g.running(2)
}

// nothingLeft shows that no object of the release is left, in no namespace.
func (g *stage) nothingLeft() {
	g.Helper()
	mutating := "v1"
	if g.Minor < 36 {
		mutating = "v1beta1"
	}
	const admission, ours = "/apis/admissionregistration.k8s.io/", "?labelSelector=app.kubernetes.io/instance=prestop"
	for _, collection := range []string{
		admission + "v1/validatingadmissionpolicies" + ours, admission + "v1/validatingadmissionpolicybindings" + ours,
		admission + mutating + "/mutatingadmissionpolicies" + ours, admission + mutating + "/mutatingadmissionpolicybindings" + ours,
		"/api/v1/configmaps" + ours, "/apis/networking.k8s.io/v1/networkpolicies" + ours, "/api/v1/secrets?labelSelector=owner=helm,name=prestop",
	} {
		var left struct {
			Items []struct{ Metadata kube.Meta }
		}
		if err := g.Get(g.Context(), collection, &left); err != nil || len(left.Items) > 0 {
			g.Errorf("%s: %+v, %v", collection, left.Items, err)
		}
	}
}
