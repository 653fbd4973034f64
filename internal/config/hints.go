package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Environment is the process's, by name.
type Environment map[string]string

// Environ makes an Environment of what os.Environ returns.
func Environ(all []string) Environment {
	e := Environment{}
	for _, v := range all {
		name, value, _ := strings.Cut(v, "=")
		e[name] = value
	}
	return e
}

// get returns a variable without the blanks around it; "" if it is not set, or is one that
// Kubernetes sets for a Service: one named prestop makes PRESTOP_PORT=tcp://….
func (e Environment) get(name string) string {
	value := strings.TrimSpace(e[name])
	if serviceLink(value) {
		return ""
	}
	return value
}

// only are those of the variables that have one of the names.
func (e Environment) only(names []string) Environment {
	some := Environment{}
	for _, name := range names {
		if value, set := e[name]; set {
			some[name] = value
		}
	}
	return some
}

// relaxed returns the variable of a Spring property as Spring finds it, whatever the spelling: a
// dot may be an underscore, a hyphen an underscore or nothing, and case does not count. The
// variable that is spelled as name wins.
func (e Environment) relaxed(name string) (found, value string) {
	if value := e.get(name); value != "" {
		return name, value
	}
	want, best := squashed(name), ""
	for other := range e {
		if squashed(other) == want && e.get(other) != "" && (best == "" || other < best) {
			best = other
		}
	}
	if best == "" {
		return name, ""
	}
	return best, e.get(best)
}

var squash = strings.NewReplacer(".", "", "_", "", "-", "")

// squashed is what all spellings of a property have in common.
func squashed(name string) string { return strings.ToLower(squash.Replace(name)) }

// serviceLink reports whether the value is one that Kubernetes sets for a Service.
func serviceLink(value string) bool {
	return slices.ContainsFunc([]string{"tcp://", "udp://", "sctp://"}, func(s string) bool {
		return strings.HasPrefix(value, s)
	})
}

// nesting bounds placeholders in placeholders, which may go in a circle.
const nesting = 8

// resolve returns the value with its ${name} and ${name:default}, nested ones too, replaced from
// the environment as Spring does, or the first placeholder that cannot be. What is not closed is no
// placeholder.
func (e Environment) resolve(value string) (resolved, missing string) {
	return e.resolveAt(value, 0)
}

func (e Environment) resolveAt(value string, depth int) (resolved, missing string) {
	before, after, found := strings.Cut(value, "${")
	end := closing(after)
	if !found || end < 0 {
		return value, ""
	}
	if depth >= nesting {
		return "", "${" + after[:end] + "}"
	}
	key, fallback, hasFallback := cutDefault(after[:end])
	if key, missing = e.resolveAt(key, depth+1); missing != "" {
		return "", missing
	}
	_, got := e.relaxed(key)
	switch {
	case got == "" && hasFallback:
		got = fallback
	case got == "":
		return "", "${" + key + "}"
	}
	if got, missing = e.resolveAt(got, depth+1); missing != "" {
		return "", missing
	}
	rest, missing := e.resolveAt(after[end+1:], depth)
	return before + got + rest, missing
}

// closing returns the index of the brace that closes a placeholder which was opened before s; -1 if
// none does.
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

// cutDefault separates a placeholder's name from its default, at the first colon outside other
// ones.
func cutDefault(s string) (key, fallback string, found bool) {
	open := 0
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "${"):
			open++
		case s[i] == '}':
			open--
		case s[i] == ':' && open == 0:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// Hints are what the app's own variables say of it. They are told in the log, so that a reader sees
// what the app means. They restrict nothing, since an app registers under other names, groups and
// ports too. HeldBack are the kinds of registries in which it registers itself out of service: what
// is found so there is left so.
type Hints struct {
	Services   []string
	Ports      []uint16
	Group      string
	InstanceID string
	HeldBack   []string
}

// Attrs are the hints that there are, for a log line.
func (h Hints) Attrs() []any {
	var all []any
	for _, a := range []struct {
		key   string
		value any
		set   bool
	}{
		{"service", h.Services, len(h.Services) > 0}, {"port", h.Ports, len(h.Ports) > 0},
		{"group", h.Group, h.Group != ""}, {"instance_id", h.InstanceID, h.InstanceID != ""},
		{"held_back", h.HeldBack, len(h.HeldBack) > 0},
	} {
		if a.set {
			all = append(all, a.key, a.value)
		}
	}
	return all
}

// hint returns the value of the app's variable for a flag, resolved, and the variable's name: of
// the first one that can be read. One that cannot is a warning that says what follows. "" if there
// is none.
func (r *reader) hint(flag, follows string) (name, value string) {
	var seen []string // two variables may be two spellings of one
	for _, variable := range Lookup(flag).Variables {
		name, value := r.env.relaxed(variable)
		if value == "" || slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		var all []string
		for _, part := range parts(flag, value) {
			resolved, missing := r.env.resolve(part)
			if missing != "" {
				r.unread(flag, name, value,
					"the placeholder "+missing+" is set nowhere in the environment", follows)
				continue
			}
			all = append(all, strings.TrimSpace(resolved))
		}
		if len(all) > 0 {
			return name, strings.Join(all, ",")
		}
	}
	return "", ""
}

// parts are the servers of a list of URLs, each of which may hold a placeholder of its own; another
// value is one.
func parts(flag, value string) []string {
	if !strings.HasSuffix(flag, "-url") || strings.Contains(value, "@") ||
		strings.Contains(value, ";") {
		return []string{value}
	}
	var all []string
	begin, open := 0, 0
	for i := range len(value) {
		switch {
		case strings.HasPrefix(value[i:], "${"):
			open++
		case value[i] == '}':
			open--
		case value[i] == ',' && open == 0:
			all = append(all, value[begin:i])
			begin = i + 1
		}
	}
	return append(all, value[begin:])
}

// unread notes a hint that cannot be read.
func (r *reader) unread(flag, name, value, wrong, follows string) {
	given := name
	if s := shown(flag, value); s != "" {
		given = fmt.Sprintf("%s=%q", name, s)
	}
	r.notes = append(r.notes, fmt.Sprintf("%s cannot be used: %s; %s", given, wrong, follows))
}

// setByHint sets a flag that no setting has set to the app's variable.
func (r *reader) setByHint(flag, follows string) {
	if r.given(flag) {
		return
	}
	if name, value := r.hint(flag, follows); value != "" {
		r.from[flag] = name
		r.hinted[flag] = true
		_ = r.flags.Set(flag, value) // takes any text
	}
}

// only is what follows where a hint that is only told cannot be read.
const only = "it is only a hint, and nothing depends on it: instances are found by the Pod's " +
	"addresses and ports"

// hints reads what is only told of the app.
func (r *reader) hints() Hints {
	var h Hints
	_, names := r.hint("service", only)
	h.Services = split(names)
	_, h.Group = r.hint("nacos-group", only)
	_, h.InstanceID = r.hint("eureka-instance-id", only)
	variable, ports := r.hint("port", only)
	for _, s := range split(ports) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			r.unread("port", variable, ports, "it is no port that the app could be known by", only)
			h.Ports = nil
			break
		}
		h.Ports = append(h.Ports, uint16(n))
	}
	for _, k := range kinds {
		if r.isHeldBack(k) {
			h.HeldBack = append(h.HeldBack, k.Name)
		}
	}
	return h
}

// isHeldBack reports whether the app registers itself out of service in a kind of registry.
func (r *reader) isHeldBack(k Kind) bool {
	_, value := r.env.relaxed(k.heldBack[0])
	value, _ = r.env.resolve(value)
	return strings.EqualFold(strings.TrimSpace(value), k.heldBack[1])
}

// switchedOff returns the variable by which the app switched the discovery of a kind off; "" if it
// did not.
func (r *reader) switchedOff(k Kind) string {
	for _, variable := range slices.Concat(k.off, everyOff) {
		name, value := r.env.relaxed(variable)
		value, _ = r.env.resolve(value)
		if slices.Contains([]string{"false", "off", "no", "0"},
			strings.ToLower(strings.TrimSpace(value))) {
			return name
		}
	}
	return ""
}

// registryHints sets the registries' settings that are not given to the app's own.
func (r *reader) registryHints() {
	for _, k := range kinds {
		off := r.switchedOff(k)
		if off == "" {
			r.setByHint(k.Flag, "it is left out; give it by --"+k.Flag)
			continue
		}
		for _, variable := range Lookup(k.Flag).Variables {
			if name, value := r.env.relaxed(variable); value != "" && !r.given(k.Flag) {
				r.said = append(r.said, fmt.Sprintf(
					"%s is not used, as the app has its discovery switched off by %s; give --%s "+
						"if it registers there all the same",
					name, off, k.Flag))
				break
			}
		}
	}
	r.setByHint("nacos-namespace", "the namespace public is used; give its ID by --nacos-namespace")
	r.setByHint("nacos-username", "nobody logs in; give it by --nacos-username")
	if !r.given("nacos-password-file") {
		r.setByHint("nacos-password", "nobody logs in; give it by --nacos-password-file")
	}
}
