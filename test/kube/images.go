package kube

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// images builds both binaries, makes images of them and loads them. They are named by what is in them, so that two
// versions of the tests may use one cluster.
func (c *Cluster) images(ctx context.Context, dir string) error {
	product, err := Build(ctx, dir)
	if err != nil {
		return err
	}
	fixture, err := build(ctx, filepath.Join(dir, "fixture"), "test", "./e2e/fixture", "-ldflags", "-s -w -buildid=")
	if err != nil {
		return err
	}
	if c.Prestop, err = c.Load(ctx, product); err != nil {
		return err
	}
	c.Fixture, err = c.Load(ctx, fixture)
	return err
}

// Build builds the product into dir and returns the binary's path: as the Makefile does it, but for the version, which would
// make another image of each commit.
func Build(ctx context.Context, dir string) (string, error) {
	return build(ctx, filepath.Join(dir, "prestop"), ".", ".", "-tags", "nethttpomithttp2", "-ldflags", "-s -w -buildid= -X main.version=e2e")
}

// build builds the package of a module, a folder of the repository, as a static binary.
func build(ctx context.Context, binary, module, pkg string, flags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	args := append([]string{"CGO_ENABLED=0", "go", "-C", filepath.Join(root, module), "build", "-trimpath", "-buildvcs=false", "-o", binary}, flags...)
	_, err = run(ctx, nil, "env", append(args, pkg)...)
	return binary, err
}

// Load makes an image of nothing but a static binary, which is its entry point, loads it and returns its name.
func (c *Cluster) Load(ctx context.Context, binary string) (string, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	base := filepath.Base(binary)
	name := fmt.Sprintf("docker.io/e2e/%s:%s", base, digest(content)[:12])
	if c.script != "" && os.Getenv("E2E_LOAD") == "" {
		_, err := run(ctx, nil, c.script, "img", binary, name, "/"+base)
		return name, err
	}
	archive, err := Archive(base, content, name)
	if err != nil {
		return "", err
	}
	file := binary + ".tar"
	if err := os.WriteFile(file, archive, 0o644); err != nil {
		return "", err
	}
	_, err = run(ctx, nil, "sh", "-c", os.Getenv("E2E_LOAD")+" "+file)
	return name, err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Archive is an image of nothing but a static binary, which is its entry point, as `docker save` writes it.
func Archive(binary string, content []byte, name string) ([]byte, error) {
	layer, err := tarOf(map[string][]byte{binary: content}, 0o755)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux", "config": object{"Entrypoint": []string{"/" + binary}},
		"rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{strings.TrimPrefix(name, "docker.io/")}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return tarOf(map[string][]byte{"config.json": config, "layer.tar": layer, "manifest.json": manifest}, 0o644)
}

func tarOf(files map[string][]byte, mode int64) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
