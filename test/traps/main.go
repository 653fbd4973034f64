// Command traps makes the tables of test/README.md, trap by server version, from the output of `go test -v`.
//
//	go test -v … | traps README.md          rewrites the columns of the servers that were tested
//	go test -v … | traps -check README.md   fails where the tables and the tests that ran say different things
//
// A row is a test that ran a server: whoever starts one tells by t.Attr("server", "Nacos 2.3.2"), and each test below it
// counts for that. A column is a server, and is run as a whole or not at all: so a test that is new, and a row whose test
// is gone, are both noticed.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "compare, do not write")
	flag.Parse()
	if err := run(flag.Arg(0), os.Stdin, *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(file string, output io.Reader, check bool) error {
	ran, err := read(output)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, made, after, err := cut(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	known := parse(made)
	if check {
		if wrong := differ(known, ran); len(wrong) > 0 {
			return fmt.Errorf("the tables of %s are not those of the tests; run `make traps`:\n  %s", file, strings.Join(wrong, "\n  "))
		}
		return nil
	}
	known.replace(ran)
	return os.WriteFile(file, []byte(before+known.String()+after), 0o644)
}

const begin, end = "<!-- made by `make traps` from here -->\n", "<!-- to here -->\n"

// cut parts the text around the tables.
func cut(text string) (before, made, after string, err error) {
	before, rest, ok := strings.Cut(text, begin)
	made, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", "", "", fmt.Errorf("the lines %q and %q are missing", begin, end)
	}
	return before + begin, made, end + after, nil
}

// read takes the output of go test -v, of several packages one after the other.
func read(output io.Reader) (tables, error) {
	all := tables{}
	p := newPackage()
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if p.line(lines.Text()) {
			p.into(all)
			p = newPackage()
		}
	}
	p.into(all)
	return all, lines.Err()
}

// tests are those of one package.
type tests struct {
	servers map[string][]string // by the test that started them
	passed  map[string]bool     // by test; one that ended badly or not at all is false
}

func newPackage() tests { return tests{map[string][]string{}, map[string]bool{}} }

// line takes one line of output and reports whether it is the package's last.
func (p tests) line(s string) (last bool) {
	f := strings.Fields(s)
	switch {
	case strings.HasPrefix(s, "=== RUN ") && len(f) == 3:
		p.passed[f[2]] = false
	case strings.HasPrefix(s, "=== ATTR ") && len(f) > 4 && f[3] == "server":
		p.servers[f[2]] = append(p.servers[f[2]], strings.Join(f[4:], " "))
	case len(f) > 2 && f[0] == "---" && f[1] == "PASS:":
		p.passed[f[2]] = true
	case strings.HasPrefix(s, "ok  \t"), strings.HasPrefix(s, "FAIL\t"):
		return true
	}
	return false
}

// into adds what came of the tests that have none below them, and of those that failed though none below them did.
func (p tests) into(all tables) {
	parent, explained := map[string]bool{}, map[string]bool{}
	for name, passed := range p.passed {
		for i := range name {
			if name[i] == '/' {
				parent[name[:i]] = true
				explained[name[:i]] = explained[name[:i]] || !passed
			}
		}
	}
	for name, passed := range p.passed {
		if parent[name] && (passed || explained[name]) {
			continue
		}
		for _, server := range p.serversOf(name) {
			kind, version, _ := strings.Cut(server, " ")
			all.add(kind, version, trap(name, kind), passed)
		}
	}
}

// serversOf are those of the test or of the nearest one above it that started any.
func (p tests) serversOf(name string) []string {
	for {
		if s := p.servers[name]; len(s) > 0 {
			return s
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return nil
		}
		name = name[:i]
	}
}
