// Package chart shows what the charts of deploy/ make: by Helm itself, against golden files, and against the manifests beside
// them.
package chart

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
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

var update = flag.Bool("update", false, "write the golden files, the manifests that come from the chart, and the settings into the schemas")

const (
	deploy = "../../deploy"
	app    = "testdata/app"
)

// helm runs Helm and returns its output; the error has what it said.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary, err := tools.Helm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), binary, args...)
	c.Env = append(os.Environ(), "KUBECONFIG="+os.DevNull, "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// template is what Helm makes of a chart.
func template(t *testing.T, chart string, args ...string) string {
	t.Helper()
	out, err := helm(t, append([]string{"template", "prestop", chart, "--namespace", "prestop"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTheChartsPassHelmsLint(t *testing.T) {
	for _, chart := range []string{deploy + "/chart", app} {
		if out, err := helm(t, "lint", "--strict", chart); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// everything turns everything on whose text does not come from another file.
var everything = []string{
	"--kube-version", "1.36.0", "--set", "settings.enabled=true,settings.namespaces={shop,bank},settings.values.PRESTOP_EUREKA_URL=http://eureka:8761/eureka/",
	"--set", "settings.values.PRESTOP_MIN_OPEN_CONNECTIONS=2000000,settings.values.PRESTOP_READY_WHEN_REGISTERED=true",
	"--set", "networkPolicy.enabled=true,networkPolicy.namespaces={shop,bank},networkPolicy.applicationPorts={8080,grpc}",
	"--set", "injection.failurePolicy=Ignore,injection.configMap=sidecars,imagePullPolicy=Always,image=registry.example.com:5000/ops/prestop:1.2.3",
}

func TestTheChartsMakeWhatTheyMade(t *testing.T) {
	for name, c := range map[string]struct {
		chart string
		args  []string
	}{
		"kubernetes-1.36":         {deploy + "/chart", []string{"--kube-version", "1.36.0"}},
		"kubernetes-1.34":         {deploy + "/chart", []string{"--kube-version", "1.34.0"}},
		"kyverno-1.29":            {deploy + "/chart", []string{"--kube-version", "1.29.0", "--set", "gracePeriodPolicy.enabled=false"}},
		"kyverno-1.28":            {deploy + "/chart", []string{"--kube-version", "1.28.0", "--set", "gracePeriodPolicy.enabled=false"}},
		"everything":              {deploy + "/chart", everything},
		"application":             {app, nil},
		"application-before-1.29": {app, []string{"--set", "prestop.native=false,prestop.port=18090"}},
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Join("testdata", name+".yaml"), template(t, c.chart, c.args...))
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made now; if that is right, make charts\n%s", file, got)
	}
}

// TestAChartPicksWhatTheClusterHas is about injection.by=auto, by what a cluster tells of itself.
func TestAChartPicksWhatTheClusterHas(t *testing.T) {
	const (
		v1, v1beta1 = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy", "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy"
		kyverno     = "kyverno.io/v1/ClusterPolicy"
	)
	for sentence, c := range map[string]struct {
		version string
		has     []string
		want    string // "": none, which is refused
	}{
		"1.36":                            {"1.36.3", []string{v1}, "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy"},
		"1.36 with Kyverno":               {"1.36.3", []string{v1, kyverno}, "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy"},
		"1.35 with the API turned on":     {"1.35.1", []string{v1beta1}, "admissionregistration.k8s.io/v1beta1 MutatingAdmissionPolicy"},
		"1.34 with that and Kyverno":      {"1.34.4", []string{v1beta1, kyverno}, "admissionregistration.k8s.io/v1beta1 MutatingAdmissionPolicy"},
		"1.34 with Kyverno alone":         {"1.34.4", []string{kyverno}, "kyverno.io/v1 ClusterPolicy"},
		"1.28 with Kyverno":               {"1.28.0", []string{kyverno}, "kyverno.io/v1 ClusterPolicy"},
		"1.34 as it is out of the box":    {"1.34.4", nil, ""},
		"1.30 without a policy engine":    {"1.30.0", nil, ""},
		"a vendor's version of 1.36":      {"v1.36.1-gke.100", []string{v1}, "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy"},
		"a vendor's version of 1.28, old": {"v1.28.9-eks-1a2b", []string{kyverno}, "kyverno.io/v1 ClusterPolicy"},
	} {
		t.Run(sentence, func(t *testing.T) {
			args := []string{"template", "prestop", deploy + "/chart", "--kube-version", c.version, "--api-versions", "apps/v1/Deployment"}
			for _, h := range c.has {
				args = append(args, "--api-versions", h)
			}
			out, err := helm(t, args...)
			if c.want == "" {
				if err == nil || !strings.Contains(err.Error(), "has nothing that could add prestop to Pods") || !strings.Contains(err.Error(), "install Kyverno") {
					t.Errorf("it is not told what to do: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			made := kinds(t, out)
			if !slices.Contains(made, c.want) {
				t.Errorf("it makes %q", made)
			}
			for _, k := range made {
				if k != c.want && (strings.HasSuffix(k, " MutatingAdmissionPolicy") || strings.HasSuffix(k, " ClusterPolicy")) {
					t.Errorf("it also makes %s", k)
				}
			}
		})
	}
}

// objects are the documents of a manifest.
func objects(t *testing.T, manifest string) (all []map[string]any) {
	t.Helper()
	for _, doc := range regexp.MustCompile(`(?m)^---\n`).Split(manifest, -1) {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if o != nil {
			all = append(all, o)
		}
	}
	return all
}

func kinds(t *testing.T, manifest string) (all []string) {
	for _, o := range objects(t, manifest) {
		all = append(all, fmt.Sprintf("%v %v", o["apiVersion"], o["kind"]))
	}
	return all
}

// TestEachPartIsOnOrOff turns one part on alone.
func TestEachPartIsOnOrOff(t *testing.T) {
	off := "injection.enabled=false,gracePeriodPolicy.enabled=false,settings.enabled=false,networkPolicy.enabled=false,alerts.enabled=false,dashboard.enabled=false"
	if out := template(t, deploy+"/chart", "--set", off); len(objects(t, out)) != 0 {
		t.Errorf("with everything off it makes\n%s", out)
	}
	for part, want := range map[string][]string{
		"injection":         {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingAdmissionPolicyBinding"},
		"gracePeriodPolicy": {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"},
		"settings":          {"ConfigMap"}, "networkPolicy": {"NetworkPolicy"}, "alerts": {"PrometheusRule"}, "dashboard": {"ConfigMap"},
	} {
		var made []string
		for _, o := range objects(t, template(t, deploy+"/chart", "--kube-version", "1.36.0", "--set", off, "--set", part+".enabled=true")) {
			made = append(made, fmt.Sprint(o["kind"]))
		}
		slices.Sort(made)
		if !slices.Equal(made, want) {
			t.Errorf("%s makes %q", part, made)
		}
	}
}

// TestAlertsAndDashboardAreThoseBeside compares what the chart makes of them with deploy/alerts.yaml and the dashboard, whose
// tests are elsewhere.
func TestAlertsAndDashboardAreThoseBeside(t *testing.T) {
	compared := 0
	for _, o := range objects(t, template(t, deploy+"/chart", "--set", "injection.enabled=false,gracePeriodPolicy.enabled=false,alerts.enabled=true,dashboard.enabled=true")) {
		file, got := "alerts.yaml", any(nil)
		switch o["kind"] {
		case "PrometheusRule":
			got = o["spec"]
		case "ConfigMap":
			file = "grafana-dashboard.json"
			if err := json.Unmarshal([]byte(o["data"].(map[string]any)["prestop.json"].(string)), &got); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(filepath.Join(deploy, file))
		if err != nil {
			t.Fatal(err)
		}
		var want any
		if err := yaml.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if !same(got, want) {
			t.Errorf("%s is another one in the chart", file)
		}
		compared++
	}
	if compared != 2 {
		t.Errorf("%d objects", compared)
	}
}

func same(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

func TestTheSchemasRefuseWhatIsNotThere(t *testing.T) {
	for _, c := range []struct{ chart, set, want string }{
		{deploy + "/chart", "imag=a/b:1", "'imag' not allowed"},
		{deploy + "/chart", "injection.enable=false", "'enable' not allowed"},
		{deploy + "/chart", "injection.by=v2", "'/injection/by'"},
		{deploy + "/chart", "image=prestop", "'/image'"},
		{deploy + "/chart", "image=ghcr.io/a/b:tag with spaces", "'/image'"},
		{deploy + "/chart", "settings.values.PRESTOP_GRACEPERIOD=30", "PRESTOP_GRACEPERIOD"},
		{deploy + "/chart", "settings.values.prestop_linger=30", "prestop_linger"},
		{deploy + "/chart", "settings.namespaces=shop", "'/settings/namespaces'"},
		{deploy + "/chart", "networkPolicy.applicationPorts={70000}", "'/networkPolicy/applicationPorts/0'"},
		{deploy + "/chart", "alerts.enabled=yes", "'/alerts/enabled'"},
		{deploy + "/chart", "dashboard.label.a=b", "'label' not allowed"},
		{deploy + "/chart", "gracePeriodPolicy.on=true", "'on' not allowed"},
		{app, "prestop.gracePeriod=30", "'gracePeriod' not allowed"},
		{app, "prestop.gracePeriodSeconds=30s", "'/gracePeriodSeconds'"},
		{app, "prestop.settings.PRESTOP_LINGERS=3", "PRESTOP_LINGERS"},
		{app, "prestop.port=0", "'/port'"},
	} {
		if _, err := helm(t, "template", "prestop", c.chart, "--kube-version", "1.36.0", "--set", c.set); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s is answered: %v", c.set, err)
		}
	}
}

// TestAHookShowsTheToken is about settings with which hooks without a token would be refused, and Pods stopped undrained.
func TestAHookShowsTheToken(t *testing.T) {
	const header = `"httpHeaders":[{"name":"Authorization","value":"Bearer open: sesame"}]`
	for _, native := range []string{"true", "false"} {
		made, err := json.Marshal(objects(t, template(t, app, "--set", "prestop.settings.PRESTOP_TOKEN=open: sesame,prestop.native="+native)))
		if err != nil || strings.Count(string(made), header) != 2 {
			t.Errorf("native %s: the two hooks are %s, %v", native, made, err)
		}
	}
	for chart, set := range map[string]string{
		app: "prestop.settings.PRESTOP_TOKEN_FILE=/token", deploy + "/chart": "settings.enabled=true,settings.values.PRESTOP_TOKEN=sesame",
	} {
		if _, err := helm(t, "template", "prestop", chart, "--kube-version", "1.36.0", "--set", set); err == nil || !strings.Contains(err.Error(), "would be refused") {
			t.Errorf("%s is answered: %v", set, err)
		}
	}
}

// TestTheSchemasKnowTheSettingsOfTheProgram compares the names in the schemas with the flags of prestop's help.
func TestTheSchemasKnowTheSettingsOfTheProgram(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), "go", "-C", "../..", "run", ".", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z][a-z0-9-]*)`).FindAllSubmatch(help, -1) {
		if flag := string(m[1]); flag != "help" && flag != "version" {
			want = append(want, "PRESTOP_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_")))
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	if len(want) < 30 {
		t.Fatalf("the help has only %q", want)
	}
	list := regexp.MustCompile(`(?s)("enum": \[\s*)"PRESTOP_.*?"(\s*\])`)
	for _, chart := range []string{"chart", "chart-lib"} {
		file := filepath.Join(deploy, chart, "values.schema.json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := list.FindAllString(string(text), -1)
		if len(found) != 1 {
			t.Fatalf("%s has %d lists of settings", file, len(found))
		}
		var got []string
		if err := json.Unmarshal([]byte(strings.TrimPrefix(found[0], `"enum":`)), &got); err != nil {
			t.Fatal(err)
		}
		if slices.Equal(got, want) {
			continue
		}
		if !*update {
			t.Errorf("%s knows other settings than the program, which is to be cured by make charts:\n%q\n%q", file, got, want)
			continue
		}
		indent := regexp.MustCompile(`\n +"PRESTOP_`).FindString(found[0])
		indent = strings.TrimSuffix(indent, `"PRESTOP_`)
		written := list.ReplaceAllString(string(text), `${1}"`+strings.Join(want, `",`+indent+`"`)+`"${2}`)
		if err := os.WriteFile(file, []byte(written), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheManifestsBesideAreTheCharts compares the policies in deploy/, which are for those without Helm, with the chart's. What
// stands above their first line is their own.
func TestTheManifestsBesideAreTheCharts(t *testing.T) {
	labels := regexp.MustCompile(`(?m)^  labels:\n(    (app\.kubernetes\.io|helm\.sh)/.*\n)+`)
	for file, args := range map[string][]string{
		"inject.yaml":              {"-s", "templates/inject.yaml", "--set", "injection.by=v1"},
		"inject-v1beta1.yaml":      {"-s", "templates/inject.yaml", "--set", "injection.by=v1beta1"},
		"inject-kyverno.yaml":      {"-s", "templates/inject-kyverno.yaml", "--set", "injection.by=kyverno", "--kube-version", "1.29.0"},
		"inject-kyverno-1.28.yaml": {"-s", "templates/inject-kyverno.yaml", "--set", "injection.by=kyverno", "--kube-version", "1.28.0"},
		"policy-grace-period.yaml": {"-s", "templates/grace-period.yaml"},
	} {
		path := filepath.Join(deploy, file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var above strings.Builder
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				break
			}
			above.WriteString(line)
		}
		made := template(t, deploy+"/chart", args...)
		made = regexp.MustCompile(`(?m)^# Source: .*\n`).ReplaceAllString(strings.TrimPrefix(made, "---\n"), "")
		golden(t, path, above.String()+labels.ReplaceAllString(made, ""))
	}
}

// TestEverySidecarHasAHookOfItsOwn looks at every container named prestop that deploy/ and the charts have: a native one is
// told that the Pod goes, an ordinary one waits for the drain. Nothing else of it differs from the library's.
func TestEverySidecarHasAHookOfItsOwn(t *testing.T) {
	library := sidecars(objects(t, template(t, app, "--set", "prestop.settings=null")))[0]
	found := 0
	check := func(where string, all []map[string]any) {
		for _, c := range all {
			found++
			want := "/shutdown"
			if c["restartPolicy"] == "Always" {
				want = "/stopping"
			}
			hook, _ := json.Marshal(c["lifecycle"])
			if string(hook) != fmt.Sprintf(`{"preStop":{"httpGet":{"path":"%s","port":8090}}}`, want) {
				t.Errorf("%s: the sidecar's hook is %s; want %s", where, hook, want)
			}
			if probe, _ := json.Marshal(c["startupProbe"]); !bytes.Contains(probe, []byte(`"path":"/healthz"`)) {
				t.Errorf("%s: the sidecar's startup probe is %s", where, probe)
			}
			if !same(c["resources"], library["resources"]) {
				t.Errorf("%s: the sidecar's resources are %v", where, c["resources"])
			}
		}
	}
	manifests, err := filepath.Glob(deploy + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(manifests, deploy+"/component/base/sidecar.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^apiVersion: `).Match(text) {
			check(file, sidecars(objects(t, string(text))))
		}
	}
	check("the library", sidecars(objects(t, template(t, app))))
	check("the library before 1.29", sidecars(objects(t, template(t, app, "--set", "prestop.native=false"))))
	if found < 8 {
		t.Errorf("only %d sidecars", found)
	}

	text, err := os.ReadFile(deploy + "/component/base/sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	component := sidecars(objects(t, string(text)))[0]
	component["env"].([]any)[0].(map[string]any)["value"] = "82"
	for _, key := range slices.Sorted(maps.Keys(library)) {
		if !same(component[key], library[key]) {
			t.Errorf("the component's %s is %v, the library's %v", key, component[key], library[key])
		}
	}
	if len(component) != len(library) {
		t.Errorf("the component's sidecar has %q", slices.Sorted(maps.Keys(component)))
	}
}

// sidecars are the containers named prestop, wherever they stand in the objects.
func sidecars(in any) (all []map[string]any) {
	switch v := in.(type) {
	case []map[string]any:
		for _, e := range v {
			all = append(all, sidecars(e)...)
		}
	case []any:
		for _, e := range v {
			all = append(all, sidecars(e)...)
		}
	case map[string]any:
		if v["name"] == "prestop" && v["image"] != nil {
			return []map[string]any{v}
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			all = append(all, sidecars(v[key])...)
		}
	}
	return all
}
