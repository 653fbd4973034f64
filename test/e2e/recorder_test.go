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

// recorder follows a namespace: Pods, events and EndpointSlices. The Pods of the tests have a finalizer, so that one that
// has ended is still there with its final status and its logs; the recorder keeps both and takes the finalizer off.
type recorder struct {
	cluster *kube.Cluster
	ns      string

	mu      sync.Mutex
	lines   []line
	told    map[string]bool
	ended   map[string]*ending // by UID
	slices  []reading
	changed chan struct{} // closed and made anew when anything is recorded
}

// line is one of the timeline. Its time is that of the observer, or the log's own.
type line struct {
	at           time.Time
	source, text string
}

// ending is a Pod that has ended.
type ending struct {
	pod  kube.Pod
	logs map[string]string // by container
}

// reading is an endpoint as an EndpointSlice told it.
type reading struct {
	at       time.Time
	pod      string
	endpoint kube.Endpoint
}

// record follows the namespace until the test ends.
func record(t *testing.T, c *kube.Cluster, ns string) *recorder {
	r := &recorder{cluster: c, ns: ns, told: map[string]bool{}, ended: map[string]*ending{}, changed: make(chan struct{})}
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
	t.Cleanup(func() { cancel(); wg.Wait() })
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
	if !p.Ended() || !slices.Contains(p.Metadata.Finalizers, finalizer) {
		return nil
	}
	e := r.keep(ctx, p)
	r.mu.Lock()
	if r.ended[p.Metadata.UID] == nil {
		r.ended[p.Metadata.UID] = e
	}
	r.mu.Unlock()
	err = r.cluster.Patch(ctx, "/api/v1/namespaces/"+r.ns+"/pods/"+name, `{"metadata":{"finalizers":null}}`)
	return ignoreMissing(err)
}

// keep reads the logs of every container.
func (r *recorder) keep(ctx context.Context, p kube.Pod) *ending {
	e := &ending{pod: p, logs: map[string]string{}}
	for _, c := range p.Containers() {
		e.logs[c.Name] = r.log(ctx, p.Metadata.Name, c)
	}
	return e
}

// log is what a container said, before its last restart too.
func (r *recorder) log(ctx context.Context, pod string, c kube.Container) string {
	all := ""
	for _, previous := range []string{"true", "false"} {
		if previous == "true" && c.RestartCount == 0 {
			continue
		}
		path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/log?container=%s&previous=%s", r.ns, pod, c.Name, previous)
		text, err := r.cluster.Call(ctx, http.MethodGet, path, "", nil)
		if err != nil && ctx.Err() == nil {
			r.once("log", fmt.Sprintf("%s %s: %v", pod, c.Name, err))
		}
		all += string(text)
	}
	return all
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
	if err == nil && !slices.Contains([]string{"Pulled", "Created", "Scheduled"}, e.Reason) {
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
		r.slices = append(r.slices, reading{time.Now(), e.TargetRef.Name, e})
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

// await waits until a Pod of that UID has ended and returns it.
func (r *recorder) await(t *testing.T, uid string) *ending {
	t.Helper()
	limit := time.After(patience)
	for {
		r.mu.Lock()
		e, changed := r.ended[uid], r.changed
		r.mu.Unlock()
		if e != nil {
			return e
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
	endings := []*ending{}
	for _, e := range g.rec.ended {
		endings = append(endings, e)
	}
	g.rec.mu.Unlock()
	var alive struct{ Items []kube.Pod }
	if err := g.Get(ctx, "/api/v1/namespaces/"+g.ns+"/pods", &alive); err != nil {
		lines = append(lines, line{time.Now(), "recorder", err.Error()})
	}
	for _, p := range alive.Items {
		if !slices.ContainsFunc(endings, func(e *ending) bool { return e.pod.Metadata.UID == p.Metadata.UID }) {
			endings = append(endings, g.rec.keep(ctx, p))
		}
	}
	for _, e := range endings {
		for name, text := range e.logs {
			lines = append(lines, logLines(e.pod.Metadata.Name+" "+name, text)...)
		}
	}
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

// logLines makes lines of a log in JSON. A line that is not has the time of the one before.
func logLines(source, text string) []line {
	var lines []line
	at := time.Time{}
	for l := range strings.Lines(text) {
		var head struct{ Time time.Time }
		if json.Unmarshal([]byte(l), &head) == nil && !head.Time.IsZero() {
			at = head.Time
		}
		lines = append(lines, line{at, source, strings.TrimSpace(l)})
	}
	return lines
}

// when is the time of the n-th line, from 0, of a container's log that has text; the test ends if there is none.
func (e *ending) when(t *testing.T, container, text string, n int) time.Time {
	t.Helper()
	for _, l := range logLines(container, e.logs[container]) {
		if strings.Contains(l.text, text) {
			if n == 0 {
				return l.at
			}
			n--
		}
	}
	t.Fatalf("%s never said %q", container, text)
	return time.Time{}
}

// says is how many lines of the container's log have text.
func (e *ending) says(container, text string) int {
	return strings.Count(e.logs[container], text)
}
