package nacos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

// apiLifetime is how long servers are believed to be of the generation that they told: a Pod
// outlives their upgrades.
const apiLifetime = 5 * time.Minute

// call makes a call by the API of the servers, logs in when one asks for it, and changes to the
// other API when the servers have been upgraded. The answer it returns is one that is done or
// absent.
func (r *Registry) call(ctx context.Context, addrs []*url.URL, op string, build func(api) client.Call) (bool, error) {
	g, err := r.apiSpoken(ctx)
	if err != nil {
		return false, err
	}
	var loggedIn bool
	changes := 2 // from v1 over v3 to v1 without v2
	for {
		call := build(g)
		call.Op = op
		var token string
		call.Header, token = r.login.header()
		call.Retry = func(a client.Answer) bool { return judge(a, call.Read == nil) == sick }
		a, err := r.http.Do(ctx, r.readerFirst(addrs), call)
		if err != nil {
			return false, err
		}
		switch v := judge(a, call.Read == nil); {
		case v == done || v == absent:
			r.readFrom(a.URL)
			return v == done, nil
		case v == refused && r.login.username != "" && !loggedIn:
			loggedIn = true
			if err := r.login.renew(ctx, r.http, r.readerFirst(addrs), token, g.login(), v1{}.login()); err != nil {
				return false, err
			}
		case v == otherGeneration && changes > 0:
			changes--
			g = r.otherAPI(g)
		default:
			return false, r.no(op, a, v)
		}
	}
}

// no is the error of an answer that trying again does not change.
func (r *Registry) no(op string, a client.Answer, v verdict) error {
	e := &registry.Error{Op: op, URL: a.URL, Code: a.Code, Final: true}
	if text := says(a.Body); text != "" {
		e.Err = errors.New(text)
	}
	switch {
	case v == refused && r.login.username == "":
		e.Remedy = "set --nacos-username and --nacos-password; Nacos 3 wants a login for its admin API unless the server " +
			"has nacos.core.auth.admin.enabled=false"
	case v == refused:
		e.Remedy = fmt.Sprintf("give the user the right to read and write in the namespace %s (resource %[1]s:*:*, "+
			"for public on 2.x :*:*)", r.namespace)
	case v == otherGeneration:
		e.Remedy = "is this the address of a Nacos server with its context path, e.g. http://nacos:8848/nacos? " +
			"On Nacos 3 port 8080 is the console, 8848 the server"
	}
	return e
}

// says is what an answer that is no success gives for its reason, in one line.
func says(body []byte) string {
	var page struct{ Message, Data string }
	if json.Unmarshal(body, &page) == nil && page.Message != "" {
		body = []byte(strings.TrimSpace(page.Message + " " + page.Data))
	}
	return strings.TrimPrefix(client.Excerpt(body), ": ")
}

// apiSpoken returns the API of the servers and asks for their version if it is not known. Servers
// that do not tell are taken for 2.x, for this call: call changes the API where that is wrong.
func (r *Registry) apiSpoken(ctx context.Context) (api, error) {
	if g := r.knownAPI(); g != nil {
		return g, nil
	}
	version, by, err := r.version(ctx)
	if err != nil {
		return nil, err
	}
	g := apiOf(version)
	if g == nil {
		return v1{}, nil
	}
	r.mu.Lock()
	r.api, r.apiKnown = g, time.Now()
	r.mu.Unlock()
	r.readFrom(registry.Redact(by))
	return g, nil
}

// version asks the first server that answers for its version, "" if it tells none.
func (r *Registry) version(ctx context.Context) (version string, by *url.URL, err error) {
	for _, path := range []string{"v3/admin/core/state", "v1/console/server/state"} {
		call := client.Call{Op: "ask for the version", Method: http.MethodGet, Path: path}
		a, err := r.http.Do(ctx, r.readerFirst(r.servers), call)
		if err != nil {
			return "", nil, err
		}
		if version := versionIn(a); version != "" {
			return version, r.server(a.URL), nil
		}
	}
	return "", nil, nil
}

// versionIn is what a server's state says, "" if it is none.
func versionIn(a client.Answer) string {
	var state struct {
		Version string `json:"version"`
		Data    struct {
			Version string `json:"version"`
		} `json:"data"`
	}
	if a.Code != http.StatusOK || json.Unmarshal(a.Body, &state) != nil {
		return ""
	}
	if state.Version != "" {
		return state.Version
	}
	return state.Data.Version
}

// knownAPI is the API, nil if it is not known yet.
func (r *Registry) knownAPI() api {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.api
}

// otherAPI takes the servers for the other generation than g from now on.
func (r *Registry) otherAPI(g api) api {
	other := api(v3{})
	if g == other {
		other = v1{} // a server that was a 3.x is not a 1.x now
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.api = other
	return other
}

// expireAPI forgets the API when it has been known for long.
func (r *Registry) expireAPI() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.apiKnown) > apiLifetime {
		r.api = nil
	}
}

// readerFirst is addrs, where those are all servers, beginning with the one that answered last: a
// dead one costs time once.
func (r *Registry) readerFirst(addrs []*url.URL) []*url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := slices.IndexFunc(addrs, func(a *url.URL) bool { return registry.Redact(a) == r.reader })
	if k <= 0 {
		return addrs
	}
	return append(slices.Clone(addrs[k:]), addrs[:k]...)
}

func (r *Registry) readFrom(by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reader = by
}

// nextReader has the next call begin with the server after the one that err is of: what is no Nacos
// at all may stand among them.
func (r *Registry) nextReader(err error) {
	if e := (*registry.Error)(nil); errors.As(err, &e) {
		k := slices.IndexFunc(r.servers, func(s *url.URL) bool { return registry.Redact(s) == e.URL })
		r.readFrom(registry.Redact(r.servers[(k+1)%len(r.servers)]))
	}
}

// server is the one that is shown as by.
func (r *Registry) server(by string) *url.URL {
	k := slices.IndexFunc(r.servers, func(s *url.URL) bool { return registry.Redact(s) == by })
	return r.servers[max(k, 0)]
}
