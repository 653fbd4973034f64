package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallCopiesTheProgram(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "prestop")
	for range 2 { // a container that is started again installs again
		if code := Run([]string{"install", dir}, nil, &bytes.Buffer{}, &bytes.Buffer{}, Build{}); code != exitOK {
			t.Fatalf("exit %d", code)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if s, err := os.Stat(to); err != nil || s.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", s.Mode(), err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestInstallSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no folder":                  {nil, exitUsage, "takes the folder"},
		"a flag":                     {[]string{"--force"}, exitUsage, "no flag --force"},
		"two folders":                {[]string{"a", "b"}, exitUsage, "takes the folder"},
		"a folder that is not there": {[]string{"/no/such/folder"}, exitFailed, "is a volume mounted there"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := Run(append([]string{"install"}, c.args...), nil, &bytes.Buffer{}, &stderr, Build{})
			if code != c.code || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("exit %d: %s", code, stderr.String())
			}
		})
	}
}
