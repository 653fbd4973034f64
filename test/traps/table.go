package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const good, bad = "✓", "✗"

// tables are outcomes by kind of registry, server and trap.
type tables map[string]map[string]map[string]string

// add notes an outcome; of several with one name the worst stays.
func (t tables) add(kind, server, trap string, passed bool) {
	t.set(kind, server, trap, map[bool]string{true: good, false: bad}[passed && t[kind][server][trap] != bad])
}

func (t tables) set(kind, server, trap, outcome string) {
	if t[kind] == nil {
		t[kind] = map[string]map[string]string{}
	}
	if t[kind][server] == nil {
		t[kind][server] = map[string]string{}
	}
	t[kind][server][trap] = outcome
}

// replace takes over the columns of newer.
func (t tables) replace(newer tables) {
	for kind, servers := range newer {
		if t[kind] == nil {
			t[kind] = map[string]map[string]string{}
		}
		maps.Copy(t[kind], servers)
	}
}

// differ tells where the columns of ran are not those of the table. That a test failed now is told by the test.
func differ(table, ran tables) (wrong []string) {
	for _, kind := range slices.Sorted(maps.Keys(ran)) {
		for _, server := range slices.Sorted(maps.Keys(ran[kind])) {
			is, was := ran[kind][server], table[kind][server]
			if was == nil {
				wrong = append(wrong, fmt.Sprintf("%s %s: ran, but has no column", kind, server))
				continue
			}
			for _, trap := range slices.Sorted(maps.Keys(is)) {
				if was[trap] == "" {
					wrong = append(wrong, fmt.Sprintf("%s %s, %q: has a test, but no entry", kind, server, trap))
				} else if was[trap] == bad && is[trap] == good {
					wrong = append(wrong, fmt.Sprintf("%s %s, %q: is said to fail, and does not", kind, server, trap))
				}
			}
			for _, trap := range slices.Sorted(maps.Keys(was)) {
				if is[trap] == "" {
					wrong = append(wrong, fmt.Sprintf("%s %s, %q: has an entry, but no test", kind, server, trap))
				}
			}
		}
	}
	return wrong
}

// String is the tables as Markdown.
func (t tables) String() string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(t)) {
		servers := slices.Sorted(maps.Keys(t[kind]))
		traps := map[string]bool{}
		for _, outcomes := range t[kind] {
			for trap := range outcomes {
				traps[trap] = true
			}
		}
		fmt.Fprintf(&b, "\n| %s | %s |\n|---|%s\n", kind, strings.Join(servers, " | "), strings.Repeat(":-:|", len(servers)))
		for _, trap := range slices.Sorted(maps.Keys(traps)) {
			cells := []string{trap}
			for _, server := range servers {
				cells = append(cells, t[kind][server][trap])
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	return b.String() + "\n"
}

// parse reads what String has written.
func parse(made string) tables {
	t := tables{}
	var head []string
	for line := range strings.Lines(made) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			if line == "" {
				head = nil
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if head == nil {
			head = cells
			continue
		}
		for i, outcome := range cells[1:min(len(cells), len(head))] {
			if outcome != "" {
				t.set(head[0], head[i+1], cells[0], outcome)
			}
		}
	}
	return t
}

// version is what a part of a test's name begins with that tells the column.
var version = regexp.MustCompile(`^\d+(\.\d+)+(, |$)`)

// names keep their capital.
var names = []string{"Eureka", "Nacos", "Spring", "Envoy", "Java"}

// trap is what a test says of a server, in words. Of the contract that is what its case says, with what the suite was run
// for; else the test's own name comes first.
func trap(test, kind string) string {
	parts := strings.Split(test, "/")
	top := sentence(strings.TrimPrefix(strings.TrimPrefix(parts[0], "Test"), kind))
	var rest []string
	for _, p := range parts[1:] {
		p = version.ReplaceAllString(strings.ReplaceAll(p, "_", " "), "")
		if p != "" && p != "at the same time" && p != strings.ToLower(kind) {
			rest = append(rest, strings.ReplaceAll(p, "|", "/"))
		}
	}
	if len(rest) == 0 {
		return top
	}
	if !strings.Contains(parts[0], "Contract") {
		return top + ": " + strings.Join(rest, ", ")
	}
	said := rest[len(rest)-1]
	if rest = rest[:len(rest)-1]; len(rest) > 0 {
		said += " (" + strings.Join(rest, ", ") + ")"
	}
	return said
}

// sentence is a Go name in words.
func sentence(name string) string {
	var all []string
	for len(name) > 0 {
		n := wordEnd(name)
		word := name[:n]
		name = name[n:]
		if !slices.Contains(names, word) && (len(word) == 1 || word[1:] == strings.ToLower(word[1:])) {
			word = strings.ToLower(word)
		}
		all = append(all, word)
	}
	return strings.Join(all, " ")
}

// wordEnd is where the first word of a Go name ends: Stops|A|Spring|App, Over|GRPC, CSRF|On, IDs|Of.
func wordEnd(name string) int {
	upper := func(i int) bool { return i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	capitals := 0
	for upper(capitals) {
		capitals++
	}
	switch {
	case strings.HasPrefix(name, "IDs"):
		return len("IDs")
	case capitals == len(name):
		return capitals
	case capitals > 1: // the last one begins the next word
		return capitals - 1
	}
	n := max(capitals, 1)
	for n < len(name) && !upper(n) {
		n++
	}
	return n
}
