package cli

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"prestop/internal/config"
)

// What is written about the settings comes from the flags: the manual page and the shell completions, which `make release`
// writes, and the tables of docs/configuration.md (pages_linux_test.go).
var manualTo = flag.String("manual", "", "folder to write the manual page and the shell completions to")

// chineseSettings is the file of translations.
const chineseSettings = "internal/cli/testdata/settings.zh-CN.tsv"

// translations is chineseSettings: by flag, the English text that was translated, and the Chinese one. So a
// text that changes is noticed in its translation too.
func translations(t *testing.T) map[string][2]string {
	t.Helper()
	b, err := os.ReadFile(chineseSettings)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][2]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(parts) != 3 {
			t.Fatalf("not a flag, an English and a Chinese text, parted by tabs: %q", line)
		}
		all[parts[0]] = [2]string{parts[1], parts[2]}
	}
	return all
}

func english(f *pflag.Flag) string {
	_, usage := pflag.UnquoteUsage(f)
	return usage
}

// everyFlag calls f for the flags of the sidecar and then of the commands.
func everyFlag(f func(*pflag.Flag)) { config.Flags(config.All).VisitAll(f) }

// values are the words that a flag's value is one of; nil where any will do.
func values(f *pflag.Flag) []string {
	switch f.Name {
	case "count":
		return []string{"auto", "netlink", "proc", "prometheus"}
	case "log-format":
		return []string{"json", "text"}
	case "log-level":
		return []string{"debug", "info", "warn", "error"}
	case "output":
		return []string{"text", "json"}
	}
	return nil
}

func isFile(f *pflag.Flag) bool {
	return strings.HasSuffix(f.Name, "-file") || f.Name == "termination-log"
}

func bashCompletion() string {
	var b strings.Builder
	b.WriteString("# bash completion for prestop\n_prestop() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n  case $prev in\n")
	var all, files []string
	everyFlag(func(f *pflag.Flag) {
		all = append(all, "--"+f.Name)
		if v := values(f); v != nil {
			fmt.Fprintf(&b, "    --%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", f.Name, strings.Join(v, " "))
		}
		if isFile(f) {
			files = append(files, "--"+f.Name)
		}
	})
	fmt.Fprintf(&b, "    %s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n  esac\n", strings.Join(files, "|"))
	fmt.Fprintf(&b, "  if [[ $cur == -* ]]; then\n    COMPREPLY=($(compgen -W '%s --help' -- \"$cur\"))\n  elif ((COMP_CWORD == 1)); then\n    COMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n  fi\n}\ncomplete -F _prestop prestop\n",
		strings.Join(all, " "), strings.Join(config.Commands, " "))
	return b.String()
}

func zshCompletion() string {
	var b strings.Builder
	quote := strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`)
	b.WriteString("#compdef prestop\n_arguments \\\n")
	fmt.Fprintf(&b, "  '1:command:(%s)' \\\n", strings.Join(config.Commands, " "))
	everyFlag(func(f *pflag.Flag) {
		name, text := pflag.UnquoteUsage(f)
		action := fmt.Sprintf(":%s:", quote.Replace(name))
		switch {
		case values(f) != nil:
			action += "(" + strings.Join(values(f), " ") + ")"
		case isFile(f):
			action += "_files"
		case name == "":
			action = ""
		}
		fmt.Fprintf(&b, "  '--%s[%s]%s' \\\n", f.Name, quote.Replace(text), action)
	})
	b.WriteString("  '--help[show the settings]'\n")
	return b.String()
}

func manualPage() string {
	var b strings.Builder
	roff := strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'")
	fmt.Fprintf(&b, ".TH PRESTOP 1 \"\" \"prestop\" \"User Commands\"\n.SH NAME\nprestop \\- stops a Kubernetes Pod without losing a request\n.SH SYNOPSIS\n.nf\n%s.fi\n", roff.Replace(usage[strings.Index(usage, "  prestop"):strings.Index(usage, "\nprestop COMMAND")]))
	b.WriteString(".SH DESCRIPTION\nThe target of the preStop hook of the app's container: when the hook returns, the Pod is out of the registries, the callers\nhave had time to learn it, and no request is in flight.\n.PP\n" + roff.Replace(usage[strings.Index(usage, "Each flag"):]) + ".SH OPTIONS\n")
	everyFlag(func(f *pflag.Flag) {
		name, text := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, ".TP\n.BI %s \" %s\"\n\\&%s", roff.Replace("--"+f.Name), roff.Replace(name), roff.Replace(text))
		if f.DefValue != "" {
			fmt.Fprintf(&b, " (default %s)", roff.Replace(f.DefValue))
		}
		b.WriteString(also(config.Lookup(f.Name)))
		b.WriteString("\n")
	})
	b.WriteString(".SH EXIT STATUS\n0 after an orderly stop or where all is well, 1 after a failure, 2 where\n.B prestop shutdown\nsaw the drain expire, 3 where it saw the drain cancelled, 64 for a bad command line or configuration.\n")
	return b.String()
}

func TestTheManualAndTheCompletions(t *testing.T) {
	pages := map[string]string{"prestop.1": manualPage(), "prestop.bash": bashCompletion(), "_prestop": zshCompletion()}
	for _, name := range config.Commands {
		if name != "help" && !strings.Contains(usage, "\n  prestop "+name+" ") {
			t.Errorf("the help does not tell of prestop %s", name)
		}
	}
	everyFlag(func(f *pflag.Flag) {
		for name, page := range pages {
			if text := strings.ReplaceAll(page, `\-`, "-"); !strings.Contains(text, "--"+f.Name) {
				t.Errorf("--%s is not in %s", f.Name, name)
			}
		}
		if v := values(f); v != nil {
			for _, word := range v {
				if !strings.Contains(english(f), word) {
					t.Errorf("--%s is completed with %q, of which its help says nothing", f.Name, word)
				}
			}
		}
	})
	if odd := regexp.MustCompile(`(?m)^('.*|\.(?:[^A-Zfn]|[A-Z]{3,}).*)$`).FindString(pages["prestop.1"]); odd != "" {
		t.Errorf("a line of the manual page is taken for a macro: %s", odd)
	}
	// What bash itself makes of it.
	script := pages["prestop.bash"] + `
words() { COMP_WORDS=(prestop "$@"); COMP_CWORD=$(($#)); _prestop; echo "${COMPREPLY[@]}"; }
words st; words --ready-w; words --count net; words check --out; words --log-format ""`
	out, err := exec.CommandContext(t.Context(), "bash", "-c", script).CombinedOutput()
	if want := "status\n--ready-when-registered\nnetlink\n--output\njson text\n"; err != nil || string(out) != want {
		t.Errorf("bash completes %q, %v; want %q", out, err, want)
	}
	if *manualTo == "" {
		return
	}
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(*manualTo, name), []byte(page), 0o644); err != nil {
			t.Error(err)
		}
	}
}
