package e2e

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"prestop/test/kube"
)

// stops are about Pods that are told to stop, one way or another.
var stops = []row{
	{sentence: "a native sidecar holds SIGTERM back until the last request is answered", play: func(g *stage) {
		g.stops(g.play(cast{}), g.deletes)
	}},
	{sentence: "an old-style sidecar with a hook of its own does so too", play: func(g *stage) {
		g.stops(g.play(cast{style: old}), g.deletes)
	}},
	{sentence: "an old-style sidecar that gets SIGTERM before the hook does so too", play: func(g *stage) {
		g.stops(g.play(cast{style: oldWithoutHook}), g.deletes)
	}},
	{sentence: "a request by any of the Pod's addresses is waited for, of one family or two", play: everyAddress},
	{sentence: "an eviction is a stop like any other", play: func(g *stage) {
		g.stops(g.play(cast{}), func(p kube.Pod) {
			g.create("v1/pods/"+p.Metadata.Name+"/eviction", kube.Object{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": kube.Object{"name": p.Metadata.Name, "namespace": g.ns}})
		})
	}},
	{sentence: "a second deletion with a shorter grace period does not end the hook that runs", play: func(g *stage) {
		g.stops(g.play(cast{}), func(p kube.Pod) {
			g.deletes(p)
			g.waitsFor(p.Metadata.Name, 1)
			g.delete(p.Metadata.Name, "gracePeriodSeconds=60")
		})
	}},
	{sentence: "a forced deletion still calls the hook, and leaves nothing of the Pod in the registries", play: forcedDeletion},
	{sentence: "a drain that is not over at its deadline says who is left, and the app has its reserve to stop in", play: deadlineFirst},
	{sentence: "a hook that outlasts the grace period is cut off, and nothing of the Pod stays in the registries", play: graceFirst},
	{sentence: "an exec hook from an image without a shell runs a binary that an init container has installed", play: execHook},
	{sentence: "an exec hook runs the binary of an image that is mounted as a volume", play: imageVolume},
	{sentence: "an app without a hook is out of the registries as soon as its Pod is to stop", play: withoutHook},
	{sentence: "in a user namespace of its own the sidecar drains as elsewhere", play: userNamespace},
	{sentence: "with a token a stranger cannot drain the Pod, and the hook can", play: token},
	{sentence: "with hostNetwork the hook names 127.0.0.1, and the next Pod at the address is in service", play: hostNetwork, security: "privileged"},
	{sentence: "with hostNetwork and without a port prestop does not start, and says so", play: hostNetworkWithoutPort, security: "privileged"},
	{sentence: "a Job's sidecar ends with the Job and leaves nothing behind", play: job},
	{sentence: "the next Pod of a StatefulSet is in service under the name of the one that was drained", play: nameAgain},
	{sentence: "16 MiB and a hundredth of a core are enough to drain ten thousand connections", play: tenThousand},
}

// deletes is the stop that nearly all cases make.
func (g *stage) deletes(p kube.Pod) { g.delete(p.Metadata.Name) }

// stops has a Pod stopped that has a request in flight, and shows that callers leave, that another request is still
// served, that nothing is stopped before both are answered, and everything soon after.
func (g *stage) stops(p kube.Pod, stop func(kube.Pod)) {
	g.Helper()
	name := p.Metadata.Name
	g.hold(p, "slow")
	stop(p)
	g.callersGo()
	g.waitsFor(name, 1)
	g.call("late", hostPort(p.Status.PodIP, g.ports.app), "/")
	if answer := g.journaled("call late: a"); !strings.Contains(answer.Text, "answered 200") {
		g.Errorf("a request during the drain: %s", answer.Text)
	}
	g.notStopped()
	g.order(name, "/release?id=slow")
	answer := g.journaled("call slow: a")
	if !strings.Contains(answer.Text, "answered 200") {
		g.Errorf("the request in flight: %s", answer.Text)
	}
	g.endsInOrder(p)
	g.callersGo()
}

// everyAddress is about IPv6 where the cluster gives its Pods addresses of both families.
func everyAddress(g *stage) {
	p := g.play(cast{})
	for _, at := range p.Status.PodIPs {
		g.call(at.IP, hostPort(at.IP, g.ports.app), "/hold?id="+at.IP)
		g.holds(service, at.IP)
	}
	g.delete(service)
	for i, at := range p.Status.PodIPs {
		g.waitsFor(service, len(p.Status.PodIPs)-i)
		g.notStopped()
		g.order(service, "/release?id="+at.IP)
		if answer := g.journaled("call " + at.IP + ": a"); !strings.Contains(answer.Text, "answered 200") {
			g.Errorf("the request to %s: %s", at.IP, answer.Text)
		}
	}
	g.endsInOrder(p)
}

// notStopped shows that no app has had a SIGTERM yet.
func (g *stage) notStopped() {
	g.Helper()
	if e := g.find("SIGTERM"); e.Text != "" {
		g.Errorf("the app got SIGTERM at %s while a request was in flight", e.Time)
	}
}

// endsInOrder waits until a Pod that was drained has ended, and shows that its containers did so one after the other and by
// themselves. It returns the Pod as it was last.
func (g *stage) endsInOrder(p kube.Pod) kube.Pod {
	g.Helper()
	last := g.rec.await(g.T, p.Metadata.UID)
	over, term := g.said(p, "prestop", `"msg":"the drain is over"`, 1), g.journaled("SIGTERM")
	if term.Time.Before(over) {
		g.Errorf("the app got SIGTERM at %s, before the drain was over at %s", term.Time, over)
	}
	for text, want := range map[string]int{`"msg":"draining"`: 1, `"result":"drained"`: 1} {
		if n := len(g.rec.logs.with(p.Metadata.UID, "prestop", text)); n != want {
			g.Errorf("prestop said %s %d times", text, n)
		}
	}
	// A native sidecar has a hook of its own, which says that the Pod goes.
	native := len(last.Status.InitContainerStatuses) > 0
	if told := g.rec.logs.with(p.Metadata.UID, "prestop", `"msg":"the drain is over"`); strings.Contains(told[0].text, `"cause":"pod"`) != native {
		g.Errorf("the cause is told as %s", told[0].text)
	}
	g.endedWell(last)
	if g.rec.hadEvent("FailedPreStopHook") {
		g.Error("the kubelet says that the hook failed")
	}
	if s := last.Container("prestop").State.Terminated; s != nil && !strings.HasPrefix(s.Message, "OK") {
		g.Errorf("the termination message is %q", s.Message)
	}
	return last
}

// endedWell shows that both containers ended by themselves, and none had to be killed.
func (g *stage) endedWell(p kube.Pod) {
	g.Helper()
	for _, name := range []string{"prestop", "app"} {
		if s := p.Container(name).State.Terminated; s == nil || s.ExitCode != 0 {
			g.Errorf("%s ended with %+v", name, s)
		}
	}
}

func forcedDeletion(g *stage) {
	p := g.play(cast{unrecorded: true})
	g.hold(p, "slow")
	g.delete(p.Metadata.Name, "gracePeriodSeconds=0")
	if hook, term := g.said(p, "prestop", `"msg":"hook called"`, 1), g.journaled("SIGTERM"); term.Time.Before(hook) {
		g.Errorf("the app got SIGTERM at %s, before the hook at %s", term.Time, hook)
	}
	await(g.T, "Eureka holds nothing", func() error {
		if held := g.seen().Held; len(held) > 0 {
			return fmt.Errorf("%v", held)
		}
		return nil
	})
	g.callersGo()
}

func deadlineFirst(g *stage) {
	p := g.play(cast{grace: 30, env: map[string]string{"RESERVE": "22s"}})
	g.hold(p, "slow")
	g.delete(p.Metadata.Name)
	last := g.rec.await(g.T, p.Metadata.UID)
	over, term := g.said(p, "prestop", `"result":"expired"`, 1), g.journaled("SIGTERM")
	if term.Time.Before(over) {
		g.Errorf("SIGTERM at %s, before the deadline at %s", term.Time, over)
	}
	g.endedWell(last)
	if s := last.Container("prestop").State.Terminated; s != nil && !strings.HasPrefix(s.Message, "EXPIRED") {
		g.Errorf("the termination message is %q", s.Message)
	}
	g.callersGo()
}

func graceFirst(g *stage) {
	p := g.play(cast{grace: 6, env: map[string]string{"GRACE_PERIOD": "60"}})
	g.hold(p, "slow")
	g.delete(p.Metadata.Name)
	g.rec.await(g.T, p.Metadata.UID)
	g.callersGo()
	if held := g.seen().Held; len(held) > 0 {
		g.Errorf("Eureka still holds %v", held)
	}
}

func execHook(g *stage) {
	tools := []kube.Object{{"name": "tools", "mountPath": "/tools"}}
	c := cast{hook: kube.Object{"exec": kube.Object{"command": []string{"/tools/prestop", "shutdown"}}}, change: func(p *parts) {
		p.spec["volumes"] = []kube.Object{{"name": "tools", "emptyDir": kube.Object{}}}
		p.spec["initContainers"] = []kube.Object{{
			"name": "install", "image": g.Prestop, "imagePullPolicy": "IfNotPresent", "args": []string{"install", "/tools"}, "volumeMounts": tools, "securityContext": security(),
		}}
		p.app["volumeMounts"] = tools
	}}
	g.stops(g.play(c), g.deletes)
}

// imageVolume is the exec hook without a copy of the binary, where the node can mount an image.
func imageVolume(g *stage) {
	c := cast{hook: kube.Object{"exec": kube.Object{"command": []string{"/tools/prestop", "shutdown"}}}, change: func(p *parts) {
		p.spec["volumes"] = []kube.Object{{"name": "tools", "image": kube.Object{"reference": g.Prestop, "pullPolicy": "IfNotPresent"}}}
		p.app["volumeMounts"] = []kube.Object{{"name": "tools", "mountPath": "/tools", "readOnly": true}}
	}}
	if runtime := g.node().Status.NodeInfo.ContainerRuntimeVersion; g.Minor < 35 || olderContainerd(runtime, 2, 1) {
		g.Logf("Kubernetes 1.%d with %s mounts no images: that the API server takes the Pod is all there is to see", g.Minor, runtime)
		g.takes(g.pod(c))
		return
	}
	g.stops(g.play(c), g.deletes)
}

// userNamespace has root in the Pod be nobody on the node, where the node can.
func userNamespace(g *stage) {
	c := cast{change: func(p *parts) { p.spec["hostUsers"] = false }}
	handlers := g.node().Status.RuntimeHandlers
	if !slices.ContainsFunc(handlers, func(h runtimeHandler) bool { return h.Features.UserNamespaces }) {
		g.Logf("the node has no user namespaces (%+v): that the API server takes the Pod is all there is to see", handlers)
		g.takes(g.pod(c))
		return
	}
	g.stops(g.play(c), g.deletes)
}

// node is what is read of the first one.
type node struct {
	Status struct {
		NodeInfo        struct{ ContainerRuntimeVersion string }
		RuntimeHandlers []runtimeHandler
	}
}

type runtimeHandler struct{ Features struct{ UserNamespaces bool } }

func (g *stage) node() node {
	g.Helper()
	var list struct{ Items []node }
	if err := g.Get(g.Context(), "/api/v1/nodes", &list); err != nil || len(list.Items) == 0 {
		g.Fatalf("no node: %v", err)
	}
	return list.Items[0]
}

// olderContainerd reports whether a runtime, told as containerd://1.7.24, is a containerd before major.minor.
func olderContainerd(runtime string, major, minor int) bool {
	var has [2]int
	if n, _ := fmt.Sscanf(runtime, "containerd://%d.%d", &has[0], &has[1]); n != 2 {
		return false // another runtime
	}
	return has[0] < major || has[0] == major && has[1] < minor
}

// takes has the API server look at a Pod.
func (g *stage) takes(pod kube.Object) {
	g.Helper()
	if err := g.Post(g.Context(), g.path("v1/pods")+"?dryRun=All&fieldValidation=Strict", pod); err != nil {
		g.Error(err)
	}
}

// withoutHook is an app that the kubelet stops at once, and that finishes its requests by itself: prestop's own hook takes it
// out of the registries meanwhile.
func withoutHook(g *stage) {
	p := g.play(cast{app: map[string]string{"GRACEFUL": "true"}, change: func(p *parts) { delete(p.app, "lifecycle") }})
	g.hold(p, "slow")
	g.delete(service)
	g.journaled("SIGTERM")
	g.callersGo()
	if e := g.find("exits"); e.Text != "" {
		g.Errorf("the app ended at %s, before its request was answered", e.Time)
	}
	g.order(service, "/release?id=slow")
	if answer := g.journaled("call slow: a"); !strings.Contains(answer.Text, "answered 200") {
		g.Error(answer.Text)
	}
	last := g.rec.await(g.T, p.Metadata.UID)
	g.endedWell(last)
	if draining := g.rec.logs.with(p.Metadata.UID, "prestop", `"msg":"draining"`); len(draining) != 1 || !strings.Contains(draining[0].text, `"cause":"pod"`) {
		g.Errorf("it did not drain for the Pod's end: %v", draining)
	}
	if held := g.seen().Held; len(held) > 0 {
		g.Errorf("Eureka still holds %v", held)
	}
}

func token(g *stage) {
	c := cast{env: map[string]string{"TOKEN": "open sesame"}}
	c.hook = kube.Object{"httpGet": kube.Object{"path": "/shutdown", "port": g.ports.sidecar, "httpHeaders": []kube.Object{{"name": "Authorization", "value": "Bearer open sesame"}}}}
	p := g.play(c)
	at := "&url=" + url.QueryEscape("http://"+hostPort(p.Status.PodIP, g.ports.sidecar)+"/shutdown")
	g.tellWorld("call?id=stranger" + at)
	g.tellWorld("call?id=guesser&bearer=sesame" + at)
	for _, who := range []string{"stranger", "guesser"} {
		g.journaled("call " + who + ": answered 401")
	}
	if s, err := g.status(p.Metadata.Name); err != nil || s.State != "serving" {
		g.Errorf("after the strangers it is %s, %v", s.State, err)
	}
	g.stops(p, g.deletes)
}

// onHost is a Pod on its node's network, where the address is the node's and the ports are everybody's.
func (g *stage) onHost(name string, env map[string]string) cast {
	g.ports = ports{app: 18080, control: 19090, sidecar: 18090}
	return cast{name: name, env: env, hook: kube.Object{"httpGet": kube.Object{"path": "/shutdown", "port": g.ports.sidecar, "host": "127.0.0.1"}}, change: func(p *parts) {
		p.spec["hostNetwork"] = true
		p.sidecar["env"] = append(p.sidecar["env"].([]kube.Object), kube.Object{"name": "HOST_IP", "valueFrom": kube.Object{"fieldRef": kube.Object{"fieldPath": "status.hostIP"}}})
	}}
}

func hostNetwork(g *stage) {
	env := map[string]string{"PORT": "18080"}
	g.stops(g.play(g.onHost("first", env)), g.deletes)
	g.play(g.onHost("second", env)) // a disabled mark of the first one's would lie over it
}

func hostNetworkWithoutPort(g *stage) {
	c := g.onHost(service, nil)
	g.ports = ports{app: 18081, control: 19091, sidecar: 18091}
	g.create("v1/pods", g.pod(c))
	p := g.until(service, "has a sidecar that refused to start", func(p *kube.Pod) bool {
		c := p.Container("prestop")
		return c.LastState.Terminated != nil && c.LastState.Terminated.ExitCode == 64
	})
	if s := p.Container("prestop").LastState.Terminated; !strings.Contains(s.Message, "--port") {
		g.Errorf("it said %s", s.Message)
	}
}

func job(g *stage) {
	template := g.template(cast{})
	template["spec"].(kube.Object)["restartPolicy"] = "Never"
	g.create("batch/v1/jobs", kube.Object{
		"apiVersion": "batch/v1", "kind": "Job", "metadata": kube.Object{"name": service}, "spec": kube.Object{"template": template, "backoffLimit": 0},
	})
	p := g.ready(g.only())
	g.callersGo(p)
	g.order(p.Metadata.Name, "/finish")
	last := g.rec.await(g.T, p.Metadata.UID)
	if last.Status.Phase != "Succeeded" {
		g.Errorf("the Pod is %s", summary(last))
	}
	g.endedWell(last)
	await(g.T, "the Job is complete", func() error {
		var j struct{ Status struct{ Succeeded int } }
		err := g.Get(g.Context(), g.path("batch/v1/jobs/"+service), &j)
		if err == nil && j.Status.Succeeded != 1 {
			err = errors.New("not yet")
		}
		return err
	})
	g.callersGo()
	if held := g.seen().Held; len(held) > 0 {
		g.Errorf("Eureka still holds %v", held)
	}
}

// only waits until there is one Pod of the service that is not being deleted, and returns its name.
func (g *stage) only() string {
	g.Helper()
	var names []string
	await(g.T, "there is one Pod", func() error {
		var list struct{ Items []kube.Pod }
		if err := g.Get(g.Context(), g.path("v1/pods"), &list); err != nil {
			return err
		}
		names = nil
		for _, p := range list.Items {
			if p.Metadata.DeletionTimestamp == nil {
				names = append(names, p.Metadata.Name)
			}
		}
		if len(names) != 1 {
			return fmt.Errorf("%v", names)
		}
		return nil
	})
	return names[0]
}

func nameAgain(g *stage) {
	g.create("apps/v1/statefulsets", kube.Object{
		"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": kube.Object{"name": service},
		"spec": kube.Object{
			"serviceName": service, "replicas": 1, "selector": kube.Object{"matchLabels": kube.Object{"app": service}},
			// One ID for every Pod of the name, so that what Eureka keeps by ID alone would stick to the next one.
			"template": g.template(cast{app: map[string]string{"INSTANCE_ID": "orders-0:orders:8080"}}),
		},
	})
	name := service + "-0"
	first := g.ready(name)
	g.callersGo(first)
	g.stops(first, g.deletes)
	second := g.until(name, "is another one, and ready", func(p *kube.Pod) bool { return p.Metadata.UID != first.Metadata.UID && p.Is("Ready") })
	g.callersGo(second)
}

func tenThousand(g *stage) {
	const n = 10_000
	p := g.play(cast{change: func(p *parts) {
		limits := kube.Object{"cpu": "10m", "memory": "16Mi"}
		p.sidecar["resources"] = kube.Object{"requests": limits, "limits": limits}
	}})
	g.tellWorld(fmt.Sprintf("crowd?n=%d&address=%s", n, hostPort(p.Status.PodIP, g.ports.app)))
	g.delete(p.Metadata.Name)
	g.waitsFor(p.Metadata.Name, n)
	g.notStopped()
	g.order(p.Metadata.Name, "/release?id=crowd")
	g.tellWorld("disperse")
	last := g.endsInOrder(p)
	if told := g.find("crowd: 10000 of 10000 answered"); told.Text == "" {
		g.Error(g.find(" answered").Text)
	}
	if c := last.Container("prestop"); c.RestartCount > 0 {
		g.Errorf("prestop was restarted %d times", c.RestartCount)
	}
}
