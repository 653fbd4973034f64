package nacos

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"prestop/registry/client"
)

// pageSize is how many services one page of the catalog has.
const pageSize = 500

// api is the HTTP API of one generation of servers. Parameters always go in the query: some
// servers ignore bodies of PUT and DELETE. No User-Agent may begin with Nacos-Server or
// Nacos-Java-Client: servers treat those as their own.
type api interface {
	// listsAtOnce: the lists change with the call, and an instance's flag dies with it (1.x).
	listsAtOnce() bool
	// hidesPersistent: a persistent instance can be shown as an ephemeral one (2.0 does, once it
	// has been changed from outside).
	hidesPersistent() bool
	// firstPage is the number of the catalog's first page.
	firstPage() int
	// catalog lists services whose name contains name and whose group contains group, with all
	// their instances.
	catalog(namespace, group, name string, page int) client.Call
	// instances lists all instances of one cluster of a service, the disabled ones too, in field.
	instances(namespace string, p place) (call client.Call, field string)
	// listed lists what callers of the service get, in field; it is filtered by cluster.
	listed(namespace string, p place) (call client.Call, field string)
	// enable sets the flag of a registered instance. It answers that it is absent otherwise.
	enable(namespace string, rec record, enabled bool) client.Call
	// wipe overwrites the record that a disabled instance has left by one that is enabled. Not to
	// be used on 1.x.
	wipe(namespace string, rec record) client.Call
	// remove deletes an instance that registered over HTTP.
	remove(namespace string, rec record) client.Call
	// login is where a token is to be had.
	login() string
}

// v1 is the API of 1.x and 2.x.
type v1 struct {
	// old: the server is a 1.x.
	old bool
	// direct: it has v2 as well, from 2.2 on. What asks v1 for a change is passed on to the one
	// server that the instance's address falls to, and waits for it, dead or hanging; what asks v2
	// is not.
	direct bool
}

func (v v1) listsAtOnce() bool { return v.old }

func (v v1) hidesPersistent() bool { return !v.old }

// firstPage: 1.4 counts from 0, 2.x from 1.
func (v v1) firstPage() int {
	if v.old {
		return 0
	}
	return 1
}

func (v1) catalog(namespace, group, name string, page int) client.Call {
	q := pageQuery(namespace, group, name, page)
	return client.Call{Method: http.MethodGet, Path: "v1/ns/catalog/services", Query: q}
}

func (v1) instances(namespace string, p place) (client.Call, string) {
	return client.Call{Method: http.MethodGet, Path: "v1/ns/catalog/instances", Query: url.Values{
		"namespaceId": {namespace},
		"serviceName": {p.group + "@@" + p.name},
		"clusterName": {p.cluster},
		"pageNo":      {"1"},
		"pageSize":    {"1000000"},
	}}, "list"
}

func (v1) listed(namespace string, p place) (client.Call, string) {
	return client.Call{Method: http.MethodGet, Path: "v1/ns/instance/list", Query: url.Values{
		"namespaceId": {namespace},
		"serviceName": {p.group + "@@" + p.name},
		"groupName":   {p.group},
		"clusters":    {p.cluster},
	}}, "hosts"
}

// enable is a PATCH. A PUT would register the instance on 1.4 where it is absent, and on 2.x leave
// a record that never expires; it also drops what the console has set. The weight goes with it: the
// first PATCH of a 2.x sets 1.0 otherwise. v2 wants metadata to be there, and changes none where it
// is empty.
func (v v1) enable(namespace string, rec record, enabled bool) client.Call {
	q := v1Query(namespace, rec)
	q.Set("enabled", strconv.FormatBool(enabled))
	q.Set("weight", weight(rec))
	path := "v1/ns/instance"
	if v.direct {
		path = "v2/ns/instance"
		q.Set("cluster", rec.cluster)
		q.Set("metadata", "")
	}
	return client.Call{Method: http.MethodPatch, Path: path, Query: q}
}

func (v1) wipe(namespace string, rec record) client.Call {
	q := v1Query(namespace, rec)
	q.Set("enabled", "true")
	q.Set("weight", weight(rec))
	return client.Call{Method: http.MethodPut, Path: "v1/ns/instance", Query: q}
}

func (v1) remove(namespace string, rec record) client.Call {
	return client.Call{Method: http.MethodDelete, Path: "v1/ns/instance", Query: v1Query(namespace, rec)}
}

func (v1) login() string { return "v1/auth/users/login" }

func v1Query(namespace string, rec record) url.Values {
	q := v3Query(namespace, rec)
	q.Set("serviceName", rec.group+"@@"+rec.name)
	return q
}

// v3 is the admin API of 3.x. It wants a login even where the server is said to need none.
type v3 struct{}

func (v3) listsAtOnce() bool     { return false }
func (v3) hidesPersistent() bool { return false }
func (v3) firstPage() int        { return 1 }

func (v3) catalog(namespace, group, name string, page int) client.Call {
	q := pageQuery(namespace, group, name, page)
	return client.Call{Method: http.MethodGet, Path: "v3/admin/ns/service/list", Query: q}
}

func (v3) instances(namespace string, p place) (client.Call, string) {
	return client.Call{Method: http.MethodGet, Path: "v3/admin/ns/instance/list", Query: v3Place(namespace, p)}, "data"
}

// listed names the cluster: without it 3.1 lists DEFAULT alone.
func (v3) listed(namespace string, p place) (client.Call, string) {
	return client.Call{Method: http.MethodGet, Path: "v3/client/ns/instance/list", Query: v3Place(namespace, p)}, "data"
}

// enable has both the flag and the weight: what is not given is set to its default, for all that it
// is called partial.
func (v3) enable(namespace string, rec record, enabled bool) client.Call {
	q := v3Query(namespace, rec)
	q.Set("enabled", strconv.FormatBool(enabled))
	q.Set("weight", weight(rec))
	return client.Call{Method: http.MethodPut, Path: "v3/admin/ns/instance/partial", Query: q}
}

func (v3) wipe(namespace string, rec record) client.Call {
	q := v3Query(namespace, rec)
	q.Set("enabled", "true")
	q.Set("weight", weight(rec))
	return client.Call{Method: http.MethodPut, Path: "v3/admin/ns/instance", Query: q}
}

func (v3) remove(namespace string, rec record) client.Call {
	return client.Call{Method: http.MethodDelete, Path: "v3/admin/ns/instance", Query: v3Query(namespace, rec)}
}

func (v3) login() string { return "v3/auth/user/login" }

func v3Query(namespace string, rec record) url.Values {
	q := v3Place(namespace, rec.place)
	q.Set("ip", rec.ip)
	q.Set("port", strconv.Itoa(int(rec.port)))
	q.Set("ephemeral", strconv.FormatBool(!rec.persistent))
	return q
}

func v3Place(namespace string, p place) url.Values {
	return url.Values{
		"namespaceId": {namespace},
		"groupName":   {p.group},
		"serviceName": {p.name},
		"clusterName": {p.cluster},
	}
}

func pageQuery(namespace, group, name string, page int) url.Values {
	q := url.Values{
		"namespaceId":   {namespace},
		"withInstances": {"true"},
		"pageNo":        {strconv.Itoa(page)},
		"pageSize":      {strconv.Itoa(pageSize)},
	}
	if group != "" {
		q.Set("groupNameParam", group)
	}
	if name != "" {
		q.Set("serviceNameParam", name)
	}
	return q
}

func weight(rec record) string { return strconv.FormatFloat(rec.weight, 'f', -1, 64) }

// apiOf is the API of a server of that version, e.g. "2.3.2"; nil if it is none.
func apiOf(version string) api {
	switch major, minor := numbers(version); {
	case major >= 3:
		return v3{}
	case major > 0:
		return v1{old: major < 2, direct: major == 2 && minor >= 2}
	}
	return nil
}

// recordsBeside reports whether a server of that version keeps what was changed from outside beside
// the instance.
func recordsBeside(version string) bool { major, _ := numbers(version); return major >= 2 }

// mixesWith1x reports whether a server of that version can work in one cluster with a 1.x, and then
// as one.
func mixesWith1x(version string) bool {
	major, minor := numbers(version)
	return major == 2 && minor < 2
}

// numbers are the first two of a version, 0 where there is none.
func numbers(version string) (major, minor int) {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, _ = strconv.Atoi(first)
	minor, _ = strconv.Atoi(second)
	return major, minor
}
