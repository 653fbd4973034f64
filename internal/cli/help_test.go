package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"prestop/internal/config"
)

func TestHelpListsEverySetting(t *testing.T) {
	var out, errs bytes.Buffer
	if code := Run([]string{"--help"}, config.Environment{"PRESTOP_GRACE_PERIOD": "bad"}, &out, &errs, Build{}); code != exitOK || errs.Len() > 0 {
		t.Fatalf("exit %d, standard error %q", code, errs.String())
	}
	lines := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if name, _, found := strings.Cut(strings.TrimSpace(line), " "); found && strings.HasPrefix(name, "--") {
			lines[name] = line
		}
	}
	config.Flags(readBySidecar).VisitAll(func(f *pflag.Flag) {
		line := lines["--"+f.Name]
		if line == "" {
			t.Errorf("--%s is not listed", f.Name)
			return
		}
		switch f.DefValue {
		case "":
			if !strings.Contains(line, "empty") && !strings.Contains(f.Name, "-file") && f.Name != "nacos-password" {
				t.Errorf("what --%s does when it is not given is not said: %s", f.Name, line)
			}
		case "0", "false":
			if !strings.Contains(line, "default") {
				t.Errorf("the default of --%s is not told: %s", f.Name, line)
			}
		default:
			if !strings.Contains(line, fmt.Sprintf("(default %q)", f.DefValue)) {
				t.Errorf("the default of --%s is not told: %s", f.Name, line)
			}
		}
		for _, name := range config.Lookup(f.Name).Variables {
			if !strings.Contains(line, name) {
				t.Errorf("--%s is also read from %s, which is not told", f.Name, name)
			}
		}
	})
	for name, line := range lines {
		if strings.Contains(line, "time") && !strings.Contains(line, "0") {
			t.Errorf("what zero means for %s is not told: %s", name, line)
		}
	}
	for _, unit := range []string{"seconds", "30s", "PRESTOP_"} {
		if !strings.Contains(out.String(), unit) {
			t.Errorf("%q is not in the help", unit)
		}
	}
}

func readBySidecar(s config.Setting) bool { return s.ReadBy("") }
