package registrytest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// register is POST: an app that lives by heartbeats, or a persistent one.
func (n *Nacos) register(w http.ResponseWriter, q nacosQuery, now time.Time) {
	i, err := q.instance()
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	n.publish(now, i.httpClient(), i, true)
	n.ok(w, q)
}

// deregister answers ok whatever it does: a connection's instance is not found under the address.
func (n *Nacos) deregister(w http.ResponseWriter, q nacosQuery, now time.Time) {
	i, err := q.instance()
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	id := nacosPublication{i.httpClient(), i.address()}
	if s := n.services[i.name()]; s != nil && n.major < 2 {
		for p := range s.published {
			if p.nacosAddress == i.address() {
				id = p
			}
		}
	}
	n.unpublish(now, i.name(), id)
	n.ok(w, q)
}

// update is PUT. On 1.x it registers what is not there; from 2.0 on it leaves a record of it that
// nothing makes expire.
func (n *Nacos) update(w http.ResponseWriter, q nacosQuery, now time.Time) {
	i, err := q.instance()
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	s := n.services[i.name()]
	switch {
	case n.major < 2:
		n.publish(now, i.httpClient(), i, true)
		s = n.services[i.name()]
		s.records[i.address()] = &nacosRecord{enabled: !i.Disabled, weight: i.Weight}
		n.change(s, now)
	case s == nil:
		n.absent(w, 21004, fmt.Sprintf("service not found, namespace: %s, service: Service{namespace='%[1]s', group='%s', name='%s', ephemeral=true, revision=0}",
			i.Namespace, i.Group, i.Service))
		return
	default:
		var expires time.Time
		if r := s.records[i.address()]; r != nil {
			expires = r.expires
		}
		s.records[i.address()] = &nacosRecord{!i.Disabled, i.Weight, i.Metadata, expires}
		n.change(s, now)
	}
	n.ok(w, q)
}

// patch changes the flag, and what else is given, of an instance that is in the list, true or not.
func (n *Nacos) patch(w http.ResponseWriter, q nacosQuery, now time.Time) {
	i, err := q.instance()
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	l, why := n.listed(i)
	if l == nil {
		n.absent(w, 20004, why)
		return
	}
	s := n.services[i.name()]
	r := s.records[i.address()]
	if r == nil {
		r = &nacosRecord{enabled: l.enabled, weight: 1} // sic: the first one of a 2.x loses the weight that is not given
		if n.major < 2 {
			r.weight = l.Weight
		}
		s.records[i.address()] = r
	}
	if n.major >= 3 {
		r.weight, r.enabled = 1, true // sic: what is not given gets its default, each time
	}
	if q.Has("weight") {
		r.weight = i.Weight
	}
	if q.Has("enabled") {
		r.enabled = !i.Disabled
	}
	if len(i.Metadata) > 0 {
		r.metadata = i.Metadata
	}
	n.change(s, now)
	n.ok(w, q)
}

// patchV2 wants everything to be there.
func (n *Nacos) patchV2(w http.ResponseWriter, q nacosQuery, now time.Time) {
	for _, p := range []string{"weight", "enabled", "metadata"} {
		if !q.Has(p) {
			reply(w, 400, map[string]any{"code": 10000, "message": "parameter missing", "data": "Required request parameter '" + p + "' is not present"})
			return
		}
	}
	i, err := q.instance()
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	if l, why := n.listed(i); l == nil {
		reply(w, 404, map[string]any{"code": 20004, "message": "resource not found", "data": why})
		return
	}
	n.patch(w, q, now)
}

// listed finds i in its service's list.
func (n *Nacos) listed(i NacosInstance) (*nacosListed, string) {
	s := n.services[i.name()]
	if s == nil || len(s.list) == 0 {
		if n.major < 2 {
			return nil, "instance not found"
		}
		return nil, fmt.Sprintf("no ips found for cluster %s in service %s", i.Cluster, i.name().grouped())
	}
	k := slices.IndexFunc(s.list, func(l nacosListed) bool { return l.address() == i.address() })
	if k < 0 {
		if n.major < 2 {
			return nil, "instance not found"
		}
		return nil, "no matched ip found!"
	}
	return &s.list[k], ""
}

func (n *Nacos) detail(w http.ResponseWriter, q nacosQuery, _ time.Time) {
	i, err := q.instance()
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	l, why := n.listed(i)
	switch {
	case l == nil:
		n.absent(w, 20004, why)
	case n.major >= 3:
		enveloped(w, l.json(i.name()))
	default:
		reply(w, 200, map[string]any{"service": i.name().grouped(), "ip": l.IP, "port": l.Port, "clusterName": l.Cluster,
			"weight": l.Weight, "healthy": l.healthy, "instanceId": l.id(i.name()), "metadata": notNil(l.Metadata)})
	}
}

// beat is a heartbeat; one with a body registers what is not there.
func (n *Nacos) beat(w http.ResponseWriter, q nacosQuery, now time.Time) {
	i, err := q.instance()
	if body := q.Get("beat"); body != "" {
		var b struct {
			IP, Cluster string
			Port        int
			Weight      *float64
			Metadata    map[string]string
		}
		if json.Unmarshal([]byte(body), &b) != nil {
			n.fail(w, 400, 10000, "beat is not JSON")
			return
		}
		i.IP, i.Port, i.Metadata, i.Cluster, err = b.IP, b.Port, b.Metadata, cmp.Or(b.Cluster, i.Cluster), nil
		i.Weight = 1
		if b.Weight != nil {
			i.Weight = *b.Weight
		}
	}
	if err != nil {
		n.fail(w, 400, 10000, err.Error())
		return
	}
	code := 10200
	s := n.services[i.name()]
	var p *nacosPublished
	if s != nil {
		p = s.published[nacosPublication{i.httpClient(), i.address()}]
	}
	switch {
	case p != nil:
		p.beat = now
		if !p.healthy {
			p.healthy = true
			n.change(s, now)
		}
	case q.Get("beat") != "":
		n.publish(now, i.httpClient(), i, true)
	default:
		code = 20404
	}
	reply(w, 200, map[string]any{"clientBeatInterval": 5000, "code": code, "lightBeatEnabled": true})
}

// nacosQuery is the parameters of a request, of the query or of a form.
type nacosQuery struct {
	url.Values
	v3 bool // of the v3 API; v1's remains open in part on a 3.x
}

// name is the service that is asked for. v1 takes group@@service in one.
func (q nacosQuery) name() nacosName {
	group, service, both := strings.Cut(q.Get("serviceName"), "@@")
	if !both || q.v3 {
		group, service = cmp.Or(q.Get("groupName"), "DEFAULT_GROUP"), q.Get("serviceName")
	}
	return nacosName{cmp.Or(q.Get("namespaceId"), "public"), group, service}
}

func (q nacosQuery) number(name string) int {
	i, err := strconv.Atoi(q.Get(name))
	if err != nil {
		return 0
	}
	return i
}

// instance is what the parameters say of one.
func (q nacosQuery) instance() (NacosInstance, error) {
	name := q.name()
	i := NacosInstance{
		Namespace: name.namespace, Group: name.group, Service: name.service,
		Cluster: cmp.Or(q.Get("clusterName"), q.Get("cluster"), "DEFAULT"),
		IP:      q.Get("ip"), Port: q.number("port"), Weight: 1,
		Persistent: q.Get("ephemeral") == "false",
		Disabled:   cmp.Or(q.Get("enabled"), q.Get("enable"), "true") == "false",
	}
	if q.Has("weight") {
		weight, err := strconv.ParseFloat(q.Get("weight"), 64)
		if err != nil || math.IsNaN(weight) || weight < 0 || weight > 10000 && q.v3 {
			return i, fmt.Errorf("instance format invalid: weight %q", q.Get("weight"))
		}
		i.Weight = weight
	}
	if m := q.Get("metadata"); m != "" {
		if json.Unmarshal([]byte(m), &i.Metadata) != nil {
			i.Metadata = map[string]string{}
			for pair := range strings.SplitSeq(m, ",") {
				k, v, _ := strings.Cut(pair, "=")
				i.Metadata[k] = v
			}
		}
	}
	switch {
	case i.Service == "":
		return i, missing("serviceName")
	case i.IP == "":
		return i, missing("ip")
	case i.Port <= 0:
		return i, missing("port")
	}
	return i, nil
}

// missing is a 2.x server's word for a parameter that is not there.
func missing(param string) error { return errors.New("Param '" + param + "' is required.") }
