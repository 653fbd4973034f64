package registrytest

import (
	"bytes"
	"compress/gzip"
	"crypto/subtle"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// entry is one rendered answer in the read-only cache.
type entry struct {
	path []string
	xml  bool
	code int
	body []byte
}

// ServeHTTP answers Eureka's REST interface.
func (e *Eureka) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.requests[r.Method+" "+r.URL.Path]++
	e.mu.Unlock()
	if !e.allowed(w, r) {
		return
	}
	raw := r.URL.EscapedPath()
	if strings.Contains(strings.ToUpper(raw), "%2F") { // Tomcat's page
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `<!doctype html><html lang="en"><head><title>HTTP Status 400 – Bad Request</title></head></html>`)
		return
	}
	rest, ok := strings.CutPrefix(raw, e.config.Path+"/")
	if !ok {
		fail(w, r, http.StatusNotFound)
		return
	}
	parts := strings.Split(strings.TrimPrefix(rest, "v2/"), "/") // Spring's server answers with and without v2
	for i, p := range parts {
		p, err := url.PathUnescape(p)
		if err != nil || p == "" {
			fail(w, r, http.StatusNotFound)
			return
		}
		parts[i] = p
	}
	if r.Method == http.MethodGet {
		e.get(w, r, parts)
		return
	}
	if parts[0] != "apps" || len(parts) < 2 {
		fail(w, r, http.StatusNotFound)
		return
	}
	app := strings.ToUpper(parts[1])
	switch {
	case r.Method == http.MethodPost && len(parts) == 2:
		e.post(w, r, app)
	case len(parts) == 3 && r.Method == http.MethodPut:
		dirty, _ := strconv.ParseInt(r.FormValue("lastDirtyTimestamp"), 10, 64)
		found(w, r, e.heartbeat(app, parts[2], dirty, false, ""))
	case len(parts) == 3 && r.Method == http.MethodDelete:
		found(w, r, e.cancel(app, parts[2], false))
	case len(parts) == 4 && parts[3] == "status" && r.Method == http.MethodPut:
		if status := r.FormValue("value"); !slices.Contains(statuses, status) {
			fail(w, r, http.StatusInternalServerError)
		} else {
			found(w, r, e.setStatus(app, parts[2], status, false))
		}
	case len(parts) == 4 && parts[3] == "status" && r.Method == http.MethodDelete:
		status := r.FormValue("value")
		if status == "" {
			status = unknown
		}
		if !slices.Contains(statuses, status) {
			fail(w, r, http.StatusInternalServerError)
		} else {
			found(w, r, e.removeStatus(app, parts[2], status, false))
		}
	default:
		fail(w, r, http.StatusMethodNotAllowed)
	}
}

func (e *Eureka) allowed(w http.ResponseWriter, r *http.Request) bool {
	if e.config.Open != nil && e.config.Open(r) {
		return true
	}
	writes := r.Method != http.MethodGet
	if e.config.User != "" {
		user, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(e.config.User+"\x00"+e.config.Password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="Realm"`)
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
	}
	if writes && e.config.CSRF { // with the right password too, and with an empty body
		w.WriteHeader(map[bool]int{false: http.StatusUnauthorized, true: http.StatusForbidden}[e.config.OpenError])
		return false
	}
	if writes && e.config.ReadOnly {
		w.WriteHeader(http.StatusForbidden)
		return false
	}
	return true
}

// fail answers as Spring Boot does.
func fail(w http.ResponseWriter, r *http.Request, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "status": code,
		"error": http.StatusText(code), "path": r.URL.Path})
}

func found(w http.ResponseWriter, r *http.Request, ok bool) {
	if !ok {
		fail(w, r, http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (e *Eureka) post(w http.ResponseWriter, r *http.Request, app string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		fail(w, r, http.StatusBadRequest)
		return
	}
	i, duration, err := registration(body)
	if err != nil || strings.ToUpper(i.app) != app {
		fail(w, r, http.StatusBadRequest)
		return
	}
	i.app = app
	e.register(i, duration, false)
	w.WriteHeader(http.StatusNoContent)
}

// registration reads what a client posts. The fields without which the real one answers 400 must be
// there.
func registration(body []byte) (instance, time.Duration, error) {
	var post struct{ Instance map[string]json.RawMessage }
	if err := json.Unmarshal(body, &post); err != nil {
		return instance{}, 0, err
	}
	var i struct {
		InstanceID         string `json:"instanceId"`
		HostName           string `json:"hostName"`
		App                string `json:"app"`
		IPAddr             string `json:"ipAddr"`
		Status             string `json:"status"`
		OverriddenStatus   string `json:"overriddenStatus"`
		LastDirtyTimestamp string `json:"lastDirtyTimestamp"`
		DataCenterInfo     json.RawMessage
		LeaseInfo          struct{ DurationInSecs int }
	}
	all, err := json.Marshal(post.Instance)
	if err != nil {
		return instance{}, 0, err
	}
	if err := json.Unmarshal(all, &i); err != nil {
		return instance{}, 0, err
	}
	if i.HostName == "" || i.App == "" || i.DataCenterInfo == nil || i.IPAddr == "" {
		return instance{}, 0, fmt.Errorf("a field is missing in %s", all)
	}
	if i.InstanceID == "" {
		i.InstanceID = i.HostName
	}
	if !slices.Contains(statuses, i.Status) {
		i.Status = unknown
	}
	dirty, _ := strconv.ParseInt(i.LastDirtyTimestamp, 10, 64)
	duration := 90 * time.Second
	if i.LeaseInfo.DurationInSecs > 0 {
		duration = time.Duration(i.LeaseInfo.DurationInSecs) * time.Second
	}
	return instance{sent: post.Instance, id: i.InstanceID, app: i.App, status: i.Status, overridden: i.OverriddenStatus, dirty: dirty}, duration, nil
}

func (e *Eureka) get(w http.ResponseWriter, r *http.Request, parts []string) {
	asXML := false
	switch accept := r.Header.Get("Accept"); {
	case strings.Contains(accept, "application/json"):
	case accept == "" || strings.Contains(accept, "*/*") || strings.Contains(accept, "xml"):
		asXML = true
	default:
		fail(w, r, http.StatusNotAcceptable)
		return
	}
	var p entry
	e.mu.Lock()
	now := e.advance()
	direct := len(parts) == 3 && parts[0] == "apps" || len(parts) == 2 && parts[0] == "instances"
	switch {
	case direct:
		p = e.one(parts, asXML, now)
	case parts[0] == "apps" && len(parts) <= 2, (parts[0] == "vips" || parts[0] == "svips") && len(parts) == 2:
		if len(parts) == 2 && parts[0] == "apps" && parts[1] != "delta" {
			parts[1] = strings.ToUpper(parts[1])
		}
		p = e.listed(parts, asXML, now)
	default:
		p.code = http.StatusNotFound
	}
	e.mu.Unlock()
	if p.code != http.StatusOK {
		fail(w, r, p.code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if asXML {
		w.Header().Set("Content-Type", "application/xml")
	}
	// Spring's server compresses these two alone.
	big := parts[0] == "apps" && (len(parts) == 1 || parts[1] == "delta")
	if big && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		z.Write(p.body)
		return
	}
	w.Write(p.body)
}

// one is an instance as the registry itself holds it.
func (e *Eureka) one(parts []string, asXML bool, now time.Time) entry {
	id := parts[len(parts)-1]
	for app, leases := range e.view().leases {
		if l := leases[id]; l != nil && (e.config.Polaris || e.find(app, id, now) != nil) && (len(parts) == 2 || strings.ToUpper(parts[1]) == app) {
			return rendered(map[string]any{"instance": l}, asXML, []*lease{l})
		}
	}
	return entry{code: http.StatusNotFound}
}

// listed answers from the read-only cache. A key that nobody has asked for yet is made from the
// state of now, and stays; so does a 404.
func (e *Eureka) listed(parts []string, asXML bool, now time.Time) entry {
	key := strings.Join(parts, "/") + fmt.Sprint(asXML)
	p, ok := e.cache[key]
	if !ok {
		p = e.render(parts, asXML, now)
		e.cache[key] = p
	}
	return p
}

func (e *Eureka) render(parts []string, asXML bool, now time.Time) (p entry) {
	defer func() { p.path, p.xml = parts, asXML }()
	told, apps := e.view(), map[string][]*lease{}
	add := func(l *lease) { apps[l.info.app] = append(apps[l.info.app], l) }
	switch {
	case len(parts) == 2 && parts[1] == "delta":
		if e.config.NoDelta {
			return entry{code: http.StatusForbidden}
		}
		seen := map[*lease]bool{}
		for _, c := range told.changes {
			if now.Sub(c.at) <= 3*time.Minute && !seen[c.info] {
				seen[c.info] = true
				add(c.info)
			}
		}
	case parts[0] == "apps" && len(parts) == 2:
		leases := e.sorted(parts[1])
		if len(leases) == 0 {
			return entry{code: http.StatusNotFound}
		}
		return rendered(map[string]any{"application": map[string]any{"name": parts[1], "instance": leases}}, asXML, leases)
	default:
		for _, app := range slices.Sorted(maps.Keys(told.leases)) {
			for _, l := range e.sorted(app) {
				if len(parts) == 1 || l.vip(parts[0] == "svips") == parts[1] {
					add(l)
				}
			}
		}
	}
	list := []any{}
	var all []*lease
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		list = append(list, map[string]any{"name": app, "instance": apps[app]})
		all = append(all, apps[app]...)
	}
	return rendered(map[string]any{"applications": map[string]any{"versions__delta": "1", "apps__hashcode": e.hashcode(), "application": list}}, asXML, all)
}

func (e *Eureka) sorted(app string) []*lease {
	var list []*lease
	leases := e.view().leases[app]
	for _, id := range slices.Sorted(maps.Keys(leases)) {
		list = append(list, leases[id])
	}
	return list
}

func (e *Eureka) hashcode() string {
	counts := map[string]int{}
	for _, leases := range e.view().leases {
		for _, l := range leases {
			counts[l.info.status]++
		}
	}
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%s_%d_", s, counts[s])
	}
	return b.String()
}

func (l *lease) vip(secure bool) (name string) {
	key := "vipAddress"
	if secure {
		key = "secureVipAddress"
	}
	json.Unmarshal(l.info.sent[key], &name)
	return name
}

// MarshalJSON is what the client sent with what the server keeps; numbers of time are strings.
func (l *lease) MarshalJSON() ([]byte, error) {
	out := maps.Clone(l.info.sent)
	for k, v := range map[string]any{
		"instanceId": l.info.id, "app": l.info.app, "status": l.info.status, "overriddenStatus": l.info.overridden, "countryId": 1,
		"leaseInfo": map[string]any{"renewalIntervalInSecs": 30, "durationInSecs": int(l.duration / time.Second), "registrationTimestamp": l.info.registered,
			"lastRenewalTimestamp": l.expires.Add(-l.duration).UnixMilli(), "evictionTimestamp": 0, "serviceUpTimestamp": l.info.registered},
		"isCoordinatingDiscoveryServer": "false", "lastUpdatedTimestamp": strconv.FormatInt(l.info.updated, 10),
		"lastDirtyTimestamp": strconv.FormatInt(l.info.dirty, 10), "actionType": l.info.action,
	} {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		out[k] = raw
	}
	if out["metadata"] == nil {
		out["metadata"] = json.RawMessage(`{"@class":"java.util.Collections$EmptyMap"}`)
	}
	return json.Marshal(out)
}

// rendered makes the body. As XML an OUT_OF_SERVICE instance is shown as DOWN, which is why nobody
// should read XML.
func rendered(v any, asXML bool, leases []*lease) entry {
	if !asXML {
		body, err := json.Marshal(v)
		if err != nil {
			return entry{code: http.StatusInternalServerError}
		}
		return entry{code: http.StatusOK, body: body}
	}
	type element struct {
		XMLName    xml.Name `xml:"instance"`
		InstanceID string   `xml:"instanceId"`
		App        string   `xml:"app"`
		Status     string   `xml:"status"`
		Overridden string   `xml:"overriddenstatus"`
	}
	var b bytes.Buffer
	for _, l := range leases {
		s := l.info.status
		if s == outOfService {
			s = down
		}
		body, err := xml.Marshal(element{InstanceID: l.info.id, App: l.info.app, Status: s, Overridden: l.info.overridden})
		if err != nil {
			return entry{code: http.StatusInternalServerError}
		}
		b.Write(body)
	}
	return entry{code: http.StatusOK, body: b.Bytes()}
}
