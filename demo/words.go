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
		"Building prestop. Then three rolling restarts, about 25 s each; the clocks run %d times faster than real defaults.\n",
		"正在构建 prestop。接着滚动重启三次，每次约 25 秒；时钟比真实的默认值快 %d 倍。\n",
	}
	saysFlags = text{"On %s prestop runs with --grace-period %s %s\n", "在 %s 上，prestop 的参数是 --grace-period %s %s\n"}
	saysWay   = text{"\n%d of %d  %s: %s\n", "\n第 %d 次，共 %d 次  %s：%s\n"}
	saysDrawn = text{"Drawn: %s and %s    Logs: %s    %.0f s in all\n", "图：%s 和 %s    日志：%s    共 %.0f 秒\n"}
	saysEnd   = text{
		"Without a hook %s requests were lost: the callers' lists still had instances that were gone. sleep only put that off (%s).\nWith prestop %s: it left the registry first, and let the application go when nobody called it any more.",
		"没有钩子时丢失了 %s 个请求：调用方的列表里还有已经不在的实例。sleep 只是把失败推迟（%s）。\n用 prestop：%s。它先从注册中心下线，等到没有人再调用，才让应用退出。",
	}
	saysHeads    = text{"requests", "请求"}
	saysLostHead = text{"lost", "丢失"}
	saysStops    = text{"seconds to stop each instance", "停掉每个实例的秒数"}
	saysStarting = text{"  %s: starting the instances\n", "  %s：正在启动实例\n"}
	saysProgress = text{"  %4.0f s  %s: %s requests, %d lost\n", "  %4.0f 秒  %s：%s 个请求，丢失 %d 个\n"}
	saysStart    = text{"starting", "正在启动"}
	saysOn       = text{"%s on %s", "%s（%s）"}
	saysNone     = text{"none of %s requests lost", "%s 个请求，一个没丢"}
	saysLost     = text{"%s of %s requests lost", "%s / %s 个请求丢失"}
	saysWhy      = text{"%s of %s lost (%s)", "%s / %s 个丢失（%s）"}
	saysComma    = text{", ", "，"}
	saysStop     = text{"%.1f s to stop an instance", "停一个实例 %.1f 秒"}
	legend       = text{
		"░ starting   █ serving   ▒ preStop hook, still serving   × requests lost   one column is 0.4 s",
		"░ 启动中   █ 服务中   ▒ preStop 钩子运行中，仍在服务   × 丢失请求   一列是 0.4 秒",
	}
	reasons = map[failure]text{refused: {"refused", "被拒绝"}, cut: {"cut off", "中途断开"}, other: {"other", "其他"}}
)

// The words of the picture.
var (
	drawnTitle = text{"A rolling restart of three instances under load", "三个实例在压力下滚动重启"}
	drawnHow   = text{
		"Each line is an instance; three old ones are replaced by new ones in turn, as Kubernetes does it. Each service gets %d requests a second, of %s to %s.",
		"每一行是服务的一个实例；三个旧实例依次换成新实例，和 Kubernetes 的做法一样。每个服务每秒收到 %d 个请求，每个耗时 %s 到 %s。",
	}
	drawnWhy = text{
		"Callers cache the list of instances, as Spring Cloud's do, and go on calling one that has left: red. All clocks run %d times faster than by default: a second here stands for ten.",
		"调用方把实例列表放在缓存里（Spring Cloud 就是这样），所以还会继续调用已经离开的实例：红色。时钟比默认配置快 %d 倍：图中一秒相当于十秒。",
	}
	drawnStarting = text{"starting", "启动中"}
	drawnServing  = text{"serving (dark: how many requests it gets)", "服务中（深色：收到的请求量）"}
	drawnHook     = text{"told to stop, its preStop hook runs: it still serves", "已通知停止，preStop 钩子运行中：仍在服务"}
	drawnLost     = text{"a lost request", "丢失的请求"}
	drawnNobody   = text{"not there", "不存在"}
	drawnLosses   = text{"lost / s", "每秒丢失"}
	drawnOld      = text{"old", "旧"}
	drawnNew      = text{"new", "新"}
	drawnSeconds  = text{"%.0f s", "%.0f 秒"}
)
