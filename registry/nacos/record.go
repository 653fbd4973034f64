package nacos

import (
	"net"
	"strconv"

	"prestop/registry"
	"prestop/registry/client"
)

// service is what callers look instances up by.
type service struct{ group, name string }

// place is one cluster of a service.
type place struct {
	service
	cluster string
}

// key is what an instance's record is kept under; the ip is spelled as the app spelled it.
type key struct {
	place
	ip   string
	port uint16
}

// String is the key for people: group@@service@cluster@ip:port.
func (k key) String() string {
	return k.group + "@@" + k.name + "@" + k.cluster + "@" + net.JoinHostPort(k.ip, strconv.Itoa(int(k.port)))
}

// record is an instance as a server shows it.
type record struct {
	key
	enabled bool
	healthy bool
	weight  float64
	// persistent instances outlive their app. Not every list tells: false then.
	persistent bool
}

// state is what h means to callers; nil is an instance that no server holds.
func state(h *record) registry.State {
	switch {
	case h == nil:
		return registry.Absent
	case !h.enabled:
		return registry.Out
	case !h.healthy:
		return registry.Down
	}
	return registry.In
}

// status is h's state in Nacos' words.
func status(h *record) string {
	switch state(h) {
	case registry.Absent:
		return "absent"
	case registry.Out:
		return "disabled"
	case registry.Down:
		return "unhealthy"
	}
	return "enabled"
}

// view is what one server shows, or why it shows nothing.
type view struct {
	held map[key]record
	err  error
}

// merged is k as all servers that answered show it together: the one that callers are most likely
// sent to wins, since an instance is out only if it is so everywhere. nil if no server holds it.
func merged(views []view, k key) *record {
	var best *record
	for _, v := range views {
		if h, ok := v.held[k]; v.err == nil && ok && (best == nil || likelier(h, *best)) {
			best = &h
		}
	}
	return best
}

func likelier(a, b record) bool {
	if a.enabled != b.enabled {
		return a.enabled
	}
	return a.healthy && !b.healthy
}

// anyDisabled reports whether a server shows k as disabled, though others may not.
func anyDisabled(views []view, k key) bool {
	for _, v := range views {
		if h, ok := v.held[k]; v.err == nil && ok && !h.enabled {
			return true
		}
	}
	return false
}

// settled reports whether k is good at every server that answered.
func settled(views []view, k key, good func(*record) bool) bool {
	for _, v := range views {
		if v.err != nil {
			continue
		}
		h, ok := v.held[k]
		if ok && !good(&h) || !ok && !good(nil) {
			return false
		}
	}
	return true
}

// failed is the error of views in which no server answered, else nil.
func failed(views []view) error {
	errs := make([]error, 0, len(views))
	for _, v := range views {
		if v.err == nil {
			return nil
		}
		errs = append(errs, v.err)
	}
	return client.Join(errs)
}
