package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// The picture's measures, in pixels.
const (
	pictureWidth = 1200
	margin       = 32
	headHeight   = 150
	laneHeight   = 64 // of the histogram
	podHeight    = 7  // of one old Pod's bar
	rowGap       = 58
	before       = 10.0 // seconds shown before the rolling update
)

const style = `
text { font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", "Noto Sans CJK SC", "DejaVu Sans", sans-serif; fill: #1f2933; font-size: 13px }
.title { font-size: 25px; font-weight: 700 } .sub { font-size: 14px; fill: #52606d } .way { font-size: 16px; font-weight: 700 }
.bad { font-size: 14px; font-weight: 700; fill: #b42318 } .good { font-size: 14px; font-weight: 700; fill: #1d7a46 }
tspan.sub { font-weight: 400 } .small { font-size: 12px; fill: #7b8794 }
.grid { stroke: #e4e7eb } .base { stroke: #9aa5b1 } .all { stroke: #9aa5b1; stroke-dasharray: 2 4 } .lane { fill: #f7f9fb }
.serving { fill: #8fcaa6 } .stopping { fill: #f2c14e }
`

// shades are the callers' in the histograms.
var shades = map[string]string{"eureka": "#8c1c13", "nacos": "#d1495b", "new": "#f08a4b", "kept": "#6d4c9f", "grpc": "#2e6f95"}

// words are what the picture says in a language.
type words struct {
	title, about, ways, serving, stopping, lost, all, noneLost, someLost, gone, axis string
	mode                                                                             func(mode) (title, what string)
	callers                                                                          map[string]string
}

var languages = map[string]words{
	"en": {
		title:    "A service is updated while requests arrive: which of them fail?",
		about:    "Three Pods of a Spring Boot app on Kubernetes are replaced one by one. %s requests a second arrive from five kinds of callers.",
		ways:     "Each row is one way to stop the old Pods: what their preStop hook does. Measured, not simulated.",
		serving:  "an old Pod serves",
		stopping: "told to stop, not gone yet",
		lost:     "failed requests a second, by how the caller finds the Pods:",
		all:      "all requests",
		noneLost: "none of %s requests failed",
		someLost: "%s of %s requests failed",
		gone:     "last old Pod gone after %.0f s",
		axis:     "%.0f s",
		mode:     func(m mode) (string, string) { return m.Title, m.What },
		callers:  map[string]string{"eureka": "Eureka", "nacos": "Nacos", "new": "ClusterIP, new connections", "kept": "ClusterIP, kept connections", "grpc": "ClusterIP, gRPC"},
	},
	"zh": {
		title:    "滚动更新期间，哪些请求会失败？",
		about:    "Kubernetes 上一个 Spring Boot 应用的三个 Pod 被逐个替换，五类调用方每秒共发出 %s 个请求。",
		ways:     "每一行是一种停止旧 Pod 的方式，即 preStop 钩子做什么。实测数据，不是模拟。",
		serving:  "旧 Pod 正常服务",
		stopping: "已被要求停止，尚未退出",
		lost:     "每秒失败的请求数，按调用方发现 Pod 的方式：",
		all:      "全部请求",
		noneLost: "%s 个请求无一失败",
		someLost: "失败 %s 个，共 %s 个请求",
		gone:     "%.0f 秒后最后一个旧 Pod 退出",
		axis:     "%.0f 秒",
		mode:     func(m mode) (string, string) { return m.Chinese, m.WhatChinese },
		callers:  map[string]string{"eureka": "Eureka", "nacos": "Nacos", "new": "ClusterIP 短连接", "kept": "ClusterIP 长连接", "grpc": "ClusterIP gRPC"},
	},
}

// picture collects an SVG.
type picture struct{ strings.Builder }

func (p *picture) add(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *picture) text(x, y float64, class, anchor, s string) {
	p.add(`<text x="%s" y="%s" class="%s" text-anchor="%s">%s</text>`, px(x), px(y), class, anchor, escape(s))
}

func (p *picture) rect(x1, x2, y, height float64, attribute string) {
	if x2 > x1 {
		p.add(`<rect x="%s" y="%s" width="%s" height="%s" %s/>`, px(x1), px(y), px(x2-x1), px(height), attribute)
	}
}

// writeSVG draws the latest run of each mode, on one time axis that begins with the rolling update.
func writeSVG(w io.Writer, all []result, language string) error {
	say, ok := languages[language]
	if !ok {
		return fmt.Errorf("draw in the language %q: there are en and zh", language)
	}
	var shown []result
	var ways []mode
	span := 0.0
	for _, r := range rows(all) {
		one := r.runs[len(r.runs)-1]
		shown, ways = append(shown, one), append(ways, r.mode)
		end := one.lastOldGone()
		if lost := one.failed(); len(lost) > 0 {
			end = max(end, lost[len(lost)-1]-one.Rolled)
		}
		span = max(span, end)
	}
	span = math.Ceil((span+5)/10) * 10
	rowHeight := float64(rowGap + laneHeight + replicas*(podHeight+2))
	height := headHeight + float64(len(shown))*rowHeight + 30
	d := &picture{}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%s" viewBox="0 0 %d %s">`, pictureWidth, px(height), pictureWidth, px(height))
	d.add(`<style>%s</style>`, style)
	d.add(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	drawHead(d, say, shown[0])
	x := func(seconds float64) float64 {
		return margin + (math.Max(-before, math.Min(seconds, span))+before)/(span+before)*(pictureWidth-2*margin)
	}
	for i, r := range shown {
		drawRow(d, say, ways[i], r, headHeight+float64(i)*rowHeight, x, span)
	}
	d.add(`</svg>`)
	_, err := io.WriteString(w, d.String())
	return err
}

func drawHead(d *picture, say words, r result) {
	d.text(margin, 44, "title", "start", say.title)
	d.text(margin, 70, "sub", "start", fmt.Sprintf(say.about, thousands(int(r.Rate)*len(r.Callers))))
	d.text(margin, 90, "sub", "start", say.ways)
	x, y := float64(margin), 108.0
	entry := func(attribute, label string) {
		d.rect(x, x+22, y, 12, attribute)
		d.text(x+28, y+11, "", "start", label)
		x += 42 + 6.6*float64(widthOf(label))
	}
	entry(`class="serving"`, say.serving)
	entry(`class="stopping"`, say.stopping)
	x, y = margin, 128
	d.text(x, y+11, "", "start", say.lost)
	x += 6 + 6.4*float64(widthOf(say.lost))
	for _, c := range r.Callers {
		entry(fmt.Sprintf(`fill="%s"`, shades[c.Name]), say.callers[c.Name])
	}
}

// widthOf counts letters, a Chinese one for two.
func widthOf(s string) (n int) {
	for _, r := range s {
		n++
		if r > 0x2e80 {
			n++
		}
	}
	return n
}

func drawRow(d *picture, say words, m mode, r result, top float64, x func(float64) float64, span float64) {
	lost := len(r.failed())
	class, text := "good", fmt.Sprintf(say.noneLost, thousands(r.requests()))
	if lost > 0 {
		class, text = "bad", fmt.Sprintf(say.someLost, thousands(lost), thousands(r.requests()))
	}
	title, what := say.mode(m)
	d.add(`<text x="%d" y="%s" class="way">%s<tspan class="sub" dx="12">%s</tspan></text>`, margin, px(top+24), escape(title), escape(what))
	d.add(`<text x="%d" y="%s" class="%s" text-anchor="end">%s<tspan class="sub" dx="12">%s</tspan></text>`, pictureWidth-margin, px(top+24), class,
		escape(text), escape(fmt.Sprintf(say.gone, r.lastOldGone())))
	lane := top + 34
	base := lane + laneHeight
	bottom := base + replicas*(podHeight+2)
	d.rect(x(-before), x(span), lane, laneHeight, `class="lane"`)
	for s := 0.0; s <= span; s += 10 {
		d.add(`<path d="M%s %sV%s" class="grid"/>`, px(x(s)), px(lane), px(bottom))
		if int(s)%30 == 0 {
			d.text(x(s), bottom+14, "small", "middle", fmt.Sprintf(say.axis, s))
		}
	}
	full := r.Rate * float64(len(r.Callers))
	scale := (laneHeight - 6) / full
	d.add(`<path d="M%s %sH%s" class="all"/>`, px(x(-before)), px(base-full*scale), px(x(span)))
	d.text(x(span)-4, base-full*scale+12, "small", "end", say.all)
	stacked := map[int]float64{}
	for _, c := range r.Callers {
		counts := map[int]int{}
		for _, at := range c.Failed {
			counts[int(math.Floor(at-r.Rolled))]++
		}
		var path strings.Builder
		for s := -int(before); s < int(span); s++ {
			if n := counts[s]; n > 0 {
				y := base - math.Min(stacked[s], full)*scale
				stacked[s] += float64(n)
				fmt.Fprintf(&path, "M%s %sV%sH%sV%sz", px(x(float64(s))), px(y), px(base-math.Min(stacked[s], 1.08*full)*scale), px(x(float64(s+1))), px(y))
			}
		}
		if path.Len() > 0 {
			d.add(`<path d="%s" fill="%s"/>`, path.String(), shades[c.Name])
		}
	}
	d.add(`<path d="M%s %sH%s" class="base"/>`, px(x(-before)), px(base), px(x(span)))
	y := base + 2
	for _, p := range slices.SortedFunc(slices.Values(r.Pods), func(a, b life) int { return cmp.Compare(a.Stopping, b.Stopping) }) {
		if p.Old {
			d.rect(x(-before), x(p.Stopping-r.Rolled), y, podHeight, `class="serving"`)
			d.rect(x(p.Stopping-r.Rolled), x(p.Gone-r.Rolled), y, podHeight, `class="stopping"`)
			y += podHeight + 2
		}
	}
}

// px writes a length with one decimal, which is all that a screen shows.
func px(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") }

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
