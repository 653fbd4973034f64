package drain

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"prestop/drain/conns"
)

// This file is what came of a drain, and the line that tells it.

// Result is how a drain ended.
type Result string

const (
	// Drained: callers know, and no more connections are in use than --min-open-connections.
	Drained Result = "drained"
	// Expired: the deadline came first.
	Expired Result = "expired"
	// Cancelled: by /resume, by the app that listens again, or by a second signal.
	Cancelled Result = "cancelled"
)

// outcomeLimit bounds an Outcome's line: the kubelet stops reading an answer at 10 KiB.
const outcomeLimit = 3 << 10

// Outcome is what came of a drain.
type Outcome struct {
	Result Result
	// Took is the whole time; it is the sum of Leave (until every registry was read back as out, or
	// given up), Linger (until the callers had had their time) and Count (until no connection was
	// in use).
	Took, Leave, Linger, Count time.Duration
	// Early is by how much --quiet-period made the linger shorter.
	Early time.Duration
	// Connections is the last count. Its zero value, with Uncounted, means that there was none.
	Connections conns.Tally
	Uncounted   bool
	// LastInUse are the clients whose connections were the last in use, as address×count, where the
	// drain waited for them.
	LastInUse []string
	// Why says what most of the time went for; "" when it was short.
	Why string
	// Registries tell when each was left, one sentence for each.
	Registries []string
	// Trouble is what is wrong at a registry or with a drain call, one sentence for each.
	Trouble []string
	// Cause is what started the drain: "hook", "pod" or "SIGTERM"; Began and Ended are when.
	Cause        string
	Began, Ended time.Time
}

// String is the outcome in one line, at most 3 KiB.
func (o Outcome) String() string {
	var b strings.Builder
	switch o.Result {
	case Drained:
		fmt.Fprintf(&b, "OK drained in %s", short(o.Took))
	case Expired:
		fmt.Fprintf(&b, "EXPIRED after %s", short(o.Took))
	default:
		fmt.Fprintf(&b, "CANCELLED after %s", short(o.Took))
	}
	fmt.Fprintf(&b, " (leave %s, linger %s, count %s", short(o.Leave), short(o.Linger), short(o.Count))
	if o.Early > 0 {
		fmt.Fprintf(&b, "; the linger ended %s early, as no client said anything", short(o.Early))
	}
	b.WriteString(")")
	if o.Uncounted {
		b.WriteString("; connections not counted")
	} else {
		fmt.Fprintf(&b, "; %d connections in use, %d idle", o.Connections.Active, o.Connections.Idle)
	}
	if o.Connections.Active > 0 {
		b.WriteString(": " + strings.Join(peers(o.Connections), ", "))
	}
	for _, t := range slices.Concat(o.Registries, o.Trouble) {
		b.WriteString("; " + t)
	}
	if o.Why != "" {
		b.WriteString("; most of it: " + o.Why)
	}
	line := strings.ReplaceAll(b.String(), "\n", " ")
	return strings.ToValidUTF8(line[:min(len(line), outcomeLimit)], "") // cut inside no character
}

func (o Outcome) attrs() []slog.Attr {
	a := []slog.Attr{
		slog.String("result", string(o.Result)), slog.String("took", short(o.Took)),
		slog.String("leave", short(o.Leave)), slog.String("linger", short(o.Linger)),
		slog.String("count", short(o.Count)),
	}
	if o.Early > 0 {
		a = append(a, slog.String("linger_early", short(o.Early)))
	}
	if o.Uncounted {
		a = append(a, slog.String("connections", "not counted"))
	} else {
		c := o.Connections
		a = append(a, slog.Int("in_use", c.Active), slog.Int("idle", c.Idle),
			slog.String("source", c.Source))
	}
	if o.Connections.Active > 0 {
		a = append(a, slog.Any("peers", peers(o.Connections)))
	}
	for _, list := range []struct {
		key  string
		text []string
	}{{"last_in_use", o.LastInUse}, {"registries", o.Registries}, {"trouble", o.Trouble}} {
		if len(list.text) > 0 {
			a = append(a, slog.Any(list.key, list.text))
		}
	}
	if o.Why != "" {
		a = append(a, slog.String("why", o.Why))
	}
	return a
}

// namedPeers is how many clients a line names; /status lists more.
const namedPeers = 10

// peers lists who has connections in use: address×count, and of the one that has been silent for
// longest since when and from which port of the client.
func peers(t conns.Tally) []string {
	var names []string
	more := t.Active
	for _, p := range t.Peers {
		if p.Active == 0 || len(names) == namedPeers {
			break
		}
		more -= p.Active
		name := fmt.Sprintf("%s×%d", p.Address, p.Active)
		if p.Port != 0 {
			name += fmt.Sprintf(" (to %d from %d", p.Port, p.ClientPort)
			if p.Since > 0 { // else it is not known, or now
				name += fmt.Sprintf(", silent for %s", p.Since.Round(time.Millisecond))
			}
			name += ")"
		}
		names = append(names, name)
	}
	if more > 0 && len(names) > 0 {
		names = append(names, fmt.Sprintf("others×%d", more))
	}
	return names
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }

// outcome sums up the current drain at now.
func (o *owner) outcome(s state, r Result, now time.Time) Outcome {
	out := o.policy.phaseTimes(s, now)
	out.Result, out.Uncounted = r, s.counted.none || s.counted.began.IsZero()
	out.Cause, out.Began, out.Ended = string(s.cause), s.began, now
	out.Trouble = append(o.trouble(s), o.calls.trouble()...)
	if !out.Uncounted {
		out.Connections = s.counted.whole
	}
	if r == Cancelled || s.drains == 0 {
		return out
	}
	if out.Count >= minExplained && out.Connections.Active == 0 && s.busy.Began.After(s.began) {
		out.LastInUse = peers(s.busy)
	}
	out.Registries = o.registrySummaries(s)
	out.Why = o.why(s, out)
	return out
}

// minExplained is a time that somebody may ask the reason of.
const minExplained = time.Second

// why says what the longest part of a drain was spent on.
func (o *owner) why(s state, out Outcome) string {
	switch longest := max(out.Leave, out.Linger, out.Count); {
	case longest < minExplained:
		return ""
	case longest == out.Leave:
		return "leave: a registry did not confirm that the instance is out"
	case longest == out.Count && len(out.LastInUse) > 0:
		text := "count: connections in use, the last of " + strings.Join(out.LastInUse, ", ")
		if n := out.Connections.Expired; n > 0 {
			text += fmt.Sprintf("; %d of them were silent for --request-timeout, "+
				"so their requests count as finished", n)
		}
		return text
	case longest == out.Count:
		return "count: connections in use"
	case out.Early > 0:
		return "linger: until no client had sent anything for " + o.policy.quiet.String()
	case o.policy.linger >= 0:
		return "linger: --linger is " + o.policy.linger.String()
	}
	last, of := s.began, -1
	for i, r := range s.regs {
		if until, known := o.policy.registryLinger(s, i, r); known && until.After(last) && r.held {
			last, of = until, i
		}
	}
	if of < 0 {
		return "linger: kube-proxies need this time to drop the Pod"
	}
	return "linger: the caches of " + o.reconcilers[of].registry.Kind() + "'s callers"
}

// registrySummaries tell when each registry was left during the drain, and what came of it.
func (o *owner) registrySummaries(s state) []string {
	var all []string
	for i, r := range s.regs {
		kind := o.reconcilers[i].registry.Kind()
		after := func(t time.Time) string { return short(max(0, t.Sub(s.began))) }
		text := kind + ": still in service"
		switch {
		case !r.gaveUp.IsZero():
			text = kind + ": given up after " + after(r.gaveUp)
		case !r.left.IsZero() && !r.held:
			text = kind + ": no instance of the Pod"
			if s.reachable() {
				text += ", though the app serves: see prestop check"
			}
		case !r.left.IsZero():
			text = kind + ": out after " + after(r.left)
		}
		if !r.published.IsZero() {
			text += ", callers see it after " + after(r.published)
		}
		if n := s.views[i].undone - o.runs.undone[i]; n > 0 {
			text += fmt.Sprintf(", put back in by somebody %d times", n)
		}
		all = append(all, text)
	}
	return all
}

// phaseTimes is an Outcome with nothing but the times of the drain that began last, as of now; without
// one they are zero.
func (p policy) phaseTimes(s state, now time.Time) Outcome {
	if s.began.IsZero() {
		return Outcome{}
	}
	away, callers := p.leftAndLingered(s, now)
	out := Outcome{
		Took:  now.Sub(s.began),
		Leave: away.Sub(s.began), Linger: callers.Sub(away), Count: now.Sub(callers),
	}
	whole, known := p.lingerWhole(s)
	if known && s.reachable() && callers.Before(whole) && callers.After(away) {
		if early, quiet := p.quietUntil(s); quiet && !now.Before(early) {
			out.Early = whole.Sub(callers)
		}
	}
	return out
}

// leftAndLingered are when the registries were left and when the callers had had their time, as far as that
// came before now.
func (p policy) leftAndLingered(s state, now time.Time) (away, callers time.Time) {
	away = s.began
	for _, r := range s.regs {
		at := r.left
		if at.IsZero() {
			at = r.gaveUp
		}
		if at.IsZero() {
			at = now
		}
		if at.After(away) {
			away = at
		}
	}
	callers = now
	if !s.reachable() {
		callers = later(away, s.appSince)
	} else if until, known := p.lingerUntil(s); known && until.Before(now) {
		callers = until
	}
	if callers.Before(away) {
		callers = away
	}
	return away, callers
}

// trouble is what is wrong at the registries now.
func (d *Drain) trouble(s state) []string {
	var t []string
	for i, v := range s.views {
		if v.err != nil {
			t = append(t, fmt.Sprintf("registry %s: %v", d.reconcilers[i].registry.Kind(), v.err))
		}
	}
	return t
}
