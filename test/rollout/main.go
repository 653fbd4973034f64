// Rollout measures what callers see of a rolling update: three replicas of a Spring Boot app on a real Kubernetes, under load of five
// kinds of callers, stopped in the ways in which people stop Pods.
//
// It runs in the folder test/ of the repository, on the node of the cluster that KUBECONFIG names, or starts a cluster on
// this machine by the script KUBE_UP. Nothing is installed in the Pods: they mount the node's JVM.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"prestop/test/kube"
)

func main() { os.Exit(run()) }

func run() int {
	names := flag.String("modes", "none,sleep35,out35,out100,both100,prestop,quiet", "the ways to stop a Pod, in the order in which they are measured")
	rate := flag.Float64("rate", 20, "requests a second of each of the five callers")
	out := flag.String("out", "rollout/out", "where results and logs go")
	onNode := flag.Bool("on-node", false, "all is built, the cluster runs and this is in its network; without, that is seen to first")
	fast := flag.Bool("quick", false, "caches of 5 s, as the test has them, instead of Spring Cloud's")
	svg := flag.String("svg", "", "draw the results that -out holds into this file, write their table, and measure nothing")
	hero := flag.Bool("hero", false, "with -svg: the small picture of three ways")
	language := flag.String("lang", "en", "of the picture: en, zh")
	flag.Parse()
	say := func(format string, args ...any) {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *svg != "":
		err = show(*out, *svg, *language, *hero)
	case *onNode:
		err = measure(ctx, *names, *rate, *out, *fast, say)
	default:
		err = goToNode(ctx, os.Args[1:], say)
	}
	if err != nil {
		say("%v", err)
		return 1
	}
	return 0
}

// goToNode builds what needs the network, which the node has none of, and runs this program there.
func goToNode(ctx context.Context, args []string, say func(string, ...any)) error {
	say("build what runs")
	logs, err := os.MkdirTemp("", "rollout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(logs)
	if err := (&site{conditions: defaults, dir: logs}).prepare(ctx); err != nil {
		return err
	}
	node, err := kube.OnNode(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	words := slices.Concat(node, []string{self, "-on-node"}, args)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The group: what a script has started would not be told by it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd.Run()
}

func measure(ctx context.Context, names string, rate float64, out string, fast bool, say func(string, ...any)) error {
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
	p := plan{conditions: defaults, rate: rate, dir: logs, say: say}
	if fast {
		p.conditions = quick
	}
	return p.run(ctx, all, func(r result) error {
		fmt.Print(r.report())
		return r.store(out)
	})
}

// show writes the table of the results in folder out, and draws them.
func show(out, svg, language string, hero bool) error {
	all, err := stored(out)
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	draw := writeSVG
	if hero {
		draw = writeHero
	}
	if err := draw(&picture, all, language); err != nil {
		return err
	}
	return errors.Join(writeTable(os.Stdout, all), os.WriteFile(svg, picture.Bytes(), 0o644))
}
