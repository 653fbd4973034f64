package corpus

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"prestop/drain/conns"
	"prestop/test/servers"
)

// recordTo makes TestCorpus write what it saw, for the replay in drain/conns.
var recordTo = flag.String("record", "", "a file for the recorded corpus")

// only chooses the servers.
var only = flag.String("only", "", "a regular expression for the names of the servers")

// rule is quick, and gives up no request while a test lasts.
var rule = conns.Rule{IdleAfter: time.Second, RequestTimeout: time.Hour}

const (
	// patience is how long after --idle-after an idle connection may be recognised.
	patience = time.Second
	// pace is how often a count that looks all along does: the linger's.
	pace = 100 * time.Millisecond
)

// site is a kind of server.
type site struct {
	name      string
	protocols []protocol
	shapes    []shape
	// serve serves on a new listener, or ports are of one that runs.
	serve func(t testing.TB, d *desk, p protocol, l net.Listener)
}

var sites = []site{
	{"net/http", []protocol{web1, web1TLS, web2, web2TLS, web1Mutual, web2Mutual, web1TLS12, web2Old}, append(append(webShapes, handShapes...), frameShapes...), serveGo},
	{"net/http-late", []protocol{web1, web1TLS, web2, web2TLS, web1Mutual, web2Mutual, web2Old}, firstShapes, serveLate},
	{"grpc-go", []protocol{grpc1, grpcTLS}, rpcShapes, serveGRPC},
	{"a database", []protocol{raw}, rawShapes, func(t testing.TB, d *desk, _ protocol, l net.Listener) { serveRaw(t, d, l) }},
	{"WebSocket", []protocol{raw}, socketShapes, serveWebSocket},
	{"a server that is stuck", []protocol{raw}, queueShapes, func(t testing.TB, _ *desk, _ protocol, l net.Listener) { t.Cleanup(func() { l.Close() }) }},
}

// result is what became of one shape.
type result struct {
	shape
	protocol
	site  string
	after bool // looked at afterwards only
	idle  bool
	took  time.Duration // until it was called idle
}

// planned is a shape and its server.
type planned struct {
	shape
	protocol
	site  string
	serve func(v *visit) // makes v.port and v.begun
}

// plan lists every shape with each of its servers, and starts those that several share.
func plan(t *testing.T) []planned {
	var all []planned
	chosen, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	for _, site := range sites {
		if !chosen.MatchString(site.name) {
			continue
		}
		for _, p := range site.protocols {
			for _, s := range site.shapes {
				if s.on(p) {
					all = append(all, planned{s, p, site.name, func(v *visit) {
						l, err := net.Listen("tcp4", ":0")
						if err != nil {
							v.Fatal(err)
						}
						d := new(desk)
						v.port = uint16(l.Addr().(*net.TCPAddr).Port)
						v.begun = func(id string) bool {
							select {
							case <-d.begun(id):
								return true
							default:
								return false
							}
						}
						site.serve(v, d, p, l)
					}})
				}
			}
		}
	}
	taken := make(map[uint16]bool)
	for _, f := range fleets {
		if !chosen.MatchString(f.name) {
			continue
		}
		ports := make(map[protocol][]uint16)
		var begun func(v *visit, id string) bool
		for _, p := range []protocol{web1, web1TLS, web2, web2TLS} {
			for _, s := range append(slices.Clone(webShapes), f.tools...) {
				if !s.on(p) || s.alone {
					continue
				}
				port := freePort(t, taken)
				ports[p] = append(ports[p], port)
				all = append(all, planned{s, p, f.name, func(v *visit) {
					v.port = port
					v.begun = func(id string) bool { return begun(v, id) }
				}})
			}
		}
		warm := make(map[protocol]uint16)
		for p := range ports {
			warm[p] = freePort(t, taken)
			ports[p] = append(ports[p], warm[p])
		}
		begun = f.start(t, ports)
		for p, port := range warm {
			warmUp(t, p, port)
		}
	}
	return all
}

// warmUp has a server load what it loads at its first requests: what it says late is not what is looked for here.
func warmUp(t *testing.T, p protocol, port uint16) {
	t.Helper()
	t.Run(fmt.Sprintf("warm up/%s/%d", p, port), func(t *testing.T) {
		v := &visit{T: t, protocol: p, ctx: t.Context(), port: port, outside: links[0]}
		v.http()
		v.call(50, 0, "GET", "/fast", "")
		v.call(5, 0, "GET", "/large", "")
		v.call(5, 0, "GET", "/slow?ms=1", "")
		for range 5 {
			v.http() // another connection
			v.call(1, 0, "POST", "/fast", "small")
		}
	})
}

// freePort returns one that is free and was not returned before.
func freePort(t *testing.T, taken map[uint16]bool) uint16 {
	t.Helper()
	for {
		port, err := servers.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if !taken[uint16(port)] {
			taken[uint16(port)] = true
			return uint16(port)
		}
	}
}

func TestCorpus(t *testing.T) {
	var (
		guard   sync.Mutex
		results []result
		golden  strings.Builder
		r       *recorder
	)
	if *recordTo != "" {
		r = record(t)
		defer r.stop()
	}
	all := plan(t)
	t.Run("each", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.site+"/"+string(s.protocol)+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancel(context.Background())
				t.Cleanup(cancel)
				v := &visit{T: t, protocol: s.protocol, ctx: ctx, prefix: s.site, outside: links[i%len(links)]}
				s.serve(v)
				if r != nil {
					r.of(v.port)
				}
				v.http()
				got := judge(v, s.shape)
				guard.Lock()
				defer guard.Unlock()
				for i := range got {
					got[i].site = s.site
				}
				results = append(results, got...)
				if r != nil {
					for _, all := range r.take(v.port) {
						if !whole(all, v.done.Sub(r.began)) {
							t.Log("the machine had no time to record it")
							continue
						}
						fmt.Fprintf(&golden, "# %s | %s | %s | %v %v | %d\n%s", s.site, s.protocol, s.name, s.want, flags(s.shape), v.done.Sub(r.began).Milliseconds(), text(all))
					}
				}
			})
		}
	})
	report(t, results)
	if *recordTo != "" {
		if err := os.WriteFile(*recordTo, []byte(golden.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func flags(s shape) string {
	switch {
	case s.blind:
		return "blind"
	case s.mixed:
		return "mixed"
	case s.paced:
		return "paced"
	case s.common:
		return "common"
	}
	return "-"
}

// judge drives the shape and looks at its connection, all along and afterwards only.
func judge(v *visit, s shape) []result {
	along, after := counter(v), counter(v)
	looking, stop := context.WithCancel(v.ctx)
	defer stop()
	var look sync.WaitGroup
	look.Go(func() {
		for tick := time.NewTicker(pace); ; {
			if _, err := along.Count(v.ctx, []uint16{v.port}); err != nil && v.ctx.Err() == nil {
				v.Error(err)
			}
			select {
			case <-looking.Done():
				return
			case <-tick.C:
			}
		}
	})
	s.drive(v)
	v.done = time.Now()
	stop()
	look.Wait()
	got := make([]result, 2)
	var judging sync.WaitGroup
	for i, c := range []conns.Counter{along, after} {
		judging.Go(func() {
			got[i] = result{shape: s, protocol: v.protocol, after: i == 1}
			got[i].took, got[i].idle = called(v, c, s)
		})
	}
	judging.Wait()
	return got
}

// called looks as the drain does until the connection is called idle, and returns when that was, or for long enough to see
// that it is not.
func called(v *visit, c conns.Counter, s shape) (took time.Duration, isIdle bool) {
	limit := rule.IdleAfter + patience
	for {
		tally, err := c.Count(v.ctx, []uint16{v.port})
		if err != nil {
			v.Error(err)
			return 0, false
		}
		took = time.Since(v.done)
		switch {
		case tally.Open == 0 && s.want == used:
			v.Error("the connection is gone")
			return took, false
		case tally.Active == 0:
			return took, true
		case took > limit:
			return took, false
		}
		next := tally.NextIdle
		if next <= 0 || next > 250*ms {
			next = 250 * ms
		}
		select {
		case <-time.After(next):
		case <-v.ctx.Done():
			return took, false
		}
	}
}

func counter(v *visit) conns.Counter {
	v.Helper()
	c, err := conns.Open(conns.Netlink, rule, slog.New(slog.DiscardHandler))
	for enough := time.Now().Add(90 * time.Second); err != nil; { // it looks once, for a second at most
		if time.Now().After(enough) {
			v.Fatal(err)
		}
		c, err = conns.Open(conns.Netlink, rule, slog.New(slog.DiscardHandler))
	}
	v.Cleanup(func() {
		if err := c.Close(); err != nil {
			v.Error(err)
		}
	})
	return c
}

// sum is how many of all were called what they are.
type sum struct{ right, all int }

// report sums up, and fails for what must not be.
func report(t *testing.T, results []result) {
	sums := make(map[string]sum)
	shapes := make(map[string]bool)
	var slowest time.Duration
	for _, r := range results {
		shapes[fmt.Sprint(r.protocol, r.name)] = true
		right := r.idle == (r.want == idle)
		looked := "looked at all along"
		if r.after {
			looked = "looked at afterwards"
		}
		count := func(class string) {
			s := sums[class+", "+looked]
			s.all++
			if right {
				s.right++
			}
			sums[class+", "+looked] = s
		}
		if !right {
			t.Logf("called wrong, %s: %s: %s: %s", looked, r.site, r.protocol, r.name)
		}
		switch {
		case r.blind:
			count("in use, and the kernel does not tell")
		case r.paced:
			count("in use, saying something all the time")
		case r.mixed:
			count("in use, others answered meanwhile")
			if !right {
				t.Errorf("in use, and called idle, %s: %s: %s: %s", looked, r.site, r.protocol, r.name)
			}
		case r.want == used:
			count("in use")
			if !right {
				t.Errorf("in use, and called idle, %s: %s: %s: %s", looked, r.site, r.protocol, r.name)
			}
		default:
			count("idle")
			count("idle, " + string(r.protocol))
			if r.common {
				count("idle and common")
			}
			if right {
				slowest = max(slowest, r.took)
			}
		}
	}
	for _, class := range slices.Sorted(maps.Keys(sums)) {
		t.Logf("%s: %d of %d", class, sums[class].right, sums[class].all)
	}
	// How segments fall has the last word: a quiet machine recognises nearly all that there is to recognise, a busy one less.
	for class, least := range map[string]float64{"idle, HTTP/1.1": 0.4} {
		if s := sums[class+", looked at all along"]; float64(s.right) < least*float64(s.all) {
			t.Errorf("%s: too few recognised: %d of %d", class, s.right, s.all)
		}
	}
	t.Logf("%d shapes, %d connections; the last was recognised after %v", len(shapes), len(results)/2, slowest)
}
