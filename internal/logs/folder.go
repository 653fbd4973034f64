package logs

import (
	"context"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// foldFor is how long repetitions of a line are gathered before one line tells of them.
	foldFor = time.Minute
	// plenty is how many lines of the levels below Warn, and of results, pass before the next ones
	// of their kind are gathered: what a person does a few times in a minute is told each time.
	plenty = 10
	// kinds bounds what is remembered; a line of one more kind passes.
	kinds = 256
)

// Folder is a [slog.Handler] that makes one line of those that repeat: the first passes at once,
// the others of the next minute are one line with their number, as the attribute "times". Lines are
// of one kind if their level, message and attributes are the same, where numbers in other
// attributes than those that name something (a registry, a file, an instance) do not count: a
// client's port, a duration, an address.
type Folder struct {
	next  slog.Handler
	names string // the attributes of With, as part of the kind
	state *folding
}

type folding struct {
	mu   sync.Mutex
	seen map[string]*repeated
}

// repeated is one kind of line.
type repeated struct {
	passed int // since the first one
	folded int
	last   slog.Record
	to     slog.Handler
	timer  *time.Timer
}

// NewFolder returns a Folder in front of next.
func NewFolder(next slog.Handler) *Folder {
	return &Folder{next: next, state: &folding{seen: map[string]*repeated{}}}
}

// Enabled is next's.
func (f *Folder) Enabled(ctx context.Context, l slog.Level) bool { return f.next.Enabled(ctx, l) }

// WithAttrs returns a Folder that shares what it remembers.
func (f *Folder) WithAttrs(attrs []slog.Attr) slog.Handler {
	names := f.names
	for _, a := range attrs {
		names += "\x00" + a.String()
	}
	return &Folder{next: f.next.WithAttrs(attrs), names: names, state: f.state}
}

// WithGroup returns a Folder that shares what it remembers.
func (f *Folder) WithGroup(name string) slog.Handler {
	return &Folder{next: f.next.WithGroup(name), names: f.names + "\x00" + name, state: f.state}
}

// Handle passes the record on, or counts it.
func (f *Folder) Handle(ctx context.Context, r slog.Record) error {
	if f.state.fold(f, r) {
		return nil
	}
	return f.next.Handle(ctx, r)
}

// Flush tells of the repetitions that were not told yet, at the end of the process.
func (f *Folder) Flush() {
	f.state.mu.Lock()
	keys := make([]string, 0, len(f.state.seen))
	for key := range f.state.seen {
		keys = append(keys, key)
	}
	f.state.mu.Unlock()
	slices.Sort(keys)
	for _, key := range keys {
		f.state.tell(key)
	}
}

// fold reports whether the record is one that shall be told of later.
func (s *folding) fold(f *Folder, r slog.Record) bool {
	key, most := kindOf(f.names, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.seen[key]
	switch {
	case k == nil && len(s.seen) >= kinds:
		return false
	case k == nil:
		k = &repeated{}
		k.timer = time.AfterFunc(foldFor, func() { s.tell(key) })
		s.seen[key] = k
	}
	if k.passed < most {
		k.passed++
		return false
	}
	k.folded++
	k.last, k.to = r.Clone(), f.next
	return true
}

// tell ends a minute of one kind: it tells how many lines were gathered, and forgets the kind.
// While lines go on to come another minute begins, so that there is one line in each.
func (s *folding) tell(key string) {
	s.mu.Lock()
	k := s.seen[key]
	if k == nil {
		s.mu.Unlock()
		return
	}
	k.timer.Stop()
	if k.folded == 0 {
		delete(s.seen, key)
		s.mu.Unlock()
		return
	}
	r, to, n := k.last, k.to, k.folded
	k.folded = 0
	k.timer = time.AfterFunc(foldFor, func() { s.tell(key) })
	s.mu.Unlock()
	if n > 1 {
		r.AddAttrs(slog.Int("times", n), slog.String("within", foldFor.String()))
	}
	_ = to.Handle(context.Background(), r) // a log that fails is nobody's to tell
}

// naming are the attributes whose numbers tell one thing from another.
var naming = []string{
	"registry", "url", "file", "path", "call", "instance", "instances", "service", "setting", "cause", "signal", "ports", "gone",
}

var digits = regexp.MustCompile(`[0-9]+`)

// kindOf is what lines of one kind have in common, and how many of them pass.
func kindOf(names string, r slog.Record) (key string, most int) {
	var b strings.Builder
	b.WriteString(r.Level.String() + "\x00" + r.Message + "\x00" + names)
	most = 1
	if r.Level < slog.LevelWarn {
		most = plenty
	}
	r.Attrs(func(a slog.Attr) bool {
		text := a.String()
		if a.Key == "result" { // how a drain ended
			most = plenty
		}
		if !slices.Contains(naming, a.Key) {
			text = digits.ReplaceAllString(text, "#")
		}
		b.WriteString("\x00" + text)
		return true
	})
	return b.String(), most
}
