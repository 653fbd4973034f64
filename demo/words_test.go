package main

import (
	"strings"
	"testing"
)

func TestTheLanguageIsThatOfTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		all, messages, lang string
		want                lang
	}{
		{"", "", "", english}, {"", "", "zh_CN.UTF-8", chinese}, {"", "en_US.UTF-8", "zh_CN.UTF-8", english},
		{"zh_TW.UTF-8", "en_US", "C", chinese}, {"C", "", "zh_CN", english},
	} {
		t.Setenv("LC_ALL", c.all)
		t.Setenv("LC_MESSAGES", c.messages)
		t.Setenv("LANG", c.lang)
		if got := spoken(); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestTheSummaryIsATableInBothLanguages(t *testing.T) {
	p := example()
	p.Title = ways[0].title
	for _, l := range []lang{english, chinese} {
		lines := strings.Split(summary([]panel{p, p}, l), "\n")
		if len(lines) != 3 || strings.Contains(strings.Join(lines, ""), "%!") {
			t.Fatalf("%q", lines)
		}
		// The last column begins at the same place in each line.
		last := columnsOf(lines[0][:strings.Index(lines[0], saysStops.f(l))])
		if at := columnsOf(lines[1][:strings.Index(lines[1], "10  20")]); at != last {
			t.Errorf("the stops begin at column %d, their heading at %d:\n%s", at, last, strings.Join(lines, "\n"))
		}
	}
}

func TestTheEndIsToldInNumbers(t *testing.T) {
	var panels []panel
	for k, w := range ways {
		p := example()
		p.Title = w.title
		if k == 2 {
			p.Failed = nil
		}
		panels = append(panels, p, p)
	}
	for l, want := range map[lang][]string{english: {"10/2,468", "none of 2,468 requests failed"}, chinese: {"10/2,468", "2,468 个请求，无一失败"}} {
		got := inShort(panels, l)
		for _, w := range want {
			if !strings.Contains(got, w) || strings.Contains(got, "%!") {
				t.Errorf("%q is not in %q", w, got)
			}
		}
	}
}
