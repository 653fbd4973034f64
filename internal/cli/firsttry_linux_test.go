package cli

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// isFirstTry: this block of a page is a session at a terminal, in a clone of the repository.
func isFirstTry(block []byte) bool { return bytes.Contains(block, []byte("./prestop")) }

// TestTheFirstTryOfTheREADMEsWorks types what each README has under "try it", as it stands there, at a terminal in a
// folder with the program that `make build` makes. It must say what the README says next, but for the times.
func TestTheFirstTryOfTheREADMEsWorks(t *testing.T) {
	for _, page := range []string{"README.md", "README.zh-CN.md"} {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			m := regexp.MustCompile("(?ms)^```sh\n(make build\n.*?)^```$.*?^```\n(.*?)^```$").FindSubmatch(text)
			if m == nil {
				t.Fatal("there is no first try, and what it says")
			}
			dir := t.TempDir()
			if err := os.Symlink(binary, filepath.Join(dir, "prestop")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			// As a terminal that is closed afterwards: what runs in the background ends with it. The kernel ends the rest: all
			// of it is in a PID namespace.
			c := exec.CommandContext(ctx, "bash", "-c", "ip link set lo up\nset -e\n"+string(m[1]))
			c.Dir = dir
			c.Env = append(os.Environ(), "PATH="+tools(t)+":"+os.Getenv("PATH"), "ROOT="+root(t))
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
			out, err := c.Output()
			if err != nil {
				t.Fatalf("%v (as root?)\n%s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n") // before the last one make says what it would do
			if got, want := withoutTimes(lines[len(lines)-1]), withoutTimes(strings.TrimSpace(string(m[2]))); got != want {
				t.Errorf("it says\n%s\nand the page\n%s", got, want)
			}
		})
	}
}

// withoutTimes is a text whose times and ports are the same at each run.
func withoutTimes(s string) string {
	s = regexp.MustCompile(`\d+(\.\d+)?(ms|s)\b`).ReplaceAllString(s, "TIME")
	return regexp.MustCompile(`from \d+`).ReplaceAllString(s, "from PORT")
}
