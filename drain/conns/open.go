package conns

import (
	"errors"
	"fmt"
	"log/slog"
)

// Sources of a count. Auto is netlink, or proc where that is denied. Prometheus is that of drain/scrape.
const (
	Auto       = "auto"
	Netlink    = "netlink"
	Proc       = "proc"
	Prometheus = "prometheus"
)

// errNotLinux is why there is no counter on a developer's machine.
var errNotLinux = errors.New("the kernel's connection counters exist on Linux only")

// opener opens one source and has looked once, so that one that is denied is known at once.
type opener func(Rule, *slog.Logger) (Counter, error)

// Open returns the counter that source names. Auto falls back from netlink to proc and says in one line why and what is
// lost. The error says what was denied. Off Linux there is no counter.
func Open(source string, rule Rule, log *slog.Logger) (Counter, error) {
	return open(source, rule, log, openNetlink, openProc)
}

func open(source string, rule Rule, log *slog.Logger, netlink, proc opener) (Counter, error) {
	switch source {
	case Netlink:
		return netlink(rule, log)
	case Proc:
		return proc(rule, log)
	case Auto:
	default:
		return nil, fmt.Errorf("no source of connection counts is called %q", source)
	}
	c, err := netlink(rule, log)
	if err == nil {
		return &fallback{current: c, next: func() (Counter, error) { return proc(rule, log) }, log: log}, nil
	}
	if errors.Is(err, errNotLinux) {
		return nil, err
	}
	c, procErr := proc(rule, log)
	if procErr != nil {
		return nil, errors.Join(err, procErr)
	}
	log.Warn("connections are counted from /proc: every open one counts as in use, idle or not, "+
		"and the end of one is not told at once"+withoutActivity(rule), "reason", err)
	return c, nil
}

// withoutActivity is what is lost, besides, where the kernel does not tell when clients last said something.
func withoutActivity(rule Rule) string {
	if !rule.Hear {
		return ""
	}
	return "; --quiet-period does nothing, the whole linger is waited for"
}
