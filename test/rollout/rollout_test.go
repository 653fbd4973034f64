package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the tests run in the folder that the program runs in.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// TestARollingUpdateLosesNoRequest has Pods without a hook replaced under load, in which requests must fail, or the load would
// prove nothing; then Pods with prestop, under the same load, in which none may.
//
// The caches of the registries and the callers are of 5 s here instead of 30 and 35, and the linger is in proportion; kept
// connections live for less long.
func TestARollingUpdateLosesNoRequest(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	execute(t, 2*time.Minute, "go", "build", "-o", program, "./rollout")
	t.Log(execute(t, 10*time.Minute, program, "-quick", "-rate", "20", "-modes", "none,prestop", "-out", dir))
	all, err := stored(dir)
	if err != nil || len(all) != 2 {
		t.Fatalf("want two results, got %d, %v", len(all), err)
	}
	without, with := all[0], all[1]
	if len(without.failed()) == 0 {
		t.Errorf("no request failed without a hook: the load does not show what a stop does\n%s", without.report())
	}
	if len(with.failed()) > 0 {
		t.Errorf("requests failed with prestop:\n%s\nthe sidecars:\n%s", with.report(), logs(t, dir, "prestop-*/*-prestop.log"))
	}
	for _, c := range with.Callers {
		if c.Requests == 0 {
			t.Errorf("%s made no requests", c.Title)
		}
	}
}

// execute runs a command to its end, within a time, and returns what it said.
func execute(t *testing.T, within time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	// Told to end, it ends what it started.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// logs are the contents of files below the folder of logs.
func logs(t *testing.T, dir, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "logs", "*", pattern))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, filepath.Base(path)+"\n"...), text...)
	}
	return string(all)
}
