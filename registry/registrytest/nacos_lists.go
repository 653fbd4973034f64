package registrytest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// list is what callers get: without the disabled. v3 lists the cluster DEFAULT unless told another,
// v1 all.
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

// catalog is the services of a namespace with their instances. How a page is cut is each version's
// own.
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

func (l nacosListed) id(name nacosName) string {
	return l.IP + "#" + strconv.Itoa(l.Port) + "#" + l.Cluster + "#" + name.grouped()
}

func (l nacosListed) json(name nacosName) map[string]any {
	return map[string]any{"instanceId": l.id(name), "ip": l.IP, "port": l.Port, "weight": l.Weight, "healthy": l.healthy,
		"enabled": l.enabled, "ephemeral": !l.Persistent, "clusterName": l.Cluster, "serviceName": name.grouped(),
		"metadata": notNil(l.Metadata), "instanceHeartBeatInterval": 5000, "instanceHeartBeatTimeOut": 15000, "ipDeleteTimeout": 30000}
}

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
