package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// texts are the files below a folder, through links.
func texts(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(string)
	walk = func(at string) {
		entries, err := os.ReadDir(at)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(at, e.Name())
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := filepath.Rel(dir, path)
			all[name] = string(text)
		}
	}
	walk(dir)
	return all
}

// imageLine is where a manifest, a chart's values or a policy's expression name an image.
var imageLine = regexp.MustCompile(`(?m)^[^#\n]*\bimage"?: *(?:dyn\()?"?([^\s"')]+)`)

// TestNoManifestNamesAnImageThatCouldBePulled keeps it so that a name is given once, to make manifests.
func TestNoManifestNamesAnImageThatCouldBePulled(t *testing.T) {
	named := 0
	for name, text := range texts(t, "../deploy") {
		if filepath.Ext(name) == ".json" {
			continue // schemas and the dashboard
		}
		for _, m := range imageLine.FindAllStringSubmatch(text, -1) {
			switch image := m[1]; {
			case image == imagePlaceholder+":VERSION":
				named++
			case strings.HasPrefix(image, "app.invalid/"), strings.HasPrefix(image, "{{"): // the user's own; a template's
			case strings.HasPrefix(image, "docker.io/nginxinc/nginx-unprivileged:1."), strings.HasPrefix(image, "docker.io/envoyproxy/envoy:distroless-v1."):
			default:
				t.Errorf("%s names the image %s; prestop's is %s:VERSION", name, image, imagePlaceholder)
			}
		}
		for _, other := range []string{"ghcr.io/", "github.com/example", "example/prestop", ":latest"} {
			if strings.Contains(text, other) {
				t.Errorf("%s has %s", name, other)
			}
		}
	}
	if named < 8 {
		t.Errorf("only %d places name prestop's image", named)
	}
}

func TestManifestsGetTheirNames(t *testing.T) {
	n := naming{"registry.example.com:5000/ops/prestop", "v1.2.3", "https://git.example.com/ops/prestop"}
	to := filepath.Join(t.TempDir(), "manifests")
	if err := manifests(n, "../deploy", to); err != nil {
		t.Fatal(err)
	}
	all := texts(t, to)
	if len(all) != len(texts(t, "../deploy")) {
		t.Errorf("%d files of %d", len(all), len(texts(t, "../deploy")))
	}
	for name, text := range all {
		if strings.Contains(text, "prestop.invalid") || strings.Contains(text, "ref=VERSION") {
			t.Errorf("%s has a placeholder still", name)
		}
	}
	for name, want := range map[string]string{
		"example-nacos.yaml":                      "image: registry.example.com:5000/ops/prestop:v1.2.3\n",
		"component/deployment/kustomization.yaml": "https://git.example.com/ops/prestop//deploy/component/deployment?ref=v1.2.3",
	} {
		if !strings.Contains(all[name], want) {
			t.Errorf("%s has no %q", name, want)
		}
	}
	if err := filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeSymlink != 0 {
			t.Errorf("%s is a link", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestNamesThatNoClusterTakesAreRefused(t *testing.T) {
	for sentence, c := range map[string]struct {
		naming
		want string
	}{
		"no image":                 {naming{"", "1.2.3", ""}, "IMAGE"},
		"an image with a tag":      {naming{"ghcr.io/a/prestop:1", "1.2.3", ""}, "IMAGE"},
		"an image without a host":  {naming{"prestop", "1.2.3", ""}, "IMAGE"},
		"capitals in the image":    {naming{"ghcr.io/Me/prestop", "1.2.3", ""}, "IMAGE"},
		"the placeholder":          {naming{imagePlaceholder, "1.2.3", ""}, "IMAGE"},
		"no version":               {naming{"ghcr.io/a/prestop", "", ""}, "VERSION"},
		"a version that is no tag": {naming{"ghcr.io/a/prestop", "1 2", ""}, "VERSION"},
		"a source without https":   {naming{"ghcr.io/a/prestop", "1.2.3", "git@host:a/b"}, "SOURCE"},
	} {
		t.Run(sentence, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "to")
			err := manifests(c.naming, "../deploy", to)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %s named", err, c.want)
			}
			if _, err := os.Stat(to); err == nil {
				t.Error("something was written")
			}
		})
	}
}

func TestAChartsVersionIsASemanticOne(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3": "1.2.3", "v1.2.3": "1.2.3", "v1.2.3-rc.1": "1.2.3-rc.1", "v1.2.3-4-gabcdef0": "1.2.3-4-gabcdef0",
		"dev": "0.0.0-vdev", "0123456": "0.0.0-v0123456", "f58e0fb-dirty": "0.0.0-vf58e0fb-dirty", "1.2": "0.0.0-v1-2",
	} {
		if got := (naming{version: version}).chartVersion(); got != want {
			t.Errorf("%s becomes %s; want %s", version, got, want)
		}
	}
}
