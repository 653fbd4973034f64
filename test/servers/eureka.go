package servers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// EurekaOptions are how a real Eureka differs from one that is made for tests: its read-only cache made anew every second,
// expired leases evicted every second, no self-preservation.
type EurekaOptions struct {
	// Project is the folder beside this file; "" is server.
	Project string
	// User and Password are what the server asks for, as project server-sec does.
	User, Password string
	// Links puts a Link between two peers.
	Links bool
	// Heap is the JVM's, e.g. 512m; "" is 64m.
	Heap string
	// Spring says that the tests' apps are Spring's, which the table of traps tells apart.
	Spring bool
	// Path is the context path, e.g. /registry.
	Path string
	// Flags are more of Spring's, e.g. --eureka.server.disable-delta=true; they win.
	Flags []string
}

// eurekaVersions are those of the servers by project: in Spring Cloud 2025.1.2, and in 2021.0.9, the last before its change to
// another REST library.
var eurekaVersions = map[string]string{"server": "2.0.6", "server-sec": "2.0.6", "server1": "1.10.18"}

// Eureka is a real Eureka server of Spring Cloud.
type Eureka struct {
	// URL is its service URL, as an app would have it.
	URL string
	// Link is what it tells its peers through; nil without EurekaOptions.Links.
	Link *Link
	// Process is the running server.
	*Process

	spec Spec
}

// RunEureka starts n servers, each a peer of the others, and ends them with the test.
func RunEureka(t testing.TB, n int, o EurekaOptions) []*Eureka {
	t.Helper()
	if o.Project == "" {
		o.Project = "server"
	}
	t.Attr("server", "Eureka "+eurekaVersions[o.Project]+map[bool]string{true: ", two peers"}[n > 1]+map[bool]string{true: ", Spring apps"}[o.Spring])
	all, err := NewEureka(t.Context(), n, o)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, n)
	for _, e := range all {
		e.spec.Dir = t.TempDir()
		go func() { started <- e.Again(t.Context()) }()
		t.Cleanup(func() {
			if e.Link != nil {
				defer e.Link.Close()
			}
			if e.Process == nil {
				return
			}
			if t.Failed() {
				t.Logf("the end of %s's output:\n%s", e.Name, e.Tail())
			}
			if err := e.Stop(); err != nil {
				t.Errorf("stop %s: %v", e.Name, err)
			}
		})
	}
	for range n {
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// NewEureka prepares n servers, each a peer of the others. Again starts one.
func NewEureka(ctx context.Context, n int, o EurekaOptions) ([]*Eureka, error) {
	if o.Project == "" {
		o.Project = "server"
	}
	java, err := buildEureka(ctx, o.Project)
	if err != nil {
		return nil, err
	}
	if o.Heap != "" {
		java = slices.Clone(java)
		java[slices.Index(java, "-Xmx64m")] = "-Xmx" + o.Heap
	}
	var all []*Eureka
	var urls, hosts []string
	if o.User != "" {
		o.Flags = append([]string{"--spring.security.user.name=" + o.User, "--spring.security.user.password=" + o.Password}, o.Flags...)
	}
	for range n {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, fmt.Sprint(port))
		urls = append(urls, fmt.Sprintf("http://localhost:%d%s/eureka/", port, o.Path))
	}
	for i, port := range hosts {
		e := &Eureka{URL: "http://127.0.0.1:" + port + o.Path + "/eureka/"}
		peers := slices.Clone(urls)
		if o.Links {
			other := (i + 1) % n // there are two
			if e.Link, peers[other], err = newLink(urls[other]); err != nil {
				return nil, err
			}
		}
		args := append(slices.Clone(java), "--server.port="+port,
			"--eureka.instance.hostname=localhost", "--eureka.instance.instance-id=eureka:"+port,
			// Without its own URL among its peers a server takes localhost:8761 for one. It tells its own from the others by
			// the host name alone (spring-cloud-netflix#2401) unless it is told which it is.
			"--eureka.client.service-url.defaultZone="+strings.Join(peers, ","), "--eureka.server.my-url="+urls[i],
			"--eureka.server.registry-sync-retries=1", "--eureka.server.registry-sync-retry-wait-ms=500",
			"--eureka.server.peer-node-read-timeout-ms=2000", "--eureka.server.peer-node-connect-timeout-ms=2000",
			"--eureka.server.response-cache-update-interval-ms=1000", "--eureka.server.eviction-interval-timer-in-ms=1000",
			"--eureka.server.enable-self-preservation=false", "--eureka.server.wait-time-in-ms-when-sync-empty=0")
		if n > 1 {
			args = append(args, "--eureka.client.fetch-registry=true")
		}
		if o.Path != "" {
			args = append(args, "--server.servlet.context-path="+o.Path)
		}
		e.spec = Spec{Name: "eureka-" + port, Args: withFlags(args, o.Flags), Ready: e.URL + "apps", User: o.User, Password: o.Password}
		all = append(all, e)
	}
	return all, nil
}

// withFlags adds flags in the place of those of the same names: Spring would join the values of one that is given twice.
func withFlags(args, flags []string) []string {
	for _, f := range flags {
		name, _, _ := strings.Cut(f, "=")
		args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, name+"=") })
	}
	return append(args, flags...)
}

// buildEureka returns java's arguments that run the project.
func buildEureka(ctx context.Context, project string) ([]string, error) {
	if project != "server1" {
		return BuildSpring(ctx, "servers/eureka/"+project)
	}
	built, err := Build(ctx, "servers/eureka/"+project) // Spring Boot 2 does not extract its jar
	return append(slices.Clone(smallJVM), "-jar", built+"/target/eureka-server.jar"), err
}

// Again starts a server that has ended again at the same address. It has forgotten everything but what its peers tell it.
func (e *Eureka) Again(ctx context.Context) error {
	p, err := Start(ctx, e.spec)
	if err == nil {
		e.Process = p
	}
	return err
}

// RunEurekaApp starts a Spring app that registers as service at the servers and ends it with the test. It heartbeats every
// second, its lease lasts three, and it registers as 127.0.0.1 on its port.
func RunEurekaApp(t testing.TB, service, id string, port int, urls []string, flags ...string) *Process {
	t.Helper()
	java, err := BuildSpring(t.Context(), "servers/eureka/app")
	if err != nil {
		t.Fatal(err)
	}
	args := append(slices.Clone(java), fmt.Sprintf("--server.port=%d", port), "--spring.application.name="+service,
		"--eureka.client.service-url.defaultZone="+strings.Join(urls, ","), "--server.shutdown=graceful", "--eureka.instance.instance-id="+id,
		"--eureka.instance.prefer-ip-address=true", "--eureka.instance.ip-address=127.0.0.1",
		"--eureka.instance.lease-renewal-interval-in-seconds=1", "--eureka.instance.lease-expiration-duration-in-seconds=90",
		"--eureka.client.initial-instance-info-replication-interval-seconds=1", "--eureka.client.instance-info-replication-interval-seconds=1",
		"--eureka.client.registry-fetch-interval-seconds=1", "--spring.cloud.loadbalancer.cache.ttl=1s")
	return Run(t, Spec{Name: service, Args: append(args, flags...), Ready: fmt.Sprintf("http://127.0.0.1:%d/", port)})
}

// RunEurekaConsumer starts a Spring Cloud LoadBalancer caller with caches of one second, ends it with the test, and returns
// its address: /call?s=SERVICE calls a service, /seen?s=SERVICE lists what its client knows.
func RunEurekaConsumer(t testing.TB, port int, urls []string) string {
	t.Helper()
	java, err := BuildSpring(t.Context(), "servers/eureka/consumer")
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("http://127.0.0.1:%d", port)
	Run(t, Spec{Name: "consumer", Ready: at + "/seen?s=none", Args: append(slices.Clone(java), fmt.Sprintf("--server.port=%d", port),
		"--eureka.client.service-url.defaultZone="+strings.Join(urls, ","), "--eureka.client.register-with-eureka=false",
		"--eureka.client.registry-fetch-interval-seconds=1", "--spring.cloud.loadbalancer.cache.ttl=1s")})
	return at
}
