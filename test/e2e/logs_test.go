package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"prestop/test/kube"
)

// logs are what the containers of a namespace say, as they say it: the kubelet deletes the files of a Pod that is being
// deleted as soon as its containers have ended.
type logs struct {
	cluster *kube.Cluster
	ns      string
	wg      sync.WaitGroup

	mu       sync.Mutex
	followed map[string]bool   // by run of a container
	running  map[string]bool   // so too
	lines    map[string][]line // by container, as the next one
	last     map[string]string // the time of the newest line: two runs of a container may for a moment be followed as one
}

// key names a container of a Pod.
func key(uid, container string) string { return uid + "/" + container }

// heard follows the containers that have begun to run, each run of its own.
func (l *logs) heard(ctx context.Context, p kube.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range p.Containers() {
		id := fmt.Sprintf("%s#%d", key(p.Metadata.UID, c.Name), c.RestartCount)
		l.running[id] = c.State.Running != nil
		for n := range c.RestartCount {
			l.running[fmt.Sprintf("%s#%d", key(p.Metadata.UID, c.Name), n)] = false
		}
		if c.State.Running != nil && !l.followed[id] {
			l.followed[id] = true
			l.wg.Go(func() { l.follow(ctx, p, c.Name, id) })
		}
	}
}

// follow reads one run of a container to its end, also across a restart of the kubelet.
func (l *logs) follow(ctx context.Context, p kube.Pod, container, id string) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/log?container=%s&follow=true&timestamps=true", l.ns, p.Metadata.Name, container)
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := l.cluster.Open(ctx, http.MethodGet, path)
		if err == nil {
			for s := bufio.NewScanner(resp.Body); s.Scan(); {
				if stamp, text, ok := strings.Cut(s.Text(), " "); ok {
					l.add(key(p.Metadata.UID, container), p.Metadata.Name+" "+container, stamp, text)
				}
			}
			resp.Body.Close()
		}
		l.mu.Lock()
		more := l.running[id]
		l.mu.Unlock()
		if !more {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// add takes a line unless it was taken before. Its time is that in its JSON, else the runtime's, which is stamp.
func (l *logs) add(key, source, stamp, text string) {
	var head struct{ Time time.Time }
	if json.Unmarshal([]byte(text), &head) != nil || head.Time.IsZero() {
		head.Time, _ = time.Parse(time.RFC3339Nano, stamp) // the zero time sorts first
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if stamp <= l.last[key] {
		return
	}
	l.last[key] = stamp
	l.lines[key] = append(l.lines[key], line{head.Time, source, text})
}

// with returns the lines of a container that have text.
func (l *logs) with(uid, container, text string) []line {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []line
	for _, s := range l.lines[key(uid, container)] {
		if strings.Contains(s.text, text) {
			found = append(found, s)
		}
	}
	return found
}

// all returns every line.
func (l *logs) all() []line {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []line
	for _, lines := range l.lines {
		all = append(all, lines...)
	}
	return all
}
