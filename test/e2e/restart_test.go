package e2e

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"prestop/test/kube"
)

// restarts are about Pods that stay while a container of theirs is started again.
var restarts = []row{
	{sentence: "a liveness restart drains the app, and it is in service again when it listens", play: func(g *stage) { livenessRestart(g, false) }},
	{sentence: "a liveness restart ends the drain by postStart where that calls resume", play: func(g *stage) { livenessRestart(g, true) }},
	{sentence: "an app that crashes is out of the registries until it listens again", play: func(g *stage) { crash(g, "/crash", 3) }},
	{sentence: "an app that is killed for its memory is out of the registries until it listens again", play: func(g *stage) { crash(g, "/swell", 137) }},
	{sentence: "an app that crashes again and again is out each time, and its Pod stops at once", play: crashLoop},
	{sentence: "a sidecar that is killed while the app serves takes nothing out, and drains afterwards", play: sidecarKilled},
	{sentence: "a sidecar that is killed in the drain of a Pod that stops cuts the hook short, and the Pod goes on", play: sidecarKilledInDrain},
	{sentence: "a sidecar that is killed in the drain of a liveness restart puts the app back", play: sidecarKilledInRestart},
	{sentence: "a container that has all of the Pod's restarted leaves the app in service", play: restartAll},
	{sentence: "an app and its sidecar that are killed together come back into service", play: bothKilled},
}

// withLiveness has the kubelet restart the app when it says that it is sick.
func (g *stage) withLiveness(resume bool) func(*parts) {
	return func(p *parts) {
		p.app["livenessProbe"] = probe("/livez", g.ports.control)
		p.app["livenessProbe"].(kube.Object)["failureThreshold"] = 3
		if resume {
			p.app["lifecycle"].(kube.Object)["postStart"] = kube.Object{"httpGet": kube.Object{"path": "/resume", "port": g.ports.sidecar}}
		}
		p.spec["shareProcessNamespace"] = true
	}
}

// sharing lets the app kill the sidecar.
func sharing(p *parts) { p.spec["shareProcessNamespace"] = true }

// restarted waits until each of the containers was started again n times and the Pod is ready.
func (g *stage) restarted(n int, containers ...string) kube.Pod {
	g.Helper()
	return g.until(service, fmt.Sprintf("has restarted %v and is ready", containers), func(p *kube.Pod) bool {
		for _, c := range containers {
			if p.Container(c).RestartCount != n {
				return false
			}
		}
		return p.Is("Ready")
	})
}

// notRestarted shows that a container has run all the time.
func (g *stage) notRestarted(container string) {
	g.Helper()
	var p kube.Pod
	if err := g.Get(g.Context(), g.path("v1/pods/"+service), &p); err != nil {
		g.Fatal(err)
	}
	if n := p.Container(container).RestartCount; n != 0 {
		g.Errorf("%s was restarted %d times", container, n)
	}
}

func livenessRestart(g *stage, resume bool) {
	p := g.play(cast{change: g.withLiveness(resume)})
	g.hold(p, "slow")
	g.order(service, "/sicken")
	g.callersGo()
	g.waitsFor(service, 1)
	g.notStopped()
	g.order(service, "/release?id=slow")
	if answer := g.journaled("call slow: a"); !strings.Contains(answer.Text, "answered 200") {
		g.Error(answer.Text)
	}
	over := g.said(p, "prestop", `"result":"drained"`, 1)
	for _, l := range g.rec.logs.with(p.Metadata.UID, "prestop", `"result":"drained"`) {
		if !strings.Contains(l.text, `"cause":"hook"`) {
			g.Errorf("the restart of a container was told as another cause: %s", l.text)
		}
	}
	if term := g.journaled("SIGTERM"); term.Time.Before(over) {
		g.Errorf("the app got SIGTERM at %s, before the drain was over at %s", term.Time, over)
	}
	g.restarted(1, "app")
	g.callersGo(p)
	if resume {
		g.said(p, "prestop", `"msg":"resume called"`, 2) // at its first start too
	}
	g.awaitStatus(service, "serves", func(s status) bool { return s.State == "serving" })
	g.notRestarted("prestop")
}

func crash(g *stage, how string, code int) {
	// The delay is what callers would meet.
	g.play(cast{app: map[string]string{"START_DELAY": "3s"}, change: func(p *parts) {
		p.app["resources"] = kube.Object{"limits": kube.Object{"memory": "64Mi"}}
	}})
	g.rec.note("", "test: tell "+service+" "+how)
	g.ask(service, g.ports.control, how) // it may not live to answer
	g.callersGo()
	p := g.restarted(1, "app")
	g.callersGo(p)
	await(g.T, fmt.Sprintf("the app has ended with %d", code), func() error {
		if !g.rec.exited("app", code) {
			return errors.New("not that it was seen")
		}
		return nil
	})
	if g.find("SIGTERM").Text != "" || len(g.rec.logs.with(p.Metadata.UID, "prestop", "hook called")) > 0 {
		g.Error("it was stopped, not killed")
	}
	g.notRestarted("prestop")
}

func crashLoop(g *stage) {
	p := g.play(cast{app: map[string]string{"START_DELAY": "3s"}})
	for n := range 2 {
		g.ask(service, g.ports.control, "/crash") // it may not live to answer
		g.callersGo()
		if n == 0 {
			g.callersGo(g.restarted(1, "app"))
			g.said(p, "prestop", `"msg":"the app listens"`, 2)
		}
	}
	g.until(service, "waits to be started again", func(p *kube.Pod) bool {
		w := p.Container("app").State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	g.notRestarted("prestop")
	g.delete(service)
	last := g.rec.await(g.T, p.Metadata.UID)
	if s := last.Container("prestop").State.Terminated; s == nil || s.ExitCode != 0 {
		g.Errorf("prestop ended with %+v", s)
	}
	g.said(p, "prestop", `the Pod is said to stop`, 1) // no app was there to have a hook called
	if held := g.seen().Held; len(held) > 0 {
		g.Errorf("Eureka still holds %v", held)
	}
}

func sidecarKilled(g *stage) {
	g.play(cast{change: sharing})
	g.order(service, "/kill?name=prestop")
	p := g.restarted(1, "prestop")
	g.awaitStatus(service, "has found both instances", func(s status) bool {
		found := 0
		for _, r := range s.Registries {
			found += len(r.Instances)
		}
		return found == 2
	})
	g.callersGo(p)
	g.notRestarted("app")
	for _, e := range g.journal() {
		if strings.Contains(e.Text, "PUT ") || strings.Contains(e.Text, "PATCH ") || strings.Contains(e.Text, "DELETE ") {
			g.Errorf("something was changed in a registry: %s", e.Text)
		}
	}
	g.stops(p, g.deletes)
}

func sidecarKilledInDrain(g *stage) {
	p := g.play(cast{change: sharing})
	g.hold(p, "slow")
	g.delete(service)
	g.waitsFor(service, 1)
	g.order(service, "/kill?name=prestop")
	g.journaled("SIGTERM")
	g.rec.await(g.T, p.Metadata.UID)
	g.callersGo()
}

func sidecarKilledInRestart(g *stage) {
	p := g.play(cast{change: g.withLiveness(false)})
	g.hold(p, "slow")
	g.order(service, "/sicken")
	g.waitsFor(service, 1)
	g.order(service, "/kill?name=prestop")
	g.restarted(1, "prestop", "app")
	g.callersGo(p)
	g.awaitStatus(service, "serves", func(s status) bool { return s.State == "serving" })
}

// restartAll is about RestartAllContainers, which Kubernetes has from 1.36 on: no hook is called, the containers get SIGTERM and
// two seconds, the sidecars last, and the Pod stays.
func restartAll(g *stage) {
	const since = 36
	if g.Minor < since {
		g.Logf("Kubernetes 1.%d has no RestartAllContainers, which came with 1.%d", g.Minor, since)
		return
	}
	p := g.play(cast{app: map[string]string{"START_DELAY": "2s"}, change: func(p *parts) {
		p.app["restartPolicy"] = "Never"
		p.app["restartPolicyRules"] = []kube.Object{{"action": "RestartAllContainers", "exitCodes": kube.Object{"operator": "In", "values": []int{3}}}}
	}})
	g.ask(service, g.ports.control, "/crash") // it does not live to answer
	again := g.restarted(1, "prestop", "app")
	if again.Metadata.UID != p.Metadata.UID || again.Status.PodIP != p.Status.PodIP {
		g.Errorf("it is another Pod: %s", summary(again))
	}
	g.callersGo(again)
	g.awaitStatus(service, "serves and has found both instances", func(s status) bool {
		found := 0
		for _, r := range s.Registries {
			found += len(r.Instances)
		}
		return s.State == "serving" && found == 2
	})
	if called := g.rec.logs.with(p.Metadata.UID, "prestop", "hook called"); len(called) > 0 {
		g.Errorf("a hook was called: %v", called)
	}
	g.delete(service)
	g.rec.await(g.T, p.Metadata.UID)
	g.callersGo()
}

func bothKilled(g *stage) {
	p := g.play(cast{app: map[string]string{"START_DELAY": "2s"}, change: sharing})
	g.ask(service, g.ports.control, "/kill") // it does not live to answer
	g.restarted(1, "prestop", "app")
	g.callersGo(p)
	g.awaitStatus(service, "serves", func(s status) bool { return s.State == "serving" })
}

// stays shows that it is so for d.
func (g *stage) stays(what string, d time.Duration, is func() error) {
	g.Helper()
	over := time.After(d)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := is(); err != nil {
			g.Fatalf("it does not stay so that %s: %v", what, err)
		}
		select {
		case <-over:
			return
		case <-tick.C:
		}
	}
}
