// Package logs keeps the log from holding anything up: a [Writer] writes it in a goroutine of its
// own, and a [Folder] makes one line with a count of lines that repeat.
package logs

import (
	"io"
	"sync"
	"time"
)

// queued is how many lines wait for a slow reader before lines are dropped. A line has some 300
// bytes, at most a few KiB.
const queued = 512

// Writer passes lines on to another writer in a goroutine of its own. Write never blocks and never
// fails: where the other writer hangs (a pipe that nobody reads) or fails (a pipe whose reader has
// gone) lines are dropped, and counted. Safe for concurrent use.
type Writer struct {
	to   io.Writer
	lost func(n int) []byte

	lines chan []byte
	sync  chan chan struct{}
	stop  chan struct{}
	once  sync.Once

	mu      sync.Mutex
	dropped int
}

// NewWriter returns a Writer to to. Once lines can be written again, it writes first what lost
// returns, the line that tells how many were dropped. It runs until Stop.
func NewWriter(to io.Writer, lost func(n int) []byte) *Writer {
	w := &Writer{
		to: to, lost: lost,
		lines: make(chan []byte, queued), sync: make(chan chan struct{},
			1), stop: make(chan struct{}),
	}
	go w.run()
	return w
}

// Write takes a line; it keeps no reference to b.
func (w *Writer) Write(b []byte) (int, error) {
	select {
	case w.lines <- append([]byte(nil), b...):
	default:
		w.drop(1)
	}
	return len(b), nil
}

// Flush returns when what was written before has been passed on, with how many lines were dropped, or
// after the time.
func (w *Writer) Flush(within time.Duration) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	done := make(chan struct{})
	select {
	case w.sync <- done:
	case <-timer.C:
		return
	}
	select {
	case <-done:
	case <-timer.C:
	}
}

// Stop ends the goroutine. One that hangs in a write ends with that. Lines that come later are
// lost.
func (w *Writer) Stop() { w.once.Do(func() { close(w.stop) }) }

func (w *Writer) drop(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped += n
}

func (w *Writer) takeDropped() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.dropped
	w.dropped = 0
	return n
}

func (w *Writer) run() {
	for {
		select {
		case line := <-w.lines:
			w.pass(line)
		case done := <-w.sync:
			for n := len(w.lines); n > 0; n-- {
				w.pass(<-w.lines)
			}
			w.tell() // what was dropped last, too
			close(done)
		case <-w.stop:
			return
		}
	}
}

// pass writes one line, and before it how many were dropped.
func (w *Writer) pass(line []byte) {
	w.tell()
	if _, err := w.to.Write(line); err != nil {
		w.drop(1)
	}
}

// tell writes how many lines were dropped, if any were.
func (w *Writer) tell() {
	if n := w.takeDropped(); n > 0 {
		if _, err := w.to.Write(w.lost(n)); err != nil {
			w.drop(n)
		}
	}
}
