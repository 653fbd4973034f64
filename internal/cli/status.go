package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"prestop/drain"
	"prestop/internal/config"
	"prestop/internal/sentence"
)

// watchEvery is how often --watch shows the page again.
const watchEvery = time.Second

// status shows what the running sidecar does, once, or with --watch until it is interrupted or the
// sidecar is gone.
func status(c config.Config, stdout, stderr io.Writer) int {
	tellNotes(c.Notes, stderr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	screen := &screen{
		out: stdout, paint: newPaint(stdout), json: c.Output == "json",
		again: c.Watch, over: c.Watch && isTerminal(stdout),
	}
	again := time.NewTicker(watchEvery)
	defer again.Stop()
	for {
		s, err := askStatus(ctx, c.HTTP)
		// The signal may have reached ask alone so far.
		if ctx.Err() != nil || errors.Is(err, errInterrupted) {
			return exitOK
		}
		if err == nil {
			err = screen.show(s)
		}
		if err != nil {
			fmt.Fprintln(stderr, "prestop:", err)
			return exitFailed
		}
		if !c.Watch {
			return exitOK
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return exitOK
		}
	}
}

// sidecarStatus is what the running sidecar tells of itself.
type sidecarStatus struct {
	drain.Status
	// Settings are those in force; nil from a sidecar that does not tell them.
	Settings map[string]string `json:"settings"`
	raw      []byte
}

// askStatus asks the running sidecar what it does.
func askStatus(ctx context.Context, c config.HTTP) (sidecarStatus, error) {
	var s sidecarStatus
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	code, body, err := ask(ctx, c, "/status")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("the sidecar answered %d: %s", code, body)
	}
	if err != nil {
		return s, err
	}
	s.raw = []byte(body)
	if err := json.Unmarshal(s.raw, &s); err != nil || s.State == "" {
		return s, errors.New(notPrestop(c))
	}
	return s, nil
}

// screen is where pages are shown, one after the other.
type screen struct {
	out   io.Writer
	paint paint
	json  bool
	again bool // there are more pages to come
	over  bool // each page over the one before
	shown bool // there was one
}

func (v *screen) show(s sidecarStatus) error {
	if v.json { // as it came
		var b bytes.Buffer
		err := json.Indent(&b, s.raw, "", "  ")
		if v.again { // one line each is what programs read a stream of
			b.Reset()
			err = json.Compact(&b, s.raw)
		}
		if err != nil {
			return err
		}
		b.WriteByte('\n')
		_, err = v.out.Write(b.Bytes())
		return err
	}
	var b strings.Builder
	page(s.Status, &b, v.paint, time.Now())
	text := b.String()
	switch {
	case v.over && !v.shown:
		text = "\x1b[2J\x1b[H" + text
	case v.over: // without a blank screen in between, which would flicker
		text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	case v.shown:
		text = "\n" + text
	}
	v.shown = true
	_, err := io.WriteString(v.out, text)
	return err
}

// page writes a status for people.
func page(s drain.Status, w io.Writer, p paint, now time.Time) {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), p}
	defer t.out.Flush()
	t.line("state", "%s for %s", colourOf(s.State, p)(s.State), ago(now.Sub(s.Since)))
	if s.State == "draining" {
		t.line("waits for", "%s", waitsFor(s, now))
		if s.Deadline != nil {
			t.line("deadline", "in %s", ago(s.Deadline.Sub(now)))
		}
	}
	for i, text := range appLines(s, p, now) {
		t.line(map[bool]string{true: "app"}[i == 0], "%s", text)
	}
	t.connections(s, now)
	for _, r := range s.Registries {
		t.registry(r)
	}
	if s.Result != "" {
		t.line("last drain", "%s", s.Result)
	}
	if l := s.LastDrain; l != nil {
		t.line("", "%s, %s ago", causeOf(l.Cause), ago(now.Sub(l.Ended)))
	}
}

// table is a page of lines, each with a name and a text.
type table struct {
	out   *tabwriter.Writer
	paint paint
}

func (t *table) line(name, format string, args ...any) {
	fmt.Fprintf(t.out, "%s\t%s\n", name, fmt.Sprintf(format, args...))
}

// connections tells how many are in use, and whose.
func (t *table) connections(s drain.Status, now time.Time) {
	c := s.Connections
	if c.Source == "none" {
		t.line("connections", "%s", t.paint.bad("cannot be counted here"))
	} else {
		t.line("connections", "%d in use, %d idle (%s)", c.Active, c.Idle, c.Source)
	}
	if h := c.LastHeard; h != nil && s.State == "draining" {
		from := ""
		if h.Address != "" {
			from = " from " + h.Address
		}
		t.line("last heard", "%s ago%s", now.Sub(h.At).Round(100*time.Millisecond), from)
	}
	for _, peer := range c.Peers {
		if peer.Active > 0 {
			t.line("", "%d from %s%s", peer.Active, peer.Address, more(peer, now))
		}
	}
}

// registry tells what one registry holds, or why that is not known.
func (t *table) registry(r drain.RegistryStatus) {
	t.line(r.Kind, "%s", r.URL)
	for _, i := range r.Instances {
		t.line("", "%s %s: %s", i.Service, i.ID, i.Status)
	}
	switch trouble := sentence.Text(r.Error); {
	case !r.Reached && trouble == "":
		t.line("", "not reached yet")
	case !r.Reached:
		t.line("", "%s %s", t.paint.bad("not reached yet:"), unreached.ReplaceAllString(trouble, ""))
	case len(r.Instances) == 0 && trouble == "":
		t.line("", "no instance of this Pod")
	case trouble != "":
		t.line("", "%s %s", t.paint.bad("trouble:"), trouble)
	}
}

// unreached is what the error of a registry begins with that has never answered: what was asked of
// it, and the address, which is on the page already.
var unreached = regexp.MustCompile(`(?m)^.*? at https?://\S+: (?:tried until the time was over: )?`)

// appLines tell on which ports the app listens, and on which it does not any more.
func appLines(s drain.Status, p paint, now time.Time) []string {
	if len(s.App) == 0 && s.Connections.Source != "none" {
		return []string{"has not listened yet"}
	}
	var on, off []string
	for _, port := range s.App {
		if port.Listening {
			on = append(on, fmt.Sprint(port.Port))
		} else {
			off = append(off, fmt.Sprintf("%s on %d for %s", p.bad("not listening"), port.Port,
				ago(now.Sub(port.Since))))
		}
	}
	if len(on) > 0 {
		off = append([]string{"listens on " + strings.Join(on, ", ")}, off...)
	}
	return off
}

// causeOf says who began a drain.
func causeOf(cause string) string {
	switch cause {
	case "hook":
		return "the preStop hook of the app called it"
	case "pod":
		return "the Pod was to stop (/stopping)"
	case "SIGTERM":
		return "prestop was told to stop (SIGTERM)"
	}
	return "called by " + cause
}

// more is what is known of a peer's connections besides how many are in use.
func more(p drain.PeerStatus, now time.Time) string {
	var s string
	if p.Port != 0 {
		s = fmt.Sprintf(" to %d", p.Port)
	}
	if p.Since != nil {
		s += fmt.Sprintf(", silent for %s (client port %d)", ago(now.Sub(*p.Since)), p.ClientPort)
	}
	return s
}

func colourOf(state string, p paint) func(string) string {
	switch state {
	case "serving", "drained":
		return p.good
	case "draining":
		return p.busy
	case "expired":
		return p.bad
	}
	return p.bold
}

// waitsFor says what keeps a drain from its end.
func waitsFor(s drain.Status, now time.Time) string {
	switch {
	case s.LingerUntil == nil:
		return "the registries, until each shows callers that the instance is gone"
	case s.LingerUntil.After(now):
		return fmt.Sprintf("the callers' caches, for another %s",
			ago(s.LingerUntil.Sub(now)))
	}
	return fmt.Sprintf("%d connections in use", s.Connections.Active)
}

// ago is a time for people.
func ago(d time.Duration) time.Duration { return d.Round(time.Second) }
