package world

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	hookPort = "8090"
	// grace is the Pod's, and reserve the sidecar's: it must answer hooks by the difference.
	grace, reserve = 12 * time.Second, 3 * time.Second
	// leastGrace is what the kubelet gives a container after its hook, whatever is left.
	leastGrace = 2 * time.Second
)

// hook is one call of a hook by the kubelet.
type hook struct {
	path         string
	began, ended time.Time
	code         int
	err          error
	// gaveUp: the grace period was over first. dropped: the kubelet was restarted meanwhile.
	gaveUp, dropped bool
}

func (h *hook) String() string {
	what := fmt.Sprint(h.code)
	switch {
	case h.gaveUp:
		what = "no answer"
	case h.dropped:
		what = "dropped"
	case h.err != nil:
		what = h.err.Error()
	}
	return fmt.Sprintf("%s: %s after %v", h.path, what, h.ended.Sub(h.began).Round(time.Millisecond))
}

// node is the HTTP client of the kubelet, on the node's side of the Pod's network.
type node struct {
	w      *world
	client *http.Client
}

func newNode(w *world) *node {
	t := &http.Transport{DialContext: func(_ context.Context, _, to string) (net.Conn, error) { return w.dialOut(to) }}
	return &node{w, &http.Client{Transport: t}}
}

// get calls a path of the sidecar. The body is read as the kubelet does.
func (n *node) get(ctx context.Context, path string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+podAddress+":"+hookPort+path, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("User-Agent", "kube-lifecycle/1.34")
	resp, err := n.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	return resp.StatusCode, err
}

// hook calls a hook and waits for it, as long as the grace period allows. With drop the kubelet is
// restarted after that time: it calls again, with the whole grace period anew.
func (n *node) hook(path string, grace, drop time.Duration) []*hook {
	var all []*hook
	if drop > 0 {
		h := n.call(path, drop)
		all = append(all, h)
		if !h.gaveUp {
			return all
		}
		h.gaveUp, h.dropped = false, true
		_ = wait(context.Background(), 300*time.Millisecond)
	}
	h := n.call(path, grace)
	if h.gaveUp {
		n.w.problem("the hook was not back by its deadline: %v", h)
	}
	return append(all, h)
}

// call makes one call; gaveUp tells that it took longer than most.
func (n *node) call(path string, most time.Duration) *hook {
	h := &hook{path: path, began: time.Now()}
	n.w.say("the kubelet calls %s", path)
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	h.code, h.err = n.get(ctx, path)
	h.ended = time.Now()
	h.gaveUp = h.err != nil && ctx.Err() != nil
	n.w.say("the kubelet's call of %v", h)
	n.w.hooked(h)
	return h
}

// kubelet does with the Pod's containers what the kubelet does, one thing after another.
type kubelet struct {
	w      *world
	node   *node
	worker sync.Mutex // the Pod's worker
}

// stop stops a container by its hook, and returns when it has ended.
func (k *kubelet) stop(c *container, drop time.Duration, why string) {
	began := time.Now()
	hooks := k.node.hook("/shutdown", grace, drop)
	left := max(grace-time.Since(began).Truncate(time.Second), leastGrace)
	ctx, cancel := context.WithTimeout(context.Background(), left)
	defer cancel()
	c.terminate(ctx, why, hooks)
}

// restart is a failed liveness or startup probe: hook, SIGTERM, and the next start.
func (k *kubelet) restart(c *container, drop, down time.Duration) {
	k.worker.Lock()
	defer k.worker.Unlock()
	if !c.isRunning() || k.w.deleted.Load() {
		return
	}
	k.w.say("%s fails its liveness probe", c.name)
	if c.app {
		k.stop(c, drop, "SIGTERM after its hook")
	} else {
		c.end("SIGTERM", nil)
	}
	_ = wait(context.Background(), down)
	c.start()
}

// crashed starts a container again that has ended by itself.
func (k *kubelet) crashed(c *container, down time.Duration) {
	_ = wait(context.Background(), down)
	k.worker.Lock()
	defer k.worker.Unlock()
	if !k.w.deleted.Load() {
		c.start()
	}
}

// restartSidecar is a failed liveness probe of the sidecar.
func (k *kubelet) restartSidecar(ownHook bool) {
	k.worker.Lock()
	defer k.worker.Unlock()
	if k.w.deleted.Load() {
		return
	}
	s := k.w.sidecar
	began := time.Now()
	k.w.say("the sidecar fails its liveness probe")
	if ownHook {
		k.node.hook("/stopping", grace, 0)
	}
	s.terminate()
	if !s.ends(max(grace-time.Since(began).Truncate(time.Second), leastGrace)) {
		s.kill()
	}
	s.start()
}

// sidecarKilled starts the sidecar again that was killed.
func (k *kubelet) sidecarKilled(down time.Duration) {
	k.w.sidecar.kill()
	_ = wait(context.Background(), down)
	k.worker.Lock()
	defer k.worker.Unlock()
	if !k.w.deleted.Load() {
		k.w.sidecar.start()
	}
}

// restartAll is RestartAllContainers: no hook, no grace, and all starts again.
func (k *kubelet) restartAll() {
	k.worker.Lock()
	defer k.worker.Unlock()
	if k.w.deleted.Load() {
		return
	}
	k.w.say("all containers are restarted")
	var all sync.WaitGroup
	for _, c := range k.w.containers {
		all.Go(func() { c.end("all are restarted", nil) })
	}
	all.Wait()
	if k.w.mesh != nil && !k.w.meshFirst {
		k.w.mesh.end()
	}
	began := time.Now()
	k.w.sidecar.terminate()
	if !k.w.sidecar.ends(leastGrace) {
		k.w.problem("all containers are restarted, and the sidecar was still there after %v", time.Since(began))
		k.w.sidecar.kill()
	}
	if k.w.mesh != nil {
		k.w.mesh.end()
		if err := k.w.mesh.start(); err != nil {
			k.w.problem("harness: the mesh: %v", err)
		}
	}
	k.w.sidecar.start()
	if !k.w.oldStyle {
		k.w.sidecar.started()
	}
	for _, c := range k.w.containers {
		c.start()
	}
}

// delete ends the Pod.
func (k *kubelet) delete() {
	k.worker.Lock()
	defer k.worker.Unlock()
	k.w.say("the Pod ends")
	k.w.deleted.Store(true)
	began := time.Now()
	var all, hooks sync.WaitGroup
	w := k.w
	if w.completes { // the sidecar's turn comes when they have ended
		for _, c := range w.containers {
			c.end("completes", nil)
		}
	}
	if w.ownHook || w.oldStyle {
		hooks.Go(func() {
			if w.ownHook {
				k.node.hook("/stopping", grace, 0)
			}
			if w.oldStyle {
				w.sidecar.terminate()
			}
		})
	}
	for _, c := range w.containers {
		switch {
		case !c.isRunning():
		case c.app:
			all.Go(func() { k.stop(c, w.drop, "the Pod is deleted") })
		default:
			c.end("the Pod is deleted", nil)
		}
	}
	all.Wait()
	hooks.Wait()
	if w.mesh != nil && !w.meshFirst {
		w.mesh.end()
	}
	told := time.Now()
	if !w.oldStyle {
		w.sidecar.terminate()
	}
	left := max(grace-time.Since(began).Truncate(time.Second), leastGrace)
	switch ended := w.sidecar.ends(left); {
	case !ended:
		w.problem("the sidecar had to be killed, %v after its apps ended, %v after the Pod's end began", time.Since(told), time.Since(began))
		w.sidecar.kill()
	case w.sidecar.ticks() > endsWithin:
		w.problem("the sidecar ended only %v after its apps", time.Since(told))
	}
	if w.mesh != nil {
		w.mesh.end()
	}
}
