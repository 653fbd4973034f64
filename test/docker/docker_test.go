// Package docker runs the sidecar as a container of Docker's engine, under its seccomp profile.
package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestop/test/kube"
	"prestop/test/servers"
)

// denied is a profile that takes the kernel's socket diagnosis away, and nothing else.
const denied = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [
	{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 4, "op": "SCMP_CMP_EQ"}]}]}`

// Nobody, without capabilities, with a read-only root: under Docker's own profile the kernel tells of the connections, and
// where it may not, /proc does, and the log says why.
func TestTheSidecarCountsUnderSeccomp(t *testing.T) {
	e := start(t)
	e.load(t)
	profile := filepath.Join(t.TempDir(), "denied.json")
	if err := os.WriteFile(profile, []byte(denied), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options      []string
		source, says string
	}{
		"Docker's profile":    {nil, "netlink", `"count":"netlink"`},
		"no socket diagnosis": {[]string{"--security-opt", "seccomp=" + profile}, "proc", "operation not permitted"},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
			defer app.Close()
			_, port, _ := strings.Cut(strings.TrimPrefix(app.URL, "http://"), ":")
			s := e.sidecar(t, port, c.options...)

			answered := make(chan error, 1)
			go func() {
				request, _ := http.NewRequest(http.MethodGet, app.URL, nil)
				request.Close = true // to /proc an open connection is one in use
				resp, err := http.DefaultClient.Do(request)
				if err == nil {
					resp.Body.Close()
				}
				answered <- err
			}()
			s.until(t, "the request is counted", func(s status) bool { return s.Connections.Active == 1 && s.Connections.Source == c.source })
			hook := make(chan string, 1)
			go func() { hook <- s.get("/shutdown") }()
			s.until(t, "it drains", func(s status) bool { return s.State == "draining" })
			select {
			case text := <-hook:
				t.Errorf("the hook was answered while a request was in flight: %s", text)
			case <-time.After(time.Second):
			}
			close(release)
			if err := <-answered; err != nil {
				t.Error(err)
			}
			if text := <-hook; !strings.HasPrefix(text, "OK drained") {
				t.Errorf("the hook: %s", text)
			}
			if log := e.run(t, nil, "logs", s.container); !strings.Contains(log, c.says) {
				t.Errorf("no line says %q:\n%s", c.says, log)
			}
		})
	}
}

// engine is a Docker engine of this machine.
type engine struct{ host string }

// image is the name of the sidecar's.
const image = "prestop-under-test:latest"

// start returns the engine that DOCKER_HOST names, or one that runs until the test ends.
func start(t *testing.T) engine {
	t.Helper()
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		return engine{host}
	}
	dir := t.TempDir()
	log := &bytes.Buffer{}
	e := engine{"unix://" + filepath.Join(dir, "sock")}
	roots := []string{filepath.Join(dir, "exec"), filepath.Join(dir, "data")}
	daemon := exec.Command("dockerd", "-H", e.host, "--pidfile", filepath.Join(dir, "pid"), "--exec-root", roots[0], "--data-root", roots[1],
		"--bridge", "none", "--iptables=false", "--ip-forward=false", "--storage-driver", "vfs")
	daemon.Stdout, daemon.Stderr = log, log
	ended, err := servers.StartBound(daemon)
	if err != nil {
		t.Fatalf("%v (Debian: apt-get install docker.io; or DOCKER_HOST names an engine of this machine)", err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended.Done()
		_ = syscall.Unmount(filepath.Join(roots[0], "netns", "default"), 0) // it leaves that behind
		if t.Failed() {
			t.Logf("dockerd:\n%s", log)
		}
	})
	again, enough := time.NewTicker(100*time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for exec.Command("docker", "-H", e.host, "version").Run() != nil {
		select {
		case <-again.C:
		case <-ended.Done():
			t.Fatalf("dockerd, which needs root, has ended: %v; DOCKER_HOST may name another engine of this machine", ended.Err())
		case <-enough:
			t.Fatal("dockerd does not answer within a minute")
		}
	}
	return e
}

// run runs a command of Docker's client.
func (e engine) run(t *testing.T, in io.Reader, args ...string) string {
	t.Helper()
	c := exec.Command("docker", append([]string{"-H", e.host}, args...)...)
	c.Stdin = in
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// load builds the product and makes an image of nothing else.
func (e engine) load(t *testing.T) {
	t.Helper()
	binary, err := kube.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := kube.Archive("prestop", content, image)
	if err != nil {
		t.Fatal(err)
	}
	e.run(t, bytes.NewReader(archive), "load")
	t.Cleanup(func() { e.run(t, nil, "rmi", image) })
}

// sidecar is a running one.
type sidecar struct{ url, container string }

// sidecar starts one beside the app on port, in this machine's network as in a Pod's, with as few rights as our manifests give it.
func (e engine) sidecar(t *testing.T, port string, options ...string) sidecar {
	t.Helper()
	own, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s := sidecar{url: fmt.Sprintf("http://127.0.0.1:%d", own)}
	args := append([]string{"run", "-d", "--network", "host", "--user", "65534:65534", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--read-only", "-e", "POD_IP=127.0.0.1"}, options...)
	s.container = e.run(t, nil, append(args, image, "--listen", fmt.Sprintf("127.0.0.1:%d", own), "--port", port, "--linger", "0", "--termination-log", "")...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("prestop:\n%s", e.run(t, nil, "logs", s.container))
		}
		e.run(t, nil, "rm", "-f", s.container)
	})
	rights, err := os.ReadFile("/proc/" + e.run(t, nil, "inspect", "-f", "{{.State.Pid}}", s.container) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(rights), line+"\n") {
			t.Errorf("the container lacks %q:\n%s", line, rights)
		}
	}
	return s
}

// get returns what the sidecar answers, or why it does not.
func (s sidecar) get(path string) string {
	resp, err := http.Get(s.url + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// status is what the test reads of /status.
type status struct {
	State       string
	Connections struct {
		Active int
		Source string
	}
}

// until waits for a status.
func (s sidecar) until(t *testing.T, what string, holds func(status) bool) {
	t.Helper()
	again, enough := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for {
		text := s.get("/status")
		var got status
		if json.Unmarshal([]byte(text), &got) == nil && holds(got) {
			return
		}
		select {
		case <-again.C:
		case <-enough:
			t.Fatalf("not within a minute: %s:\n%s", what, text)
		}
	}
}
