// Package tools builds the programs of others that tests and releases need, each from its module in a folder beside this file
// whose go.sum pins it: once, into the user's cache.
package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"prestop/test/servers"
)

// Helm builds Helm unless that is done, and returns the path of its binary. Blocks for some minutes on first use.
func Helm(ctx context.Context) (string, error) {
	// What Helm takes for Kubernetes where it is not told.
	const kube = "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36 " +
		"-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=36"
	return build(ctx, "helm", "helm.sh/helm/v3/cmd/helm", kube)
}

// Kyverno builds Kyverno's command line unless that is done, and returns the path of its binary. On first use it takes two
// cores for five minutes.
func Kyverno(ctx context.Context) (string, error) {
	return build(ctx, "kyverno", "github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno", "")
}

// Cosign builds cosign unless that is done, and returns the path of its binary. Blocks for some minutes on first use.
func Cosign(ctx context.Context) (string, error) {
	return build(ctx, "cosign", "github.com/sigstore/cosign/v3/cmd/cosign", "")
}

// build builds the package pkg of the module in the folder name beside this file, for whoever asks first.
func build(ctx context.Context, name, pkg, ldflags string) (string, error) {
	_, self, _, _ := runtime.Caller(0)
	module := filepath.Join(filepath.Dir(self), name)
	hash := sha256.New()
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		hash.Write(text)
	}
	hash.Write([]byte(ldflags))
	cache, err := servers.CacheDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, name+"-"+hex.EncodeToString(hash.Sum(nil))[:12], name)
	unlock, err := servers.Lock(filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	c := exec.CommandContext(ctx, "go", "-C", module, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w "+ldflags, "-o", binary+".new", pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=", "GOARCH=", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, bytes.TrimSpace(out[max(0, len(out)-4000):]))
	}
	return binary, os.Rename(binary+".new", binary)
}
