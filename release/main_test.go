package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// built is the binary of the module.
func built(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prestop")
	c := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-tags", "nethttpomithttp2", "-ldflags", "-s -w -buildid= -X main.version=1.2.3 -X main.commit=abc", "-o", file, "..")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

func TestTheBillNamesWhatIsInTheBinary(t *testing.T) {
	file := built(t)
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := run([]string{"sbom", file, "1.2.3", "abc"}, out); err != nil {
			t.Fatal(err)
		}
	}
	if first.String() != second.String() {
		t.Error("two bills of one binary differ")
	}
	var doc bom
	d := json.NewDecoder(&first)
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.Format != "CycloneDX" || !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(doc.SerialNumber) || doc.Metadata.Component.Version != "1.2.3" {
		t.Errorf("%+v", doc)
	}
	told, err := exec.CommandContext(t.Context(), "go", "version", "-m", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(string(told), -1)
	if len(modules) == 0 || len(doc.Components) != len(modules)+1 || len(doc.Dependencies[0].DependsOn) != len(doc.Components) {
		t.Fatalf("%d components for the modules %q", len(doc.Components), modules)
	}
	for i, m := range modules {
		if c := doc.Components[i+1]; c.Name != m[1] || c.Version != m[2] || c.Licenses[0].License.ID == "" || c.PURL != "pkg:golang/"+m[1]+"@"+m[2] {
			t.Errorf("%+v for %s %s", c, m[1], m[2])
		}
	}
}

func TestTheLicencesOfAllThatIsInTheBinaryAreTold(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"licenses", built(t)}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Go's standard library", "github.com/spf13/pflag", "github.com/hashicorp/go-retryablehttp", "Mozilla Public License", "Redistribution and use"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not told", want)
		}
	}
}

func TestWrongCallsAreErrors(t *testing.T) {
	for _, args := range [][]string{nil, {"sbom"}, {"sbom", "main.go", "1", "2"}, {"what", os.Args[0]}} {
		if err := run(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q is no error", args)
		}
	}
}
