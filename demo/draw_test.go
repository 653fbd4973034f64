package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// never is a moment that has not come.
const never = 99

func TestCellsShowWhatAnInstanceWasAndWhatWasLost(t *testing.T) {
	tests := map[string]struct {
		row     row
		seconds float64
		want    string
	}{
		"still serving":                {row{Started: -2, Registered: -1, Stopping: never, Gone: never}, 1.9, "█████"},
		"starts later":                 {row{Started: 0.4, Registered: 1.2, Stopping: never, Gone: never}, 1.9, " ░░██"},
		"hook, then gone":              {row{Started: -2, Registered: -1, Stopping: 0.8, Gone: 1.6}, 2.3, "██▒▒  "},
		"a request lost after the end": {row{Started: -2, Registered: -1, Stopping: 0.4, Gone: 0.8, Lost: []float64{1.3}}, 1.9, "█▒ × "},
		"a moment beyond the end":      {row{Started: -2, Registered: -1, Stopping: never, Gone: never, Lost: []float64{50}}, 1.1, "███"},
		"longer than the line":         {row{Started: -2, Registered: -1, Stopping: never, Gone: never}, 80, strings.Repeat("█", columns)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := string(cells(test.row, test.seconds)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// example is a panel with five lost requests.
func example() panel {
	p := panel{Title: text{"Stop & <go>", "停 & <走>"}, Service: "orders", Registry: "Eureka", Requests: 1234, Failed: map[failure]int{refused: 4, cut: 1}, Seconds: 10, Stops: []float64{1, 2}}
	for _, name := range rowNames() {
		p.Rows = append(p.Rows, row{Name: name, Started: -2, Registered: -1, Stopping: 3, Gone: 4, Answered: []float64{0.1, 3.5}})
	}
	p.Rows[0].Lost = []float64{4.1, 4.2, 4.3, 5.5}
	p.Rows[1].Lost = []float64{6}
	return p
}

func TestTimelineKeepsItsHeightWhileItGrows(t *testing.T) {
	empty := timeline(panel{Service: "orders", Registry: "Eureka"}, true, english)
	full := timeline(example(), true, english)
	if len(empty) != len(full) || len(full) != 1+2*replicas {
		t.Errorf("%d lines at first, %d later; want %d both", len(empty), len(full), 1+2*replicas)
	}
}

func TestTimelineFitsIntoANarrowTerminal(t *testing.T) {
	p := example()
	p.Requests, p.Failed, p.Seconds = 2500, map[failure]int{refused: 999, cut: 999, other: 500}, 100
	for _, l := range []lang{english, chinese} {
		for _, line := range timeline(p, false, l) {
			if n := columnsOf(line); n > lineWidth {
				t.Errorf("%d columns, want at most %d: %q", n, lineWidth, line)
			}
		}
	}
}

func TestVerdictSaysHowManyAndWhy(t *testing.T) {
	p := example()
	if got, want := p.verdict(english), "5 of 1,234 failed (4 refused, 1 cut off)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.Failed = nil
	if got, want := p.verdict(english), "none of 1,234 requests failed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestJudgeWantsLossesWithoutAndNoneWithPrestop(t *testing.T) {
	lossy, clean := map[failure]int{refused: 3}, map[failure]int(nil)
	tests := map[string]struct {
		without, with map[failure]int
		fails         bool
	}{
		"as it should be":            {lossy, clean, false},
		"prestop lost something":     {lossy, lossy, true},
		"nothing was lost in either": {clean, clean, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := judge([]panel{{Title: ways[0].title, Failed: test.without}, {Title: ways[2].title, Failed: test.with, Odd: errors.New("odd")}})
			if (err != nil) != test.fails {
				t.Errorf("judged %v; want a failure: %v", err, test.fails)
			}
		})
	}
}

func TestSVGIsWellFormedAndHasATickForEachLostRequest(t *testing.T) {
	for l, title := range []string{english: "Stop & <go>", chinese: "停 & <走>"} {
		wellFormed(t, lang(l), title)
	}
}

func wellFormed(t *testing.T, l lang, title string) {
	t.Helper()
	var b strings.Builder
	if err := writeSVG(&b, []panel{example(), example(), example()}, l); err != nil {
		t.Fatal(err)
	}
	ticks, titles := 0, 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			class := slices.IndexFunc(e.Attr, func(a xml.Attr) bool { return a.Name.Local == "class" && a.Value == "lost" })
			if class < 0 {
				continue
			}
			for _, a := range e.Attr {
				if a.Name.Local == "d" {
					ticks += strings.Count(a.Value, "M")
				}
			}
		case xml.CharData:
			titles += strings.Count(string(e), title)
		}
	}
	const inLegend = 3
	if ticks != 3*5+inLegend {
		t.Errorf("%d ticks, want %d", ticks, 3*5+inLegend)
	}
	if titles != 2 {
		t.Errorf("%d headings for three panels, want 2: two panels stand beside each other", titles)
	}
}

func TestBinsLeaveOutWhatIsOutside(t *testing.T) {
	got := bins([]float64{-1, 0.9, 1, 1.24, 1.25, 2}, 1, 2)
	if len(got) != 2 || got[4] != 2 || got[5] != 1 {
		t.Errorf("got %v, want bin 4: 2, bin 5: 1", got)
	}
}
