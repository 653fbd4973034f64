package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// What is written about the settings comes from the flags: the tables in both READMEs, the manual page and the shell
// completions. `make docs` writes the tables; `make release` writes the rest.
var (
	updateDocs = flag.Bool("update-docs", false, "write the settings into the READMEs")
	manualTo   = flag.String("manual", "", "folder to write the manual page and the shell completions to")
)

// translations is testdata/settings.zh-CN.tsv: by flag, the English text that was translated, and the Chinese one. So a
// text that changes is noticed in its translation too.
func translations(t *testing.T) map[string][2]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "settings.zh-CN.tsv"))
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

// settingsTable is the Markdown of the settings.
func settingsTable(head string, meaning func(f *pflag.Flag) string) string {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;")
	fmt.Fprintf(&b, "%s\n|---|---|---|---|\n", head)
	flags().VisitAll(func(f *pflag.Flag) {
		initial, also := "", []string{}
		if f.DefValue != "" {
			initial = "`" + f.DefValue + "`"
		}
		for _, v := range variables[f.Name] {
			also = append(also, "`"+v+"`")
		}
		fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", f.Name, initial, strings.Join(also, ", "), cell.Replace(meaning(f)))
	})
	return b.String()
}

func english(f *pflag.Flag) string {
	_, usage := pflag.UnquoteUsage(f)
	return usage
}

func TestTheSettingsInTheREADMEsAreTheFlags(t *testing.T) {
	chinese := translations(t)
	for name, table := range map[string]string{
		"README.md": settingsTable("| flag | default | also read from | meaning |", english),
		"README.zh-CN.md": settingsTable("| 参数 | 默认值 | 同时读取的变量 | 含义 |", func(f *pflag.Flag) string {
			text := chinese[f.Name]
			if text[0] != english(f) {
				t.Errorf("--%s says %q; testdata/settings.zh-CN.tsv has a translation of %q: bring it up to date, then make docs", f.Name, english(f), text[0])
			}
			return text[1]
		}),
	} {
		const begin, end = "<!-- settings: written by make docs -->\n", "<!-- end of settings -->"
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(b), begin)
		old, after, ended := strings.Cut(rest, end)
		switch {
		case !found || !ended:
			t.Errorf("%s has no place for the settings, between %q and %q", name, begin, end)
		case old == table:
		case *updateDocs:
			if err := os.WriteFile(name, []byte(before+begin+table+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("the settings in %s are not those of the flags: make docs", name)
		}
	}
	for name := range chinese {
		if flags().Lookup(name) == nil {
			t.Errorf("testdata/settings.zh-CN.tsv has a text for --%s, which is no flag", name)
		}
	}
}

// everyFlag calls f for the flags of the sidecar and then of the commands.
func everyFlag(f func(*pflag.Flag)) {
	flags().VisitAll(f)
	commandFlags().VisitAll(f)
}

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
		strings.Join(all, " "), strings.Join(commandNames(), " "))
	return b.String()
}

func zshCompletion() string {
	var b strings.Builder
	quote := strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`)
	b.WriteString("#compdef prestop\n_arguments \\\n")
	fmt.Fprintf(&b, "  '1:command:(%s)' \\\n", strings.Join(commandNames(), " "))
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
		if also := variables[f.Name]; len(also) > 0 {
			word := "also"
			if slices.Contains(onlyHints, f.Name) {
				word = "only a hint:"
			}
			b.WriteString(" [" + word + " " + strings.Join(also, ", ") + "]")
		}
		b.WriteString("\n")
	})
	b.WriteString(".SH EXIT STATUS\n0 after an orderly stop or where all is well, 1 after a failure, 2 where\n.B prestop shutdown\nsaw the drain expire, 3 where it saw the drain cancelled, 64 for a bad command line or configuration.\n")
	return b.String()
}

func TestTheManualAndTheCompletions(t *testing.T) {
	pages := map[string]string{"prestop.1": manualPage(), "prestop.bash": bashCompletion(), "_prestop": zshCompletion()}
	if !slices.Equal(commandNames(), []string{"shutdown", "resume", "status", "check", "install", "version", "help"}) {
		t.Errorf("the commands are %q", commandNames())
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

// TestTheChinesePagesSayTheSame compares what can be compared: headings, tables, code and links.
func TestTheChinesePagesSayTheSame(t *testing.T) {
	type shape struct {
		headings []string // their levels
		tables   []int    // rows of each
		code     []string // blocks, without comments
		links    []string // to files and sites; anchors are the language's own
	}
	read := func(name string) shape {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var s shape
		inCode, rows := false, 0
		comment := regexp.MustCompile(`(^|\s+)#.*`)
		for line := range strings.Lines(string(b)) {
			line = strings.TrimRight(line, "\n")
			fence := strings.HasPrefix(strings.TrimSpace(line), "```")
			if !strings.HasPrefix(line, "|") && rows > 0 {
				s.tables, rows = append(s.tables, rows), 0
			}
			switch {
			case fence:
				if inCode = !inCode; inCode {
					s.code = append(s.code, strings.TrimSpace(line)+"\n")
				}
			case inCode && strings.HasPrefix(s.code[len(s.code)-1], "```\n"): // a drawing, which has words of its own
			case inCode:
				if line = strings.TrimSpace(comment.ReplaceAllString(line, "")); line != "" {
					s.code[len(s.code)-1] += line + "\n"
				}
			case strings.HasPrefix(line, "#"):
				s.headings = append(s.headings, line[:strings.Index(line, " ")])
			case strings.HasPrefix(line, "|"):
				rows++
			}
			if !inCode {
				for _, m := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(line, -1) {
					s.links = append(s.links, strings.Replace(m[1], ".zh-CN", "", 1))
				}
			}
		}
		slices.Sort(s.links)
		return s
	}
	for english, chinese := range map[string]string{"README.md": "README.zh-CN.md", "docs/operations.md": "docs/operations.zh-CN.md"} {
		en, zh := read(english), read(chinese)
		if !slices.Equal(en.headings, zh.headings) {
			t.Errorf("%s: the headings are %q and %q", english, en.headings, zh.headings)
		}
		if !slices.Equal(en.tables, zh.tables) {
			t.Errorf("%s: the tables have %v and %v rows", english, en.tables, zh.tables)
		}
		if !slices.Equal(en.code, zh.code) {
			t.Errorf("%s: the code is\n%s\nand\n%s", english, strings.Join(en.code, "\n"), strings.Join(zh.code, "\n"))
		}
		if en, zh := slices.Compact(en.links), slices.Compact(zh.links); !slices.Equal(en, zh) {
			t.Errorf("%s: the links are %q and %q", english, en, zh)
		}
	}
}

// TestEveryLinkToAFileIsRight looks at all Markdown of the repository.
func TestEveryLinkToAFileIsRight(t *testing.T) {
	for _, page := range markdown(t) {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllSubmatch(b, -1) {
			link, anchor, _ := strings.Cut(string(m[1]), "#")
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			target := page
			if link != "" {
				target = filepath.Join(filepath.Dir(page), link)
			}
			text, err := os.ReadFile(target)
			if info, serr := os.Stat(target); serr != nil || err != nil && !info.IsDir() {
				t.Errorf("%s links to %s, which is not there", page, link)
			} else if anchor != "" && !slices.Contains(anchors(text), anchor) {
				t.Errorf("%s links to #%s, which is no heading of %s: %q", page, anchor, target, anchors(text))
			}
		}
	}
}

// anchors are the names of a page's headings, as GitHub makes them.
func anchors(page []byte) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllSubmatch(page, -1) {
		name := strings.ToLower(string(m[1]))
		name = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`).ReplaceAllString(name, "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// markdown are the pages of the repository.
func markdown(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for name := range strings.Lines(string(bytes.TrimSpace(out))) {
		all = append(all, strings.TrimSpace(name))
	}
	return all
}
