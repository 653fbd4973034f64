package connstest

import (
	"os"
	"path/filepath"
	"testing"
)

// longest is how long the path of a unix socket may be: 104 bytes with the zero at its end on BSD and macOS, 108 on Linux.
const longest = 103

// Socket returns a path for a unix socket, in a folder that is removed when the test ends. t.TempDir is no place for one,
// since it has the test's name in it. Where even TMPDIR is too long, the folder is in /tmp.
func Socket(t testing.TB) string {
	t.Helper()
	const pattern, name, random = "s", "a.sock", 10
	parent := os.TempDir()
	if len(parent)+len(pattern)+random+len(name)+2 > longest {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, name)
}
