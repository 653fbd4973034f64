package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// result is what one rollout came to. Times are seconds since the load began.
type result struct {
	Mode    string    `json:"mode"`
	Date    time.Time `json:"date"`
	Machine string    `json:"machine"`
	Rate    float64   `json:"requestsPerSecondOfEachCaller"`
	Seconds float64   `json:"seconds"`
	// Rolled is when the rolling update was asked for.
	Rolled  float64        `json:"rolled"`
	Pods    []life         `json:"pods"`
	Callers []callerResult `json:"callers"`
}

// life is a Pod's; a moment that did not come is -1.
type life struct {
	Name     string  `json:"name"`
	Old      bool    `json:"old"`
	Created  float64 `json:"created"`
	Ready    float64 `json:"ready"`
	Stopping float64 `json:"stopping"`
	Gone     float64 `json:"gone"`
}

// callerResult is what one caller saw.
type callerResult struct {
	Name     string `json:"name"`
	Title    string `json:"title"`
	Requests int    `json:"requests"`
	// Failed is when those that failed were sent.
	Failed []float64 `json:"failed"`
	// Errors counts them by what the caller saw.
	Errors map[string]int `json:"errors"`
	// Slowest is the longest time that an answer took, in seconds.
	Slowest float64 `json:"slowest"`
}

func newResult(m mode, p plan, all []caller, l *load, rolled time.Time, pods []pod, from, to string) result {
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return -1
		}
		return round(t.Sub(l.began).Seconds())
	}
	r := result{Mode: m.Name, Date: l.began.UTC().Truncate(time.Second), Machine: machine(), Rate: p.rate, Seconds: since(time.Now()), Rolled: since(rolled)}
	for _, p := range pods {
		if p.Revision == from || p.Revision == to {
			r.Pods = append(r.Pods, life{p.Name, p.Revision == from, since(p.Created), since(p.Ready), since(p.Stopping), since(p.Gone)})
		}
	}
	slices.SortFunc(r.Pods, func(a, b life) int { return int(math.Copysign(1, a.Created-b.Created)) })
	for i, c := range all {
		cr := callerResult{Name: c.Name, Title: c.Title, Requests: len(l.records[i].sent), Failed: []float64{}, Errors: map[string]int{}}
		for _, s := range l.records[i].sent {
			if s.err != "" {
				cr.Failed = append(cr.Failed, round(s.at.Seconds()))
				cr.Errors[s.err]++
			} else {
				cr.Slowest = max(cr.Slowest, round(s.took.Seconds()))
			}
		}
		slices.Sort(cr.Failed)
		r.Callers = append(r.Callers, cr)
	}
	return r
}

func round(seconds float64) float64 { return math.Round(seconds*1000) / 1000 }

func (r result) requests() (n int) {
	for _, c := range r.Callers {
		n += c.Requests
	}
	return n
}

// failed are the moments at which the requests that failed were sent, in order.
func (r result) failed() []float64 {
	var all []float64
	for _, c := range r.Callers {
		all = append(all, c.Failed...)
	}
	slices.Sort(all)
	return all
}

// outage is from the first request that failed to the last.
func (r result) outage() float64 {
	all := r.failed()
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1] - all[0]
}

// lastOldGone is how long after the beginning of the rolling update the last old Pod was gone.
func (r result) lastOldGone() float64 {
	last := 0.0
	for _, p := range r.Pods {
		if p.Old {
			last = max(last, p.Gone)
		}
	}
	return last - r.Rolled
}

// stop is how long a Pod took from its deletion until it was gone, on average.
func (r result) stop() float64 {
	sum, n := 0.0, 0.0
	for _, p := range r.Pods {
		if p.Old {
			sum, n = sum+p.Gone-p.Stopping, n+1
		}
	}
	return sum / n
}

// report names every kind of failure.
func (r result) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d requests failed, outage %.0f s, a Pod stopped in %.0f s, last old Pod gone after %.0f s\n",
		r.Mode, len(r.failed()), r.requests(), r.outage(), r.stop(), r.lastOldGone())
	for _, c := range r.Callers {
		fmt.Fprintf(&b, "  %-28s %6d of %6d failed, slowest %.1f s\n", c.Title, len(c.Failed), c.Requests, c.Slowest)
		for _, e := range slices.Sorted(maps.Keys(c.Errors)) {
			fmt.Fprintf(&b, "    %6d %s\n", c.Errors[e], e)
		}
	}
	return b.String()
}

// store writes the result beside the others of its mode.
func (r result) store(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s.json", r.Mode, r.Date.Format("20060102-150405"))), append(text, '\n'), 0o644)
}

// stored reads all results of a folder, oldest first.
func stored(dir string) ([]result, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []result
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var r result
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("no results in " + dir)
	}
	slices.SortFunc(all, func(a, b result) int { return a.Date.Compare(b.Date) })
	return all, nil
}

// machine names the processor and how many there are.
func machine() string {
	model := runtime.GOARCH
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores, %s", runtime.NumCPU(), model)
}
