package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var updateDocs = flag.Bool("update-docs", false, "write the tables of the recorded runs into the documentation")

// TestTheDocumentationShowsTheRecordedRuns: the tables of the rolling update are those of rollout/results, in both
// languages. `make rollout-docs` writes them.
func TestTheDocumentationShowsTheRecordedRuns(t *testing.T) {
	all, err := stored("rollout/results")
	if err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]string{
		"../README.md":                shortTable(all, tableWords{}),
		"../README.zh-CN.md":          shortTable(all, chineseTable),
		"../docs/benchmarks.md":       longTable(all, tableWords{}),
		"../docs/benchmarks.zh-CN.md": longTable(all, chineseTable),
	} {
		const begin, end = "<!-- rollout: written by make rollout-docs -->\n", "<!-- end of rollout -->"
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(b), begin)
		old, after, ended := strings.Cut(rest, end)
		switch {
		case !found || !ended:
			t.Errorf("%s has no place for the table, between %q and %q", name, begin, end)
		case old == table:
		case *updateDocs:
			if err := os.WriteFile(name, []byte(before+begin+table+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("the table in %s is not that of the recorded runs: make rollout-docs", name)
		}
	}
}

// tableWords are a table's in Chinese; all empty in English.
type tableWords struct{ short, long, none string }

var chineseTable = tableWords{
	short: "| preStop | 失败的请求 | 停一个 Pod 要多久 |\n",
	long:  "| preStop | 运行次数 | 失败的请求 | Eureka 调用方 | Nacos 调用方 | ClusterIP | 报错持续 | 停一个 Pod |\n",
	none:  "无",
}

func (w tableWords) title(m mode) string {
	title := m.Title
	if w.none != "" {
		title = m.Chinese
	}
	switch {
	case strings.HasPrefix(title, "prestop"):
		return "**" + title + "**"
	case m.Shell == "":
		return title
	}
	return "`" + title + "`"
}

func (w tableWords) of(failed, requests int) string {
	share := fmt.Sprintf("%.1f %%", 100*float64(failed)/float64(max(requests, 1)))
	if w.none == "" {
		text := thousands(failed) + " of " + thousands(requests)
		if failed > 0 {
			text += " (" + share + ")"
		}
		return text
	}
	text := thousands(failed) + " / " + thousands(requests)
	if failed > 0 {
		text += "（" + strings.ReplaceAll(share, " ", "") + "）"
	}
	return text
}

func (w tableWords) time(s string) string {
	if s = strings.ReplaceAll(s, "-", " to "); w.none != "" {
		s = strings.NewReplacer(" to ", "～", " s", " 秒").Replace(s)
	}
	return s
}

// shortTable is the README's: the ways of the small picture, and what each costs.
func shortTable(all []result, w tableWords) string {
	var b strings.Builder
	head := w.short
	if head == "" {
		head = "| preStop hook | failed requests | time to stop a Pod |\n"
	}
	b.WriteString(head + "|---|---|---|\n")
	for _, r := range rows(all) {
		for _, name := range heroModes {
			if r.mode.Name == name {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", w.title(r.mode), w.of(r.failed(), r.requests()), w.time(r.span(result.stop)))
			}
		}
	}
	return b.String()
}

// longTable is that of the benchmarks: every way, with the range of its runs.
func longTable(all []result, w tableWords) string {
	var b strings.Builder
	head := w.long
	if head == "" {
		head = "| preStop hook | runs | failed requests | of Eureka's callers | of Nacos' callers | by the ClusterIP | errors for | a Pod stops in |\n"
	}
	b.WriteString(head + strings.Repeat("|---", strings.Count(head, "|")-1) + "|\n")
	for _, r := range rows(all) {
		failed := w.of(r.failed(), r.requests())
		if len(r.runs) > 1 {
			least, most := len(r.runs[0].failed()), len(r.runs[0].failed())
			for _, one := range r.runs {
				least, most = min(least, len(one.failed())), max(most, len(one.failed()))
			}
			failed += fmt.Sprintf(": %s-%s", thousands(least), thousands(most))
		}
		eureka, _ := r.of("eureka")
		nacos, _ := r.of("nacos")
		service, asked := 0, 0
		for _, name := range []string{"new", "kept", "grpc"} {
			f, n := r.of(name)
			service, asked = service+f, asked+n
		}
		cluster := thousands(service)
		if asked == 0 {
			cluster = "-"
		}
		outage := w.none
		switch {
		case r.failed() > 0:
			outage = w.time(r.span(result.outage))
		case outage == "":
			outage = "none"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s | %s |\n", w.title(r.mode), len(r.runs), failed, thousands(eureka), thousands(nacos), cluster, outage, w.time(r.span(result.stop)))
	}
	return b.String()
}
