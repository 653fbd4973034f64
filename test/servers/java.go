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
	"slices"
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
	return build(ctx, dir, goals, nil)
}

// BuildSpring builds a Spring Boot project as Build does and returns java's arguments that run it with flags for a JVM on
// a small machine. The classes that it loads at its start are archived once, which halves the start.
func BuildSpring(ctx context.Context, dir string) ([]string, error) {
	name := filepath.Base(dir)
	built, err := build(ctx, dir, []string{"package"}, func(built string) error {
		java, err := Java()
		if err != nil {
			return err
		}
		jars, err := filepath.Glob(filepath.Join(built, "target", "*.jar"))
		if err != nil || len(jars) != 1 {
			return fmt.Errorf("want one jar in %s/target, found %v, %v", built, jars, err)
		}
		if err := run(ctx, built, java, "-Djarmode=tools", "-jar", jars[0], "extract", "--destination", "run"); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(built, "run", filepath.Base(jars[0])), filepath.Join(built, "run", name+".jar")); err != nil {
			return err
		}
		// The archive holds the path of the jar as it is given here, and serves a program that is given the same.
		args := append(slices.Clone(smallJVM), "-XX:ArchiveClassesAtExit=run/classes.jsa", "-Dspring.context.exit=onRefresh", "-jar", built+"/run/"+name+".jar", "--server.port=0")
		return run(ctx, built, java, args...)
	})
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(smallJVM), "-XX:SharedArchiveFile="+built+"/run/classes.jsa", "-jar", built+"/run/"+name+".jar"), nil
}

// layout tells what build leaves from what earlier ones of another kind have left.
const layout = "2"

// smallJVM keeps a Spring program below 200 MB and starts it quickly on two cores.
var smallJVM = []string{"-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-Xshare:auto"}

// build is Build with what is to be done after Maven.
func build(ctx context.Context, dir string, goals []string, after func(built string) error) (string, error) {
	mvn, err := tool("mvn", "maven")
	if err != nil {
		return "", err
	}
	hash, err := projectHash(dir, append(slices.Clone(goals), fmt.Sprint(after != nil), layout))
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
	unlock, err := Lock(filepath.Join(cache, "maven.lock"))
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
	if err := run(ctx, built, mvn, append([]string{"-q", "-B"}, goals...)...); err != nil {
		return "", fmt.Errorf("build the Maven project %s: %w", dir, err)
	}
	if after != nil {
		if err := after(built); err != nil {
			return "", fmt.Errorf("prepare the Maven project %s: %w", dir, err)
		}
	}
	return built, os.WriteFile(mark, nil, 0o644)
}

// run runs a command to its end; the error holds the tail of its output.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, tail(out, 4000))
	}
	return nil
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

// Lock takes the file's lock, which the kernel drops when the process dies.
func Lock(path string) (unlock func(), err error) {
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
