package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"prestop/drain"
	"prestop/drain/conns"
	"prestop/internal/config"
)

// podPorts are the ports of the Pod that are listened on: by the app, and by anybody.
type podPorts struct{ app, every []uint16 }

// checkPod tells where the app listens, whether the kernel can be asked, and who is connected. The
// ports that it returns are those of the settings where that cannot be seen.
func checkPod(
	ctx context.Context, c config.Config, now *sidecarStatus, stderr io.Writer,
) (podPorts, []finding) {
	counter, found := openForCheck(c,
		slog.New(newHandler(config.Log{LogFormat: "text", LogLevel: slog.LevelError}, stderr)))
	if counter == nil {
		return podPorts{app: c.Ports}, found
	}
	defer counter.Close()
	listeners, err := counter.Listeners(ctx)
	if err != nil {
		return podPorts{app: c.Ports}, append(found, problem("connections",
			"the listening sockets cannot be read: "+err.Error(), "set --count to another source"))
	}
	ports := podPorts{appPorts(listeners, c.Ports), appPorts(listeners, nil)}
	if on := livePorts(now); len(on) > 0 { // the sidecar tells the app from the others
		ports.app = on
	}
	if dead := deadPorts(now); len(ports.app) == 0 || len(dead) > 0 && len(dead) == len(now.App) {
		return podPorts{every: ports.every}, append(found, noApp(c, dead, ports.every))
	}
	found = append(found,
		fine("app", "the app listens on %v%s", ports.app, silent(c.Ports, ports.app)))
	found = append(found, uncounted(conns.UDPPorts)...)
	return ports, append(found, checkCount(ctx, c, counter, ports.app)...)
}

// uncounted tells of the ports on which somebody in the Pod serves by UDP, which is not counted.
func uncounted(udp func() ([]uint16, error)) []finding {
	ports, err := udp()
	if err != nil || len(ports) == 0 {
		return nil // it would only be told
	}
	return []finding{fine("udp", "UDP on %v is not counted: a request by QUIC or DNS is not waited for, "+
		"only its caller's cache is", ports)}
}

// checkCount counts the connections to the ports, and tells whose they are.
func checkCount(
	ctx context.Context, c config.Config, counter conns.Counter, ports []uint16,
) []finding {
	var found []finding
	counter.Watch(ports)
	t, err := counter.Count(ctx, ports)
	if err != nil {
		remedy := "set --count to another source"
		if c.Count == conns.Prometheus {
			remedy = "is --metrics-url right, may this user reach it, does it tell each --metric?"
		}
		return append(found,
			problem("connections", "connections cannot be counted: "+err.Error(), remedy))
	}
	if c.QuietPeriod > 0 && t.Heard.IsZero() {
		found = append(found, problem("connections",
			fmt.Sprintf("--quiet-period does nothing: %s does not tell when clients last said "+
				"something", counter.Source()),
			"allow a netlink socket (seccomp: socket(AF_NETLINK)), or drop the setting"))
	}
	return append(found, fine("connections", "%d connections in use, %d idle (%s)%s",
		t.Active, t.Idle, t.Source, clients(t)))
}

// noApp says that the app listens nowhere: not on its dead ports, as the sidecar tells, nor on
// those of the settings. every are the ports on which somebody listens.
func noApp(c config.Config, dead []drain.PortStatus, every []uint16) finding {
	text := "the app does not listen: looked for " + portNames(c.Ports)
	for i, p := range dead {
		if i == 0 {
			text = "the app does not listen: not on"
		}
		text += fmt.Sprintf(" %d for %s", p.Port, ago(time.Since(p.Since)))
	}
	others := slices.DeleteFunc(every, func(p uint16) bool { return slices.Contains(c.Ports, p) })
	if len(others) == 0 {
		text += "; nothing else does either"
	} else {
		text += "; somebody listens on " + list(others[:min(len(others), 10)]) +
			": if that is the app, set --port"
	}
	return problem("app", text, deadRemedy)
}

// deadRemedy is what to do about an app that is not there any more.
const deadRemedy = "see why it has ended, or has not started yet " +
	"(kubectl describe pod, kubectl logs --previous); " +
	"its instances are put back in when it listens again"

// livePorts are the app's ports on which it listens, as the sidecar tells.
func livePorts(now *sidecarStatus) []uint16 {
	if now == nil {
		return nil
	}
	var on []uint16
	for _, p := range now.App {
		if p.Listening {
			on = append(on, p.Port)
		}
	}
	return on
}

// deadPorts are the app's ports on which it does not listen, as the sidecar tells.
func deadPorts(now *sidecarStatus) []drain.PortStatus {
	if now == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(now.App),
		func(p drain.PortStatus) bool { return p.Listening })
}

// list are ports, separated by commas.
func list(ports []uint16) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ","), "[]")
}

// silent names the ports of the settings on which nobody listens.
func silent(given, ports []uint16) string {
	rest := slices.DeleteFunc(slices.Clone(given),
		func(p uint16) bool { return slices.Contains(ports, p) })
	if len(rest) == 0 {
		return ""
	}
	return fmt.Sprintf("; nobody listens on %v", rest)
}

// clients names those with the most connections in use.
func clients(t conns.Tally) string {
	var names []string
	for _, p := range t.Peers {
		if p.Active > 0 && len(names) < 5 {
			names = append(names, fmt.Sprintf("%s×%d", p.Address, p.Active))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

// openForCheck opens the count as the sidecar does, and says what it could not have.
func openForCheck(c config.Config, log *slog.Logger) (conns.Counter, []finding) {
	const remedy = "a drain ends with its linger here, and an app that dies is not noticed: " +
		allowCount
	first := c
	if c.Count == conns.Auto {
		first.Count = conns.Netlink
	}
	counter, err := newCounter(first, c.OwnPort(), log)
	if err == nil {
		return counter, []finding{fine("connections", "connections can be counted (%s)",
			counter.Source())}
	}
	if c.Count != conns.Auto {
		return nil, []finding{problem("connections", "connections cannot be counted: "+err.Error(),
			remedy)}
	}
	first.Count = conns.Proc
	counter, procErr := newCounter(first, c.OwnPort(), log)
	if procErr != nil {
		return nil, []finding{problem("connections",
			fmt.Sprintf("connections cannot be counted: %v; %v", err, procErr), remedy)}
	}
	return counter, []finding{problem("connections",
		"the kernel's socket diagnosis is denied here, and /proc is read instead: every open "+
			"connection counts as in use, idle or not ("+err.Error()+")",
		"allow a netlink socket (seccomp: socket(AF_NETLINK)), or accept it with --count proc")}
}

// appPorts are the ports of the listeners, sorted; with ports given those among them.
func appPorts(listeners []conns.Listener, given []uint16) []uint16 {
	var ports []uint16
	for _, l := range listeners {
		if len(given) == 0 || slices.Contains(given, l.Port) {
			ports = append(ports, l.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func portNames(ports []uint16) string {
	if len(ports) == 0 {
		return "any port"
	}
	return fmt.Sprint(ports)
}
