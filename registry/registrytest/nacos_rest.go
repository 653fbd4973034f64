package registrytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
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
	if n.removed(path) {
		n.sendError(w, r, 404, "No static resource "+strings.TrimPrefix(r.URL.Path, "/")+".")
		return
	}
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
		if n.major == 2 && n.minor >= 2 {
			routes["PATCH /v2/ns/instance"] = n.patchV2
		}
		return routes
	}
	maps.Copy(routes, map[string]nacosRoute{
		"PATCH /v2/ns/instance":             n.patchV2, // behind the gate
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

// removed: from 3.2 on there is nothing of the former APIs but what 2.x clients need (nacos#14050).
func (n *Nacos) removed(path string) bool {
	kept := path == "/v1/auth/users/login" || path == "/v1/ns/operator/metrics"
	return (strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v2/")) && !kept && n.minor >= 2 && n.major == 3
}

// gated: a 3.x leaves what v1 clients need open and refuses what its console and admin API have
// taken over.
func (n *Nacos) gated(method, path string) bool {
	if n.major < 3 {
		return false
	}
	switch path {
	case "/v1/ns/instance":
		return method == http.MethodPut || method == http.MethodPatch || method == http.MethodGet
	case "/v1/ns/catalog/services", "/v1/ns/catalog/instances", "/v2/ns/instance":
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
