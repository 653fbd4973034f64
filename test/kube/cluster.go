// Package kube reaches the Kubernetes cluster of the tests: the one that KUBECONFIG names, else one on this machine, which
// a script builds and starts.
package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestop/test/servers"
)

// Cluster is a running one. Its methods may be called by any goroutine.
type Cluster struct {
	// Prestop and Fixture are the images, loaded, of the sidecar and of the applications of the tests.
	Prestop, Fixture string
	// Minor is the 36 of Kubernetes 1.36.3.
	Minor int

	kubectl []string // the command
	script  string   // that started it; "" for one that KUBECONFIG names
	client  *client
}

// Connect returns the cluster with both images loaded. Its connection ends with the test; the cluster is left running.
//
// With KUBECONFIG set, the images come there by the command E2E_LOAD, which gets the name of a docker archive as its last
// argument (`kind load image-archive`), and kubectl must be in the PATH. Without it, as root, the script KUBE_UP, or
// ../shared/kube/kube-up.sh beside the repository, builds and starts one.
func Connect(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{kubectl: []string{"kubectl"}}
	if os.Getenv("KUBECONFIG") == "" {
		script, err := findScript()
		if err == nil {
			err = start(t.Context(), script)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.script, c.kubectl = script, []string{script, "k"}
	} else if os.Getenv("E2E_LOAD") == "" {
		t.Fatal("KUBECONFIG is set and E2E_LOAD is not: set it to the command that loads a docker archive into that cluster, e.g. E2E_LOAD='kind load image-archive'")
	}
	var err error
	if c.client, err = connect(t, c.kubectl); err != nil {
		t.Fatal(err)
	}
	if c.Minor, err = c.minor(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.images(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return c
}

// minor asks the API server for its version, which must be the one that KUBE_VERSION names, if that is set.
func (c *Cluster) minor(ctx context.Context) (int, error) {
	var v struct{ Minor, GitVersion string }
	if err := c.Get(ctx, "/version", &v); err != nil {
		return 0, err
	}
	if want := os.Getenv("KUBE_VERSION"); c.script != "" && want != "" && v.GitVersion != "v"+want {
		return 0, fmt.Errorf("the cluster that runs is %s and KUBE_VERSION is %s: end it by %s down", v.GitVersion, want, c.script)
	}
	return strconv.Atoi(strings.TrimRight(v.Minor, "+"))
}

// OnNode returns the words that, before a command, run it where Pods and Services are reached, with KUBECONFIG set. It starts
// the cluster that Connect would; with KUBECONFIG set already there are none, and this machine must be the node.
func OnNode(ctx context.Context) ([]string, error) {
	if os.Getenv("KUBECONFIG") != "" {
		return nil, nil
	}
	script, err := findScript()
	if err != nil {
		return nil, err
	}
	return []string{script, "ns"}, start(ctx, script)
}

// Root is the repository's folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test", "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("the repository's folder is not found; run the tests inside it")
}

func findScript() (string, error) {
	script := os.Getenv("KUBE_UP")
	if script == "" {
		root, err := Root()
		if err != nil {
			return "", err
		}
		script = filepath.Join(filepath.Dir(root), "shared", "kube", "kube-up.sh")
	}
	if _, err := os.Stat(script); err != nil {
		return "", fmt.Errorf("no cluster: set KUBECONFIG to one, or KUBE_UP to the script that starts one: %w", err)
	}
	if os.Getuid() != 0 {
		return "", fmt.Errorf("%s needs root; run as root, or set KUBECONFIG to a cluster that runs", script)
	}
	return script, nil
}

// start builds what is missing and starts the cluster unless it runs. One process does so at a time.
func start(ctx context.Context, script string) error {
	cache, err := servers.CacheDir()
	if err != nil {
		return err
	}
	unlock, err := servers.Lock(filepath.Join(cache, "kube.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if runs(ctx, script) {
		return mutating(ctx, script)
	}
	for command, pkg := range map[string]string{
		"containerd": "containerd", "runc": "runc", "iptables": "iptables", "ip": "iproute2", "openssl": "openssl", "python3": "python3", "curl": "curl", "nsenter": "util-linux",
	} {
		if _, err := exec.LookPath(command); err != nil {
			return fmt.Errorf("%w; install it: apt-get install -y %s", err, pkg)
		}
	}
	built, err := isBuilt()
	if err != nil {
		return err
	}
	if !built {
		// The script gets one package by apt-get, which knows of none on a fresh machine. Where this fails, that tells why.
		_, _ = run(ctx, nil, "apt-get", "update", "-qq")
		if _, err := run(ctx, nil, script, "build"); err != nil {
			return fmt.Errorf("build the cluster: %w", err)
		}
	}
	if _, err := run(ctx, nil, script, "up"); err != nil {
		return fmt.Errorf("start the cluster (after a crash, `%s down` clears up): %w", script, err)
	}
	return mutating(ctx, script)
}

// mutating restarts the API server of 1.34 or 1.35 with MutatingAdmissionPolicy, which it has but does not serve by itself.
// The script's own restart keeps the command line as it is.
func mutating(ctx context.Context, script string) error {
	version, err := run(ctx, nil, script, "k", "get", "--raw", "/version")
	if err != nil || !regexp.MustCompile(`"minor": *"3[45]`).MatchString(version) || mutates(ctx, script) {
		return err
	}
	if err := controlled(ctx, script); err != nil { // a controller manager that is still starting ends with the API server
		return err
	}
	dir, err := cacheOfScript()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "run", "apiserver.pid"))
	if err != nil {
		return err
	}
	pid := strings.TrimSpace(string(text))
	words, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		return err
	}
	const again = `
		kill "$PID"; while kill -0 "$PID" 2>/dev/null; do sleep 0.1; done
		setsid nohup nsenter --net=/run/netns/kn1 "$@" >>"$DIR/run/apiserver.log" 2>&1 </dev/null &
		echo $! >"$DIR/run/apiserver.pid"`
	args := append([]string{"PID=" + pid, "DIR=" + dir, "sh", "-c", again, "sh"}, strings.Split(strings.TrimRight(string(words), "\x00"), "\x00")...)
	args = append(args, "--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true")
	if _, err := run(ctx, nil, "env", args...); err != nil {
		return err
	}
	if err := until(ctx, "the API server serves MutatingAdmissionPolicy", func() bool { return mutates(ctx, script) }); err != nil {
		return err
	}
	return controlled(ctx, script)
}

// mutates reports whether the API server of 1.34 or 1.35 serves MutatingAdmissionPolicy.
func mutates(ctx context.Context, script string) bool {
	out, err := run(ctx, nil, script, "k", "get", "--raw", "/apis/admissionregistration.k8s.io/v1beta1")
	return err == nil && strings.Contains(out, `"mutatingadmissionpolicies"`)
}

// controlled waits until the controllers work: one of them gives a new namespace its service account.
func controlled(ctx context.Context, script string) error {
	name := "controlled-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	try := func(args ...string) func() bool {
		return func() bool { _, err := run(ctx, nil, script, append([]string{"k"}, args...)...); return err == nil }
	}
	if err := until(ctx, "a namespace can be made", try("create", "namespace", name)); err != nil {
		return err
	}
	if err := until(ctx, "a controller works", try("get", "serviceaccount", "default", "--namespace", name)); err != nil {
		return err
	}
	return until(ctx, "a namespace can be removed", try("delete", "namespace", name, "--wait=false"))
}

// until tries until it is so.
func until(ctx context.Context, what string, is func() bool) error {
	limit := time.After(3 * time.Minute)
	for tick := time.Tick(200 * time.Millisecond); !is(); {
		select {
		case <-tick:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("it is not so that %s", what)
		}
	}
	return nil
}

func runs(ctx context.Context, script string) bool {
	out, err := run(ctx, nil, script, "k", "get", "--raw", "/readyz", "--request-timeout=5s")
	return err == nil && strings.TrimSpace(out) == "ok"
}

// cacheOfScript is where the script keeps what it has built and what it runs.
func cacheOfScript() (string, error) {
	if dir := os.Getenv("KUBE_DIR"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "kube-up"), err
}

// isBuilt reports whether everything is there that the script's build leaves; one that was interrupted leaves some of it.
func isBuilt() (bool, error) {
	dir, err := cacheOfScript()
	if err != nil {
		return false, err
	}
	bin := "bin" // what was built last; the script builds the version that it wants, if that is another
	if version := os.Getenv("KUBE_VERSION"); version != "" {
		bin += "-" + version
	}
	if _, err := exec.LookPath("kubectl"); err != nil {
		if _, err := os.Stat(filepath.Join(dir, bin, "kubectl")); err != nil {
			return false, nil
		}
	}
	for _, f := range []string{bin + "/kubelet", bin + "/etcd", bin + "/kube-apiserver", bin + "/kube-controller-manager", bin + "/kube-scheduler", bin + "/kube-proxy", "kt/kt", "deb/x/usr/lib/cni/bridge"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			return false, nil
		}
	}
	return true, nil
}

// OnThisMachine reports whether the cluster's node is this machine, whose folders its Pods may then mount.
func (c *Cluster) OnThisMachine() bool { return c.script != "" }

// RestartKubelet restarts the node's kubelet, by the command E2E_RESTART_KUBELET where KUBECONFIG names the cluster.
func (c *Cluster) RestartKubelet(ctx context.Context) error {
	command := os.Getenv("E2E_RESTART_KUBELET")
	if command == "" && c.script == "" {
		return errors.New("set E2E_RESTART_KUBELET to a command that restarts the kubelet of the cluster's node")
	}
	if command == "" {
		command = c.script + " restart kubelet"
	}
	_, err := run(ctx, nil, "sh", "-c", command)
	return err
}

// Kubectl runs kubectl with stdin and returns what it said on standard output.
func (c *Cluster) Kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	return run(ctx, stdin, c.kubectl[0], append(c.kubectl[1:len(c.kubectl):len(c.kubectl)], args...)...)
}

// run runs a command to its end and returns its output; the error holds the tail of that on standard error.
func run(ctx context.Context, stdin []byte, name string, args ...string) (string, error) {
	cmd := command(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String() + errs.String())
		return out.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, text[max(0, len(text)-4000):])
	}
	return out.String(), nil
}

// command is one whose whole process group ends with ctx: what the script starts is its child.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
