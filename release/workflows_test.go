package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWorkflowsCallTheMakefileAlone keeps it so that what the host does can be done on anybody's machine.
func TestWorkflowsCallTheMakefileAlone(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):(?:[^=]|$)`).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	files, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\s*(?:- )?run: *(.*)$`).FindAllStringSubmatch(string(text), -1) {
			words := strings.Fields(m[1])
			if len(words) < 2 || words[0] != "make" || !targets[words[1]] || strings.ContainsAny(m[1], ";|&") {
				t.Errorf("%s runs %q, which is not one target of the Makefile", file, m[1])
				continue
			}
			called[words[1]] = true
		}
		if !regexp.MustCompile(`(?m)^permissions:\n  contents: read$`).Match(text) {
			t.Errorf("%s may write by default", file)
		}
	}
	for _, target := range []string{"lint", "test", "race", "vulncheck", "release", "reproducible", "images", "push-charts", "sign", "github-release"} {
		if !called[target] {
			t.Errorf("no workflow calls make %s", target)
		}
	}
}

func TestIssuesAskForWhatACheckSays(t *testing.T) {
	for file, want := range map[string]string{
		"ISSUE_TEMPLATE/bug.yml": "/prestop check --output json", "ISSUE_TEMPLATE/idea.yml": "/prestop check --output json",
		"../SECURITY.md": "/security/advisories/new", "../CODE_OF_CONDUCT.md": "Contributor Covenant",
	} {
		text, err := os.ReadFile(filepath.Join("../.github", file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s has no %q", file, want)
		}
	}
}

// TestTheImageTellsWhereItIsFrom is about the labels by which registries and scanners show an image's source.
func TestTheImageTellsWhereItIsFrom(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, found := strings.Cut(string(text), "\nFROM scratch\n")
	if !found {
		t.Fatal("the image is not from scratch")
	}
	for label, argument := range map[string]string{"version": "VERSION", "revision": "COMMIT", "source": "SOURCE"} {
		if !strings.Contains(last, "ARG "+argument) || !strings.Contains(last, `org.opencontainers.image.`+label+`="$`+argument+`"`) {
			t.Errorf("the image has no label %s", label)
		}
	}
}
