// Package kyverno shows by Kyverno's own command line, without a cluster, what the policies for clusters before Kubernetes 1.34
// make of Pods.
package kyverno

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"prestop/test/tools"
)

type object = map[string]any

// pod is one of a namespace; change may be nil.
func pod(namespace string, change func(meta, spec object)) object {
	meta := object{"name": "orders", "namespace": namespace, "labels": object{"app": "orders"}}
	spec := object{"terminationGracePeriodSeconds": 82, "containers": []object{{"name": "orders", "image": "app.invalid/orders:VERSION"}}}
	if change != nil {
		change(meta, spec)
	}
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
}

func container(spec object) object { return spec["containers"].([]object)[0] }

func second(spec object) {
	spec["containers"] = append(spec["containers"].([]object), object{"name": "agent", "image": "app.invalid/agent:VERSION"})
}

var ownHook = object{"preStop": object{"httpGet": object{"path": "/bye", "port": 8081}}}

const hook, own = "/shutdown:8090", "/bye:8081"

// cases are those of the policies of Kubernetes' own. The namespace shop has the label, other has not.
var cases = []struct {
	sentence string
	pod      object
	sidecar  bool
	grace    string
	hooks    []string // of the application's containers
}{
	{"a Pod of a namespace with the label", pod("shop", nil), true, "82", []string{hook}},
	{"a Pod of a namespace without the label", pod("other", nil), false, "", []string{""}},
	{"a Pod with the label itself", pod("other", func(meta, _ object) { meta["labels"] = object{"prestop": "inject"} }), true, "82", []string{hook}},
	{"a Pod with the label in a namespace with it", pod("shop", func(meta, _ object) { meta["labels"] = object{"prestop": "inject"} }), true, "82", []string{hook}},
	{"a Pod that opts out", pod("shop", func(meta, _ object) { meta["labels"] = object{"prestop": "skip"} }), false, "", []string{""}},
	{"a Pod without labels", pod("shop", func(meta, _ object) { delete(meta, "labels") }), true, "82", []string{hook}},
	{"a Pod with hostNetwork", pod("shop", func(_, spec object) { spec["hostNetwork"] = true }), false, "", []string{""}},
	{"a Pod that says nothing of its grace period", pod("shop", func(_, spec object) { delete(spec, "terminationGracePeriodSeconds") }), true, "30", []string{hook}},
	{"a Pod with a hook of its own", pod("shop", func(_, spec object) { container(spec)["lifecycle"] = ownHook }), true, "82", []string{own}},
	{"a Pod with a postStart hook", pod("shop", func(_, spec object) {
		container(spec)["lifecycle"] = object{"postStart": object{"httpGet": object{"path": "/hello", "port": 8081}}}
	}), true, "82", []string{hook}},
	{"a Pod with an init container", pod("shop", func(_, spec object) {
		spec["initContainers"] = []object{{"name": "first", "image": "app.invalid/first:VERSION"}}
	}), true, "82", []string{hook}},
	{"a Pod of two containers", pod("shop", func(_, spec object) { second(spec) }), true, "82", []string{hook, ""}},
	{"a Pod of two containers, the second kubectl's default", pod("shop", func(meta, spec object) {
		second(spec)
		meta["annotations"] = object{"kubectl.kubernetes.io/default-container": "agent"}
	}), true, "82", []string{"", hook}},
	{"a Pod of two containers, both named", pod("shop", func(meta, spec object) {
		second(spec)
		container(spec)["lifecycle"] = ownHook
		meta["annotations"] = object{"prestop/containers": "orders, agent"}
	}), true, "82", []string{own, hook}},
	{"a Pod that names a container that it has not", pod("shop", func(meta, spec object) {
		second(spec)
		meta["annotations"] = object{"kubectl.kubernetes.io/default-container": "order"}
	}), true, "82", []string{hook, ""}},
	{"a Pod that has prestop already", pod("shop", func(_, spec object) {
		spec["initContainers"] = []object{{"name": "prestop", "image": "app.invalid/prestop:VERSION", "restartPolicy": "Always"}}
	}), false, "", []string{""}},
}

// spec is what is read of a Pod that was made.
type spec struct{ InitContainers, Containers []made }

type made struct {
	Name, RestartPolicy string
	Env                 []struct{ Name, Value string }
	Lifecycle           *struct {
		PreStop *struct {
			HTTPGet struct {
				Path string
				Port int
			}
		}
	}
}

func (m made) hook() string {
	if m.Lifecycle == nil || m.Lifecycle.PreStop == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", m.Lifecycle.PreStop.HTTPGet.Path, m.Lifecycle.PreStop.HTTPGet.Port)
}

func TestTheNativeSidecar(t *testing.T) {
	play(t, "inject-kyverno.yaml", func(s spec) ([]made, []made) {
		return slices.DeleteFunc(s.InitContainers, func(m made) bool { return m.Name == "first" }), s.Containers
	}, "Always", "/stopping:8090")
}

func TestTheSidecarBefore129(t *testing.T) {
	play(t, "inject-kyverno-1.28.yaml", func(s spec) (sidecars, others []made) {
		for _, m := range s.Containers {
			if m.Name == "prestop" {
				sidecars = append(sidecars, m)
			} else {
				others = append(others, m)
			}
		}
		return sidecars, others
	}, "", hook)
}

// play applies a policy of deploy/ to each Pod. split tells a Pod's sidecars from its other containers.
func play(t *testing.T, policy string, split func(spec) (sidecars, others []made), restart, ownHook string) {
	for _, c := range cases {
		t.Run(c.sentence, func(t *testing.T) {
			t.Parallel()
			s := apply(t, policy, c.pod)
			sidecars, others := split(s)
			if !c.sidecar {
				sidecars = slices.DeleteFunc(sidecars, func(m made) bool { return len(m.Env) == 0 }) // one that it had
			}
			if (len(sidecars) == 1) != c.sidecar || len(sidecars) > 1 {
				t.Fatalf("its sidecars are %+v", sidecars)
			}
			for i, want := range c.hooks {
				if got := others[i].hook(); got != want {
					t.Errorf("the hook of container %d is %q; want %q", i, got, want)
				}
			}
			if !c.sidecar {
				return
			}
			if m := sidecars[0]; m.Name != "prestop" || m.RestartPolicy != restart || m.hook() != ownHook || m.Env[0].Name != "PRESTOP_GRACE_PERIOD" || m.Env[0].Value != c.grace {
				t.Errorf("the sidecar is %+v", m)
			}
			if first := append(s.InitContainers, s.Containers...)[0]; first.Name != "prestop" && restart != "" {
				t.Errorf("%s starts before the sidecar", first.Name)
			}
		})
	}
}

// apply has Kyverno apply the policy to a Pod that is created, and returns what the Pod becomes.
func apply(t *testing.T, policy string, pod object) spec {
	t.Helper()
	binary, err := tools.Kyverno(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	policy, err = filepath.Abs("../../deploy/" + policy)
	if err != nil {
		t.Fatal(err)
	}
	const file, values, out = "pod.yaml", "values.yaml", "out.yaml" // by name alone: Kyverno takes a comma in a path for two paths
	body, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{file: body, values: []byte(`apiVersion: cli.kyverno.io/v1alpha1
kind: Value
metadata: {name: values}
globalValues: {request.operation: CREATE}
namespaceSelector:
  - {name: shop, labels: {prestop: inject}}
  - {name: other, labels: {}}
`)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), binary, "apply", policy, "--resource", file, "--values-file", values, "--output", out)
	c.Dir = dir
	c.Env = append(os.Environ(), "HOME="+dir, "KUBECONFIG="+os.DevNull)
	said, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if !regexp.MustCompile(`fail: 0\b.*error: 0\b`).Match(said) {
		t.Fatalf("%s", said)
	}
	text, err := os.ReadFile(filepath.Join(dir, out))
	if os.IsNotExist(err) || len(bytes.TrimSpace(text)) == 0 {
		text, err = body, nil // nothing was changed
	}
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Split(strings.Trim(string(text), "-\n "), "\n---")
	var read struct{ Spec spec }
	if err := yaml.Unmarshal([]byte(docs[len(docs)-1]), &read); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return read.Spec
}
