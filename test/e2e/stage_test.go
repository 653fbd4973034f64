package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestop/test/kube"
)

// patience is how long anything may take that should happen at once or after a known time: it bounds a test that fails,
// and says nothing of how long it takes when all is well. On a machine that is busy with something else, Pods get little of it.
const patience = 3 * time.Minute

// run names this run's namespaces, so that those of another one are left alone.
var run = strings.ToLower(rand.Text()[:5])

// setting is the cluster with a world in it.
type setting struct {
	*kube.Cluster
	worldNamespace, worldIP string
}

// namespaces is how many this run has made.
var namespaces atomic.Int32

// set starts a world, which ends with the test.
func set(t *testing.T) *setting {
	t.Helper()
	s := &setting{Cluster: kube.Connect(t)}
	ns := s.namespace(t, "restricted")
	pod := kube.Object{
		"apiVersion": "v1", "kind": "Pod", "metadata": kube.Object{"name": "world", "namespace": ns},
		"spec": kube.Object{
			"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "securityContext": podSecurity(),
			"containers": []kube.Object{{
				"name": "world", "image": s.Fixture, "imagePullPolicy": "IfNotPresent", "args": []string{"world"}, "securityContext": security(),
				"resources":      kube.Object{"requests": kube.Object{"cpu": "300m", "memory": "64Mi"}},
				"readinessProbe": probe("/", 8080),
			}},
		},
	}
	create(t, s.Cluster, "/api/v1/namespaces/"+ns+"/pods", pod)
	await(t, "the world is ready", func() error {
		var p kube.Pod
		err := s.Get(t.Context(), "/api/v1/namespaces/"+ns+"/pods/world", &p)
		if err == nil && !p.Is("Ready") {
			err = errors.New(summary(p))
		}
		s.worldIP = p.Status.PodIP
		return err
	})
	s.worldNamespace = ns
	return s
}

// namespace makes one that ends with the test. security is what Pod Security enforces in it.
func (s *setting) namespace(t *testing.T, security string) string {
	t.Helper()
	name := fmt.Sprintf("prestop-e2e-%s-%d", run, namespaces.Add(1))
	create(t, s.Cluster, "/api/v1/namespaces", kube.Object{"metadata": kube.Object{"name": name, "labels": kube.Object{
		"app.kubernetes.io/part-of": "prestop-e2e", "pod-security.kubernetes.io/enforce": security,
	}}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		pods := "/api/v1/namespaces/" + name + "/pods"
		_, err := s.Call(ctx, http.MethodDelete, "/api/v1/namespaces/"+name, "", nil)
		_, err2 := s.Call(ctx, http.MethodDelete, pods+"?gracePeriodSeconds=1", "", nil)
		var left struct{ Items []kube.Pod }
		err3 := s.Get(ctx, pods, &left)
		for _, p := range left.Items {
			err3 = errors.Join(err3, ignoreMissing(s.Patch(ctx, pods+"/"+p.Metadata.Name, `{"metadata":{"finalizers":null}}`)))
		}
		if err := errors.Join(err, err2, err3); err != nil {
			t.Errorf("remove the namespace %s: %v", name, err)
		}
	})
	await(t, "the namespace has a service account", func() error {
		return s.Get(t.Context(), "/api/v1/namespaces/"+name+"/serviceaccounts/default", &struct{}{})
	})
	return name
}

func ignoreMissing(err error) error {
	var e *kube.Error
	if errors.As(err, &e) && e.Code == http.StatusNotFound {
		return nil
	}
	return err
}

func create(t *testing.T, c *kube.Cluster, collection string, object kube.Object) {
	t.Helper()
	if err := c.Post(t.Context(), collection, object); err != nil {
		t.Fatalf("create in %s: %v", collection, err)
	}
}

// await tries until it is so.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Fatalf("after %s it is still not so that %s: %v", patience, what, err)
		case <-t.Context().Done():
			t.Fatalf("ended before it was so that %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// stage is where one case plays: a namespace, a place in the world, and a recorder of what happens.
type stage struct {
	*testing.T
	*setting
	ns    string
	world string // as Pods reach it
	rec   *recorder
	ports ports
	// registries are those that the Pods are registered in.
	registries []string
}

// ports are those that the Pods of a stage listen on.
type ports struct{ app, control, sidecar int }

// stage makes one. What happened on it is printed if the test fails.
func (s *setting) stage(t *testing.T, security string) *stage {
	t.Helper()
	g := &stage{T: t, setting: s, ports: ports{app: 8080, control: 9090, sidecar: 8090}, registries: []string{"eureka", "nacos"}}
	g.ns = s.namespace(t, security)
	g.world = "http://" + hostPort(s.worldIP, 8080) + "/worlds/" + g.ns
	g.rec = record(t, s.Cluster, g.ns)
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("E2E_TIMELINE") != "" {
			t.Log(g.timeline())
		}
	})
	return g
}

func hostPort(ip string, port int) string {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return fmt.Sprintf("%s:%d", ip, port)
}

// create makes a namespaced object; collection is like "v1/pods" or "apps/v1/deployments".
func (g *stage) create(collection string, object kube.Object) {
	g.Helper()
	create(g.T, g.Cluster, g.path(collection), object)
}

// path is the address of a collection, or of what is in it.
func (g *stage) path(collection string) string {
	i := strings.LastIndex(strings.SplitN(collection, "?", 2)[0], "v1/") + len("v1/")
	api := "/apis/"
	if strings.HasPrefix(collection, "v1/") {
		api = "/api/"
	}
	return api + collection[:i] + "namespaces/" + g.ns + "/" + collection[i:]
}

// ready waits until the Pod is and returns it.
func (g *stage) ready(name string) kube.Pod {
	g.Helper()
	return g.until(name, "is ready", func(p *kube.Pod) bool { return p.Is("Ready") })
}

// until waits until it is so of the Pod.
func (g *stage) until(name, what string, is func(*kube.Pod) bool) kube.Pod {
	g.Helper()
	var p kube.Pod
	await(g.T, name+" "+what, func() error {
		p = kube.Pod{}
		if err := g.Get(g.Context(), g.path("v1/pods/"+name), &p); err != nil {
			return err
		}
		if !is(&p) {
			return errors.New(summary(p))
		}
		return nil
	})
	return p
}

// delete deletes the Pod; options are of the API, like "gracePeriodSeconds=5".
func (g *stage) delete(name string, options ...string) {
	g.Helper()
	g.rec.note("", "test: delete "+name+" "+strings.Join(options, " "))
	if _, err := g.Call(g.Context(), http.MethodDelete, g.path("v1/pods/"+name)+"?"+strings.Join(options, "&"), "", nil); err != nil {
		g.Fatalf("delete %s: %v", name, err)
	}
}

// ask calls a Pod through the API server; the code is 0 if it was not reached.
func (g *stage) ask(pod string, port int, path string) (int, string) {
	body, err := g.Call(g.Context(), http.MethodGet, fmt.Sprintf("%s:%d/proxy%s", g.path("v1/pods/"+pod), port, path), "", nil)
	var e *kube.Error
	if errors.As(err, &e) {
		return e.Code, e.Text
	}
	if err != nil {
		return 0, err.Error()
	}
	return http.StatusOK, string(body)
}

// order tells the app of a Pod to do something.
func (g *stage) order(pod, what string) {
	g.Helper()
	g.rec.note("", "test: tell "+pod+" "+what)
	if code, text := g.ask(pod, g.ports.control, what); code != http.StatusOK {
		g.Fatalf("tell %s %s: %d %s", pod, what, code, text)
	}
}

// status is what /status tells of a sidecar.
type status struct {
	State      string
	Registries []struct {
		Kind      string
		Instances []struct{ ID, Status string }
	}
}

// status is what the Pod's sidecar says.
func (g *stage) status(pod string) (status, error) {
	var s status
	code, text := g.ask(pod, g.ports.sidecar, "/status")
	if code != http.StatusOK {
		return s, fmt.Errorf("%d: %s", code, text)
	}
	return s, json.Unmarshal([]byte(text), &s)
}

// awaitStatus waits until it is so of what the sidecar says.
func (g *stage) awaitStatus(pod, what string, is func(status) bool) {
	g.Helper()
	await(g.T, "the sidecar of "+pod+" "+what, func() error {
		s, err := g.status(pod)
		if err == nil && !is(s) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
}

// waitsFor waits until nothing but n connections keeps the drain from its end.
func (g *stage) waitsFor(pod string, n int) {
	g.Helper()
	want := fmt.Sprintf("draining: %d connections in use", n)
	await(g.T, "the sidecar of "+pod+" says "+want, func() error {
		if code, text := g.ask(pod, g.ports.sidecar, "/ok"); !strings.Contains(text, want) {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// said waits until the container has said text for the n-th time, from 1, and returns when that was.
func (g *stage) said(p kube.Pod, container, text string, n int) time.Time {
	g.Helper()
	var lines []line
	await(g.T, fmt.Sprintf("%s has said %s (%d)", container, text, n), func() error {
		if lines = g.rec.logs.with(p.Metadata.UID, container, text); len(lines) < n {
			return fmt.Errorf("%d times", len(lines))
		}
		return nil
	})
	return lines[n-1].at
}

// tellWorld calls the case's place in the world.
func (g *stage) tellWorld(path string) []byte {
	g.Helper()
	body, err := g.Call(g.Context(), http.MethodGet, fmt.Sprintf("/api/v1/namespaces/%s/pods/world:8080/proxy/worlds/%s/%s", g.worldNamespace, g.ns, path), "", nil)
	if err != nil {
		g.Fatalf("%s: %v", path, err)
	}
	return body
}

// call has a caller in the world request path of the address; its end is journaled under id.
func (g *stage) call(id, address, path string) {
	g.Helper()
	g.tellWorld("call?id=" + id + "&url=" + url.QueryEscape("http://"+address+path))
	g.journaled("call " + id + ": sent")
}

// hold has a caller make a request that the app does not answer until it is told to release it, and waits until the app
// has it.
func (g *stage) hold(pod kube.Pod, id string) {
	g.Helper()
	g.call(id, hostPort(pod.Status.PodIP, g.ports.app), "/hold?id="+id)
	g.holds(pod.Metadata.Name, id)
}

// holds waits until the app of a Pod has the request.
func (g *stage) holds(pod, id string) {
	g.Helper()
	await(g.T, "the app has the request "+id, func() error {
		if code, text := g.ask(pod, g.ports.control, "/holds?id="+id); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// entry is one of the world's journal.
type entry struct {
	Time time.Time
	Text string
}

func (g *stage) journal() []entry {
	g.Helper()
	var all []entry
	if err := json.Unmarshal(g.tellWorld("journal"), &all); err != nil {
		g.Fatal(err)
	}
	return all
}

// find returns the first entry that contains text; one of zeros if there is none.
func (g *stage) find(text string) entry {
	g.Helper()
	all := g.journal()
	if i := slices.IndexFunc(all, func(e entry) bool { return strings.Contains(e.Text, text) }); i >= 0 {
		return all[i]
	}
	return entry{}
}

// journaled waits for an entry that contains text.
func (g *stage) journaled(text string) entry {
	g.Helper()
	var e entry
	await(g.T, "the journal has "+text, func() error {
		if e = g.find(text); e.Text == "" {
			return errors.New("not yet")
		}
		return nil
	})
	return e
}

// seen is where the registries send callers of the service now, and what Eureka holds.
type seen struct{ Eureka, Nacos, Held []string }

func (g *stage) seen() seen {
	g.Helper()
	var s seen
	if err := json.Unmarshal(g.tellWorld("seen?service="+service), &s); err != nil {
		g.Fatal(err)
	}
	return s
}

// callersGo waits until callers of every registry are sent to exactly these Pods' addresses.
func (g *stage) callersGo(pods ...kube.Pod) {
	g.Helper()
	want := []string{}
	for _, p := range pods {
		want = append(want, hostPort(p.Status.PodIP, g.ports.app))
	}
	slices.Sort(want)
	await(g.T, fmt.Sprintf("callers are sent to %v", want), func() error {
		s := g.seen()
		for _, name := range g.registries {
			callers := map[string][]string{"eureka": s.Eureka, "nacos": s.Nacos}[name]
			slices.Sort(callers)
			if !slices.Equal(callers, want) {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
}
