package cli

import (
	"io"
	"os"
)

// paint colours words for a terminal; its zero value leaves them as they are.
type paint struct{ colour bool }

// newPaint colours what goes to a terminal that can show it, unless NO_COLOR is set (no-color.org).
func newPaint(w io.Writer) paint {
	return paint{colour: isTerminal(w) && os.Getenv("NO_COLOR") == ""}
}

// isTerminal reports whether w is a terminal that takes escape sequences.
func isTerminal(w io.Writer) bool {
	f, isFile := w.(*os.File)
	if !isFile || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p paint) in(code, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) good(s string) string { return p.in("32", s) }
func (p paint) busy(s string) string { return p.in("33", s) }
func (p paint) bad(s string) string  { return p.in("31;1", s) }
func (p paint) bold(s string) string { return p.in("1", s) }
