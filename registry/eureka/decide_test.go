package eureka

import (
	"testing"
	"time"

	"net/netip"

	"prestop/registry"
)

func TestRemedyIsTheSoftestThatHelps(t *testing.T) {
	const before, since, put = "1789999999000", "1790000060000", 1_790_000_000_000
	none := ourPut{}
	ours := ourPut{put: time.UnixMilli(put), heard: before, up: true}
	found := ourPut{put: time.UnixMilli(put), heard: before} // it was out already when we put it so
	out := func(dirty text) record {
		return record{Status: "OUT_OF_SERVICE", Override: "OUT_OF_SERVICE", Dirty: dirty}
	}
	bare := record{Status: "OUT_OF_SERVICE", Override: "UNKNOWN", Dirty: before}
	for name, c := range map[string]struct {
		rec    record
		others []record
		tried  int
		m      ourPut
		stores bool
		want   step
	}{
		"absent":               {record{}, nil, 0, none, false, step{}},
		"up":                   {record{Status: "UP", Override: "UNKNOWN"}, nil, 0, none, false, step{}},
		"up, no override told": {record{Status: "UP"}, nil, 0, none, false, step{}},
		"down":                 {record{Status: "DOWN", Override: "UNKNOWN"}, nil, 0, none, false, step{}},
		"out by an override":   {out(before), nil, 0, none, false, step{override: "UNKNOWN"}},
		"out, and the override is told to be gone":           {bare, nil, 0, none, false, step{override: "UNKNOWN"}},
		"still out without an override":                      {bare, nil, 3, none, false, step{}},
		"the app's own word":                                 {record{Status: "OUT_OF_SERVICE", Override: "UNKNOWN", Own: true}, nil, 0, none, false, step{}},
		"ours by our PUT":                                    {out(before), nil, 0, ours, true, step{override: "UP"}},
		"ours, still out without an override":                {bare, nil, 3, ours, true, step{deregister: true}},
		"ours, on a server that shows no override, for long": {bare, nil, 30, ours, false, step{override: "UP"}},
		"still out with one":                                 {out(before), nil, 3, none, false, step{deregister: true}},
		"put back by a peer after one try":                   {out(before), nil, 1, none, false, step{override: "UNKNOWN"}},
		"down by an override":                                {record{Status: "DOWN", Override: "DOWN"}, nil, 0, none, false, step{override: "UNKNOWN"}},
		"unknown, as after that":                             {record{Status: "UNKNOWN", Override: "UNKNOWN"}, nil, 1, none, false, step{}},
		"down shows through the override":                    {record{Status: "DOWN", Override: "OUT_OF_SERVICE", Dirty: before}, nil, 0, ours, true, step{override: "UNKNOWN"}},
		"starting shows through the override":                {record{Status: "STARTING", Override: "OUT_OF_SERVICE", Dirty: before}, nil, 0, ours, true, step{override: "UNKNOWN"}},
		"down, and a trace of the override stays":            {record{Status: "DOWN", Override: "OUT_OF_SERVICE"}, nil, 3, none, false, step{}},
		"up by an override":                                  {record{Status: "UP", Override: "UP"}, nil, 0, none, false, step{}},
		"up by an override, after our PUT":                   {record{Status: "UP", Override: "UP", Dirty: before}, nil, 0, ours, true, step{override: "UP"}},
		"up by an override, and a new process":               {record{Status: "UP", Override: "UP", Dirty: since}, nil, 0, ours, true, step{override: "UNKNOWN"}},
		"up, and a trace of the override stays":              {record{Status: "UP", Override: "UP"}, nil, 3, none, false, step{}},
		"out already when we put it out":                     {out(before), nil, 0, found, true, step{override: "UNKNOWN"}},
		"out, the app has spoken since the last look":        {out("1789999999500"), nil, 0, ours, true, step{override: "UNKNOWN"}},
		"out, a new process has registered since":            {out(since), nil, 0, ours, true, step{override: "UNKNOWN"}},
		"out, another has heard DOWN since":                  {out(before), []record{{Status: "DOWN", Override: "OUT_OF_SERVICE", Dirty: since}}, 0, ours, true, step{override: "UNKNOWN"}},
		"out, another's word may be covered":                 {out(before), []record{out(since)}, 0, ours, true, step{override: "UNKNOWN"}},
		"out, another missed the last word":                  {out(before), []record{out("1789990000000")}, 0, ours, true, step{override: "UP"}},
	} {
		if got := remedy(c.rec, c.others, c.tried, c.m, c.stores); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestWhereServersDisagreeItIsWhatWasNotAskedFor(t *testing.T) {
	const in, out, down, absent = registry.In, registry.Out, registry.Down, registry.Absent
	for name, c := range map[string]struct {
		states        []registry.State
		serving, left registry.State
	}{
		"nothing said":            {nil, absent, absent},
		"absent everywhere":       {[]registry.State{absent, absent}, absent, absent},
		"in everywhere":           {[]registry.State{in, in}, in, in},
		"out everywhere":          {[]registry.State{out, out}, out, out},
		"in here, out there":      {[]registry.State{in, out}, out, in},
		"out here, in there":      {[]registry.State{out, in}, out, in},
		"one was restarted empty": {[]registry.State{absent, out}, out, out},
		"one does not know it":    {[]registry.State{in, absent}, in, in},
		"down here, out there":    {[]registry.State{down, out}, out, out},
		"down here, in there":     {[]registry.State{down, in}, in, in},
		"down here, absent there": {[]registry.State{absent, down}, down, down},
	} {
		if got := merge(c.states, false); got != c.serving {
			t.Errorf("%s, serving: %v, want %v", name, got, c.serving)
		}
		if got := merge(c.states, true); got != c.left {
			t.Errorf("%s, left: %v, want %v", name, got, c.left)
		}
	}
}

func TestAnInstanceIsOursByAddressAndEnabledPort(t *testing.T) {
	pod := registry.Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::7")}, Names: []string{"orders-0"}, Ports: []uint16{8080, 8443}}
	for name, c := range map[string]struct {
		rec  record
		port uint16 // 0: not ours
	}{
		"by its address":                   {record{IP: "10.1.2.3", Host: "somewhere", Port: 8080}, 8080},
		"by an address of another family":  {record{IP: "fd00:0:0::7", Port: 8080}, 8080},
		"by its host name":                 {record{IP: "172.17.0.1", Host: "ORDERS-0", Port: 8080}, 8080},
		"by its address as host name":      {record{Host: "10.1.2.3", Port: 8080}, 8080},
		"by its secure port alone":         {record{IP: "10.1.2.3", SecurePort: 8443}, 8443},
		"both ports, the secure one ours":  {record{IP: "10.1.2.3", Port: 9, SecurePort: 8443}, 8443},
		"another Pod on the same port":     {record{IP: "10.1.2.4", Host: "orders-1", Port: 8080}, 0},
		"another port of the same address": {record{IP: "10.1.2.3", Host: "orders-0", Port: 9090}, 0},
		"no port at all":                   {record{IP: "10.1.2.3"}, 0},
		"neither address nor name":         {record{Port: 8080}, 0},
	} {
		c.rec.ID, c.rec.App = "id", "A"
		h, ok := mine(c.rec, pod)
		if ok != (c.port != 0) || h.port != c.port {
			t.Errorf("%s: %+v, %v", name, h, ok)
		}
	}
}
