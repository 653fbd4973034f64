package world

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// setup is what a Pod and its surroundings are like.
type setup struct {
	seed  uint64
	kinds []string
	// containers of the Pod beside the sidecar and the mesh's proxy.
	containers []plan
	mtu        int
	// mesh: there is a proxy; meshFirst: it starts before the sidecar and ends after it.
	mesh, meshFirst bool
	// oldStyle: the sidecar is an ordinary container. ownHook: it has a hook to /stopping.
	oldStyle, ownHook bool
	// sidecarFirst: it starts before the apps.
	sidecarFirst bool
	// ports: the sidecar is given the apps' ports.
	ports bool
	uid   uint32
	// silent: nobody calls. rare: they call now and then.
	silent, rare bool
	// settles: all is well before the Pod is deleted, and stays so for as long as it rests.
	settles bool
	rests   time.Duration
	// completes: the apps end by themselves, as a Job's do, and nobody calls a hook for them.
	completes bool
	// late is how long after the apps the sidecar starts, where it does not start first.
	late time.Duration
	// nacos is the version of Nacos; slow is how long each request to a registry takes; lease is how
	// long a registry believes in an app that has said nothing.
	nacos       string
	slow, lease time.Duration
	// quiet: the sidecar ends the linger early once nobody has called for a while.
	quiet bool
	// unread: nobody reads the sidecar's log.
	unread bool
	// by is the address by which the apps register.
	by string
	// drop is when the kubelet is restarted as the Pod's hooks run; zero: it is not.
	drop time.Duration
}

func (s setup) String() string {
	var words []string
	word := func(so bool, yes, no string) {
		if !so {
			yes = no
		}
		if yes != "" {
			words = append(words, yes)
		}
	}
	word(len(s.kinds) > 0, strings.Join(s.kinds, " and "), "no registry")
	for _, c := range s.containers {
		words = append(words, fmt.Sprintf("%s on %d listens after %v", c.name, c.port, c.listens))
		if c.app {
			words = append(words, fmt.Sprintf("registers %v later", c.registers))
			word(c.deregisters, "deregisters", "")
			word(c.resumes, "resumes", "")
			word(c.grpc, "gRPC", "")
		}
	}
	word(s.mesh, "mesh", "")
	word(s.mesh && s.meshFirst, "started before the sidecar", "")
	word(s.oldStyle, "old style", "native")
	word(s.ownHook, "own hook", "")
	word(s.sidecarFirst, "sidecar first", "apps first")
	word(s.ports, "ports given", "")
	word(s.uid == 0, "", "as a user")
	word(s.silent, "nobody calls", "")
	word(s.rare, "called little", "")
	word(s.completes, "completes", "")
	word(!s.sidecarFirst, fmt.Sprintf("sidecar %v later", s.late), "")
	word(slices.Contains(s.kinds, nacosKind), "Nacos "+s.nacos, "")
	word(s.slow > 0, fmt.Sprintf("registries take %v", s.slow), "")
	word(len(s.kinds) > 0, fmt.Sprintf("leases of %v", s.lease), "")
	word(s.quiet, "quiet period", "")
	word(s.unread, "log unread", "")
	word(s.by != podAddress, "registered by "+s.by, "")
	word(s.settles, fmt.Sprintf("settles and rests for %v", s.rests), "deleted amid it")
	word(s.drop > 0, fmt.Sprintf("kubelet restarted %v after the hook", s.drop), "")
	return strings.Join(words, ", ")
}

// event is one thing that happens to the Pod.
type event struct {
	// after is how long after the event before.
	after time.Duration
	name  string
	// which container or registry, by its index.
	which int
	// span is how long something stays so.
	span    time.Duration
	trouble trouble
	// drop is when the kubelet is restarted in the hook; zero: it is not.
	drop time.Duration
}

func (e event) String() string {
	return fmt.Sprintf("+%v %s %d for %v %s drop %v", e.after, e.name, e.which, e.span, e.trouble, e.drop)
}

// The events.
const (
	crash          = "crash"
	liveness       = "liveness"
	closes         = "closes its port"
	resumed        = "resume"
	sidecarKilled  = "the sidecar is killed"
	sidecarRestart = "the sidecar is restarted"
	registrySick   = "the registry is sick"
	registryEmpty  = "the registry is restarted empty"
	allRestart     = "all containers are restarted"
	leftover       = "a dead stranger's record"
	freezes        = "hangs"
	nothing        = "nothing"
)

var eventNames = []string{
	crash, crash, liveness, liveness, liveness, closes, resumed, sidecarKilled, sidecarRestart,
	registrySick, registrySick, registryEmpty, allRestart, leftover, freezes, nothing,
}

// history is a setup and what happens, drawn by a seed.
type history struct {
	setup
	events []event
	kept   []int // the events' numbers as they were drawn
}

// draw makes up the history of a seed.
func draw(seed uint64) history {
	r := rand.New(rand.NewPCG(seed, 0))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	of := func(all ...time.Duration) time.Duration { return all[r.IntN(len(all))] }
	const ms = time.Millisecond
	s := setup{seed: seed, mtu: []int{1450, 1500}[r.IntN(2)]}
	switch r.IntN(8) {
	case 0:
	case 1, 2, 3:
		s.kinds = []string{eurekaKind}
	case 4, 5, 6:
		s.kinds = []string{nacosKind}
	case 7:
		s.kinds = []string{eurekaKind, nacosKind}
	}
	for i := range 1 + r.IntN(3) {
		p := plan{name: fmt.Sprint("app", i), port: []int{8080, 20880, 9090}[i], uid: 1000 + i, app: true}
		p.listens = of(0, 50*ms, 400*ms, 1500*ms, 4000*ms)
		p.registers = of(0, 100*ms, 700*ms, 2000*ms)
		p.deregisters, p.resumes, p.grpc = chance(40), chance(30), chance(50)
		s.containers = append(s.containers, p)
	}
	if chance(40) {
		s.containers = append(s.containers, plan{name: "exporter", port: 9102, uid: 2000, listens: of(0, 200*ms)})
	}
	s.mesh, s.meshFirst = chance(30), chance(50)
	s.oldStyle, s.ownHook = chance(30), chance(40)
	s.sidecarFirst = !s.oldStyle || chance(50)
	s.ports = chance(30)
	if chance(50) {
		s.uid = 65532
	}
	s.silent, s.settles = chance(8), chance(65)
	if chance(15) {
		s.drop = of(200*ms, 1500*ms)
	}
	s.completes = chance(10)
	s.late = of(300*ms, 300*ms, 3000*ms)
	s.nacos = []string{"1.4.1", "2.3.2", "2.3.2", "3.1.0"}[r.IntN(4)]
	s.slow = of(0, 0, 0, 50*ms, 300*ms)
	s.lease = of(20*time.Second, 20*time.Second, 3*time.Second)
	s.quiet, s.unread, s.by = chance(20), chance(8), podAddress
	switch r.IntN(6) {
	case 0:
		s.by = secondAddress
	case 1:
		if !s.mesh { // its rules are for IPv4
			s.by = sixthAddress
		}
	}
	s.rare, s.rests = chance(35), of(0, 0, 7*time.Second)
	h := history{setup: s}
	for i := range r.IntN(7) {
		e := event{name: eventNames[r.IntN(len(eventNames))], which: r.IntN(4)}
		e.after = of(0, 100*ms, 500*ms, 1000*ms, 1700*ms, 3000*ms)
		e.span = of(50*ms, 400*ms, 1200*ms, 3500*ms)
		e.trouble = []trouble{refuses, hangs, resets}[r.IntN(3)]
		if chance(10) {
			e.drop = of(100*ms, 1000*ms)
		}
		h.events, h.kept = append(h.events, e), append(h.kept, i)
	}
	return h
}

// keep is the history with only the events of these numbers. The time that the others took stays.
func (h history) keep(numbers []int) history {
	var events []event
	var kept []int
	waited := time.Duration(0)
	for i, e := range h.events {
		waited += e.after
		if slices.Contains(numbers, h.kept[i]) {
			e.after = waited
			waited = 0
			events, kept = append(events, e), append(kept, h.kept[i])
		}
	}
	h.events, h.kept = events, kept
	return h
}

// do begins an event; what goes on after it is in acts.
func (w *world) do(ctx context.Context, e event, acts *sync.WaitGroup) {
	w.say("EVENT %v", e)
	c := w.containers[e.which%len(w.containers)]
	k := w.kubelet
	switch e.name {
	case crash:
		c.end("crashes", nil)
		acts.Go(func() { k.crashed(c, e.span) })
	case liveness:
		acts.Go(func() { k.restart(c, e.drop, e.span) })
	case closes:
		if reopen := c.closePort(); reopen != nil {
			acts.Go(func() {
				_ = wait(ctx, e.span)
				reopen()
			})
		}
	case resumed:
		acts.Go(func() { w.resume(ctx, "somebody") })
	case sidecarKilled:
		acts.Go(func() { k.sidecarKilled(e.span) })
	case sidecarRestart:
		acts.Go(func() { k.restartSidecar(w.ownHook) })
	case registrySick, registryEmpty:
		if len(w.servers) == 0 {
			return
		}
		s := w.servers[e.which%len(w.servers)]
		if e.name == registryEmpty {
			s.restart()
			return
		}
		s.set(e.trouble)
		acts.Go(func() { _ = wait(ctx, e.span); s.set(well); w.say("the registry is well again") })
	case freezes:
		c.frozen.Store(time.Now().Add(e.span).UnixNano())
	case allRestart:
		acts.Go(k.restartAll)
	case leftover:
		w.leftover(c)
	}
}

// wait waits for d, or returns ctx's error if that ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
