package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// The picture's measures, in pixels.
const (
	pictureWidth = 1440
	margin       = 40
	headHeight   = 158
	wayHeight    = 52 // the heading of each way
	labelWidth   = 62
	rowHeight    = 22
	barHeight    = 16
	lossHeight   = 36
	panelGap     = 60
	axisHeight   = 20
	wayGap       = 30
)

// bin is the width of a column of the little histograms, in seconds.
const bin = 0.25

// loadFull is how many requests in a bin fill an instance's bar: twice its even share.
const loadFull = 2 * callers * callerRate * bin / replicas

const style = `
text { font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", "DejaVu Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", sans-serif; fill: #1f2933; font-size: 13px }
.title { font-size: 27px; font-weight: 700 } .sub { font-size: 15px; font-weight: 400; fill: #52606d } .way { font-size: 20px; font-weight: 700 }
.service { font-size: 14px; font-weight: 700 } .bad { font-size: 14px; font-weight: 700; fill: #c81e1e } .good { font-size: 14px; font-weight: 700; fill: #1d7a46 }
.small { font-size: 12px; fill: #7b8794 } .grid { stroke: #e4e7eb } .nobody { stroke: #cbd2d9; stroke-dasharray: 2 4 }
.starting { fill: #dde1e6 } .serving { fill: #c3e6cf } .serving-load { fill: #3f9c63 } .hook { fill: #fbe3a9 } .hook-load { fill: #d69a1c }
.lost { stroke: #d62828; stroke-width: 1.6; stroke-opacity: .75 } .losses { fill: #d62828 } .frame { stroke: #9aa5b1 }
`

// picture collects an SVG.
type picture struct{ strings.Builder }

func (p *picture) add(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *picture) text(x, y float64, class, anchor, s string) {
	p.add(`<text x="%s" y="%s" class="%s" text-anchor="%s">%s</text>`, px(x), px(y), class, anchor, escape(s))
}

// rect draws nothing where it has no width.
func (p *picture) rect(x1, x2, y, height float64, class string) {
	if x2 > x1 {
		p.add(`<rect x="%s" y="%s" width="%s" height="%s" class="%s"/>`, px(x1), px(y), px(x2-x1), px(height), class)
	}
}

// writeSVG draws panels, two beside each other for each way, all on the same time axis.
func writeSVG(w io.Writer, panels []panel, l lang) error {
	longest := 0.0
	for _, p := range panels {
		longest = math.Max(longest, p.Seconds)
	}
	span := math.Ceil(longest)
	width := float64(pictureWidth-2*margin-panelGap) / 2
	height := float64(headHeight)
	for k := 0; k < len(panels); k += 2 {
		height += wayHeight + panelHeight(panels[k]) + wayGap
	}
	d := &picture{}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%s" viewBox="0 0 %d %s">`, pictureWidth, px(height), pictureWidth, px(height))
	d.add(`<style>%s</style>`, style)
	d.add(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	head(d, l)
	y := float64(headHeight)
	for k := 0; k < len(panels); k += 2 {
		d.add(`<text x="%d" y="%s" class="way">%s<tspan dx="14" class="sub">%s</tspan></text>`, margin, px(y+20), escape(panels[k].Title.f(l)), escape(panels[k].What.f(l)))
		y += wayHeight
		for column, p := range panels[k:min(k+2, len(panels))] {
			drawPanel(d, p, margin+float64(column)*(width+panelGap), y, width, span, l)
		}
		y += panelHeight(panels[k]) + wayGap
	}
	d.add(`</svg>`)
	_, err := io.WriteString(w, d.String())
	return err
}

func head(d *picture, l lang) {
	d.text(margin, 48, "title", "start", drawnTitle.f(l))
	d.text(margin, 74, "sub", "start", drawnHow.f(l, callers*callerRate, "5 ms", "1 s"))
	d.text(margin, 95, "sub", "start", drawnWhy.f(l, scale))
	x, y := float64(margin), 112.0
	entry := func(draw func(), label string, advance float64) {
		draw()
		d.text(x+36, y+13, "", "start", label)
		x += advance
	}
	entry(func() { d.rect(x, x+28, y, barHeight, "starting") }, drawnStarting.f(l), 120)
	entry(func() { d.rect(x, x+28, y, barHeight, "serving"); d.rect(x, x+28, y+8, 8, "serving-load") }, drawnServing.f(l), 330)
	entry(func() { d.rect(x, x+28, y, barHeight, "hook"); d.rect(x, x+28, y+8, 8, "hook-load") }, drawnHook.f(l), 390)
	entry(func() {
		for _, dx := range []float64{6, 13, 17} {
			d.add(`<path d="M%s %sv%d" class="lost"/>`, px(x+dx), px(y), barHeight)
		}
	}, drawnLost.f(l), 150)
	entry(func() { d.add(`<path d="M%s %sh28" class="nobody"/>`, px(x), px(y+8)) }, drawnNobody.f(l), 120)
}

func panelHeight(p panel) float64 {
	return 12 + float64(len(p.Rows))*rowHeight + lossHeight + axisHeight
}

func drawPanel(d *picture, p panel, left, top, width, span float64, l lang) {
	d.text(left, top, "service", "start", saysOn.f(l, p.Service, p.Registry))
	d.text(left+150, top, "small", "start", p.stop(l))
	class := "good"
	if p.lost() > 0 {
		class = "bad"
	}
	d.text(left+width, top, class, "end", p.result(l))

	zero, right := left+labelWidth, left+width
	x := func(seconds float64) float64 {
		return zero + math.Max(0, math.Min(seconds, p.Seconds))/span*(right-zero)
	}
	rows := top + 12
	bottom := rows + float64(len(p.Rows))*rowHeight + lossHeight
	for s := 0.0; s <= span; s += 5 {
		at := zero + s/span*(right-zero)
		d.add(`<path d="M%s %sV%s" class="grid"/>`, px(at), px(rows), px(bottom))
		label := drawnSeconds.f(l, s*scale)
		d.text(at, bottom+16, "small", "middle", label)
	}
	for k, r := range p.Rows {
		y := rows + float64(k)*rowHeight
		d.text(zero-8, y+13, "", "end", strings.NewReplacer("-", " ", "old", drawnOld.f(l), "new", drawnNew.f(l)).Replace(r.Name))
		d.add(`<path d="M%s %sH%s" class="nobody"/>`, px(zero), px(y+barHeight/2), px(x(p.Seconds)))
		d.rect(x(r.Started), x(r.Registered), y, barHeight, "starting")
		d.rect(x(r.Registered), x(r.Stopping), y, barHeight, "serving")
		d.rect(x(r.Stopping), x(r.Gone), y, barHeight, "hook")
		histogram(d, r.Answered, 0, r.Stopping, x, y+barHeight, barHeight, loadFull, "serving-load")
		histogram(d, r.Answered, r.Stopping, p.Seconds, x, y+barHeight, barHeight, loadFull, "hook-load")
		var ticks strings.Builder
		for _, at := range r.Lost {
			fmt.Fprintf(&ticks, "M%s %sv%d", px(x(at)), px(y-1), barHeight+2)
		}
		if ticks.Len() > 0 {
			d.add(`<path d="%s" class="lost"/>`, ticks.String())
		}
	}
	var lost []float64
	for _, r := range p.Rows {
		lost = append(lost, r.Lost...)
	}
	d.text(zero-8, bottom-4, "small", "end", drawnLosses.f(l))
	histogram(d, lost, 0, p.Seconds, x, bottom, lossHeight-8, callers*callerRate*bin, "losses")
	d.add(`<path d="M%s %sH%s" class="frame"/>`, px(zero), px(bottom), px(right))
}

// histogram draws how many of the events lie in each bin between from and to, on a base line; full is the count that
// fills the height.
func histogram(d *picture, events []float64, from, to float64, x func(float64) float64, base, height, full float64, class string) {
	var path strings.Builder
	for k, n := range bins(events, from, to) {
		if n == 0 {
			continue
		}
		x1, x2 := math.Max(from, float64(k)*bin), math.Min(to, float64(k+1)*bin)
		h := math.Min(1, float64(n)*bin/(x2-x1)/full) * height
		fmt.Fprintf(&path, "M%s %sV%sH%sV%sz", px(x(x1)), px(base), px(base-h), px(x(x2)), px(base))
	}
	if path.Len() > 0 {
		d.add(`<path d="%s" class="%s"/>`, path.String(), class)
	}
}

// bins counts the events from from up to but without to, by their number of bins since 0.
func bins(events []float64, from, to float64) map[int]int {
	counts := map[int]int{}
	for _, at := range events {
		if at >= from && at < to {
			counts[int(at/bin)]++
		}
	}
	return counts
}

// px writes a length with one decimal, which is all that a screen shows.
func px(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") }

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
