package main

import (
	"fmt"
	"io"
	"strings"
)

// row is all runs of one mode.
type row struct {
	mode mode
	runs []result
}

// rows groups the results by their modes, in the order of modes.
func rows(all []result) []row {
	var rows []row
	for _, m := range modes {
		r := row{mode: m}
		for _, one := range all {
			if one.Mode == m.Name {
				r.runs = append(r.runs, one)
			}
		}
		if len(r.runs) > 0 {
			rows = append(rows, r)
		}
	}
	return rows
}

func (r row) requests() (n int) {
	for _, one := range r.runs {
		n += one.requests()
	}
	return n
}

func (r row) failed() (n int) {
	for _, one := range r.runs {
		n += len(one.failed())
	}
	return n
}

// of is what became of one caller's requests.
func (r row) of(name string) (failed, requests int) {
	for _, one := range r.runs {
		for _, c := range one.Callers {
			if c.Name == name {
				failed, requests = failed+len(c.Failed), requests+c.Requests
			}
		}
	}
	return failed, requests
}

// span is what f is for each run, from the least to the most.
func (r row) span(f func(result) float64) string {
	least, most := f(r.runs[0]), f(r.runs[0])
	for _, one := range r.runs[1:] {
		least, most = min(least, f(one)), max(most, f(one))
	}
	if fmt.Sprintf("%.0f", least) == fmt.Sprintf("%.0f", most) {
		return fmt.Sprintf("%.0f s", most)
	}
	return fmt.Sprintf("%.0f-%.0f s", least, most)
}

// writeTable writes a table in Markdown.
func writeTable(w io.Writer, all []result) error {
	var b strings.Builder
	found := rows(all)
	b.WriteString("| a Pod's preStop | runs | requests | failed |")
	var callers []callerResult
	for _, one := range all {
		if len(one.Callers) > len(callers) {
			callers = one.Callers
		}
	}
	for _, c := range callers {
		fmt.Fprintf(&b, " %s |", c.Title)
	}
	b.WriteString(" outage | a Pod stops in | last old Pod gone after |\n|---|---|---|---|" + strings.Repeat("---|", len(callers)) + "---|---|---|\n")
	for _, r := range found {
		fmt.Fprintf(&b, "| %s | %d | %s | **%s** |", r.mode.Title, len(r.runs), thousands(r.requests()), thousands(r.failed()))
		for _, c := range callers {
			failed, requests := r.of(c.Name)
			if requests == 0 {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(&b, " %s of %s |", thousands(failed), thousands(requests))
		}
		outage := "none"
		if r.failed() > 0 {
			outage = r.span(result.outage)
		}
		fmt.Fprintf(&b, " %s | %s | %s |\n", outage, r.span(result.stop), r.span(result.lastOldGone))
	}
	first, last := all[0], all[len(all)-1]
	fmt.Fprintf(&b, "\nMeasured from %s to %s on %s; %.0f requests a second of each caller.\n", first.Date.Format("2006-01-02 15:04"), last.Date.Format("2006-01-02 15:04"), last.Machine, last.Rate)
	_, err := io.WriteString(w, b.String())
	return err
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for k := len(s) - 3; k > 0; k -= 3 {
		s = s[:k] + "," + s[k:]
	}
	return s
}
