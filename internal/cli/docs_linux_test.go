package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"prestop/registry/registrytest"
)

// TestEveryCommandOfTheDocumentationRuns runs each line of each sh block in all Markdown, in a network namespace of its own
// with a Pod in it: an app on 8080 that a Eureka holds, and the sidecar on 8090. There, `kubectl exec POD … -- /prestop`
// is prestop itself. What needs a cluster or takes minutes is looked at and not done: the other uses of kubectl, and make.
func TestEveryCommandOfTheDocumentationRuns(t *testing.T) {
	if !alone(t) {
		return
	}
	serve(t, "127.0.0.1:8080", http.NotFoundHandler())
	serve(t, "127.0.0.1:8761", registrytest.NewEureka(registrytest.EurekaConfig{Cache: 200 * time.Millisecond}))
	world := &registrytest.EurekaWorld{Servers: []string{"http://127.0.0.1:8761/eureka"}, Heartbeat: 200 * time.Millisecond}
	world.Start(t, registrytest.App{Service: "orders", Address: netip.MustParseAddrPort("127.0.0.1:8080")})
	pod := []string{"PRESTOP_EUREKA_URL=http://127.0.0.1:8761/eureka/", "POD_IP=127.0.0.1", "PRESTOP_PORT=8080", "PRESTOP_LINGER=0", "PRESTOP_GRACE_PERIOD=60", "PRESTOP_TERMINATION_LOG="}
	env := append(pod, "PATH="+tools(t)+":"+os.Getenv("PATH"), "HOME="+t.TempDir(), "ROOT="+root(t))
	p := launch(t, nil, pod)
	p.says("registered")

	lines := 0
	for _, page := range markdown(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllSubmatch(text, -1) {
			if isFirstTry(block[1]) {
				continue
			}
			for line := range strings.Lines(string(block[1])) {
				if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				lines++
				if out, err := runLine(t, env, line); err != nil {
					t.Errorf("%s: %s\n%v\n%s", page, line, err, out)
				}
			}
			if out, err := runLine(t, env, "prestop resume"); err != nil { // for the next block
				t.Fatalf("%v\n%s", err, out)
			}
			p.reaches("serving")
		}
	}
	if lines < 15 {
		t.Errorf("only %d commands", lines)
	}
}

// runLine runs one line of a shell. What goes on for ever is interrupted after a while, which must end it in order.
func runLine(t *testing.T, env []string, line string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-c", line)
	if strings.Contains(line, "--watch") {
		c = exec.CommandContext(ctx, "timeout", "--foreground", "--preserve-status", "--signal=INT", "1", "bash", "-c", "exec "+line)
	}
	c.Env = env
	out, err := c.CombinedOutput()
	return string(out), err
}

// tools is a folder with what a reader calls: prestop, a kubectl for one Pod, and a make that does nothing.
func tools(t *testing.T) string {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"prestop": fmt.Sprintf("#!/bin/bash\nexec %s \"$@\"\n", binary),
		"make":    "#!/bin/bash\nexec /usr/bin/make -n -C \"$ROOT\" \"$@\"\n",
		"helm":    "#!/bin/bash\n[[ \"$1 $2\" == \"install prestop\" && -f $ROOT/deploy/${3##*/}/Chart.yaml ]]\n",
		"docker":  "#!/bin/bash\n[[ $1 == tag && $2 == prestop:dev || $1 == push ]]\n",
		"kubectl": `#!/bin/bash
words="$*"
case $words in
"exec POD -c prestop -- /prestop "*) exec prestop ${words#*-- /prestop } ;;
"logs POD -c prestop" | "logs POD -c prestop --previous" | "describe pod POD" | "get pod POD -o jsonpath="*) ;;
"apply -f "*) test -f "$ROOT/$3" ;;
"apply -k "* | "kustomize "*) test -f "$ROOT/${@: -1}/kustomization.yaml" ;;
"label namespace shop prestop=inject" | "rollout restart deployment --namespace shop" | "rollout restart deployment orders" | "rollout status deployment orders --timeout 15m") ;;
*) echo "nobody has tried kubectl $words" >&2; exit 1 ;;
esac
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func root(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// serve serves until the end of the test.
func serve(t *testing.T, address string, h http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }() // until it is closed
	t.Cleanup(func() { s.Close(); <-ended })
}
