package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"prestop/registry/registrytest"
)

// The Pod's addresses. The sidecar is given the first.
const (
	podAddress    = "10.0.0.1"
	secondAddress = "10.0.7.1"
	sixthAddress  = "fd00::1" // by IPv6
)

// plan is what a container is like.
type plan struct {
	name string
	port int
	uid  int
	// app: it registers and is called; else it is an exporter that only listens.
	app bool
	// listens and registers are how long it takes for that, from the start of its process and from
	// when it listens.
	listens, registers time.Duration
	// deregisters: it takes itself out of the registries when it is told to stop, as Spring does.
	deregisters bool
	// resumes: it has a postStart hook to /resume.
	resumes bool
	// grpc: it is in Nacos by a connection, not by heartbeats.
	grpc bool
}

// ending is one end of a container's listening.
type ending struct {
	at  time.Time
	why string
	// hooks were called for it before; nil: nobody told anybody that it ends.
	hooks []*hook
}

// container is one container of the Pod: an app or another one, with one port.
type container struct {
	plan
	w *world
	// frozen is until when it answers nobody, in Unix nanoseconds.
	frozen atomic.Int64

	mu       sync.Mutex
	running  bool
	l        *listener
	stop     context.CancelFunc
	routines *sync.WaitGroup
	up       spans
	endings  []ending
	said     []time.Time // when it registered anew, in any registry
	holds    map[string]bool
}

func (c *container) identity() identity {
	return identity{"orders-" + c.name, c.w.by, c.port, c.w.lease}
}

// start starts the container's process, unless it runs.
func (c *container) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		return
	}
	c.w.say("%s starts", c.name)
	c.running, c.holds = true, map[string]bool{}
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.routines = stop, &sync.WaitGroup{}
	c.routines.Go(func() {
		if wait(ctx, c.listens) != nil || !c.open() || !c.app {
			return
		}
		for _, s := range c.w.servers {
			c.routines.Go(func() { c.live(ctx, s) })
		}
	})
	if c.resumes {
		c.routines.Go(func() { c.w.resume(ctx, c.name+"'s postStart") })
	}
}

// open begins to listen; false: the container has been ended.
func (c *container) open() bool {
	l, err := c.w.pod.listen(c.uid, fmt.Sprintf(":%d", c.port))
	if err != nil {
		c.w.problem("harness: %s cannot listen: %v", c.name, err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running || c.l != nil {
		l.kill()
		return false
	}
	c.l = l
	c.up.set(true)
	c.w.say("%s listens", c.name)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Server{Handler: http.HandlerFunc(c.work), Protocols: protocols}
	go h.Serve(l)
	return true
}

// work answers after as many milliseconds as the request asks for.
func (c *container) work(w http.ResponseWriter, r *http.Request) {
	ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
	if wait(r.Context(), time.Duration(ms)*time.Millisecond) != nil {
		return
	}
	if wait(r.Context(), time.Until(time.Unix(0, c.frozen.Load()))) == nil {
		fmt.Fprint(w, "OK")
	}
}

// live registers in a registry and heartbeats, until ctx ends.
func (c *container) live(ctx context.Context, s *server) {
	if wait(ctx, c.registers) != nil {
		return
	}
	if c.grpc && s.kind == nacosKind {
		for s.sick() {
			if wait(ctx, 100*time.Millisecond) != nil {
				return
			}
		}
		c.registered(s)
		connection := s.nacos.Register(registrytest.NacosInstance{
			Service: c.identity().service, IP: c.identity().nacosIP(), Port: c.port, Weight: 1,
		})
		<-ctx.Done()
		connection.Close()
		return
	}
	cl := newClient(s, func(to string) (net.Conn, error) { return c.w.pod.dial(c.uid, "", to) })
	defer cl.close()
	dirty := time.Now()
	known := false
	for {
		err := errUnknown
		if known {
			err = cl.beat(ctx, c.identity(), dirty)
		}
		if errors.Is(err, errUnknown) {
			// What every client does: the registry does not know it, so again.
			dirty = time.Now()
			c.registered(s)
			known = cl.register(ctx, c.identity(), "UP", dirty) == nil
		}
		every := beatEvery
		if !known {
			every /= 4
		}
		if wait(ctx, every) != nil {
			return
		}
	}
}

// registered notes that the app is about to be in the registry.
func (c *container) registered(s *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, time.Now())
	c.holds[s.kind] = true
}

// terminate is SIGTERM: the app takes a while to deregister, if it does, and ends.
func (c *container) terminate(ctx context.Context, why string, hooks []*hook) {
	if c.deregisters && c.app {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		for _, s := range c.w.servers {
			if c.grpc && s.kind == nacosKind {
				continue
			}
			cl := newClient(s, func(to string) (net.Conn, error) { return c.w.pod.dial(c.uid, "", to) })
			_ = cl.deregister(ctx, c.identity())
			cl.close()
		}
		cancel()
	}
	c.end(why, hooks)
}

// end ends the process at once: nobody who calls it gets an answer any more.
func (c *container) end(why string, hooks []*hook) {
	c.mu.Lock()
	if !c.running {
		c.mu.Unlock()
		return
	}
	c.running = false
	c.w.say("%s ends: %s", c.name, why)
	routines := c.routines
	c.stop()
	c.close(why, hooks)
	c.mu.Unlock()
	routines.Wait()
}

// close closes the port. It is called with mu held.
func (c *container) close(why string, hooks []*hook) {
	if c.l == nil {
		return
	}
	c.endings = append(c.endings, ending{time.Now(), why, hooks})
	c.up.set(false)
	l := c.l
	c.l = nil
	l.kill()
}

// closePort closes the port alone: the process lives and heartbeats. The result opens it again, if
// the process lives still; nil: it was not open.
func (c *container) closePort() (reopen func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.l == nil {
		return nil
	}
	c.w.say("%s closes its port", c.name)
	c.close("closes its port", nil)
	life := c.routines
	return func() {
		c.mu.Lock()
		same := c.running && c.routines == life
		c.mu.Unlock()
		if same {
			c.open()
		}
	}
}

// facts are what the judge needs.
func (c *container) facts() (up spans, endings []ending, said []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.up), slices.Clone(c.endings), slices.Clone(c.said)
}

// isUp reports whether the container listens, and since when.
func (c *container) isUp() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up.since()
}

func (c *container) isRunning() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

// isRegistered reports whether its present process has registered in each registry.
func (c *container) isRegistered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.holds) == len(c.w.servers)
}
