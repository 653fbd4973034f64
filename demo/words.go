package main

import (
	"fmt"
	"os"
	"strings"
	"unicode"
)

// lang is a language that the demo speaks.
type lang int

const (
	english lang = iota
	chinese
)

// text is the same in both languages.
type text [2]string

// f is the text with its verbs filled, in l.
func (t text) f(l lang, args ...any) string {
	if len(args) == 0 {
		return t[l]
	}
	return fmt.Sprintf(t[l], args...)
}

// spoken is the language of the environment, by the variables of POSIX in their order.
func spoken() lang {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			return language(v)
		}
	}
	return english
}

// language is the one that a locale, or a language's short name, stands for.
func language(locale string) lang {
	if strings.HasPrefix(strings.ToLower(locale), "zh") {
		return chinese
	}
	return english
}

// padded is s in at least n columns of a terminal, in which a Chinese character takes two.
func padded(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-columnsOf(s)))
}

func columnsOf(s string) int {
	n := 0
	for _, r := range s {
		if n++; unicode.Is(unicode.Han, r) || r >= 0xff00 && r < 0xff60 || r >= 0x3000 && r < 0x3040 {
			n++
		}
	}
	return n
}

var (
	saysBuilding = text{
		"Building prestop. Then three rolling updates, about 25 s each. All clocks run %d times faster; the times shown are those of real ones.\n",
		"正在构建 prestop。接着滚动更新三次，每次约 25 秒。所有时钟快 %d 倍，显示的时间已换算成真实时间。\n",
	}
	saysFlags = text{"On %s prestop runs with --grace-period %s %s\n", "在 %s 上，prestop 的参数是 --grace-period %s %s\n"}
	saysWay   = text{"\n%d of %d  %s: %s\n", "\n第 %d 次，共 %d 次  %s：%s\n"}
	saysDrawn = text{"Drawn: %s and %s    Logs: %s    %.0f s in all\n", "图：%s 和 %s    日志：%s    共 %.0f 秒\n"}
	saysEnd   = text{
		"Without a hook %s requests failed: the callers' lists still had instances that were gone. sleep only put that off (%s).\nWith prestop %s. It deregistered first, and let the application stop when no caller used it any more.",
		"没有 preStop 时 %s 个请求失败：调用方的列表里还有已经退出的实例。sleep 只是把失败推迟（%s）。\n用 prestop：%s。它先摘除实例，等到没有调用方再访问，才让应用停止。",
	}
	saysHeads    = text{"requests", "请求"}
	saysLostHead = text{"failed", "失败"}
	saysStops    = text{"seconds to stop each instance", "停止每个实例的秒数"}
	saysStarting = text{"  %s: starting the instances\n", "  %s：正在启动实例\n"}
	saysProgress = text{"  %4.0f s  %s: %s requests, %d failed\n", "  %4.0f 秒  %s：%s 个请求，失败 %d 个\n"}
	saysStart    = text{"starting", "正在启动"}
	saysOn       = text{"%s on %s", "%s（%s）"}
	saysNone     = text{"none of %s requests failed", "%s 个请求，无一失败"}
	saysLost     = text{"%s of %s requests failed", "%s / %s 个请求失败"}
	saysWhy      = text{"%s of %s failed (%s)", "%s / %s 个失败（%s）"}
	saysComma    = text{", ", "，"}
	saysStop     = text{"an instance stops in %.0f s", "停一个实例 %.0f 秒"}
	legend       = text{
		"░ starting   █ serving   ▒ preStop hook, still serving   × requests failed   one column is 4 s",
		"░ 启动中   █ 服务中   ▒ preStop 钩子运行中，仍在服务   × 请求失败   一列是 4 秒",
	}
	reasons = map[failure]text{refused: {"refused", "被拒绝"}, cut: {"cut off", "中途断开"}, other: {"other", "其他"}}
)

// The words of the picture.
var (
	drawnTitle = text{"A rolling update of three instances under load: which requests fail?", "滚动更新三个实例期间，哪些请求会失败？"}
	drawnHow   = text{
		"Each line is an instance; three old ones are replaced by new ones in turn, as Kubernetes does it. Each service gets %d requests a second, of %s to %s.",
		"每一行是服务的一个实例；三个旧实例依次换成新实例，和 Kubernetes 的做法一样。每个服务每秒收到 %d 个请求，每个耗时 %s 到 %s。",
	}
	drawnWhy = text{
		"Callers cache the list of instances, as Spring Cloud's do, and go on calling one that is gone: red. The demo's clocks run %d times faster; the axis shows real seconds.",
		"调用方会缓存实例列表（Spring Cloud 就是这样），所以还会访问已经退出的实例：红色。演示的时钟快 %d 倍，横轴是换算后的真实秒数。",
	}
	drawnStarting = text{"starting", "启动中"}
	drawnServing  = text{"serving (dark: how many requests it gets)", "服务中（深色：收到的请求量）"}
	drawnHook     = text{"its preStop hook runs: it still serves", "preStop 钩子运行中：仍在服务"}
	drawnLost     = text{"a failed request", "失败的请求"}
	drawnNobody   = text{"not there", "不存在"}
	drawnLosses   = text{"failed / s", "每秒失败"}
	drawnOld      = text{"old", "旧"}
	drawnNew      = text{"new", "新"}
	drawnSeconds  = text{"%.0f s", "%.0f 秒"}
)
