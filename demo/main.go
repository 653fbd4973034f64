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
	{"without", "No preStop hook", "SIGTERM at once: the application deregisters and exits, but the callers' caches live on.", noHook},
	{"sleep", "sleep 35", "What many do today, here 3.5 s. Nobody is told to go elsewhere while it sleeps, so it only puts the losses off.", sleeps},
	{"prestop", "prestop", "Leaves the registry first; returns when callers have forgotten the instance and nothing is in flight.", callsPrestop},
}

var shops = []shop{
	{
		name: "orders", product: "eureka", label: "Eureka", fetch: eurekaFetch, outdated: eurekaCache + eurekaFetch + balancerCache,
		linger: 95 * time.Second / scale, grace: 125 * time.Second / scale,
	},
	{
		name: "stock", product: "nacos", label: "Nacos", fetch: nacosPush, outdated: nacosRebuild + nacosPush + balancerCache,
		linger: 40 * time.Second / scale, grace: 75 * time.Second / scale,
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
	out := flag.String("out", "", "folder for the picture and the logs; empty: demo/out in the module")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demonstrate(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		return 1
	}
	return 0
}

// demonstrate runs all ways one after the other, and judges the last.
func demonstrate(ctx context.Context, out string) error {
	began := time.Now()
	fmt.Printf("Building prestop. Then three rolling restarts, about 25 s each; the clocks run %d times faster than real defaults.\n", scale)
	s, err := newSite(ctx, out)
	if err != nil {
		return err
	}
	for _, shop := range shops {
		fmt.Printf("On %s prestop runs with --grace-period %s %s\n", shop.label, shop.grace, strings.Join(shop.scaled(), " "))
	}
	show := newScreen(os.Stdout)
	fmt.Println(legend)
	var (
		panels []panel
		failed error
	)
	for k, w := range ways {
		fmt.Printf("\n%d of %d  %s: %s\n", k+1, len(ways), w.title, w.what)
		done, err := rollOut(ctx, s, w, show)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // the picture shows what went wrong
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.title, err))
		}
		panels = append(panels, done...)
	}
	name := filepath.Join(s.out, "rollout.svg")
	if err := draw(name, panels); err != nil {
		return err
	}
	fmt.Printf("\n%s\nDrawn: %s    Logs: %s    %.0f s in all\n", summary(panels), name, filepath.Join(s.out, "logs"), time.Since(began).Seconds())
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

func draw(name string, panels []panel) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(writeSVG(f, panels), f.Close())
}

// summary is a table of all panels.
func summary(panels []panel) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s %-18s %9s %6s   %s\n", "", "", "requests", "lost", "seconds to stop each instance")
	for _, p := range panels {
		var stops []string
		for _, s := range p.Stops {
			stops = append(stops, fmt.Sprintf("%.1f", s))
		}
		fmt.Fprintf(&b, "%-16s %-18s %9s %6s   %s\n", p.Title, p.Service+" on "+p.Registry, thousands(p.Requests), thousands(p.lost()), strings.Join(stops, "  "))
	}
	return strings.TrimRight(b.String(), "\n")
}

// judge fails if prestop lost a request, or if nothing was lost without it: then the load was none.
func judge(panels []panel) error {
	var errs []error
	for _, p := range panels {
		switch {
		case p.Title == ways[2].title && p.lost() > 0:
			errs = append(errs, errors.Join(fmt.Errorf("with prestop, %s on %s: %s", p.Service, p.Registry, p.verdict()), p.Odd))
		case p.Title == ways[0].title && p.lost() == 0:
			errs = append(errs, fmt.Errorf("without a hook, %s on %s: %s, so the demo shows nothing", p.Service, p.Registry, p.verdict()))
		}
	}
	return errors.Join(errs...)
}
