package registrytest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP implements the REST API of the version: its paths, its words and its oddities.
func (n *Nacos) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, n.config.Path)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests[r.Method+" "+path]++
	now := n.advance()
	q := nacosQuery{r.Form, strings.HasPrefix(path, "/v3/")}
	if agent := r.UserAgent(); strings.HasPrefix(agent, "Nacos-Server") {
		plain(w, 400, "receive invalid redirect request from peer 127.0.0.1")
		return
	}
	serve := n.routes()[r.Method+" "+path]
	switch {
	case !ok || serve == nil && !strings.HasPrefix(path, "/v1/ns/"):
		n.sendError(w, r, 404, "No message available")
	case serve == nil:
		n.sendError(w, r, 501, "no such api:"+r.Method+":"+r.URL.Path)
	case n.gated(r.Method, path):
		n.sendError(w, r, 410, fmt.Sprintf("{\"code\":40000,\"message\":\"Current API will be deprecated, please use API(s) "+
			"`%s ${contextPath:nacos}/v3/admin/ns/instance/partial` instead, or set "+
			"`nacos.core.api.compatibility.admin.enabled=true` in application.properties.\"}", r.Method))
	case n.guarded(path) && !n.authorized(r, now):
		n.forbid(w, r)
	default:
		serve(w, q, now)
	}
}

type nacosRoute func(w http.ResponseWriter, q nacosQuery, now time.Time)

func (n *Nacos) routes() map[string]nacosRoute {
	routes := map[string]nacosRoute{
		"POST /v1/auth/login":          n.login,
		"POST /v1/auth/users/login":    n.login,
		"GET /v1/ns/operator/metrics":  func(w http.ResponseWriter, _ nacosQuery, _ time.Time) { reply(w, 200, map[string]any{"status": "UP"}) },
		"POST /v1/ns/instance":         n.register,
		"DELETE /v1/ns/instance":       n.deregister,
		"PUT /v1/ns/instance":          n.update,
		"PATCH /v1/ns/instance":        n.patch,
		"GET /v1/ns/instance":          n.detail,
		"PUT /v1/ns/instance/beat":     n.beat,
		"GET /v1/ns/instance/list":     n.list,
		"GET /v1/ns/catalog/services":  n.catalog,
		"GET /v1/ns/catalog/instances": n.hosts,
	}
	if n.major < 3 {
		routes["GET /v1/console/server/state"] = func(w http.ResponseWriter, _ nacosQuery, _ time.Time) { reply(w, 200, n.state()) }
		if strings.HasPrefix(n.config.Version, "2.0.") || strings.HasPrefix(n.config.Version, "2.1.") {
			routes["GET /v1/ns/upgrade/ops/metrics"] = func(w http.ResponseWriter, _ nacosQuery, _ time.Time) {
				reply(w, 200, map[string]any{"upgraded": !n.config.Upgrading, "isAll20XVersion": !n.config.Upgrading})
			}
		}
		return routes
	}
	maps.Copy(routes, map[string]nacosRoute{
		"GET /v3/admin/core/state":          func(w http.ResponseWriter, _ nacosQuery, _ time.Time) { enveloped(w, n.state()) },
		"POST /v3/auth/user/login":          n.login,
		"POST /v3/admin/ns/instance":        n.register,
		"DELETE /v3/admin/ns/instance":      n.deregister,
		"PUT /v3/admin/ns/instance":         n.update,
		"PUT /v3/admin/ns/instance/partial": n.patch,
		"GET /v3/admin/ns/instance":         n.detail,
		"GET /v3/admin/ns/instance/list":    n.hosts,
		"GET /v3/admin/ns/service/list":     n.catalog,
		"GET /v3/client/ns/instance/list":   n.list,
		"POST /v3/client/ns/instance":       n.register,
		"DELETE /v3/client/ns/instance":     n.deregister,
	})
	return routes
}

func (n *Nacos) state() map[string]any {
	return map[string]any{"version": n.config.Version, "startup_mode": "standalone", "auth_enabled": strconv.FormatBool(n.config.Auth)}
}

// gated: a 3.x leaves what v1 clients need open and refuses what its console and admin API have taken over.
func (n *Nacos) gated(method, path string) bool {
	if n.major < 3 {
		return false
	}
	switch path {
	case "/v1/ns/instance":
		return method == http.MethodPut || method == http.MethodPatch || method == http.MethodGet
	case "/v1/ns/catalog/services", "/v1/ns/catalog/instances":
		return true
	}
	return false
}

func (n *Nacos) guarded(path string) bool {
	switch {
	case strings.HasPrefix(path, "/v1/auth/"), strings.HasPrefix(path, "/v3/auth/"), strings.HasSuffix(path, "/state"), strings.HasSuffix(path, "/metrics"):
		return false
	case strings.HasPrefix(path, "/v3/admin/"):
		return !n.config.NoAdminAuth
	}
	return n.config.Auth
}

func (n *Nacos) authorized(r *http.Request, now time.Time) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		token = r.Form.Get("accessToken")
	}
	return now.Before(n.tokens[token])
}

func (n *Nacos) forbid(w http.ResponseWriter, r *http.Request) {
	if n.major >= 3 {
		n.sendError(w, r, 403, "Code: 401, Message: User not found! Please check user exist or password is right!.")
		return
	}
	n.sendError(w, r, 403, "user not found!")
}

// login: the three ways to say no are the real ones'. Where auth is off, the lifetime is a date.
func (n *Nacos) login(w http.ResponseWriter, q nacosQuery, now time.Time) {
	right := q.Get("username") == n.config.User && q.Get("password") == n.config.Password
	switch {
	case right && !n.config.Auth && n.major == 2:
		reply(w, 200, map[string]any{"accessToken": "AUTH_DISABLED", "tokenTtl": now.Add(5 * time.Hour).Unix(), "globalAdmin": true})
	case right:
		reply(w, 200, map[string]any{"accessToken": n.token(now), "tokenTtl": 18000, "globalAdmin": true, "username": n.config.User})
	case n.major >= 3 && q.Get("username") == n.config.User:
		reply(w, 500, map[string]any{"status": 500, "error": "Internal Server Error", "message": "No message available"})
	case n.major >= 3:
		reply(w, 403, map[string]any{"status": 403, "error": "Forbidden", "message": "Access Denied"})
	case n.major == 2:
		plain(w, 403, "user not found!")
	default:
		plain(w, 403, "unknown user!")
	}
}

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

// update is PUT. On 1.x it registers what is not there; from 2.0 on it leaves a record of it that nothing makes expire.
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

// list is what callers get: without the disabled. v3 lists the cluster DEFAULT unless told another, v1 all.
func (n *Nacos) list(w http.ResponseWriter, q nacosQuery, now time.Time) {
	name := q.name()
	clusters := q.Get("clusters")
	if q.v3 {
		clusters = cmp.Or(q.Get("clusterName"), "DEFAULT")
	}
	hosts := []any{}
	if s := n.services[name]; s != nil {
		for _, l := range s.list {
			if l.enabled && (l.healthy || q.Get("healthyOnly") != "true") &&
				(clusters == "" || slices.Contains(strings.Split(clusters, ","), l.Cluster)) {
				hosts = append(hosts, l.json(name))
			}
		}
	}
	if q.v3 {
		enveloped(w, hosts)
		return
	}
	reply(w, 200, map[string]any{"name": name.grouped(), "groupName": name.group, "clusters": clusters, "cacheMillis": 10000,
		"hosts": hosts, "lastRefTime": now.UnixMilli(), "checksum": "", "allIPs": false, "reachProtectionThreshold": false, "valid": true})
}

// hosts is one cluster of a service with all its instances.
func (n *Nacos) hosts(w http.ResponseWriter, q nacosQuery, _ time.Time) {
	name, cluster := q.name(), q.Get("clusterName")
	if q.v3 {
		cluster = cmp.Or(cluster, "DEFAULT")
	}
	s := n.services[name]
	switch {
	case s == nil:
		n.absent(w, 30000, "service "+name.grouped()+" is not found!")
		return
	case !slices.ContainsFunc(s.list, func(l nacosListed) bool { return l.Cluster == cluster }):
		n.absent(w, 30000, "cluster "+cluster+" is not found!")
		return
	}
	hosts := []any{}
	for _, l := range s.list {
		if l.Cluster == cluster {
			hosts = append(hosts, l.json(name))
		}
	}
	if n.major >= 3 {
		enveloped(w, hosts)
		return
	}
	reply(w, 200, map[string]any{"list": hosts, "count": len(hosts)})
}

// catalog is the services of a namespace with their instances. How a page is cut is each version's own.
func (n *Nacos) catalog(w http.ResponseWriter, q nacosQuery, _ time.Time) {
	page, size := q.number("pageNo"), q.number("pageSize")
	if n.major >= 3 && page < 1 {
		n.fail(w, 400, 20002, fmt.Sprintf("Required parameter 'pageNo' should be positive integer, current is %d", page))
		return
	}
	var names []nacosName
	for name := range n.services {
		if name.namespace == cmp.Or(q.Get("namespaceId"), "public") && strings.Contains(name.service, q.Get("serviceNameParam")) &&
			strings.Contains(name.group, q.Get("groupNameParam")) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b nacosName) int { return strings.Compare(a.grouped(), b.grouped()) })
	total := len(names)
	switch {
	case n.major < 2 && size >= total, n.major == 2 && total < size: // everything, whatever the page
	case n.major < 2:
		names = cut(names, page*size, size)
	default:
		names = cut(names, (page-1)*size, size)
	}
	items := []any{}
	for _, name := range names {
		clusters := map[string]any{}
		hosts := map[string][]any{}
		for _, l := range n.services[name].list {
			host := l.json(name)
			if n.major < 3 {
				host = map[string]any{"valid": l.healthy, "metadata": notNil(l.Metadata), "port": l.Port, "ip": l.IP, "weight": l.Weight, "enabled": l.enabled}
			}
			hosts[l.Cluster] = append(hosts[l.Cluster], host)
			clusters[l.Cluster] = map[string]any{"clusterName": nil, "healthChecker": nil, "metadata": nil, "hosts": hosts[l.Cluster]}
		}
		items = append(items, map[string]any{"serviceName": name.service, "groupName": name.group, "clusterMap": clusters,
			"metadata": map[string]string{}, "protectThreshold": 0.0, "selector": nil, "ephemeral": nil})
	}
	if n.major >= 3 {
		// pagesAvailable is of the page, not of all: sic.
		enveloped(w, map[string]any{"totalCount": total, "pageNumber": page, "pagesAvailable": 1, "pageItems": items})
		return
	}
	reply(w, 200, items)
}

func (n *Nacos) ok(w http.ResponseWriter, q nacosQuery) {
	if q.v3 {
		enveloped(w, "ok")
		return
	}
	plain(w, 200, "ok")
}

// absent is how each version says that something is not there.
func (n *Nacos) absent(w http.ResponseWriter, code int, why string) {
	switch {
	case n.major >= 3:
		n.fail(w, 404, code, why)
	case n.major == 2:
		plain(w, 500, "caused: "+strings.ReplaceAll(why, "'", "&#39;")+";")
	default:
		plain(w, 400, "caused: "+why+";")
	}
}

func (n *Nacos) fail(w http.ResponseWriter, status, code int, why string) {
	if n.major >= 3 {
		reply(w, status, map[string]any{"code": code, "message": "error", "data": why})
		return
	}
	plain(w, status, "caused: "+why+";")
}

// sendError is the page that the web framework makes of an error in a filter.
func (n *Nacos) sendError(w http.ResponseWriter, r *http.Request, status int, message string) {
	reply(w, status, map[string]any{"timestamp": "2026-01-01T00:00:00.000+00:00", "status": status, "error": http.StatusText(status),
		"message": message, "path": r.URL.Path})
}

func (l nacosListed) id(name nacosName) string {
	return l.IP + "#" + strconv.Itoa(l.Port) + "#" + l.Cluster + "#" + name.grouped()
}

func (l nacosListed) json(name nacosName) map[string]any {
	return map[string]any{"instanceId": l.id(name), "ip": l.IP, "port": l.Port, "weight": l.Weight, "healthy": l.healthy,
		"enabled": l.enabled, "ephemeral": !l.Persistent, "clusterName": l.Cluster, "serviceName": name.grouped(),
		"metadata": notNil(l.Metadata), "instanceHeartBeatInterval": 5000, "instanceHeartBeatTimeOut": 15000, "ipDeleteTimeout": 30000}
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

func cut[T any](list []T, from, n int) []T {
	if from < 0 || from > len(list) {
		return nil
	}
	return list[from:min(from+n, len(list))]
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func enveloped(w http.ResponseWriter, data any) {
	reply(w, 200, map[string]any{"code": 0, "message": "success", "data": data})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain;charset=UTF-8")
	w.WriteHeader(status)
	w.Write([]byte(text))
}
