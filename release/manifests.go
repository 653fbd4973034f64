package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// The placeholders of deploy/. No registry and no host has a name that ends in .invalid (RFC 2606).
const (
	imagePlaceholder  = "prestop.invalid/prestop"
	sourcePlaceholder = "https://prestop.invalid/source"
)

// naming is what the placeholders of deploy/ stand for.
type naming struct {
	image   string // of prestop, without a tag: registry/repository
	version string // the tag
	source  string // the repository's address, https://…
}

var (
	imageName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+$`)
	tagName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	semantic  = regexp.MustCompile(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$`)
)

func (n naming) check() error {
	var wrong []error
	if !imageName.MatchString(n.image) || strings.Contains(n.image, ".invalid/") {
		wrong = append(wrong, fmt.Errorf("IMAGE is %q: give registry/repository, without a tag", n.image))
	}
	if !tagName.MatchString(n.version) {
		wrong = append(wrong, fmt.Errorf("VERSION is %q: give a tag of the image", n.version))
	}
	if n.source != "" && !strings.HasPrefix(n.source, "https://") {
		wrong = append(wrong, fmt.Errorf("SOURCE is %q: give the repository's address, https://…", n.source))
	}
	return errors.Join(wrong...)
}

// chartVersion is the version of the charts: that of the image where it is a semantic one, else one below every release.
func (n naming) chartVersion() string {
	v := strings.TrimPrefix(n.version, "v")
	if semantic.MatchString(v) {
		return v
	}
	return "0.0.0-" + regexp.MustCompile(`[^0-9A-Za-z]+`).ReplaceAllString("v"+v, "-")
}

// replace puts the names in the placeholders' place. Without a source, that placeholder stays.
func (n naming) replace(text string) string {
	source := n.source
	if source == "" {
		source = sourcePlaceholder
	}
	return strings.NewReplacer(
		imagePlaceholder+":VERSION", n.image+":"+n.version,
		imagePlaceholder, n.image,
		sourcePlaceholder, source,
		"?ref=VERSION", "?ref="+n.version,
		"appVersion: VERSION\n", "appVersion: \""+n.version+"\"\n",
		"version: 0.0.0\n", "version: "+n.chartVersion()+"\n",
	).Replace(text)
}

// manifests copies the folder from into the folder to, which it makes anew, with the names in the placeholders' place. A link
// becomes what it leads to.
func manifests(n naming, from, to string) error {
	if err := n.check(); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return n.copyFolder(from, to)
}

func (n naming) copyFolder(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	for _, e := range entries {
		err = errors.Join(err, n.copyEntry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
	return err
}

func (n naming) copyEntry(from, to string) error {
	info, err := os.Stat(from) // through links
	if err != nil {
		return err
	}
	if info.Mode().IsDir() {
		return n.copyFolder(from, to)
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "copy", Path: from, Err: fs.ErrInvalid}
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, []byte(n.replace(string(text))), 0o644)
}
