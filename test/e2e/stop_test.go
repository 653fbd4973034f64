package e2e

import (
	"strings"
	"testing"

	"prestop/test/kube"
)

// A row is one case: a sentence, and what shows it.
type row struct {
	sentence string
	play     func(g *stage)
	security string // what Pod Security enforces; "" is restricted
}

// runs plays every row at the same time as the others.
func runs(t *testing.T, rows []row) {
	s := set(t)
	for _, r := range rows {
		if r.security == "" {
			r.security = "restricted"
		}
		t.Run(r.sentence, func(t *testing.T) {
			t.Parallel()
			r.play(s.stage(t, r.security))
		})
	}
}

// TestStop is about Pods that are told to stop, one way or another.
func TestStop(t *testing.T) {
	runs(t, []row{
		{sentence: "a native sidecar holds SIGTERM back until the last request is answered", play: func(g *stage) {
			g.stopsInOrder(cast{}, func(p kube.Pod) { g.delete(p.Metadata.Name) })
		}},
		{sentence: "an old-style sidecar with a hook of its own does so too", play: func(g *stage) {
			g.stopsInOrder(cast{style: old}, func(p kube.Pod) { g.delete(p.Metadata.Name) })
		}},
		{sentence: "an old-style sidecar that gets SIGTERM before the hook does so too", play: func(g *stage) {
			g.stopsInOrder(cast{style: oldWithoutHook}, func(p kube.Pod) { g.delete(p.Metadata.Name) })
		}},
		{sentence: "an eviction is a stop like any other", play: func(g *stage) {
			g.stopsInOrder(cast{}, func(p kube.Pod) {
				g.create("v1/pods/"+p.Metadata.Name+"/eviction", kube.Object{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": kube.Object{"name": p.Metadata.Name, "namespace": g.ns}})
			})
		}},
	})
}

// stopsInOrder plays a Pod with a request in flight, has it stopped, and shows that callers leave, that another request is
// still served, that nothing is stopped before both are answered, and everything soon after.
func (g *stage) stopsInOrder(c cast, stop func(kube.Pod)) *ending {
	g.Helper()
	p := g.play(c)
	name := p.Metadata.Name
	g.hold(p, "slow")
	stop(p)
	g.callersGo()
	g.waitsFor(name, 1)
	g.call("late", hostPort(p.Status.PodIP, appPort), "/")
	if answer := g.journaled("call late: a"); !strings.Contains(answer.Text, "answered 200") {
		g.Errorf("a request during the drain: %s", answer.Text)
	}
	if e := g.find("SIGTERM"); e.Text != "" {
		g.Errorf("the app got SIGTERM at %s while a request was in flight", e.Time)
	}
	g.order(name, "/release?id=slow")
	answer := g.journaled("call slow: a")
	e := g.rec.await(g.T, p.Metadata.UID)
	if !strings.Contains(answer.Text, "answered 200") {
		g.Errorf("the request in flight: %s", answer.Text)
	}
	g.inOrder(e)
	g.callersGo()
	return e
}

// inOrder shows that a drained Pod's containers ended one after the other, by themselves.
func (g *stage) inOrder(e *ending) {
	g.Helper()
	over, term := e.when(g.T, "prestop", `"msg":"the drain is over"`, 0), e.when(g.T, "app", "SIGTERM", 0)
	if term.Before(over) {
		g.Errorf("the app got SIGTERM at %s, before the drain was over at %s", term, over)
	}
	if n := e.says("prestop", `"msg":"draining"`); n != 1 {
		g.Errorf("%d drains", n)
	}
	if n := e.says("prestop", `"result":"drained"`); n != 1 {
		g.Errorf("%d drains ended well", n)
	}
	for _, name := range []string{"prestop", "app"} {
		// 137 where it had to be killed.
		if s := e.pod.Container(name).State.Terminated; s == nil || s.ExitCode != 0 {
			g.Errorf("%s ended with %+v", name, s)
		}
	}
	if g.rec.hadEvent("FailedPreStopHook") {
		g.Error("the kubelet says that the hook failed")
	}
	if s := e.pod.Container("prestop").State.Terminated; s != nil && !strings.HasPrefix(s.Message, "OK") {
		g.Errorf("the termination message is %q", s.Message)
	}
}
