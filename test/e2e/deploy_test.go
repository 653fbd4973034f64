package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"prestop/test/kube"
)

// placeholder is the image that stands in deploy/ for prestop's.
const placeholder = "prestop.invalid/prestop"

// TestDeploy is about what lies in deploy/: every manifest is one that the API server takes, and the component makes a Pod of
// any workload stop as the others do.
func TestDeploy(t *testing.T) {
	s := set(t)
	root, err := kube.Root()
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(root, "deploy", "*.yaml"))
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no manifests in deploy: %v", err)
	}
	for _, file := range manifests {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(body, []byte("\napiVersion: ")) {
			continue // rules for Prometheus
		}
		t.Run("the API server takes "+filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			g := s.stage(t, "restricted")
			g.dryRun(g.known(body))
		})
	}
	for kind, collection := range map[string]string{"Deployment": "apps/v1/deployments", "StatefulSet": "apps/v1/statefulsets", "DaemonSet": "apps/v1/daemonsets"} {
		t.Run("the component adds prestop to a "+kind, func(t *testing.T) {
			t.Parallel()
			component(s.stage(t, "restricted"), root, kind, collection)
		})
	}
	played, real := []string{"eureka", "nacos"}, []string{"nginx", "envoy"}
	if s.OnThisMachine() {
		real = append(real, "gateway")
	} else {
		played = append(played, "gateway")
	}
	for _, name := range played {
		t.Run("the example "+name+" stops without losing a request", func(t *testing.T) {
			t.Parallel()
			example(s.stage(t, "restricted"), root, name)
		})
	}
	for _, name := range real {
		t.Run("the example "+name+" stops without losing a request", func(t *testing.T) {
			t.Parallel()
			proxy(s.stage(t, "privileged"), root, name)
		})
	}
	t.Run("the library chart makes a workload that the API server takes", func(t *testing.T) {
		t.Parallel()
		library(s.stage(t, "baseline"), root)
	})
	t.Run("the policy refuses a sidecar that believes in another grace period than its Pod's", func(t *testing.T) {
		t.Parallel()
		policy(s.stage(t, "restricted"), root)
	})
}

// known leaves out what this cluster's API does not have, which is said: a policy that mutates is v1beta1 in Kubernetes 1.34
// and 1.35, and v1 alone from 1.36 on; Kyverno's is there where that is installed.
func (g *stage) known(manifest []byte) []byte {
	g.Helper()
	m := regexp.MustCompile(`(?m)^apiVersion: (\S+)\nkind: (MutatingAdmissionPolicy|ClusterPolicy)$`).FindSubmatch(manifest)
	if m == nil {
		return manifest
	}
	version, kind := string(m[1]), string(m[2])
	var api struct{ Resources []struct{ Kind string } }
	if err := ignoreMissing(g.Get(g.Context(), "/apis/"+version, &api)); err != nil {
		g.Fatal(err)
	}
	if slices.ContainsFunc(api.Resources, func(r struct{ Kind string }) bool { return r.Kind == kind }) {
		return manifest
	}
	g.Logf("this cluster has no %s of %s; what is in the file is shown to be YAML only", kind, version)
	if _, err := g.Kubectl(g.Context(), manifest, "create", "--dry-run=client", "--validate=false", "-f", "-", "-o", "name"); err != nil && !strings.Contains(err.Error(), "no matches for kind") {
		g.Fatal(err)
	}
	return nil
}

// dryRun has the API server look at manifests, and Pod Security at the Pods in them.
func (g *stage) dryRun(manifest []byte) {
	g.Helper()
	if len(manifest) == 0 {
		return
	}
	if _, err := g.Kubectl(g.Context(), manifest, "apply", "-n", g.ns, "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
		g.Error(err)
	}
}

// component plays a workload of somebody who adds prestop by one line.
func component(g *stage, root, kind, collection string) {
	template := g.template(cast{grace: 123})
	spec := template["spec"].(kube.Object)
	delete(spec, "initContainers") // which the component adds
	delete(spec["containers"].([]kube.Object)[0], "lifecycle")
	workload := kube.Object{
		"apiVersion": "apps/v1", "kind": kind, "metadata": kube.Object{"name": service},
		"spec": kube.Object{"selector": kube.Object{"matchLabels": kube.Object{"app": service}}, "template": template},
	}
	if kind == "StatefulSet" {
		workload["spec"].(kube.Object)["serviceName"] = service
	}
	g.create("v1/configmaps", kube.Object{"metadata": kube.Object{"name": "prestop"}, "data": kube.Object{
		"PRESTOP_LINGER": "2s", "PRESTOP_REGISTRY_TIMEOUT": "60s", "PRESTOP_EXCLUDE_PORT": fmt.Sprint(g.ports.control),
		"PRESTOP_EUREKA_URL": g.world + "/eureka/", "PRESTOP_NACOS_URL": g.world + "/nacos",
	}})
	g.apply(g.kustomize(root, kube.Object{
		"resources": []string{"workload.json"}, "components": []string{"deploy/component/" + strings.ToLower(kind)},
		"images": []kube.Object{image(placeholder, g.Prestop)},
	}, workload))
	p := g.ready(g.only())
	g.callersGo(p)
	if log := g.said(p, "prestop", `"grace_period":"2m3s"`, 1); log.IsZero() {
		g.Error("the grace period was not copied")
	}
	g.hold(p, "slow")
	g.deletes(p)
	g.waitsFor(p.Metadata.Name, 1)
	g.notStopped()
	g.order(p.Metadata.Name, "/release?id=slow")
	g.endsInOrder(p)
}

// kustomize builds a kustomization beside deploy/ and workload.json.
func (g *stage) kustomize(root string, kustomization, workload kube.Object) string {
	g.Helper()
	dir := g.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(filepath.Join(root, "deploy"))); err != nil {
		g.Fatal(err)
	}
	for name, object := range map[string]kube.Object{"workload.json": workload, "kustomization.yaml": kustomization} {
		body, err := json.Marshal(object)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), body, 0o644)
		}
		if err != nil {
			g.Fatal(err)
		}
	}
	made, err := g.Kubectl(g.Context(), nil, "kustomize", dir)
	if err != nil {
		g.Fatal(err)
	}
	return made
}

// library has the API server look at the Pod of a chart that takes prestop from the library chart.
func library(g *stage, root string) {
	h := newHelm(g, root)
	for _, native := range []string{"true", "false"} {
		made, err := h.run("template", "orders", filepath.Join(root, "test", "chart", "testdata", "app"), "--set", "prestop.image="+g.Prestop+",prestop.native="+native)
		if err != nil {
			g.Fatal(err)
		}
		_, made, _ = strings.Cut(made, "---\n") // what Helm says of links
		if _, err := g.Kubectl(g.Context(), []byte(made), "apply", "-n", g.ns, "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
			g.Error(err)
		}
	}
}

// ownPolicy applies a policy of deploy/ under a name of its own and, by its binding, for this case's namespace alone. at is
// the line of the binding below which that is written, with the new name.
func (g *stage) ownPolicy(root, file, name, at string) {
	g.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy", file))
	if err != nil {
		g.Fatal(err)
	}
	own := strings.ReplaceAll(string(text), name, name+"-"+g.ns)
	if strings.Count(own, at+"\n") != 1 {
		g.Fatalf("%s has not one line %q", file, at)
	}
	own = strings.Replace(own, at+"\n", at+"\n  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "+g.ns+"}}}\n", 1)
	g.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's has ended
		defer cancel()
		if _, err := g.Kubectl(ctx, []byte(own), "delete", "--ignore-not-found", "-f", "-"); err != nil {
			g.Error(err)
		}
	})
	if _, err := g.Kubectl(g.Context(), []byte(own), "apply", "-f", "-"); err != nil {
		g.Fatal(err)
	}
}

// policy applies the policy, for this case's namespace alone, and shows what it lets in.
func policy(g *stage, root string) {
	g.ownPolicy(root, "policy-grace-period.yaml", "prestop-grace-period", "  validationActions: [Deny]")
	make := func(told string) error {
		object := kube.Object{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kube.Object{"name": service},
			"spec": kube.Object{
				"replicas": 1, "selector": kube.Object{"matchLabels": kube.Object{"app": service}},
				"template": g.template(cast{grace: 50, env: map[string]string{"GRACE_PERIOD": told}}),
			},
		}
		return g.Post(g.Context(), g.path("apps/v1/deployments")+"?dryRun=All", object)
	}
	await(g.T, "the policy refuses", func() error { // the API server takes it up when it has heard of it
		if err := make("60"); err == nil || !strings.Contains(err.Error(), "which is 50") {
			return fmt.Errorf("another number: %v", err)
		}
		return nil
	})
	for _, told := range []string{"50", "50s"} {
		if err := make(told); err != nil {
			g.Errorf("%s: %v", told, err)
		}
	}
	var e *kube.Error
	if err := make("5"); !errors.As(err, &e) || e.Code != http.StatusUnprocessableEntity {
		g.Errorf("another number: %v", err)
	}
}
