package main

import (
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"
)

const (
	lineWidth = 79  // no line that is drawn over may wrap
	columns   = 66  // of a timeline
	perColumn = 0.4 // seconds
)

// screen shows timelines in a terminal while they grow, or line by line where the output is no terminal.
type screen struct {
	out    io.Writer
	live   bool // the cursor can go up
	colour bool
	lang   lang
	drawn  int       // lines to go up before the next drawing
	last   time.Time // of a progress line where not live
}

func newScreen(out *os.File, l lang) *screen {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &screen{out: out, lang: l, live: terminal, colour: terminal && os.Getenv("NO_COLOR") == ""}
}

// progress shows panels that are still growing.
func (s *screen) progress(panels []panel, now time.Time) {
	if s.live {
		s.draw(panels)
		return
	}
	if now.Sub(s.last) < 3*time.Second {
		return
	}
	s.last = now
	for _, p := range panels {
		if p.Over {
			continue
		}
		if p.Requests == 0 {
			fmt.Fprint(s.out, saysStarting.f(s.lang, p.Service))
			continue
		}
		fmt.Fprint(s.out, saysProgress.f(s.lang, p.Seconds*scale, p.Service, thousands(p.Requests), p.lost()))
	}
}

// finished shows panels for the last time.
func (s *screen) finished(panels []panel) {
	s.draw(panels)
	s.drawn, s.last = 0, time.Time{}
}

func (s *screen) draw(panels []panel) {
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	s.drawn = 0
	for _, p := range panels {
		for _, line := range timeline(p, s.colour, s.lang) {
			b.WriteString(line)
			if s.live {
				b.WriteString("\x1b[K") // what a longer line left there before
			}
			b.WriteByte('\n')
			s.drawn++
		}
	}
	io.WriteString(s.out, b.String())
}

// timeline is a panel in characters. It always has the same number of lines, so that it can be drawn over.
func timeline(p panel, colour bool, l lang) []string {
	paint := func(code, s string) string {
		if !colour || code == "" {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	verdict := paint("32", p.verdict(l))
	if p.lost() > 0 {
		verdict = paint("31", p.verdict(l))
	}
	if p.Requests == 0 {
		verdict = saysStart.f(l)
	}
	lines := []string{fmt.Sprintf("  %s: %s", saysOn.f(l, p.Service, p.Registry), verdict)}
	codes := map[rune]string{'░': "90", '█': "32", '▒': "33", '×': "31;1"}
	for _, want := range rowNames() {
		var line strings.Builder
		for _, r := range p.Rows {
			if r.Name != want {
				continue
			}
			for run := range runs(cells(r, p.Seconds)) {
				line.WriteString(paint(codes[run[0]], string(run)))
			}
		}
		lines = append(lines, fmt.Sprintf("    %-6s %s", want, line.String()))
	}
	return lines
}

// runs yields the longest stretches of the same character.
func runs(line []rune) iter.Seq[[]rune] {
	return func(yield func([]rune) bool) {
		for len(line) > 0 {
			n := 1
			for n < len(line) && line[n] == line[0] {
				n++
			}
			if !yield(line[:n]) {
				return
			}
			line = line[n:]
		}
	}
}

func rowNames() []string {
	var names []string
	for _, age := range []string{"old", "new"} {
		for n := range replicas {
			names = append(names, fmt.Sprintf("%s-%d", age, n+1))
		}
	}
	return names
}

// cells is one instance's line: in each column what it was at the column's middle, or × if a request to it was lost there.
func cells(r row, seconds float64) []rune {
	n := min(columns, int(seconds/perColumn+1))
	line := make([]rune, n)
	for k := range line {
		middle := (float64(k) + 0.5) * perColumn
		switch {
		case middle < r.Started, middle >= r.Gone, middle > seconds:
			line[k] = ' '
		case middle < r.Registered:
			line[k] = '░'
		case middle < r.Stopping:
			line[k] = '█'
		default:
			line[k] = '▒'
		}
	}
	for _, at := range r.Lost {
		if k := int(at / perColumn); k >= 0 && k < n {
			line[k] = '×'
		}
	}
	return line
}
