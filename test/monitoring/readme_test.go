package monitoring

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestTheQuickStartFitsTogether: the first manifest of each README is a Pod whose numbers agree.
func TestTheQuickStartFitsTogether(t *testing.T) {
	for _, name := range []string{"../../README.md", "../../README.zh-CN.md"} {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllSubmatch(page, -1)
		if len(blocks) == 0 {
			t.Fatalf("%s has %d blocks of YAML", name, len(blocks))
		}
		for _, b := range blocks {
			var any interface{}
			if err := yaml.Unmarshal(b[1], &any); err != nil {
				t.Errorf("%s: %v in\n%s", name, err, b[1])
			}
		}
		type call struct {
			Path string
			Port int
		}
		var pod struct {
			Spec struct {
				GracePeriod    int `yaml:"terminationGracePeriodSeconds"`
				InitContainers []struct {
					RestartPolicy string `yaml:"restartPolicy"`
					Env           []struct{ Name, Value string }
					StartupProbe  struct {
						HTTPGet call `yaml:"httpGet"`
					} `yaml:"startupProbe"`
				} `yaml:"initContainers"`
				Containers []struct {
					Lifecycle struct {
						PreStop struct {
							HTTPGet call `yaml:"httpGet"`
						} `yaml:"preStop"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(blocks[0][1], &pod); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		env := map[string]string{}
		for _, e := range pod.Spec.InitContainers[0].Env {
			env[e.Name] = e.Value
		}
		if env["PRESTOP_GRACE_PERIOD"] != "127" || pod.Spec.GracePeriod != 127 || pod.Spec.InitContainers[0].RestartPolicy != "Always" || !strings.HasSuffix(env["PRESTOP_EUREKA_URL"], "/eureka/") {
			t.Errorf("%s: %+v", name, pod)
		}
		if hook := pod.Spec.Containers[0].Lifecycle.PreStop.HTTPGet; hook != (call{"/shutdown", 8090}) || pod.Spec.InitContainers[0].StartupProbe.HTTPGet != (call{"/healthz", 8090}) {
			t.Errorf("%s: the hook is %+v", name, hook)
		}
	}
}
