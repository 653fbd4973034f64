package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"prestop/internal/config"
)

// The tests of the pages: what is generated is up to date, both languages say the same, links lead somewhere, and the
// READMEs stay short. docs_linux_test.go runs their commands.

var updateDocs = flag.Bool("update-docs", false, "write what is generated into the pages")

// section is what a page has between two comments, which is generated.
func section(t *testing.T, page, name, by, want string) {
	t.Helper()
	begin, end := "<!-- "+name+": written by "+by+" -->\n", "<!-- end of "+name+" -->"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begin)
	old, after, ended := strings.Cut(rest, end)
	switch {
	case !found || !ended:
		t.Errorf("%s has no place for the %s, between %q and %q", page, name, begin, end)
	case old == want:
	case *updateDocs:
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the %s in %s is not what it should be: %s", name, page, by)
	}
}

// groupsInChinese are the titles of the groups of settings.
var groupsInChinese = map[string]string{
	"What everybody sets":            "人人都要设的",
	"Which instances are the app's":  "哪些实例属于应用",
	"How the registries are reached": "如何连接注册中心",
	"How long a drain takes":         "下线要多久",
	"Which connections count":        "统计哪些连接",
	"Readiness, calls and files":     "就绪、调用和文件",
	"The hook's port":                "钩子的端口",
	"The log":                        "日志",
}

// settingsPart is the part of docs/configuration.md that comes from the flags.
func settingsPart(head, variablesTitle, variablesHead, isSetting, isHint string, title func(string) string, meaning func(*pflag.Flag) string) string {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;")
	all := config.Flags(config.All)
	for _, group := range config.Groups() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n|---|---|---|\n", title(group), head)
		for _, s := range config.Settings() {
			if s.Group != group {
				continue
			}
			f := all.Lookup(s.Flag)
			initial := ""
			if f.DefValue != "" {
				initial = "`" + f.DefValue + "`"
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s |\n", f.Name, initial, cell.Replace(meaning(f)))
		}
	}
	fmt.Fprintf(&b, "\n## %s\n\n%s\n|---|---|---|\n", variablesTitle, variablesHead)
	for _, s := range config.Settings() {
		if len(s.Variables) == 0 {
			continue
		}
		use := isSetting
		if s.HintOnly {
			use = isHint
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s |\n", s.Flag, strings.Join(s.Variables, "`, `"), use)
	}
	return b.String() + "\n"
}

func TestTheConfigurationPageIsTheFlags(t *testing.T) {
	chinese := translations(t)
	section(t, "docs/configuration.md", "settings", "make docs", settingsPart(
		"| flag | default | meaning |", "Variables of the application", "| flag | variables, the first that is set wins | used |",
		"as a setting; `${placeholders}` are resolved from the environment", "as a hint: logged, restricts nothing",
		func(s string) string { return s }, english))
	section(t, "docs/configuration.zh-CN.md", "settings", "make docs", settingsPart(
		"| 参数 | 默认值 | 含义 |", "应用的变量", "| 参数 | 变量，以先设置的为准 | 用途 |",
		"作为配置；`${占位符}` 用环境变量解析", "只是提示：写进日志，不限制任何东西",
		func(s string) string {
			if groupsInChinese[s] == "" {
				t.Errorf("the group %q has no title in Chinese: groupsInChinese", s)
			}
			return groupsInChinese[s]
		},
		func(f *pflag.Flag) string {
			text := chinese[f.Name]
			if text[0] != english(f) {
				t.Errorf("--%s says %q; internal/cli/testdata/settings.zh-CN.tsv has a translation of %q: bring it up to date, then make docs", f.Name, english(f), text[0])
			}
			return text[1]
		}))
	for name := range chinese {
		if config.Flags(readBySidecar).Lookup(name) == nil {
			t.Errorf("internal/cli/testdata/settings.zh-CN.tsv has a text for --%s, which is no flag", name)
		}
	}
}

// TestTheConfigurationPageHasEveryCommandAndPath asks the program what there is.
func TestTheConfigurationPageHasEveryCommandAndPath(t *testing.T) {
	answer := launch(t, nil, nil, "--listen=127.0.0.1:0", "--termination-log=").get(t.Context(), "/")
	if answer.err != nil || answer.code != 200 {
		t.Fatalf("%+v", answer)
	}
	var words []string
	for _, name := range config.Commands {
		if name != "help" {
			words = append(words, "`prestop "+name)
		}
	}
	paths := regexp.MustCompile(`(?m)^(\S+) +(/\S*)`).FindAllStringSubmatch(answer.body, -1)
	if len(paths) < 8 {
		t.Fatalf("these are the paths:\n%s", answer.body)
	}
	for _, m := range paths {
		words = append(words, "`"+strings.ReplaceAll(m[1], "/", "`/`")+" "+m[2]+"`")
	}
	for _, page := range []string{"docs/configuration.md", "docs/configuration.zh-CN.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range words {
			if !strings.Contains(string(text), word) {
				t.Errorf("%s has not %s", page, word)
			}
		}
	}
}

// TestTheTimesOfThePagesAreThePrograms: the waits and the grace periods of the tables are what `prestop check` adds up.
func TestTheTimesOfThePagesAreThePrograms(t *testing.T) {
	for kind, c := range map[string]struct {
		flag          string
		grace, linger int
		// cells are those that the README and the page on sizing have of it, in both languages.
		readme, sizing string
	}{
		"nacos":  {"--nacos-url=127.0.0.1:1", 82, 47, "| Nacos | 47 ", " | 47 "},
		"eureka": {"--eureka-url=http://127.0.0.1:1/eureka/", 127, 97, "| Eureka | 67", " | 30 "},
		"none":   {"--linger=", 30, 3, "Service | 3 ", " | 3 "},
	} {
		cmd := exec.CommandContext(t.Context(), binary, "check", "--output=json", "--listen=127.0.0.1:1", "--registry-timeout=50ms", c.flag, fmt.Sprintf("--grace-period=%d", c.grace))
		cmd.Env = []string{"POD_IP=127.0.0.1"}
		out, err := cmd.Output() // it fails: there is neither a sidecar nor a registry
		var told struct {
			Drain struct{ LingerSeconds, RestSeconds float64 }
		}
		if jsonErr := json.Unmarshal(out, &told); jsonErr != nil {
			t.Fatalf("%v, %v: %s", err, jsonErr, out)
		}
		if told.Drain.LingerSeconds != float64(c.linger) || told.Drain.RestSeconds < 20 {
			t.Errorf("%s, %d s: the program waits %g s for the caches and leaves %g for requests; the pages say %d", kind, c.grace, told.Drain.LingerSeconds, told.Drain.RestSeconds, c.linger)
		}
		for _, language := range []string{"", ".zh-CN"} {
			for page, cell := range map[string]string{"README" + language + ".md": c.readme, "docs/sizing" + language + ".md": c.sizing} {
				text, err := os.ReadFile(page)
				if err != nil {
					t.Fatal(err)
				}
				if grace := fmt.Sprintf("%d ", c.grace); !strings.Contains(string(text), cell) || !strings.Contains(string(text), grace) {
					t.Errorf("%s has not %q or not %q", page, cell, grace)
				}
			}
		}
	}
}

// TestTheCompatibilityPageIsWhatRan counts the tests of each server in the tables of test/README.md, which say what ran.
func TestTheCompatibilityPageIsWhatRan(t *testing.T) {
	b, err := os.ReadFile("test/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var table, chinese strings.Builder
	table.WriteString("| registry | version | tests that ran against it |\n|---|---|---|\n")
	chinese.WriteString("| 注册中心 | 版本 | 跑过的测试数 |\n|---|---|---|\n")
	words := strings.NewReplacer("Spring apps", "Spring 应用", "two peers", "两个对等节点", "three nodes", "三个节点", ", ", "，")
	var heads []string
	var counts []int
	for line := range strings.Lines(string(b) + "\n\n") {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			for i, n := range counts {
				if version := strings.TrimSpace(heads[i+1]); !strings.HasPrefix(version, "in memory") {
					fmt.Fprintf(&table, "| %s | %s | %d |\n", strings.TrimSpace(heads[0]), version, n)
					fmt.Fprintf(&chinese, "| %s | %s | %d |\n", strings.TrimSpace(heads[0]), words.Replace(version), n)
				}
			}
			heads, counts = nil, nil
		case heads == nil:
			heads, counts = cells, make([]int, len(cells)-1)
		default:
			for i, cell := range cells[1:] {
				if strings.TrimSpace(cell) == "✓" {
					counts[i]++
				}
			}
		}
	}
	section(t, "docs/compatibility.md", "compatibility", "make docs", table.String())
	section(t, "docs/compatibility.zh-CN.md", "compatibility", "make docs", chinese.String())
}

// TestTheREADMEsAreShort: a front page is read in a minute, and its tables fit a narrow window.
func TestTheREADMEsAreShort(t *testing.T) {
	for name, limit := range map[string]int{"README.md": 1300, "README.zh-CN.md": 1300} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
		if len(lines) < 150 || len(lines) > 180 {
			t.Errorf("%s has %d lines, not 150 to 180", name, len(lines))
		}
		if n := wordsOf(string(b)); n > limit {
			t.Errorf("%s has %d words, more than %d", name, n, limit)
		}
		for _, line := range lines {
			if !strings.HasPrefix(line, "|") {
				continue
			}
			for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
				shown := regexp.MustCompile(`\]\([^)]*\)`).ReplaceAllString(strings.TrimSpace(cell), "]")
				if n := utf8.RuneCountInString(shown); n > 90 {
					t.Errorf("%s has a cell of %d characters: %s", name, n, shown)
				}
			}
		}
	}
}

// wordsOf counts words, and two Chinese characters for one, which is about what a word takes.
func wordsOf(text string) int {
	han, others := 0, strings.Builder{}
	for _, r := range text {
		if unicode.Is(unicode.Han, r) {
			han++
			r = ' '
		}
		others.WriteRune(r)
	}
	return han/2 + len(strings.Fields(others.String()))
}

// TestTheChinesePagesUseTheTermsOfTheField: each of these words was ours alone, and the field has another.
func TestTheChinesePagesUseTheTermsOfTheField(t *testing.T) {
	terms := map[string]string{"应答": "响应", "老式": "普通容器形式的", "排空": "优雅下线", "睡觉": "sleep 期间", "安静": "静默", "采集器": "监控采集端", "流水线请求": "管道化请求", "出声": "发来数据", "乱七八糟": "无法解析", "抄给": "同步给"}
	pages, err := filepath.Glob("docs/*.zh-CN.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "README.zh-CN.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for odd, term := range terms {
			if i := strings.Index(string(b), odd); i >= 0 {
				t.Errorf("%s says %q; the field's word is %q: …%s…", page, odd, term, strings.ToValidUTF8(string(b[max(0, i-30):min(len(b), i+40)]), ""))
			}
		}
	}
}

// englishOnly are the pages of docs/ for contributors.
var englishOnly = []string{"docs/design.md"}

// TestEveryPageIsInBothLanguages: a reader of one language finds every page, and each leads to the other language's.
func TestEveryPageIsInBothLanguages(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%q, %v", pages, err)
	}
	for _, page := range append(pages, "README.md", "README.zh-CN.md") {
		other := strings.Replace(page, ".md", ".zh-CN.md", 1)
		if chinese := strings.TrimSuffix(page, ".zh-CN.md"); chinese != page {
			other = chinese + ".md"
		} else if slices.Contains(englishOnly, page) {
			continue
		}
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(other); err != nil {
			t.Errorf("%s is not in the other language: %v", page, err)
		} else if !strings.Contains(string(b), "]("+filepath.Base(other)+")") {
			t.Errorf("%s has no link to %s", page, other)
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
	pages, err := filepath.Glob("docs/*.zh-CN.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, chinese := range append(pages, "README.zh-CN.md") {
		english := strings.Replace(chinese, ".zh-CN", "", 1)
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
