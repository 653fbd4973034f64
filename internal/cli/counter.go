package cli

import (
	"log/slog"
	"net"
	"slices"

	"prestop/drain/conns"
	"prestop/drain/scrape"
	"prestop/internal/config"
)

// openCounter opens the connection count; nil, said in the log, where the kernel cannot be asked.
// Our own port never counts.
func openCounter(c config.Config, own net.Addr, log *slog.Logger) conns.Counter {
	port := c.OwnPort()
	if a, ok := own.(*net.TCPAddr); ok {
		port = uint16(a.Port)
	}
	counter, err := newCounter(c, port, log)
	if err != nil {
		also := "it is not seen where the app listens, and an app that dies is not noticed"
		if len(c.Ports) == 0 {
			also += "; every instance at the Pod's addresses is taken for the app's (--port tells " +
				"which)"
		}
		log.Error("connections cannot be counted; a drain ends with its linger",
			"also", also, "remedy", allowCount, "error", err)
		return nil
	}
	return counter
}

// allowCount is what must be allowed for connections to be counted.
const allowCount = "allow a netlink socket (seccomp: socket(AF_NETLINK)), or reading /proc/net/tcp"

// newCounter opens the source that is set; the port own is the sidecar's.
func newCounter(c config.Config, own uint16, log *slog.Logger) (conns.Counter, error) {
	rule := conns.Rule{
		IdleAfter: c.IdleAfter, RequestTimeout: c.RequestTimeout, Hear: c.QuietPeriod > 0,
		Own: own, Shared: c.HostNetwork,
		ExcludePorts: append(slices.Clone(c.ExcludePorts), own), ExcludePeers: c.ExcludePeers,
	}
	if c.Count == conns.Prometheus {
		return scrape.Open(c.Metrics, rule, log)
	}
	return conns.Open(c.Count, rule, log)
}
