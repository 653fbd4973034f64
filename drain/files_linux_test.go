package drain

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pipe makes a named pipe, with a reader that has not read for long where that is wanted.
func pipe(t *testing.T, full bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if !full {
		return path
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for {
		if err := f.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return path // there is no more room
		}
	}
}

func TestNoFileHoldsTheDrainUp(t *testing.T) {
	folder := t.TempDir()
	for sentence, path := range map[string]string{
		"a pipe without a reader":         pipe(t, false),
		"a pipe that nobody reads":        pipe(t, true),
		"a folder that is not there":      filepath.Join(folder, "none", "file"),
		"a folder":                        folder,
		"a file in the place of a folder": "/dev/null/file",
		"none":                            "",
	} {
		t.Run(sentence, func(t *testing.T) {
			var said bytes.Buffer
			log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
			done := make(chan struct{})
			go func() {
				defer close(done)
				writeTerminationLog(path, "OK", log)
				setReadyFile(path, true, log)
			}()
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatal("it does not return")
			}
			if told := strings.Contains(said.String(), "termination log cannot be written"); told != (path != "") {
				t.Errorf("said:\n%s", said.String())
			}
		})
	}
}

func TestFilesOfTheDrainAreWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	log := slog.New(slog.DiscardHandler)
	for _, text := range []string{"EXPIRED after a long time", "OK"} {
		writeTerminationLog(file, text, log)
		if b, err := os.ReadFile(file); err != nil || string(b) != text+"\n" {
			t.Errorf("the termination log is %q, %v", b, err)
		}
	}
	removeStale(file, log)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a file of an earlier life is still there: %v", err)
	}
	setReadyFile(file, true, log)
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	setReadyFile(file, false, log)
	setReadyFile(file, false, log)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
