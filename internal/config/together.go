package config

import (
	"fmt"
	"slices"
	"time"

	"prestop/drain/conns"
)

// together checks what depends on more than one setting.
func (r *reader) together(c *Config) {
	r.times(c.Drain)
	r.login(c)
	if c.QuietPeriod > 0 && c.Count == conns.Proc {
		r.problem("quiet-period",
			"cannot be seen in /proc, which does not tell when clients last said something",
			"set --count to netlink or auto, or drop it")
	}
	r.metricsBelong(c.Count)
	r.ownPort(c)
	switch {
	case !c.HostNetwork || len(c.Ports) > 0:
	case len(c.Hints.Ports) > 0:
		c.Ports = c.Hints.Ports
		r.notes = append(r.notes,
			fmt.Sprintf("with hostNetwork (HOST_IP is the Pod's address) no port is looked at but "+
				"%v, the app's SERVER_PORT; set --port if it has others", c.Ports))
	default:
		r.problem("port",
			"is needed with hostNetwork (HOST_IP is the Pod's address), where other Pods' "+
				"instances and ports look like ours",
			"set --port to the app's ports")
	}
}

// times checks that the parts of a drain fit into the grace period.
func (r *reader) times(d Drain) {
	if d.GracePeriod > 0 && d.Reserve >= d.GracePeriod {
		r.problem("reserve", fmt.Sprintf("leaves nothing of the grace period of %s", d.GracePeriod),
			"give less than --grace-period, or raise that and the Pod's "+
				"terminationGracePeriodSeconds")
	}
	if budget := d.Budget(); d.Linger > budget && budget > 0 {
		r.notes = append(r.notes,
			fmt.Sprintf("the linger of %s does not fit into the %s before the deadline (grace "+
				"period %s less reserve %s): every drain will expire; raise "+
				"terminationGracePeriodSeconds and --grace-period",
				d.Linger, budget, d.GracePeriod, d.Reserve))
	}
	if d.QuietPeriod > 0 && d.Linger >= 0 && d.QuietPeriod >= d.Linger {
		r.notes = append(r.notes, QuietNote(d.QuietPeriod, d.Linger))
	}
}

// login wants a user beside a password. One that the app has for itself is left out instead.
func (r *reader) login(c *Config) {
	switch {
	case !c.NacosPassword.Set() || c.NacosUsername != "":
	case r.hinted["nacos-password"]:
		r.notes = append(r.notes,
			r.from["nacos-password"]+" is not used, as there is no user beside it; set "+
				"--nacos-username")
		c.NacosPassword = Secret{}
	default:
		r.problem("nacos-username", "is missing beside a password",
			"set --nacos-username, or drop the password")
	}
}

// QuietNote says that a quiet period is of no use.
func QuietNote(quiet, linger time.Duration) string {
	return fmt.Sprintf("the quiet period of %s is not shorter than the linger of %s, so it never "+
		"ends that early: make it shorter, or drop it", quiet, linger)
}

// metricsBelong wants what --count prometheus needs, and refuses what nothing else reads.
func (r *reader) metricsBelong(count string) {
	needed := map[string]bool{"metrics-url": true, "metric": true, "metric-exclude": false}
	for _, flag := range []string{"metrics-url", "metric", "metric-exclude"} {
		switch given := r.string(flag) != ""; {
		case given && count != conns.Prometheus:
			r.problem(flag, "is given, but connections are not counted by metrics",
				"set --count prometheus, or drop it")
		case !given && count == conns.Prometheus && needed[flag]:
			r.problem(flag, "is missing beside --count prometheus",
				"give it, e.g. "+map[string]string{
					"metrics-url": "unix:///admin/admin.sock:/stats/prometheus",
					"metric":      "envoy_http_downstream_cx_active",
				}[flag])
		}
	}
}

// ownPort refuses the ports on which no app can be counted.
func (r *reader) ownPort(c *Config) {
	own := c.OwnPort()
	for _, p := range c.Ports {
		switch {
		case p == own && own != 0:
			r.problem("port", fmt.Sprintf("%d is the port that prestop itself listens on", p),
				"set --listen to another one, and the hook with it")
		case slices.Contains(c.ExcludePorts, p):
			r.problem("port", fmt.Sprintf("%d is excluded by %s", p, r.from["exclude-port"]),
				"take it out of one of the two")
		}
	}
}
