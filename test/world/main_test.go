// Package world runs the product's binary through random histories of a Pod: in network namespaces
// of its own, with containers that open and close ports, a mesh, registries behind HTTP, a kubelet,
// and callers that keep lists and call all the time. It judges what users feel.
package world

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	histories = flag.Int("histories", 40, "how many histories are run")
	firstSeed = flag.Uint64("seed", 0, "the seed of the first history; 0: drawn from the time")
	onlyOne   = flag.String("keep", "", "numbers of the events that one history keeps, comma list, or none")
	atOnce    = flag.Int("at-once", 6, "how many histories run side by side")
	shrinks   = flag.Bool("shrink", true, "a history that fails is shrunk")
	stories   = flag.Bool("stories", false, "tell of the histories that are right too")
	other     = flag.String("binary", "", "path of the binary; empty: it is built")
)

var (
	binary string
	pid    = os.Getpid()
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(built(m))
}

// built builds the product and runs the tests.
func built(m *testing.M) int {
	if binary = *other; binary == "" {
		dir, err := os.MkdirTemp("", "world")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755)
		binary = filepath.Join(dir, "prestop")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nethttpomithttp2",
			"-ldflags", "-s -w", "-o", binary, ".")
		build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
			return 1
		}
	}
	return m.Run()
}

// outcome is what came of one history.
type outcome struct {
	history
	problems    []string
	story, log  string
	calls, lost int
	requests    int
	excused     map[string]int
	took        time.Duration
}

// play runs one history.
func play(h history) (o outcome) {
	o.history = h
	began := time.Now()
	w, err := newWorld(h.setup)
	defer func() { w.close(); o.took = time.Since(began) }()
	if err != nil {
		o.problems = []string{"harness: " + err.Error()}
		return o
	}
	w.live(h)
	w.mu.Lock()
	defer w.mu.Unlock()
	o.problems, o.story, o.log = w.problems, strings.Join(w.lines, "\n"), w.sidecar.log.String()
	o.log += "the sidecar's requests:\n" + strings.Join(w.asked, "\n")
	o.calls, o.lost, o.requests, o.excused = len(w.calls), w.lost, w.requests, w.excused
	return o
}

// TestRandomHistoriesOfAPod runs histories of a Pod by random seeds. One that fails is told with its
// seed, and shrunk: -seed and -keep run it again.
func TestRandomHistoriesOfAPod(t *testing.T) {
	seed := *firstSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixMilli()) % 1_000_000_000
	}
	n := *histories
	if *onlyOne != "" {
		n = 1
	}
	t.Logf("seeds %d to %d", seed, seed+uint64(n)-1)
	began := time.Now()
	turn := make(chan struct{}, *atOnce)
	var all sync.WaitGroup
	var mu sync.Mutex
	var outcomes []outcome
	for i := range n {
		h := draw(seed + uint64(i))
		if *onlyOne != "" {
			h = h.keep(numbers(*onlyOne))
		}
		turn <- struct{}{}
		all.Go(func() {
			o := play(h)
			<-turn
			if len(o.problems) > 0 && *shrinks {
				o = shrink(o)
			}
			mu.Lock()
			outcomes = append(outcomes, o)
			mu.Unlock()
			report(t, o)
			if *stories {
				t.Logf("seed %d: %v\n%s", o.seed, o.setup, o.story)
			}
		})
	}
	all.Wait()
	excused := map[string]int{}
	var calls, lost, requests, events int
	for _, o := range outcomes {
		calls, lost, requests, events = calls+o.calls, lost+o.lost, requests+o.requests, events+len(o.events)
		for why, n := range o.excused {
			excused[why] += n
		}
	}
	t.Logf("%d histories with %d events in %v: %d calls, %d lost, excused %v; %d requests to registries",
		len(outcomes), events, time.Since(began).Round(time.Second), calls, lost, excused, requests)
}

// numbers reads a comma list.
func numbers(list string) []int {
	var all []int
	for s := range strings.SplitSeq(list, ",") {
		if n, err := strconv.Atoi(s); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// report tells of a history that failed.
func report(t *testing.T, o outcome) {
	if len(o.problems) == 0 {
		return
	}
	keep := strings.Trim(strings.ReplaceAll(fmt.Sprint(o.kept), " ", ","), "[]")
	if keep == "" {
		keep = "none"
	}
	t.Errorf("seed %d: %s\nagain: go test ./world -run TestRandomHistoriesOfAPod -seed=%d -keep=%s\n"+
		"the Pod: %v\n%s\nthe sidecar's log:\n%s", o.seed, strings.Join(o.problems, "\n  "), o.seed, keep, o.setup, o.story, o.log)
}

// kinds are the problems without their figures.
func (o outcome) kinds() []string {
	kinds := map[string]bool{}
	for _, p := range o.problems {
		words := strings.FieldsFunc(p, func(r rune) bool { return r == ':' })
		kinds[strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, words[0])] = true
	}
	return slices.Sorted(maps.Keys(kinds))
}

// shrinkFor is how long a history that fails is shrunk.
const shrinkFor = 3 * time.Minute

// shrink drops events as long as the history fails in the same way.
func shrink(o outcome) outcome {
	end := time.Now().Add(shrinkFor)
	fails := func(h history) (outcome, bool) {
		for range 2 {
			if time.Now().After(end) {
				return outcome{}, false
			}
			again := play(h)
			if slices.ContainsFunc(again.kinds(), func(k string) bool { return slices.Contains(o.kinds(), k) }) {
				return again, true
			}
		}
		return outcome{}, false
	}
	for dropped := true; dropped; {
		dropped = false
		for i := range o.kept {
			fewer, ok := fails(o.keep(slices.Delete(slices.Clone(o.kept), i, i+1)))
			if ok {
				o, dropped = fewer, true
				break
			}
		}
	}
	return o
}
