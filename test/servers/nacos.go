package servers

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// nacosVersion is how one version of the server is had. The official jars are not on Maven Central; these are unofficial
// republications of the same code, for tests alone and pinned by their checksums.
type nacosVersion struct {
	major   int
	project string
	// goals are Maven's settings for it.
	goals []string
	// offsets are the ports beside its own: gRPC for clients and between servers, Raft.
	offsets []int
}

// nacosVersions are all that start here.
var nacosVersions = map[string]nacosVersion{
	"1.4.1": {1, "server", []string{"-Dnacos.group=com.pig4cloud.nacos", "-Dnacos.version=1.4.1"}, nil},
	"2.0.4": {2, "server", []string{"-Dnacos.version=2.0.4"}, []int{1000, 1001, -1000}},
	"2.2.3": {2, "server", []string{"-Dnacos.version=2.2.3", "-Dboot.version=2.6.8"}, []int{1000, 1001, -1000}},
	"2.3.2": {2, "server", []string{"-Dnacos.version=2.3.2"}, []int{1000, 1001, -1000}},
	"3.1.0": {3, "server3", []string{"-Dnacos.version=3.1.0-bugfix"}, []int{1000, 1001, -1000}},
}

// NacosVersions are the versions that RunNacos knows, in order.
func NacosVersions() []string { return slices.Sorted(maps.Keys(nacosVersions)) }

// nacosJars are the checksums of every jar of the servers that comes from an unofficial group.
//
//go:embed nacos/jars.sha256
var nacosJars string

// unofficial are the groups, as folders of Maven's repository.
var unofficial = []string{"/com/pig4cloud/nacos/", "/org/jeecgframework/nacos/", "/io/github/pig-mesh/nacos/"}

// Nacos is a real, standalone Nacos server with its embedded database.
type Nacos struct {
	// URL is its address with the context path.
	URL string
	// Major is its version's.
	Major int
	// User and Password are the administrator's.
	User, Password string
	// Process is the running server.
	*Process

	spec Spec
	home string
}

// RunNacos starts a server of the version and ends it with the test. Settings are key=value, e.g.
// nacos.core.auth.enabled=true.
func RunNacos(t testing.TB, version string, settings ...string) *Nacos {
	t.Helper()
	t.Attr("server", "Nacos "+version)
	n, err := NewNacos(t.Context(), t.TempDir(), version, settings...)
	if err != nil {
		t.Fatal(err)
	}
	n.endWith(t)
	if err := n.First(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// endWith ends the server with the test.
func (n *Nacos) endWith(t testing.TB) {
	n.spec.Dir = t.TempDir()
	t.Cleanup(func() {
		if n.Process == nil {
			return
		}
		if t.Failed() {
			t.Logf("the end of %s's output:\n%s", n.Name, n.Tail())
		}
		if err := n.Kill(); err != nil {
			t.Errorf("kill %s: %v", n.Name, err)
		}
	})
}

// NewNacos prepares a server of the version with its data in home. First starts it.
func NewNacos(ctx context.Context, home, version string, settings ...string) (*Nacos, error) {
	port, err := FreePort(nacosVersions[version].offsets...)
	if err != nil {
		return nil, err
	}
	return nacosAt(ctx, port, home, version, append(settings, "nacos.standalone=true"))
}

// nacosAt is NewNacos at a port, alone or one of a cluster.
func nacosAt(ctx context.Context, port int, home, version string, settings []string) (*Nacos, error) {
	v, ok := nacosVersions[version]
	if !ok {
		return nil, fmt.Errorf("find Nacos %s: it is none of %v", version, NacosVersions())
	}
	goals := append([]string{"compile", "dependency:build-classpath", "-Dmdep.outputFile=target/classpath"}, v.goals...)
	classpath, err := buildClasspath(ctx, "servers/nacos/"+v.project, goals)
	if err != nil {
		return nil, err
	}
	n := &Nacos{URL: fmt.Sprintf("http://127.0.0.1:%d/nacos", port), Major: v.major, User: "nacos", Password: "nacos", home: home}
	args := []string{"-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
		"-Dnacos.home=" + n.home, "-Duser.home=" + n.home, "-Djava.io.tmpdir=" + n.home,
		fmt.Sprintf("-Dserver.port=%d", port), fmt.Sprintf("-Dnacos.server.main.port=%d", port), "-Dserver.tomcat.basedir=" + n.home}
	for _, s := range settings {
		args = append(args, "-D"+s)
	}
	n.spec = Spec{Name: "nacos-" + version, Args: append(args, "-cp", classpath, "it.Server"), Ready: n.URL + "/v1/ns/operator/metrics"}
	return n, nil
}

// First starts the server with no data, again if it fails in the one way in which it does on a machine that is busy enough:
// its database does not let it in within its time, and it ends.
func (n *Nacos) First(ctx context.Context) error {
	err := n.Again(ctx)
	for tries := 0; err != nil && tries < 2 && strings.Contains(err.Error(), "Login timeout exceeded"); tries++ {
		if err = n.Wipe(); err == nil {
			err = n.Again(ctx)
		}
	}
	return err
}

// starting is held while a server starts: each takes both processors of a small machine, and two at a time fail for it.
var starting sync.Mutex

// Again starts a server that has ended again at the same address, with its data, and returns when it takes changes.
func (n *Nacos) Again(ctx context.Context) error {
	starting.Lock()
	defer starting.Unlock()
	p, err := Start(ctx, n.spec)
	if err != nil {
		return err
	}
	n.Process = p
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return n.led(ctx)
}

// Wipe removes the data of a server that has ended.
func (n *Nacos) Wipe() error {
	entries, err := os.ReadDir(n.home)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.home, e.Name())))
	}
	return err
}

// led waits until the server has an administrator, logs him in and has a leader for changes of instances, each of which
// can take seconds after it says that it is up.
func (n *Nacos) led(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.change(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s takes no changes: %w\n%s", n.Name, err, n.Tail())
		case <-n.Done():
			return fmt.Errorf("%s ended\n%s", n.Name, n.Tail())
		case <-tick.C:
		}
	}
}

// change registers an instance, disables it and removes it.
func (n *Nacos) change(ctx context.Context) error {
	instance := url.Values{"serviceName": {"probe"}, "ip": {"127.0.0.1"}, "port": {"1"}}
	method, path := http.MethodPatch, "v1/ns/instance"
	if n.Major >= 3 {
		method, path = http.MethodPut, "v3/admin/ns/instance/partial"
		// Once; answers an error ever after.
		_, _ = n.Call(ctx, http.MethodPost, "v3/auth/user/admin", url.Values{"password": {n.Password}})
	}
	token, err := n.Token(ctx)
	if err != nil && n.Major >= 3 {
		return err
	}
	instance.Set("accessToken", token) // "" where there is none to be had yet: without auth none is needed
	if _, err := n.Call(ctx, http.MethodPost, "v1/ns/instance", instance); err != nil {
		return err
	}
	patch := maps.Clone(instance)
	patch.Set("enabled", "false")
	patch.Set("weight", "1")
	if _, err := n.Call(ctx, method, path, patch); err != nil {
		return err
	}
	_, err = n.Call(ctx, http.MethodDelete, "v1/ns/instance", instance)
	return err
}

// Token logs the administrator in.
func (n *Nacos) Token(ctx context.Context) (string, error) {
	body, err := n.Call(ctx, http.MethodPost, "v1/auth/users/login", url.Values{"username": {n.User}, "password": {n.Password}})
	if err != nil {
		return "", err
	}
	var answer struct{ AccessToken string }
	return answer.AccessToken, json.Unmarshal([]byte(body), &answer)
}

// Call makes a call and returns the body of a 200.
func (n *Nacos) Call(ctx context.Context, method, path string, q url.Values) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, n.URL+"/"+path+"?"+q.Encode(), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	return string(body), err
}

// buildClasspath builds a project whose goals write target/classpath, checks the jars and returns java's class path.
func buildClasspath(ctx context.Context, dir string, goals []string) (string, error) {
	built, err := Build(ctx, dir, goals...)
	if err != nil {
		return "", err
	}
	list, err := os.ReadFile(filepath.Join(built, "target", "classpath"))
	if err != nil {
		return "", err
	}
	jars := strings.TrimSpace(string(list))
	return filepath.Join(built, "target", "classes") + string(os.PathListSeparator) + jars, checkJars(strings.Split(jars, string(os.PathListSeparator)))
}

// checkJars refuses an unofficial jar that is not the one that was looked at.
func checkJars(jars []string) error {
	pinned := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(nacosJars)); lines.Scan(); {
		if sum, name, ok := strings.Cut(lines.Text(), "  "); ok {
			pinned[name] = sum
		}
	}
	for _, jar := range jars {
		if !slices.ContainsFunc(unofficial, func(g string) bool { return strings.Contains(filepath.ToSlash(jar), g) }) {
			continue
		}
		body, err := os.ReadFile(jar)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		if got, want := hex.EncodeToString(sum[:]), pinned[filepath.Base(jar)]; got != want {
			return fmt.Errorf("%s has the SHA-256 %s, want %q (test/servers/nacos/jars.sha256); remove it if it is not the one that was published", jar, got, want)
		}
	}
	return nil
}

// NacosClients is a JVM in which apps and callers live that use the official Java client, each with its own connection.
type NacosClients struct {
	*Process
	url string
}

// RunNacosClients starts a JVM with the client of the version, e.g. 2.5.1, and ends it with the test.
func RunNacosClients(t testing.TB, version string) *NacosClients {
	t.Helper()
	goals := []string{"compile", "dependency:build-classpath", "-Dmdep.outputFile=target/classpath", "-Dclient.version=" + version}
	classpath, err := buildClasspath(t.Context(), "servers/nacos/client", goals)
	if err != nil {
		t.Fatal(err)
	}
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	at := fmt.Sprintf("http://127.0.0.1:%d/", port)
	p := Run(t, Spec{Name: "nacos-client", Ready: at + "ready", Args: []string{"-Xmx256m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Duser.home=" + home, "-DJM.LOG.PATH=" + home, "-DJM.SNAPSHOT.PATH=" + home, "-Dnacos.logging.default.config.enabled=false",
		"-cp", classpath, "it.Client", fmt.Sprint(port)}})
	return &NacosClients{p, at}
}

// Do runs a command of Client.java and returns its answer.
func (c *NacosClients) Do(command string, q url.Values) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+command+"?"+q.Encode(), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", command, body)
	}
	return string(body), err
}
