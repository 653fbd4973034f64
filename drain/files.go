package drain

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// fileWait bounds what a file may hold the drain up: one on a file system that hangs is written in
// the background, or never.
const fileWait = 200 * time.Millisecond

// removeStale removes the --ready-file that an earlier life of the process left.
func removeStale(path string, log *slog.Logger) { setReadyFile(path, false, log) }

// setReadyFile makes the --ready-file be there or not; "" is none. It returns after fileWait at the
// latest.
func setReadyFile(path string, there bool, log *slog.Logger) {
	if path == "" {
		return
	}
	err := bounded(func() error {
		if there {
			return writeFile(path, nil)
		}
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		log.Error("--ready-file cannot be kept; is its folder there, and may this user write to it?",
			"file", path, "error", plain(err))
	}
}

// writeTerminationLog writes the outcome in a line, if the file can be written; "" is none. It
// returns after fileWait at the latest. Outside Kubernetes there is no such file.
func writeTerminationLog(path, text string, log *slog.Logger) {
	if path == "" {
		return
	}
	if err := bounded(func() error { return writeFile(path, []byte(text+"\n")) }); err != nil {
		log.Debug("the termination log cannot be written", "file", path, "error", plain(err))
	}
}

var errHangs = errors.New("it hangs")

// bounded does f, and returns its error, or errHangs where it takes longer than fileWait; then f
// goes on by itself.
func bounded(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(fileWait)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errHangs
	}
}

// writeFile writes a file as os.WriteFile does, but does not wait for somebody to read a pipe.
func writeFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	_ = f.SetWriteDeadline(time.Now().Add(10 * time.Second)) // an ordinary file has none
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// plain leaves out the operation and the path of a file's error.
func plain(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
