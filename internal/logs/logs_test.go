package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sink is a writer that can hang or fail.
type sink struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error
	hang chan struct{} // nil: it does not
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	hang := s.hang
	s.mu.Unlock()
	if hang != nil {
		<-hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.text.Write(b)
}

func (s *sink) set(err error, hang chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hang = err, hang
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func lost(n int) []byte { return fmt.Appendf(nil, "lost %d\n", n) }

func TestAWriterThatHangsHoldsNobodyUpAndWhatIsDroppedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := NewWriter(s, lost)
		defer w.Stop()
		hang := make(chan struct{})
		s.set(nil, hang)
		began := time.Now()
		const lines = 2000
		for i := range lines {
			fmt.Fprintln(w, i)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the lines took %v", waited)
		}
		w.Flush(time.Second)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("a flush of what hangs took %v", waited)
		}
		s.set(nil, nil)
		close(hang)
		synctest.Wait()
		fmt.Fprintln(w, "again")
		w.Flush(time.Second)
		text, told, dropped := s.String(), 0, 0
		for line := range strings.Lines(text) {
			n := 0
			if _, err := fmt.Sscanf(line, "lost %d\n", &n); err == nil {
				dropped += n
			} else {
				told++
			}
		}
		if told+dropped != lines+1 || told < queued || !strings.HasSuffix(text, "again\n") {
			t.Errorf("%d lines were written and %d told as dropped, of %d", told, dropped, lines+1)
		}
	})
}

func TestAWriterThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := NewWriter(s, lost)
		defer w.Stop()
		s.set(errors.New("broken pipe"), nil)
		fmt.Fprintln(w, "one")
		fmt.Fprintln(w, "two")
		w.Flush(time.Second)
		s.set(nil, nil)
		fmt.Fprintln(w, "three")
		w.Flush(time.Second)
		if got := s.String(); got != "lost 2\nthree\n" {
			t.Errorf("written: %q", got)
		}
		s.set(errors.New("broken pipe"), nil)
		fmt.Fprintln(w, "four")
		w.Flush(time.Second)
		s.set(nil, nil)
		w.Flush(time.Second)
		if got := s.String(); got != "lost 2\nthree\nlost 1\n" {
			t.Errorf("written with the last flush: %q", got)
		}
	})
}

// folded returns a logger whose lines are folded, and what it has written.
func folded() (*slog.Logger, *Folder, *sink) {
	s := &sink{}
	f := NewFolder(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	return slog.New(f), f, s
}

func TestLinesThatRepeatAreOneLineWithACountAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _, s := folded()
		for i := range 1000 {
			log.Warn("refused a call without the token", "path", "/shutdown", "from", fmt.Sprintf("10.0.0.%d:%d", i%250, i))
		}
		if got := strings.Count(s.String(), "\n"); got != 1 {
			t.Errorf("%d lines at once:\n%s", got, s)
		}
		time.Sleep(foldFor)
		synctest.Wait()
		if got := s.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "times=999") {
			t.Errorf("after a minute:\n%s", got)
		}
		time.Sleep(2 * foldFor)
		log.Warn("refused a call without the token", "path", "/shutdown", "from", "10.0.0.1:1")
		if got := strings.Count(s.String(), "\n"); got != 3 {
			t.Errorf("one that comes later does not pass at once:\n%s", s)
		}
	})
}

func TestDistinctLinesAreNotSwallowed(t *testing.T) {
	for sentence, say := range map[string]func(l *slog.Logger, i int){
		"two registries": func(l *slog.Logger, i int) {
			l.With("url", fmt.Sprint("http://nacos-", i)).Warn("trouble", "error", "x")
		},
		"two files":            func(l *slog.Logger, i int) { l.Error("cannot be kept", "file", fmt.Sprint("/tmp/", i)) },
		"two messages":         func(l *slog.Logger, i int) { l.Warn(fmt.Sprint("note ", i)) },
		"two levels":           func(l *slog.Logger, i int) { l.Log(context.Background(), slog.LevelWarn+slog.Level(4*i), "x") },
		"two causes":           func(l *slog.Logger, i int) { l.Warn("trouble", "error", []string{"refused", "reset"}[i]) },
		"two drains":           func(l *slog.Logger, i int) { l.Error("the drain is over", "result", "expired", "took", i) },
		"what a person does":   func(l *slog.Logger, i int) { l.Info("resume called", "from", i) },
		"attributes in groups": func(l *slog.Logger, i int) { l.WithGroup(fmt.Sprint("g", i)).Warn("x", "a", "b") },
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, _, s := folded()
				say(log, 0)
				say(log, 1)
				if got := strings.Count(s.String(), "\n"); got != 2 {
					t.Errorf("%d lines at once:\n%s", got, s)
				}
				time.Sleep(2 * foldFor) // for the timers
			})
		})
	}
}

func TestAFlushTellsWhatWasGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, f, s := folded()
		for range 5 {
			log.Warn("x")
		}
		f.Flush()
		if got := s.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "times=4") {
			t.Errorf("told:\n%s", got)
		}
		time.Sleep(2 * foldFor)
	})
}

func TestManyKindsCostLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFolder(slog.NewTextHandler(io.Discard, nil))
		log := slog.New(f)
		for i := range 10 * kinds {
			log.Warn(fmt.Sprint(i))
		}
		if n := remembered(f); n > kinds {
			t.Errorf("%d kinds are remembered", n)
		}
		time.Sleep(2 * foldFor)
		synctest.Wait()
		if n := remembered(f); n != 0 {
			t.Errorf("%d kinds are remembered after two minutes", n)
		}
	})
}

// remembered is how many kinds of lines a Folder remembers.
func remembered(f *Folder) int {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	return len(f.state.seen)
}
