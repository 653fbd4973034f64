// The demo restarts two small services on one machine, three instances each, while callers use them: once without a
// preStop hook, once with a hook that sleeps, and once with prestop. It shows what was lost and draws it.
//
//	go run ./demo
//
// The registries are the in-memory ones of registry/registrytest, everything else is real: each instance is a process
// on its own loopback address, prestop is the binary, built first, and the demo does what the kubelet does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var ways = []way{
	{"without", text{"No preStop hook", "没有 preStop 钩子"}, text{
		"SIGTERM at once: the application deregisters and exits, but the callers' caches still have it.",
		"立即收到 SIGTERM：应用注销并退出，但调用方的缓存里还有它。",
	}, noHook},
	{"sleep", text{"sleep 35", "sleep 35"}, text{
		"What many do today. Nobody tells the callers anything while it sleeps, so the same requests fail later.",
		"很多人现在的做法。sleep 期间没有任何人通知调用方，失败只是推迟了 35 秒。",
	}, sleeps},
	{"prestop", text{"prestop", "prestop"}, text{
		"Deregisters first. Returns when the callers' caches have expired and no request is in flight.",
		"先从注册中心摘除实例；等调用方缓存失效、没有在途请求，才返回。",
	}, callsPrestop},
}

var shops = []shop{
	{
		name: "orders", product: "eureka", label: "Eureka", fetch: eurekaFetch, outdated: eurekaCache + eurekaFetch + balancerCache,
		linger: 97 * time.Second / scale, grace: 127 * time.Second / scale,
	},
	{
		name: "stock", product: "nacos", label: "Nacos", fetch: nacosPush, outdated: nacosRebuild + nacosPush + balancerCache,
		linger: 47 * time.Second / scale, grace: 82 * time.Second / scale,
	},
}

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == "app" {
		if err := runApp(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	out := flag.String("out", "", "folder for the pictures and the logs; empty: demo/out in the module")
	speak := flag.String("lang", "", "language: en or zh; empty: that of the environment (LANG)")
	flag.Parse()
	l := spoken()
	if *speak != "" {
		l = language(*speak)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demonstrate(ctx, *out, l); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		return 1
	}
	return 0
}

// demonstrate runs all ways one after the other, and judges the last.
func demonstrate(ctx context.Context, out string, l lang) error {
	began := time.Now()
	fmt.Print(saysBuilding.f(l, scale))
	s, err := newSite(ctx, out)
	if err != nil {
		return err
	}
	for _, shop := range shops {
		fmt.Print(saysFlags.f(l, shop.label, shop.grace, strings.Join(shop.scaled(), " ")))
	}
	show := newScreen(os.Stdout, l)
	fmt.Println(legend.f(l))
	var (
		panels []panel
		failed error
	)
	for k, w := range ways {
		fmt.Print(saysWay.f(l, k+1, len(ways), w.title.f(l), w.what.f(l)))
		done, err := rollOut(ctx, s, w, show)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // the picture shows what went wrong
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.title.f(l), err))
		}
		panels = append(panels, done...)
	}
	names := []string{english: filepath.Join(s.out, "rollout.svg"), chinese: filepath.Join(s.out, "rollout.zh-CN.svg")}
	for l, name := range names {
		if err := draw(name, panels, lang(l)); err != nil {
			return err
		}
	}
	fmt.Printf("\n%s\n\n%s\n", summary(panels, l), inShort(panels, l))
	fmt.Print(saysDrawn.f(l, names[l], filepath.Base(names[1-l]), filepath.Join(s.out, "logs"), time.Since(began).Seconds()))
	return errors.Join(failed, judge(panels))
}

// rollOut restarts all shops at the same time in one way and shows how it goes.
func rollOut(ctx context.Context, s *site, w way, show *screen) ([]panel, error) {
	var rollouts []*rollout
	for _, shop := range shops {
		url, stop, err := startRegistry(shop.product)
		if err != nil {
			return nil, err
		}
		defer stop()
		rollouts = append(rollouts, &rollout{shop: shop, way: w, url: url})
	}
	ended := make(chan error, 1)
	go func() {
		ended <- together(len(rollouts), func(k int) error { return rollouts[k].run(ctx, s) })
	}()
	now := func() (panels []panel) {
		for _, r := range rollouts {
			panels = append(panels, r.panel(time.Now()))
		}
		return panels
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			show.progress(now(), time.Now())
		case err := <-ended:
			panels := now()
			show.finished(panels)
			return panels, err
		}
	}
}

func draw(name string, panels []panel, l lang) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(writeSVG(f, panels, l), f.Close())
}

// summary is a table of all panels.
func summary(panels []panel, l lang) string {
	var b strings.Builder
	row := func(title, where, requests, lost, stops string) {
		fmt.Fprintf(&b, "%s %s %s%s %s%s   %s\n", padded(title, 17), padded(where, 18), padded("", 9-columnsOf(requests)), requests, padded("", 6-columnsOf(lost)), lost, stops)
	}
	row("", "", saysHeads.f(l), saysLostHead.f(l), saysStops.f(l))
	for _, p := range panels {
		var stops []string
		for _, s := range p.Stops {
			stops = append(stops, fmt.Sprintf("%.0f", s*scale))
		}
		row(p.Title.f(l), saysOn.f(l, p.Service, p.Registry), thousands(p.Requests), thousands(p.lost()), strings.Join(stops, "  "))
	}
	return strings.TrimRight(b.String(), "\n")
}

// inShort is what the demo shows, for somebody who has never heard of prestop.
func inShort(panels []panel, l lang) string {
	var sums []any
	for _, w := range ways {
		requests, lost := 0, 0
		for _, p := range panels {
			if p.Title == w.title {
				requests, lost = requests+p.Requests, lost+p.lost()
			}
		}
		sum := panel{Requests: requests, Failed: map[failure]int{other: lost}}
		if sums = append(sums, sum.share()); len(sums) == len(ways) {
			sums[len(sums)-1] = sum.result(l)
		}
	}
	return saysEnd.f(l, sums...)
}

// judge fails if prestop lost a request, or if nothing was lost without it: then the load was none.
func judge(panels []panel) error {
	var errs []error
	for _, p := range panels {
		switch {
		case p.Title == ways[2].title && p.lost() > 0:
			errs = append(errs, errors.Join(fmt.Errorf("with prestop, %s on %s: %s", p.Service, p.Registry, p.verdict(english)), p.Odd))
		case p.Title == ways[0].title && p.lost() == 0:
			errs = append(errs, fmt.Errorf("without a hook, %s on %s: %s, so the demo shows nothing", p.Service, p.Registry, p.verdict(english)))
		}
	}
	return errors.Join(errs...)
}
