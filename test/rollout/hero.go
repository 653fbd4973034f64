package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// The measures of the small picture, in pixels: as wide as a README is shown, so that no text shrinks.
const (
	heroWidth = 830
	heroLeft  = 20
	heroHead  = 92
	heroLane  = 62 // of the histogram
	heroGap   = 62 // above it: the title and the result
	heroPod   = 6  // of one old Pod's bar
)

const heroStyle = `
text { font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", "DejaVu Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; fill: #1f2933; font-size: 14px }
.title { font-size: 22px; font-weight: 700 } .sub { fill: #52606d } .way { font-size: 17px; font-weight: 700 }
.bad { font-size: 16px; font-weight: 700; fill: #b42318 } .good { font-size: 16px; font-weight: 700; fill: #1d7a46 }
.grid { stroke: #e4e7eb } .base { stroke: #9aa5b1 } .lane { fill: #f7f9fb } .red { fill: #d62828 }
.serving { fill: #8fcaa6 } .stopping { fill: #f2c14e }
`

// heroModes are the ways that it shows.
var heroModes = []string{"none", "sleep35", "prestop"}

type heroWords struct {
	title, about, serving, stopping, none, some, stops, axis string
	name                                                     func(mode) string
}

var heroLanguages = map[string]heroWords{
	"en": {
		title:   "Three Pods are replaced under load: which requests fail?",
		about:   "Failed requests a second (red), in seconds since the rolling update began. Measured on Kubernetes.",
		serving: "an old Pod serves", stopping: "it is stopping",
		none: "none of %s failed", some: "%s of %s failed", stops: "a Pod stops in %.0f s", axis: "%.0f s",
		name: func(m mode) string { return m.Title },
	},
	"zh": {
		title:   "滚动更新三个 Pod 期间，哪些请求会失败？",
		about:   "红色是每秒失败的请求数，横轴是滚动更新开始后的秒数。在 Kubernetes 上实测。",
		serving: "旧 Pod 正常服务", stopping: "旧 Pod 正在停止",
		none: "%s 个请求，无一失败", some: "%s / %s 个请求失败", stops: "停一个 Pod %.0f 秒", axis: "%.0f 秒",
		name: func(m mode) string { return m.Chinese },
	},
}

// writeHero draws the latest run of each of heroModes, on one time axis and one scale.
func writeHero(w io.Writer, all []result, language string) error {
	say, ok := heroLanguages[language]
	if !ok {
		return fmt.Errorf("draw in the language %q: there are en and zh", language)
	}
	var shown []row
	span, most := 0.0, 0
	for _, r := range rows(all) {
		if !slices.Contains(heroModes, r.mode.Name) {
			continue
		}
		r.runs = r.runs[len(r.runs)-1:]
		shown = append(shown, r)
		span = max(span, r.runs[0].lastOldGone())
		for _, n := range perSecond(r.runs[0]) {
			most = max(most, n)
		}
	}
	if len(shown) != len(heroModes) {
		return fmt.Errorf("draw %q: there are results of %d of these modes", heroModes, len(shown))
	}
	span = math.Ceil((span+5)/30) * 30
	rowHeight := heroGap + heroLane + replicas*(heroPod+2)
	height := heroHead + len(shown)*rowHeight + 44
	d := &picture{}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">`, heroWidth, height, heroWidth, height)
	d.add(`<style>%s</style>`, heroStyle)
	d.add(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	d.text(heroLeft, 34, "title", "start", say.title)
	d.text(heroLeft, 58, "sub", "start", say.about)
	d.rect(heroLeft, heroLeft+20, 70, 10, `class="serving"`)
	d.text(heroLeft+26, 80, "", "start", say.serving)
	x := heroLeft + 50 + 7.4*float64(widthOf(say.serving))
	d.rect(x, x+20, 70, 10, `class="stopping"`)
	d.text(x+26, 80, "", "start", say.stopping)
	for k, r := range shown {
		drawHeroRow(d, say, r, float64(heroHead+k*rowHeight), span, float64(most))
	}
	d.add(`</svg>`)
	_, err := io.WriteString(w, d.String())
	return err
}

// perSecond counts the failed requests by the second, since the rolling update began.
func perSecond(r result) map[int]int {
	counts := map[int]int{}
	for _, at := range r.failed() {
		counts[int(math.Floor(at-r.Rolled))]++
	}
	return counts
}

func drawHeroRow(d *picture, say heroWords, r row, top, span, most float64) {
	run := r.runs[0]
	lane := top + heroGap - 22
	base := lane + heroLane
	bottom := base + 2 + replicas*(heroPod+2)
	x := func(seconds float64) float64 {
		return heroLeft + (math.Max(-before, math.Min(seconds, span))+before)/(span+before)*(heroWidth-2*heroLeft)
	}
	lost := len(run.failed())
	class, text := "good", fmt.Sprintf(say.none, thousands(run.requests()))
	if lost > 0 {
		class, text = "bad", fmt.Sprintf(say.some, thousands(lost), thousands(run.requests()))
	}
	d.text(heroLeft, lane-10, "way", "start", say.name(r.mode))
	d.text(heroLeft+180, lane-10, class, "start", text)
	d.text(heroWidth-heroLeft, lane-10, "", "end", fmt.Sprintf(say.stops, run.stop()))
	d.rect(x(-before), x(span), lane, heroLane, `class="lane"`)
	for s := 0.0; s <= span; s += 30 {
		d.add(`<path d="M%s %sV%s" class="grid"/>`, px(x(s)), px(lane), px(bottom))
		anchor := "middle"
		if s == span {
			anchor = "end"
		}
		d.text(x(s), bottom+14, "sub", anchor, fmt.Sprintf(say.axis, s))
	}
	counts := perSecond(run)
	var path strings.Builder
	for s := -int(before); s < int(span); s++ {
		if n := counts[s]; n > 0 {
			fmt.Fprintf(&path, "M%s %sV%sH%sV%sz", px(x(float64(s))), px(base), px(base-float64(n)/most*(heroLane-4)), px(x(float64(s+1))), px(base))
		}
	}
	if path.Len() > 0 {
		d.add(`<path d="%s" class="red"/>`, path.String())
	}
	d.add(`<path d="M%s %sH%s" class="base"/>`, px(x(-before)), px(base), px(x(span)))
	y := base + 2
	for _, p := range slices.SortedFunc(slices.Values(run.Pods), func(a, b life) int { return cmp.Compare(a.Stopping, b.Stopping) }) {
		if p.Old {
			d.rect(x(-before), x(p.Stopping-run.Rolled), y, heroPod, `class="serving"`)
			d.rect(x(p.Stopping-run.Rolled), x(p.Gone-run.Rolled), y, heroPod, `class="stopping"`)
			y += heroPod + 2
		}
	}
}
