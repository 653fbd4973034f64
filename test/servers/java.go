// Package servers starts the real registries, apps and callers of the tests: Java programs that Maven builds on first use
// from the projects in this folder.
//
// A missing JDK or Maven is an error that names the Debian package; nothing is skipped.
package servers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Build builds the Maven project in dir by `mvn -q -B` with goals (none: package) and returns the folder of the built
// copy, whose target/ holds the result. The copy lies in the user's cache under a hash of the project and the goals, so
// an unchanged project is built once; dir itself is not written to. Several processes may build at the same time: one
// Maven runs after the other, since its local repository is not made for more. Blocks until ctx ends.
func Build(ctx context.Context, dir string, goals ...string) (string, error) {
	if len(goals) == 0 {
		goals = []string{"package"}
	}
	mvn, err := tool("mvn", "maven")
	if err != nil {
		return "", err
	}
	hash, err := projectHash(dir, goals)
	if err != nil {
		return "", fmt.Errorf("hash the Maven project %s: %w", dir, err)
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	built := filepath.Join(cache, filepath.Base(filepath.Dir(dir))+"-"+filepath.Base(dir)+"-"+hash)
	mark := filepath.Join(built, "built")
	if _, err := os.Stat(mark); err == nil {
		return built, nil
	}
	unlock, err := lock(filepath.Join(cache, "maven.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(mark); err == nil { // by another process while this one waited
		return built, nil
	}
	if err := os.RemoveAll(built); err != nil { // what a build that failed or was killed has left
		return "", err
	}
	if err := copyProject(built, dir); err != nil {
		return "", fmt.Errorf("copy the Maven project %s: %w", dir, err)
	}
	cmd := exec.CommandContext(ctx, mvn, append([]string{"-q", "-B"}, goals...)...)
	cmd.Dir = built
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mvn %s in %s: %w\n%s", strings.Join(goals, " "), dir, err, tail(out, 4000))
	}
	return built, os.WriteFile(mark, nil, 0o644)
}

// Java returns the path of the java command, of JAVA_HOME first.
func Java() (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		return filepath.Join(home, "bin", "java"), nil
	}
	return tool("java", "openjdk-17-jdk-headless")
}

// CacheDir returns the folder in which builds are kept, and makes it.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for built servers (set XDG_CACHE_HOME): %w", err)
	}
	dir := filepath.Join(base, "prestop-test")
	return dir, os.MkdirAll(dir, 0o755)
}

func tool(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; install it: apt-get install -y %s", err, pkg)
	}
	return path, nil
}

// projectHash is over the names and contents of the project's files and the goals.
func projectHash(dir string, goals []string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", goals)
	err := eachFile(dir, func(rel string, body []byte) error {
		fmt.Fprintf(h, "%q %d\n", rel, len(body))
		h.Write(body)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

func copyProject(to, from string) error {
	return eachFile(from, func(rel string, body []byte) error {
		path := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, body, 0o644)
	})
}

// eachFile calls f with every file of the project but those that a build in place would have left in target/.
func eachFile(dir string, f func(rel string, body []byte) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "target" {
				return filepath.SkipDir
			}
			return nil
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return f(rel, body)
	})
}

// lock takes the file's lock, which the kernel drops when the process dies.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// tail is the end of text, at most n bytes, from the beginning of a line.
func tail(text []byte, n int) []byte {
	if len(text) <= n {
		return text
	}
	text = text[len(text)-n:]
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return text
}
