package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const source = `package p

import "errors"

type tagged struct {
	A int ` + "`json:\"a\"`" + `
}

func f(a int, on bool) (int, error) {
	if on && a < 10 {
		a = 3
		work(
			a)
	}
	for i := 0; i < a; i++ {
		on = !on
	}
	switch {
	case on:
		return 1, errors.New("on")
	}
	return g()
}
`

func TestEveryKindOfMutantIsMade(t *testing.T) {
	mutants, err := mutantsOf("p.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mutants {
		got = append(got, m.kind+": "+m.diff([]byte(source)))
		if lines := strings.Count(string(m.apply([]byte(source))), "\n"); lines != strings.Count(source, "\n") {
			t.Errorf("%s: the lines have moved", m.kind)
		}
	}
	slices.Sort(got)
	want := []string{
		"&& to ||: if on && a < 10 {  →  if on || a < 10 {",
		"doubled: a = 3  →  a = (3 * 2)",
		"doubled: if on && a < 10 {  →  if on && a < (10 * 2) {",
		`doubled: return 1, errors.New("on")  →  return (1 * 2), errors.New("on")`,
		"dropped: a = 3  →  ",
		"dropped: on = !on  →  ",
		"dropped: work( a)  →  ",
		`error to nil: return 1, errors.New("on")  →  return 1, nil`,
		"halved: a = 3  →  a = (3 / 2)",
		"halved: if on && a < 10 {  →  if on && a < (10 / 2) {",
		`halved: return 1, errors.New("on")  →  return (1 / 2), errors.New("on")`,
		"negated: case on:  →  case !(on):",
		"negated: for i := 0; i < a; i++ {  →  for i := 0; i >= a; i++ {",
		"negated: if on && a < 10 {  →  if !(on && a < 10) {",
		"negated: if on && a < 10 {  →  if on && a >= 10 {",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// module writes a module whose tests hold some of its code, and returns its folder.
func module(t *testing.T, test string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module m\n\ngo 1.26\n",
		"m.go":      "package m\n\nvar counted bool\n\nfunc Big(n int) bool {\n\tcounted = true\n\tunused := 1 != 2\n\t_ = unused\n\treturn n > 7\n}\n",
		"m_test.go": "package m\n\nimport \"testing\"\n\n" + test,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAMutantIsKilledByATestThatFailsAndTheSourceStaysAsItIs(t *testing.T) {
	dir := module(t, "func TestBig(t *testing.T) {\n\tif Big(7) || !Big(8) {\n\t\tt.Error()\n\t}\n}\n")
	before, err := os.ReadFile(filepath.Join(dir, "m.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := runner{dir: dir, sample: 100, parallel: 2, least: 90, out: &out}
	err = r.run(t.Context(), []string{"./..."})
	for _, want := range []string{
		`(?m)^SURVIVED  m\.go:6  dropped: counted = true  →  $`,
		`(?m)^killed    m\.go:9  negated: return n > 7  →  return n <= 7$`,
		`(?m)^killed    m\.go:9  doubled: return n > 7  →  return n > \(7 \* 2\)$`,
		`(?m)^m: 3 of \d+ killed, \d+ %$`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "unused := 1 != 2  →  \n") {
		t.Errorf("a mutant that does not compile is counted:\n%s", out.String())
	}
	if err == nil || !strings.Contains(err.Error(), "below 90 %: m ") {
		t.Errorf("fewer are killed than asked for: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "m.go")); err != nil || string(after) != string(before) {
		t.Errorf("the source has changed: %v\n%s", err, after)
	}
}

func TestTestsThatFailWithoutAMutantTellNothing(t *testing.T) {
	r := runner{dir: module(t, "func TestBig(t *testing.T) { t.Fatal(\"always\") }\n"), sample: 1, out: &strings.Builder{}}
	if err := r.run(t.Context(), []string{"."}); err == nil || !strings.Contains(err.Error(), "fail without a mutant") {
		t.Errorf("%v", err)
	}
}

func TestTheSampleIsThatOfTheSeed(t *testing.T) {
	dir := module(t, "func TestBig(t *testing.T) { Big(1) }\n")
	of := func(seed uint64) string {
		var out strings.Builder
		r := runner{dir: dir, sample: 2, seed: seed, out: &out}
		if err := r.run(t.Context(), []string{"."}); err != nil {
			t.Fatal(err)
		}
		_, sample, _ := strings.Cut(out.String(), "\n")
		return sample
	}
	if a, b := of(1), of(1); a != b {
		t.Errorf("two samples of one seed:\n%s\n%s", a, b)
	}
	if a, b := of(1), of(2)+of(3)+of(4); strings.Contains(b, a+a+a) {
		t.Errorf("all seeds give the sample\n%s", a)
	}
}
