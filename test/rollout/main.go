// Rollout measures what callers see of a rolling update: three replicas of a Spring Boot app on a real Kubernetes, under load of five
// kinds of callers, stopped in the ways in which people stop Pods.
//
// It runs on the node, in the folder test/ of the repository, with kubectl in PATH and KUBECONFIG set.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

func run() int {
	names := flag.String("modes", "none,sleep35,out35,out100,prestop", "the ways to stop a Pod, in the order in which they are measured")
	rate := flag.Float64("rate", 50, "requests a second of each of the five callers")
	out := flag.String("out", "rollout/out", "where results and logs go")
	prepare := flag.Bool("prepare", false, "only build what runs; the rest needs no network")
	fast := flag.Bool("quick", false, "caches of 5 s, as the test has them, instead of Spring Cloud's")
	svg := flag.String("svg", "", "draw the results that -out holds into this file, write their table, and measure nothing")
	language := flag.String("lang", "en", "of the picture: en, zh")
	flag.Parse()
	say := func(format string, args ...any) {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *svg != "" {
		if err := show(*out, *svg, *language); err != nil {
			say("%v", err)
			return 1
		}
		return 0
	}
	if err := measure(ctx, *names, *rate, *out, *prepare, *fast, say); err != nil {
		say("%v", err)
		return 1
	}
	return 0
}

func measure(ctx context.Context, names string, rate float64, out string, prepare, fast bool, say func(string, ...any)) error {
	all, err := pick(names)
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	logs := filepath.Join(out, "logs", time.Now().Format("20060102-150405"))
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	p := plan{caches: defaults, rate: rate, dir: logs, say: say}
	if fast {
		p.caches = quick
	}
	if prepare {
		return (&site{caches: p.caches, dir: logs}).prepare(ctx)
	}
	return p.run(ctx, all, func(r result) error {
		fmt.Print(r.report())
		return r.store(out)
	})
}

// show writes the table of the results in folder out, and draws them.
func show(out, svg, language string) error {
	all, err := stored(out)
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	if err := writeSVG(&picture, all, language); err != nil {
		return err
	}
	return errors.Join(writeTable(os.Stdout, all), os.WriteFile(svg, picture.Bytes(), 0o644))
}
