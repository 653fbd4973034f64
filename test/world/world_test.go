package world

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sample is how often the world is looked at. What must come true in some time is given a number of
	// looks and not a time, so that a busy machine has longer.
	sample = 40 * time.Millisecond
	// endsWithin, inWithin and outWithin are how many looks the sidecar may take to end after its apps,
	// to bring a live app in, and to take out one that is dead.
	endsWithin = int(5 * time.Second / sample)
	inWithin   = int(25 * time.Second / sample)
	outWithin  = int(6 * time.Second / sample)
)

// world is a Pod with all that is around it, in two network namespaces, while one history runs.
type world struct {
	setup
	began      time.Time
	pod, out   *netns
	servers    []*server
	containers []*container
	mesh       *mesh // nil: none
	sidecar    *sidecar
	kubelet    *kubelet
	deleted    atomic.Bool
	deletedAt  atomic.Pointer[time.Time]

	mu       sync.Mutex
	lines    []string
	problems []string
	calls    []call
	hooks    []*hook
	resumes  []time.Time
	closers  []func()

	// What the judge counts.
	lost, requests int
	excused        map[string]int
	asked          []string
}

// newWorld makes the Pod and its surroundings. Nothing in it runs yet but the registries.
func newWorld(s setup) (*world, error) {
	w := &world{setup: s, began: time.Now(), excused: map[string]int{}}
	var err error
	if w.pod, err = newNetns(); err != nil {
		return w, err
	}
	w.closers = append(w.closers, w.pod.close)
	if w.out, err = newNetns(); err != nil {
		return w, err
	}
	w.closers = append(w.closers, w.out.close)
	if err := w.link(); err != nil {
		return w, err
	}
	for _, kind := range s.kinds {
		srv, close, err := newServer(kind, s, w.out, w.wrote)
		if err != nil {
			return w, err
		}
		w.closers = append(w.closers, close)
		w.servers = append(w.servers, srv)
	}
	for _, p := range s.containers {
		w.containers = append(w.containers, &container{plan: p, w: w})
	}
	if s.mesh {
		if w.mesh, err = newMesh(w); err != nil {
			return w, err
		}
	}
	w.sidecar = &sidecar{w: w, args: w.args(), env: []string{"POD_IP=" + podAddress, "PATH=/bin"}, uid: s.uid}
	w.kubelet = &kubelet{w: w, node: newNode(w)}
	return w, nil
}

// link joins the Pod to the outside.
func (w *world) link() error {
	outer := fmt.Sprintf("/proc/%d/fd/%d", pid, w.out.file.Fd())
	for _, args := range []string{
		fmt.Sprintf("link add eth0 mtu %d type veth peer name pod0 mtu %[1]d netns %s", w.mtu, outer),
		"address add " + podAddress + "/24 dev eth0",
		"address add " + secondAddress + "/24 dev eth0",
		"address add " + sixthAddress + "/64 dev eth0 nodad",
		"link set eth0 up",
		"route add default via " + outside,
	} {
		if err := w.pod.run("ip", args); err != nil {
			return err
		}
	}
	for _, args := range []string{
		"address add " + outside + "/24 dev pod0",
		"address add fd00::2/64 dev pod0 nodad",
		"link set pod0 up",
		"route add " + secondAddress + " dev pod0",
	} {
		if err := w.out.run("ip", args); err != nil {
			return err
		}
	}
	return nil
}

// args are the sidecar's.
func (w *world) args() []string {
	args := []string{
		fmt.Sprintf("--linger=%v", linger), fmt.Sprintf("--grace-period=%v", grace), fmt.Sprintf("--reserve=%v", reserve),
		fmt.Sprintf("--request-timeout=%v", requestTimeout), "--registry-timeout=3s", "--idle-after=1s", "--termination-log=",
	}
	for _, s := range w.servers {
		args = append(args, "--"+s.kind+"-url="+s.own())
	}
	if w.quiet {
		args = append(args, "--quiet-period=1500ms")
	}
	if w.unread {
		args = append(args, "--log-level=debug")
	}
	if w.ports {
		var ports []string
		for _, c := range w.containers {
			if c.app {
				ports = append(ports, fmt.Sprint(c.port))
			}
		}
		args = append(args, "--port="+strings.Join(ports, ","))
	}
	return args
}

// close ends what is left.
func (w *world) close() {
	if w.sidecar != nil {
		w.sidecar.kill()
	}
	for _, c := range w.containers {
		c.end("the test is over", nil)
	}
	if w.mesh != nil {
		w.mesh.end()
	}
	for _, f := range slices.Backward(w.closers) {
		f()
	}
}

// say adds a line to the story.
func (w *world) say(format string, args ...any) {
	line := fmt.Sprintf("%7.3fs %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
}

// problem notes what is wrong.
func (w *world) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.say("WRONG: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, text)
}

// called takes a request that has ended.
func (w *world) called(r call) {
	w.mu.Lock()
	w.calls = append(w.calls, r)
	w.mu.Unlock()
}

// endpoint is where a Service sends those who call the container; "" where it is no endpoint.
func (w *world) endpoint(c *container) string {
	if at := w.deletedAt.Load(); at != nil && time.Since(*at) > time.Second {
		return ""
	}
	if _, up := c.isUp(); !up {
		return ""
	}
	return c.identity().where()
}

// resume calls /resume, as a postStart hook does.
func (w *world) resume(ctx context.Context, who string) {
	w.mu.Lock()
	w.resumes = append(w.resumes, time.Now())
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	code, err := w.kubelet.node.get(ctx, "/resume")
	w.say("%s calls /resume: %d, %v", who, code, err)
}

// live runs a history and returns what was wrong.
func (w *world) live(h history) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var callers, monitor sync.WaitGroup
	monitor.Go(func() { w.watch(ctx) })
	w.strangers(ctx, &monitor)
	if w.sidecarFirst {
		w.sidecar.start()
		w.sidecar.started()
	}
	for _, c := range w.containers {
		c.start()
	}
	if !w.sidecarFirst {
		_ = wait(ctx, w.late)
		w.sidecar.start()
	}
	n, how := uint64(0), manners
	if w.rare {
		how = rareManners
	}
	for _, c := range w.containers {
		if !c.app || w.silent {
			continue
		}
		servers := w.servers
		if len(servers) == 0 {
			servers = []*server{nil}
		}
		for _, s := range servers {
			for _, m := range how {
				n++
				one := &caller{w: w, to: c, server: s, manner: m, rng: rand.New(rand.NewPCG(w.seed, n))}
				callers.Go(func() { one.run(ctx) })
			}
		}
	}
	var acts sync.WaitGroup
	for _, e := range h.events {
		_ = wait(ctx, e.after)
		w.do(ctx, e, &acts)
	}
	if w.settles {
		acts.Wait()
		w.settle()
		_ = wait(ctx, w.rests)
	}
	now := time.Now()
	w.deletedAt.Store(&now)
	w.kubelet.delete()
	acts.Wait()
	_ = wait(ctx, 500*time.Millisecond)
	w.gone()
	cancel()
	callers.Wait()
	monitor.Wait()
	w.judge()
}

// dialOut connects from outside of the Pod.
func (w *world) dialOut(to string) (net.Conn, error) { return w.out.dial(0, "", to) }
