package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"

	"prestop/test/servers"
)

// site is what a rollout needs around it: the registries, the programs that call, the cluster.
type site struct {
	cluster    *cluster
	conditions conditions
	dir        string // for logs
	node       string // this machine, as Pods reach it

	java    []string // runs orders.jar
	prestop string
	eureka  *servers.Eureka
	nacos   *servers.Nacos
	callers []*calling
	byName  map[string]string // a calling program's address by its registry
}

// conditions are what the load meets.
type conditions struct {
	// Server is Eureka's read cache, Fetch how often its clients ask it, Balancer Spring Cloud LoadBalancer's cache.
	Server, Fetch, Balancer time.Duration
	// Idle is how long the caller with kept connections keeps one that it does not use.
	Idle time.Duration
	// Requests is how many the app answers on a connection.
	Requests int
	// Linger is prestop's flag; 0 leaves it out.
	Linger time.Duration
}

var (
	// defaults are Spring's and Tomcat's. A client has to give its idle connections up before the server does (60 s for
	// Tomcat), or it meets the server's close now and then, rollout or not.
	defaults = conditions{Server: 30 * time.Second, Fetch: 30 * time.Second, Balancer: 35 * time.Second, Idle: 30 * time.Second, Requests: 100}
	// quick ones are for a test, which may not fail once in many runs: a connection that is idle for prestop after 5 s has been
	// given up by its client then, and none lives until the deadline, when requests are lost on it.
	quick = conditions{Server: 5 * time.Second, Fetch: 5 * time.Second, Balancer: 5 * time.Second, Idle: 4 * time.Second, Requests: 20, Linger: 16 * time.Second}
)

//go:embed manifest.yaml
var manifestText string

var manifest = template.Must(template.New("manifest").Parse(manifestText))

// prepare builds all that runs. It is the part that needs the network.
func (s *site) prepare(ctx context.Context) (err error) {
	if s.java, err = servers.BuildSpring(ctx, "servers/rollout/orders"); err != nil {
		return err
	}
	s.java = slices.Clone(s.java)
	s.java[slices.Index(s.java, "-Xmx64m")] = "-Xmx160m" // three clients of registries and a gRPC server
	flag := fmt.Sprintf("--eureka.server.response-cache-update-interval-ms=%d", s.conditions.Server.Milliseconds())
	all, err := servers.NewEureka(ctx, 1, servers.EurekaOptions{Flags: []string{flag, "--eureka.server.enable-self-preservation=true",
		"--eureka.server.eviction-interval-timer-in-ms=60000"}})
	if err != nil {
		return err
	}
	s.eureka = all[0]
	home, err := os.MkdirTemp(s.dir, "nacos-")
	if err != nil {
		return err
	}
	if s.nacos, err = servers.NewNacos(ctx, home, "2.3.2"); err != nil {
		return err
	}
	cache, err := servers.CacheDir()
	if err != nil {
		return err
	}
	s.prestop = filepath.Join(cache, "rollout", "prestop")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w", "-o", s.prestop, ".")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build prestop: %w\n%s", err, out)
	}
	return nil
}

// registries starts them.
func (s *site) registries(ctx context.Context) (err error) {
	if s.node, err = nodeAddress(); err != nil {
		return err
	}
	return together(func() error { return s.eureka.Again(ctx) }, func() error { return s.nacos.First(ctx) })
}

// call starts the programs that call.
func (s *site) call(ctx context.Context) error {
	s.byName = map[string]string{}
	var starts []func() error
	for registry, other := range map[string]string{"eureka": "--spring.cloud.nacos.discovery.enabled=false", "nacos": "--eureka.client.enabled=false"} {
		port, err := servers.FreePort()
		if err != nil {
			return err
		}
		url := fmt.Sprintf("http://127.0.0.1:%d", port)
		args := append(slices.Clone(s.java), fmt.Sprintf("--server.port=%d", port), "--spring.profiles.active=caller", "--spring.application.name=caller", other,
			"--spring.grpc.server.enabled=false", "--eureka.client.register-with-eureka=false", "--spring.cloud.nacos.discovery.register-enabled=false",
			"--server.tomcat.threads.max=1000") // a caller who waits for a dead Pod must not hold up the others
		p := &calling{spec: servers.Spec{Name: "caller-" + registry, Dir: s.dir, Args: append(args, s.clientFlags("127.0.0.1")...), Ready: url + "/seen"}}
		s.callers = append(s.callers, p)
		s.byName[registry] = url
		starts = append(starts, func() (err error) {
			p.Process, err = servers.Start(ctx, p.spec)
			return err
		})
	}
	return together(starts...)
}

// calling is a program that calls, once it has started.
type calling struct {
	*servers.Process
	spec servers.Spec
}

// together calls all at the same time and joins their errors.
func together(all ...func() error) error {
	errs := make([]error, len(all))
	var running sync.WaitGroup
	for i, f := range all {
		running.Go(func() { errs[i] = f() })
	}
	running.Wait()
	return errors.Join(errs...)
}

// clientFlags configure a registry's client, on a host that reaches the registries at node.
func (s *site) clientFlags(node string) []string {
	return []string{"--eureka.client.service-url.defaultZone=" + at(s.eureka.URL, node),
		"--spring.cloud.nacos.discovery.server-addr=" + strings.TrimSuffix(strings.TrimPrefix(at(s.nacos.URL, node), "http://"), "/nacos"),
		fmt.Sprintf("--eureka.client.registry-fetch-interval-seconds=%.0f", s.conditions.Fetch.Seconds()),
		fmt.Sprintf("--spring.cloud.loadbalancer.cache.ttl=%.0fs", s.conditions.Balancer.Seconds())}
}

func at(url, node string) string { return strings.Replace(url, "127.0.0.1", node, 1) }

// close ends what was started.
func (s *site) close() error {
	var ends []func() error
	end := func(p *servers.Process) {
		if p != nil {
			ends = append(ends, p.Kill) // nobody is left to be told
		}
	}
	for _, c := range s.callers {
		end(c.Process)
	}
	end(s.eureka.Process)
	end(s.nacos.Process)
	return together(ends...)
}

// mount shows a folder of this machine in a Pod.
type mount struct{ Host, At string }

// deploy makes the Deployment be of the mode. A new revision is a rolling update if there was one.
func (s *site) deploy(ctx context.Context, m mode, revision string) error {
	java, err := servers.Java()
	if err != nil {
		return err
	}
	if java, err = filepath.EvalSymlinks(java); err != nil {
		return err
	}
	cache, err := servers.CacheDir()
	if err != nil {
		return err
	}
	mounts := []mount{{"/usr", "/usr"}, {"/usr/lib", "/lib"}, {"/usr/lib64", "/lib64"}, {cache, cache}}
	settings, err := filepath.Glob("/etc/java-*-openjdk")
	if err != nil {
		return err
	}
	for _, dir := range settings {
		mounts = append(mounts, mount{dir, dir})
	}
	args := slices.Concat([]string{java, "-Duser.home=/tmp"}, s.java, []string{"--eureka.instance.instance-id=$(POD_NAME)", fmt.Sprintf("--server.tomcat.max-keep-alive-requests=%d", s.conditions.Requests)}, s.clientFlags(s.node))
	data := map[string]any{"Mode": m, "Revision": revision, "Grace": 127, "Image": "docker.io/local/kt:1", "Prestop": s.prestop, "PrestopDir": filepath.Dir(s.prestop),
		"Eureka": at(s.eureka.URL, s.node), "Nacos": at(s.nacos.URL, s.node), "Java": args, "Mounts": mounts, "Flags": []string(nil)}
	if s.conditions.Linger > 0 {
		data["Flags"] = []string{"--linger=" + s.conditions.Linger.String()}
	}
	var text bytes.Buffer
	if err := manifest.Execute(&text, data); err != nil {
		return err
	}
	_, err = s.cluster.kubectl(ctx, text.String(), "apply", "-f", "-")
	return err
}

// ready waits until the Pods of the revision are.
func (s *site) ready(ctx context.Context, revision string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("3 minutes have passed"))
	defer cancel()
	return s.cluster.until(ctx, "the Pods are ready", func(all []pod) bool {
		ready := 0
		for _, p := range all {
			if p.Revision == revision && !p.Ready.IsZero() {
				ready++
			}
		}
		return ready == replicas
	})
}

// known waits until every caller knows the Pods of the revision and no others.
func (s *site) known(ctx context.Context, revision string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("3 minutes have passed"))
	defer cancel()
	all, _ := s.cluster.seen()
	var want []string
	for _, p := range all {
		if p.Revision == revision {
			want = append(want, p.IP+":8080")
		}
	}
	slices.Sort(want)
	for registry, at := range s.byName {
		for {
			var got []string
			err := getJSON(ctx, at+"/seen", &got)
			if err == nil && slices.Equal(got, want) {
				break
			}
			if wait(ctx, 500*time.Millisecond) != nil {
				return fmt.Errorf("wait until %s's callers know %v: %w; they know %v (%v)", registry, want, context.Cause(ctx), got, err)
			}
		}
	}
	return nil
}

func getJSON(ctx context.Context, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// nodeAddress is the address of this machine that is no Pod network's: the one that a route to elsewhere would use.
func nodeAddress() (string, error) {
	c, err := net.Dial("udp", "192.0.2.1:9") // sends nothing
	if err != nil {
		return "", fmt.Errorf("find the node's address: %w", err)
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
}
