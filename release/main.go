// Release tells what is in a binary: an SBOM in CycloneDX's JSON, and the licences of what it was built from. And it gives
// the manifests of deploy/ the names of an image, a version and a repository.
//
//	go run ./release sbom BINARY VERSION COMMIT           the SBOM, on standard output
//	go run ./release licenses BINARY                      the licences' texts, on standard output
//	go run ./release manifests IMAGE VERSION SOURCE TO    deploy/ with these names, in the folder TO; SOURCE may be ""
//
// The modules come from what the Go linker wrote into the binary, so they name what is in it and nothing else. The same binary
// gives the same bytes.
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) < 2 || len(args) != map[string]int{"sbom": 4, "licenses": 2, "manifests": 5}[args[0]] {
		return errors.New("say sbom BINARY VERSION COMMIT, licenses BINARY, or manifests IMAGE VERSION SOURCE TO")
	}
	if args[0] == "manifests" {
		return manifests(naming{args[1], args[2], args[3]}, "deploy", args[4])
	}
	info, err := buildinfo.ReadFile(args[1])
	if err != nil {
		return err
	}
	if args[0] == "licenses" {
		return licenses(info, out)
	}
	return sbom(info, args[1], args[2], args[3], out)
}

// spdx are the licences of the modules that may be in the binary. One that is not here is an error: somebody must look.
var spdx = map[string]string{
	"github.com/hashicorp/go-cleanhttp":     "MPL-2.0",
	"github.com/hashicorp/go-retryablehttp": "MPL-2.0",
	"github.com/spf13/pflag":                "BSD-3-Clause",
	"golang.org/x/sys":                      "BSD-3-Clause",
	"stdlib":                                "BSD-3-Clause",
}

// The parts of a CycloneDX document, version 1.5.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		SpecVersion  string       `json:"specVersion"`
		SerialNumber string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licenses   []license  `json:"licenses"`
		PURL       string     `json:"purl"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	license struct {
		License struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn"`
	}
)

// sbom writes the bill of the binary in file.
func sbom(info *debug.BuildInfo, file, version, commit string, out io.Writer) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	target := setting(info, "GOOS") + "/" + setting(info, "GOARCH")
	self := component{Type: "application", Ref: "prestop", Name: "prestop", Version: version, PURL: "pkg:generic/prestop@" + version,
		Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}}, Licenses: licensed("Apache-2.0"),
		Properties: []property{{"prestop:target", target}, {"prestop:commit", commit}, {"prestop:flags", setting(info, "-tags")}}}
	doc := bom{Format: "CycloneDX", SpecVersion: "1.5", SerialNumber: serial(sum), Version: 1, Metadata: metadata{self}}
	all, err := components(info)
	if err != nil {
		return err
	}
	on := dependency{Ref: self.Ref}
	for _, c := range all {
		on.DependsOn = append(on.DependsOn, c.Ref)
	}
	doc.Components, doc.Dependencies = all, []dependency{on}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

// components are the modules in the binary, and Go's standard library.
func components(info *debug.BuildInfo) ([]component, error) {
	std := component{Type: "library", Ref: "pkg:golang/stdlib@" + info.GoVersion, Name: "stdlib", Version: info.GoVersion, PURL: "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go"), Licenses: licensed(spdx["stdlib"])}
	all := []component{std}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		id, known := spdx[m.Path]
		if !known {
			return nil, fmt.Errorf("%s is in the binary, and release/main.go does not know its licence: look at it, and add it there", m.Path)
		}
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		all = append(all, component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl, Licenses: licensed(id), Properties: []property{{"go:sum", m.Sum}}})
	}
	return all, nil
}

func licensed(id string) []license {
	var l license
	l.License.ID = id
	return []license{l}
}

// serial is a UUID made of the binary's hash: the same binary has the same one.
func serial(sum [32]byte) string {
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8, made by whoever it is of
	h := hex.EncodeToString(sum[:16])
	return "urn:uuid:" + strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// licenses writes the texts that the modules in the binary, and Go, come with: most licences ask for that.
func licenses(info *debug.BuildInfo, out io.Writer) error {
	root, err := goTells("env", "GOROOT")
	if err != nil {
		return err
	}
	folders := map[string]string{"Go's standard library, " + info.GoVersion: root}
	names := []string{"Go's standard library, " + info.GoVersion}
	for _, m := range info.Deps {
		dir, err := goTells("list", "-m", "-f", "{{.Dir}}", m.Path)
		if err != nil {
			return err
		}
		name := m.Path + " " + m.Version + ", " + spdx[m.Path]
		names, folders[name] = append(names, name), dir
	}
	fmt.Fprintln(out, "prestop is built from these, each under its own licence. Their sources are at https://proxy.golang.org.")
	for _, name := range names {
		texts, err := filepath.Glob(filepath.Join(folders[name], "[LN][IO]*")) // LICENSE, LICENSE.md, NOTICE
		texts = slices.DeleteFunc(texts, func(s string) bool {
			base := filepath.Base(s)
			return !strings.HasPrefix(base, "LICENSE") && !strings.HasPrefix(base, "NOTICE")
		})
		if err != nil || len(texts) == 0 {
			return fmt.Errorf("%s has no LICENSE in %s (%w)", name, folders[name], err)
		}
		for _, file := range texts {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "\n%s\n%s: %s\n\n%s\n", strings.Repeat("=", 80), name, filepath.Base(file), bytes.TrimSpace(b))
		}
	}
	return nil
}

func goTells(args ...string) (string, error) {
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
