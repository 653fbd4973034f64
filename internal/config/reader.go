package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// reader takes settings from flags and environment and collects what is wrong with them.
type reader struct {
	flags    *pflag.FlagSet
	env      Environment
	pod      podSources
	from     map[string]string // flag → the setting that its value came from
	hinted   map[string]bool   // flags whose value is the app's
	problems []error
	notes    []string // what is odd but no reason not to start
	said     []string // what is worth a line
}

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Setting is the flag, or the variable that the value came from.
	Setting string
	// Value is what was given; "" for a secret.
	Value string
	// Wrong says what is wrong, Remedy what would do.
	Wrong, Remedy string
}

func (p Problem) Error() string {
	if p.Value == "" {
		return fmt.Sprintf("%s: %s; %s", p.Setting, p.Wrong, p.Remedy)
	}
	return fmt.Sprintf("%s=%q: %s; %s", p.Setting, p.Value, p.Wrong, p.Remedy)
}

// fromEnvironment sets a flag that the command line has not set.
func (r *reader) fromEnvironment(f *pflag.Flag) {
	if s := Lookup(f.Name); f.Changed || s.CommandsOnly {
		return
	}
	if name := Lookup(f.Name).Variable(); r.env.get(name) != "" {
		r.from[f.Name] = name
		_ = r.flags.Set(f.Name, r.env.get(name)) // takes any text; see late
	}
}

// given reports whether a flag was set, by the command line or by its variable, and not by a hint.
func (r *reader) given(flag string) bool { return r.flags.Changed(flag) && !r.hinted[flag] }

// byFlag reports whether a flag was set by the command line.
func (r *reader) byFlag(flag string) bool { return r.given(flag) && r.from[flag] == "--"+flag }

// unknownVariables tells which PRESTOP_ variables are no setting, each with the one that was
// probably meant. Those that Kubernetes sets for a Service whose name begins with prestop are not
// among them.
func unknownVariables(env Environment) []string {
	var all, known []string
	for _, s := range settings {
		if !s.CommandsOnly {
			known = append(known, s.Variable())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !strings.HasPrefix(name, "PRESTOP_") || slices.Contains(known, name) ||
			serviceVariable.MatchString(name) || serviceLink(env[name]) {
			continue
		}
		text := name + " is no setting of prestop and does nothing"
		if near := Nearest(strings.TrimPrefix(name, "PRESTOP_"),
			trimmed(known, "PRESTOP_")); near != "" {
			text += "; is PRESTOP_" + near + " meant?"
		}
		all = append(all, text)
	}
	return all
}

// serviceVariable is what Kubernetes calls its variables for a Service.
var serviceVariable = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// trimmed are names without a prefix.
func trimmed(names []string, prefix string) []string {
	all := slices.Clone(names)
	for i := range all {
		all[i] = strings.TrimPrefix(all[i], prefix)
	}
	return all
}

// Nearest is the name that was probably meant; "" where none is near.
func Nearest(name string, known []string) string {
	word := squashed(name)
	best, least := "", 2+len(word)/3
	for _, k := range known {
		d := distance(word, squashed(k))
		if len(word) > 2 && strings.HasPrefix(squashed(k), word) {
			d = min(d, 1) // it is only shortened
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters must be inserted, left out or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, before+1)
		}
	}
	return row[len(b)]
}

// problem notes what is wrong with a flag's value.
func (r *reader) problem(flag, wrong, remedy string) {
	r.problems = append(r.problems, r.fault(flag, wrong, remedy))
}

// fault is what is wrong with a flag's value.
func (r *reader) fault(flag, wrong, remedy string) Problem {
	return Problem{r.from[flag], shown(flag, r.string(flag)), wrong, remedy}
}

// shown is what may be shown of a flag's value.
func shown(flag, value string) string {
	switch {
	case Lookup(flag).Secret:
		return ""
	case strings.HasSuffix(flag, "-url"), flag == "drain-call":
		return withoutUserinfo(value)
	}
	return value
}

// withoutUserinfo blanks a list of URLs from where the first one's userinfo may begin to where the
// last one's ends. Nothing less is safe in a list that is not right: a password with a comma or a
// slash in it looks like two URLs.
func withoutUserinfo(list string) string {
	at := strings.LastIndex(list, "@")
	if at < 0 {
		return list
	}
	scheme, _, found := strings.Cut(list[:at], "://")
	if !found || strings.ContainsAny(scheme, ",:/ ") {
		return "…" + list[at:]
	}
	return scheme + "://…" + list[at:]
}

func (r *reader) string(flag string) string {
	// every flag read here is declared in settings.go
	return strings.TrimSpace(r.flags.Lookup(flag).Value.String())
}

// lines returns the values of a flag that may be given more than once: one a line, as in a
// variable, where a comma parts two as well if another value begins behind it. A regular expression
// and a URL may hold commas of their own.
func (r *reader) lines(flag string, begin *regexp.Regexp) []string {
	var all []string
	for line := range strings.Lines(r.string(flag)) {
		for i, part := range strings.Split(line, ",") {
			if i > 0 && !begin.MatchString(strings.TrimSpace(part)) {
				all[len(all)-1] += "," + strings.TrimRight(part, " \t\r\n")
			} else {
				all = append(all, strings.TrimSpace(part))
			}
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// list returns the non-empty parts of a comma list.
func (r *reader) list(flag string) []string { return split(r.string(flag)) }

func split(list string) []string {
	var l []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s != "" {
			l = append(l, s)
		}
	}
	return l
}
