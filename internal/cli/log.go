package cli

import (
	"bytes"
	"io"
	"log/slog"
	"time"

	"prestop/internal/config"
	"prestop/internal/logs"
)

// openLog returns the log of the sidecar, and what brings out its last lines. It is written by a
// goroutine of its own, so that nothing waits for who reads it, and lines that repeat are one.
func openLog(c config.Log, stderr io.Writer) (log *slog.Logger, flush func()) {
	w := logs.NewWriter(stderr, func(n int) []byte {
		var line bytes.Buffer
		slog.New(newHandler(c, &line)).Error("lines of the log were dropped: nobody read them",
			"lines", n)
		return line.Bytes()
	})
	folder := logs.NewFolder(newHandler(c, w))
	return slog.New(folder), func() {
		folder.Flush()
		w.Flush(flushWait)
	}
}

// flushWait bounds what a log that nobody reads holds up the end.
const flushWait = 100 * time.Millisecond

// durationAsText writes a duration as text in JSON too: nanoseconds are for nobody.
func durationAsText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().Round(time.Millisecond).String())
	}
	return a
}

// newHandler writes the log as the settings have it.
func newHandler(c config.Log, w io.Writer) slog.Handler {
	o := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: durationAsText}
	if c.LogFormat == "text" {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}
