package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"prestop/test/kube"
)

// recorder follows a namespace: Pods, their logs, events and EndpointSlices. The Pods of the tests have a finalizer, so that
// one that has ended is still there with its final status; the recorder keeps that and takes the finalizer off.
type recorder struct {
	cluster *kube.Cluster
	ns      string
	logs    *logs

	mu      sync.Mutex
	lines   []line
	told    map[string]bool
	ended   map[string]kube.Pod // by UID
	exits   map[string]bool     // container and code
	slices  []reading
	changed chan struct{} // closed and made anew when anything is recorded
}

// line is one of the timeline. Its time is that of the observer, or the log's own.
type line struct {
	at           time.Time
	source, text string
}

// reading is an endpoint as an EndpointSlice told it.
type reading struct {
	pod      string
	endpoint kube.Endpoint
}

// record follows the namespace until the test ends.
func record(t *testing.T, c *kube.Cluster, ns string) *recorder {
	r := &recorder{cluster: c, ns: ns, told: map[string]bool{}, exits: map[string]bool{}, ended: map[string]kube.Pod{}, changed: make(chan struct{})}
	r.logs = &logs{cluster: c, ns: ns, followed: map[string]bool{}, running: map[string]bool{}, lines: map[string][]line{}, last: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	follow := func(path string, heard func(context.Context, string, json.RawMessage) error) {
		wg.Go(func() {
			c.Watch(ctx, path, func(what string, object json.RawMessage) {
				if err := heard(ctx, what, object); err != nil && ctx.Err() == nil {
					r.note("recorder", err.Error())
				}
			})
		})
	}
	follow("/api/v1/namespaces/"+ns+"/pods", r.heardPod)
	follow("/api/v1/namespaces/"+ns+"/events", r.heardEvent)
	follow("/apis/discovery.k8s.io/v1/namespaces/"+ns+"/endpointslices", r.heardSlice)
	t.Cleanup(func() { cancel(); wg.Wait(); r.logs.wg.Wait() })
	return r
}

// note adds a line, now.
func (r *recorder) note(source, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line{time.Now(), source, text})
	close(r.changed)
	r.changed = make(chan struct{})
}

// once adds a line unless it was added before.
func (r *recorder) once(source, text string) {
	r.mu.Lock()
	known := r.told[source+text]
	r.told[source+text] = true
	r.mu.Unlock()
	if !known {
		r.note(source, text)
	}
}

func (r *recorder) heardPod(ctx context.Context, what string, raw json.RawMessage) error {
	p, err := kube.Decode[kube.Pod](raw)
	if err != nil {
		return err
	}
	name := p.Metadata.Name
	if what == "DELETED" {
		r.note("pod", name+" is gone from the API")
		return nil
	}
	r.once("pod", fmt.Sprintf("%s %.4s %s", name, p.Metadata.UID, summary(p)))
	r.logs.heard(ctx, p)
	r.mu.Lock()
	for _, c := range p.Containers() {
		for _, s := range []kube.ContainerState{c.State, c.LastState} {
			if s.Terminated != nil {
				r.exits[fmt.Sprint(c.Name, s.Terminated.ExitCode)] = true
			}
		}
	}
	r.mu.Unlock()
	if !p.Ended() || !slices.Contains(p.Metadata.Finalizers, finalizer) {
		return nil
	}
	r.mu.Lock()
	r.ended[p.Metadata.UID] = p
	r.mu.Unlock()
	others := slices.DeleteFunc(p.Metadata.Finalizers, func(f string) bool { return f == finalizer })
	rest, err := json.Marshal(kube.Object{"metadata": kube.Object{"finalizers": others, "uid": p.Metadata.UID}})
	if err != nil {
		return err
	}
	return ignoreMissing(r.cluster.Patch(ctx, "/api/v1/namespaces/"+r.ns+"/pods/"+name, string(rest)))
}

// summary is what matters of a Pod's status, in a line.
func summary(p kube.Pod) string {
	s := p.Status.Phase
	if p.Is("Ready") {
		s += " ready"
	}
	if p.Metadata.DeletionTimestamp != nil {
		s += fmt.Sprintf(" deleted(%ds)", *p.Metadata.DeletionGracePeriodSeconds)
	}
	for _, c := range p.Containers() {
		s += " " + c.Name + ":"
		switch {
		case c.State.Waiting != nil:
			s += c.State.Waiting.Reason
		case c.State.Running != nil:
			s += "running"
		case c.State.Terminated != nil:
			s += fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		}
		if c.RestartCount > 0 {
			s += fmt.Sprintf("×%d", c.RestartCount)
		}
	}
	return s
}

func (r *recorder) heardEvent(_ context.Context, _ string, raw json.RawMessage) error {
	e, err := kube.Decode[kube.Event](raw)
	if err == nil && !slices.Contains([]string{"Pulled", "Created", "Scheduled", "MissingClusterDNS"}, e.Reason) {
		r.note("event", fmt.Sprintf("%s %s %s: %s", e.Type, e.InvolvedObject.Name, e.Reason, e.Message))
	}
	return err
}

func (r *recorder) heardSlice(_ context.Context, _ string, raw json.RawMessage) error {
	s, err := kube.Decode[kube.EndpointSlice](raw)
	if err != nil {
		return err
	}
	for _, e := range s.Endpoints {
		r.mu.Lock()
		r.slices = append(r.slices, reading{e.TargetRef.Name, e})
		r.mu.Unlock()
		r.note("slice", fmt.Sprintf("%s %v ready=%t serving=%t terminating=%t", e.TargetRef.Name, e.Addresses, e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating))
	}
	return nil
}

// hadEvent reports whether there was an event of that reason.
func (r *recorder) hadEvent(reason string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.lines, func(l line) bool { return l.source == "event" && strings.Contains(l.text, " "+reason+": ") })
}

// exited reports whether a container has ended with code. The status may forget that when the container runs again.
func (r *recorder) exited(container string, code int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exits[fmt.Sprint(container, code)]
}

// endpoint is the newest reading of a Pod's endpoint; one of zeros if it is in no slice.
func (r *recorder) endpoint(pod string) kube.Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range slices.Backward(r.slices) {
		if s.pod == pod {
			return s.endpoint
		}
	}
	return kube.Endpoint{}
}

// await waits until the Pod has ended and returns it as it was last.
func (r *recorder) await(t *testing.T, uid string) kube.Pod {
	t.Helper()
	limit := time.After(patience)
	for {
		r.mu.Lock()
		p, ended := r.ended[uid]
		changed := r.changed
		r.mu.Unlock()
		if ended {
			return p
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("after %s the Pod has not ended", patience)
		case <-t.Context().Done():
			t.Fatal("ended before the Pod did")
		}
	}
}

// timeline is everything that is known of what happened, in its order.
func (g *stage) timeline() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g.rec.mu.Lock()
	lines := slices.Clone(g.rec.lines)
	g.rec.mu.Unlock()
	lines = append(lines, g.rec.logs.all()...)
	body, err := g.Call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/namespaces/%s/pods/world:8080/proxy/worlds/%s/journal", g.worldNamespace, g.ns), "", nil)
	var told []entry
	if err == nil {
		err = json.Unmarshal(body, &told)
	}
	if err != nil {
		lines = append(lines, line{time.Now(), "recorder", "no journal: " + err.Error()})
	}
	for _, e := range told {
		lines = append(lines, line{e.Time, "world", e.Text})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	var b strings.Builder
	fmt.Fprintf(&b, "what happened in %s:\n", g.ns)
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %-10s %s\n", l.at.UTC().Format("15:04:05.000"), l.source, l.text)
	}
	return b.String()
}
