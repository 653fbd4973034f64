package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lossy is a rollout of 40 s, asked for at 10, with three failed requests, and one without.
var (
	lossy = result{Mode: "none", Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: "a machine", Rate: 20, Seconds: 60, Rolled: 10,
		Pods: []life{{"a", true, -1, -1, 12, 30}, {"b", true, -1, -1, 20, 50}, {"c", false, 11, 12, -1, -1}},
		Callers: []callerResult{
			{Name: "eureka", Title: "Eureka", Requests: 1000, Failed: []float64{14, 44.5}, Errors: map[string]int{"EOF": 2}},
			{Name: "new", Title: "ClusterIP, new connections", Requests: 1234, Failed: []float64{15}, Errors: map[string]int{"refused <&>": 1}},
		}}
	lossless = result{Mode: "prestop", Date: lossy.Date.Add(time.Hour), Machine: "a machine", Rate: 20, Seconds: 60, Rolled: 10, Pods: lossy.Pods,
		Callers: []callerResult{{Name: "eureka", Title: "Eureka", Requests: 1000, Failed: []float64{}}, {Name: "new", Title: "ClusterIP, new connections", Requests: 1, Failed: []float64{}}}}
)

func TestAResultSumsUp(t *testing.T) {
	for what, got := range map[string][2]float64{
		"requests":                           {float64(lossy.requests()), 2234},
		"failed requests":                    {float64(len(lossy.failed())), 3},
		"the outage, from the first to last": {lossy.outage(), 30.5},
		"no outage":                          {lossless.outage(), 0},
		"the last old Pod's end":             {lossy.lastOldGone(), 40},
		"the time that a Pod takes":          {lossy.stop(), 24},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: got %v, want %v", what, got[0], got[1])
		}
	}
}

func TestTheTableHasALineForEachMode(t *testing.T) {
	again := lossy
	again.Pods = []life{{"a", true, -1, -1, 12, 80}}
	var b bytes.Buffer
	if err := writeTable(&b, []result{lossless, lossy, again}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	want := []string{
		"| no hook | 2 | 4,468 | **6** | 4 of 2,000 | 2 of 2,468 | 30 s | 24-68 s | 40-70 s |",
		"| prestop | 1 | 1,001 | **0** | 0 of 1,000 | 0 of 1 | none | 24 s | 40 s |",
	}
	if len(lines) < 4 || lines[2] != want[0] || lines[3] != want[1] {
		t.Errorf("got\n%s\nwant the lines\n%s", b.String(), strings.Join(want, "\n"))
	}
}

func TestThePictureIsXMLInEachLanguage(t *testing.T) {
	for language, say := range languages {
		var b bytes.Buffer
		if err := writeSVG(&b, []result{lossy, lossless}, language); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		for _, want := range []string{say.title, fmt.Sprintf(say.someLost, "3", "2,234"), fmt.Sprintf(say.noneLost, "1,001")} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is missing", language, want)
			}
		}
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", language, err)
			}
		}
	}
	if err := writeSVG(io.Discard, []result{lossy}, "xx"); err == nil {
		t.Error("no error for a language that is not there")
	}
}

func TestTheLoadDoesNotWaitForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		slow := caller{Name: "slow", call: func(ctx context.Context, _ int64) error {
			asked.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}}
		fast := caller{Name: "fast", call: func(context.Context, int64) error { return nil }}
		l := begin(t.Context(), []caller{slow, fast}, 10, 1)
		time.Sleep(5*time.Second - time.Millisecond) // synctest's
		if got := asked.Load(); got != 50 {
			t.Errorf("got %d requests in 5 s, want 50", got)
		}
		l.finish()
		for i, want := range []int{50, 0} {
			at, n := l.records[i].lastFailure()
			if n != want || len(l.records[i].sent) != 50 {
				t.Errorf("caller %d: %d of %d failed, the last at %v; want %d of 50", i, n, len(l.records[i].sent), at, want)
			}
		}
	})
}

func TestWorkIsFromTheShortestToTheLongest(t *testing.T) {
	if got := workFor(0); got != shortest {
		t.Errorf("got %v, want %v", got, shortest)
	}
	if got := workFor(1).Round(time.Millisecond); got != longest {
		t.Errorf("got %v, want %v", got, longest)
	}
}

func TestPodsAreTimedWhenTheyAreSeen(t *testing.T) {
	c := &cluster{pods: map[string]*pod{}, changed: make(chan struct{})}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var e podEvent
	e.Type, e.Object.Metadata.Name, e.Object.Metadata.Labels = "ADDED", "a", map[string]string{"revision": "1"}
	c.see(e, start)
	e.Object.Status.Conditions = []struct{ Type, Status string }{{"Ready", "True"}}
	c.see(e, start.Add(1))
	c.see(e, start.Add(2))
	e.Object.Metadata.DeletionTimestamp = "then"
	c.see(e, start.Add(3))
	e.Type = "DELETED"
	c.see(e, start.Add(4))
	all, _ := c.seen()
	if want := (pod{"a", "1", "", start, start.Add(1), start.Add(3), start.Add(4)}); len(all) != 1 || all[0] != want {
		t.Errorf("got %+v, want %+v", all, want)
	}
}
