package drain

import (
	"log/slog"
	"os"
)

// removeStale removes the --ready-file that an earlier life of the process left.
func removeStale(path string, log *slog.Logger) { setReadyFile(path, false, log) }

// setReadyFile makes the --ready-file be there or not; "" is none.
func setReadyFile(path string, there bool, log *slog.Logger) {
	if path == "" {
		return
	}
	var err error
	if there {
		err = os.WriteFile(path, nil, 0o644)
	} else if err = os.Remove(path); os.IsNotExist(err) {
		err = nil
	}
	if err != nil {
		log.Error("--ready-file cannot be kept", "file", path, "error", err)
	}
}

// writeTerminationLog writes the outcome in a line, if the file can be written; "" is none.
func writeTerminationLog(path, text string, _ *slog.Logger) {
	if path != "" {
		_ = os.WriteFile(path, []byte(text+"\n"), 0o644) // not there outside Kubernetes
	}
}
