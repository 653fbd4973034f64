package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// reader takes settings from flags and environment and collects what is wrong with them.
type reader struct {
	flags    *pflag.FlagSet
	env      func(string) string
	from     map[string]string // flag → the setting that its value came from
	problems []error
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
	r.from[f.Name] = "--" + f.Name
	if f.Changed || ofCommands[f.Name] != nil {
		return
	}
	for i, name := range append([]string{variable(f.Name)}, variables[f.Name]...) {
		value := strings.TrimSpace(r.env(name))
		if value == "" || serviceLink(value) {
			continue
		}
		r.from[f.Name] = name
		if i > 0 {
			value = r.placeholders(f.Name, name, value)
		}
		_ = r.flags.Set(f.Name, value) // takes any text; see late
		return
	}
}

// serviceLink reports whether the value is one that Kubernetes sets for a Service: one named prestop makes PRESTOP_PORT.
func serviceLink(value string) bool {
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://") || strings.HasPrefix(value, "sctp://")
}

// placeholders resolves ${name} and ${name:default}, nested ones too, in a Spring application's variable from the
// environment, as Spring does.
func (r *reader) placeholders(flag, name, value string) string {
	resolved, missing := r.resolve(value, 0)
	if missing != "" {
		r.from[flag] = name
		r.problems = append(r.problems, Problem{name, shown(flag, value), "the placeholder " + missing + " is set nowhere in the environment",
			"set it, or give the value by --" + flag + " or " + variable(flag)})
		return ""
	}
	return resolved
}

// nesting bounds placeholders in placeholders, which may go in a circle.
const nesting = 8

// resolve returns the value without placeholders, or the first that cannot be resolved. As in Spring, what is
// not closed is no placeholder.
func (r *reader) resolve(value string, depth int) (resolved, missing string) {
	before, after, found := strings.Cut(value, "${")
	end := closing(after)
	if !found || end < 0 {
		return value, ""
	}
	key, fallback, hasFallback := strings.Cut(after[:end], ":")
	if key, missing = r.resolve(key, depth+1); missing != "" {
		return "", missing
	}
	got := r.env(key)
	if got == "" {
		got = r.env(relaxed(key))
	}
	switch {
	case got == "" && hasFallback:
		got = fallback
	case got == "" || depth >= nesting:
		return "", "${" + key + "}"
	}
	if got, missing = r.resolve(got, depth+1); missing != "" {
		return "", missing
	}
	rest, missing := r.resolve(after[end+1:], depth)
	return before + got + rest, missing
}

// closing returns the index of the brace that closes a placeholder which was opened before s; -1 if none does.
func closing(s string) int {
	open := 1
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "${"):
			open++
		case s[i] == '}':
			if open--; open == 0 {
				return i
			}
		}
	}
	return -1
}

// relaxed is the variable that Spring reads a property from.
func relaxed(property string) string {
	return strings.ToUpper(strings.NewReplacer(".", "_", "-", "").Replace(property))
}

// problem notes what is wrong with a flag's value.
func (r *reader) problem(flag, wrong, remedy string) {
	r.problems = append(r.problems, Problem{r.from[flag], shown(flag, r.string(flag)), wrong, remedy})
}

// shown is what may be shown of a flag's value.
func shown(flag, value string) string {
	switch {
	case slices.Contains(secrets, flag):
		return ""
	case strings.HasSuffix(flag, "-url"), flag == "drain-call":
		return withoutUserinfo(value)
	}
	return value
}

// withoutUserinfo blanks a list of URLs from where the first one's userinfo may begin to where the last one's ends. Nothing
// less is safe in a list that is not right: a password with a comma or a slash in it looks like two URLs.
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
	return strings.TrimSpace(r.flags.Lookup(flag).Value.String()) // every flag read here is declared in settings.go
}

// lines returns the values of a flag that may be given more than once: one a line, as in a variable, where a comma parts two
// as well if another value begins behind it. A regular expression and a URL may hold commas of their own.
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
