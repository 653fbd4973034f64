package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"prestop/drain"
	"prestop/drain/conns"
	"prestop/registry"
)

// hooked begins a drain whose caller does not wait, and returns once it is on.
func hooked(t *testing.T, p *pod) {
	p.hook(t.Context())
	time.Sleep(100 * time.Millisecond)
}

// over brings a drain to its end, in order or at the deadline.
func over(t *testing.T, p *pod) {
	<-p.hook(t.Context())
	time.Sleep(time.Millisecond) // the outcome goes out before the files and the status are written
}

func TestThePathsAnswer(t *testing.T) {
	token := Options{Tokens: func() ([]string, error) { return []string{"old sesame", "open sesame"}, nil }}
	none := Options{}
	for sentence, c := range map[string]struct {
		before       func(*testing.T, *pod)
		options      Options
		method, path string
		header       []string
		code         int
		body         string // in the answer
	}{
		"the hook answers when the drain is over":                 {nil, none, "GET", "/shutdown", nil, 200, "OK drained in "},
		"the hook may be a POST":                                  {nil, none, "POST", "/shutdown", nil, 200, "0 connections in use"},
		"the hook may have a query":                               {nil, none, "GET", "/shutdown?from=app", nil, 200, "OK"},
		"the hook tells who was left at the deadline":             {func(_ *testing.T, p *pod) { p.connect(2) }, none, "GET", "/shutdown", nil, 504, "2 connections in use, 0 idle: 10.0.0.9×2"},
		"a second hook gets the same answer":                      {over, none, "GET", "/shutdown", nil, 200, "OK drained in "},
		"the hook is refused without the token":                   {nil, token, "GET", "/shutdown", nil, 401, "token"},
		"the hook is refused with another token":                  {nil, token, "GET", "/shutdown", []string{"Authorization", "Bearer open"}, 401, "token"},
		"the hook is refused with a token of another scheme":      {nil, token, "GET", "/shutdown", []string{"Authorization", "Basic open sesame"}, 401, "token"},
		"the hook is refused with a token of no scheme":           {nil, token, "GET", "/shutdown", []string{"Authorization", "open sesame"}, 401, "token"},
		"the hook is let in with the token":                       {nil, token, "GET", "/shutdown", []string{"Authorization", "Bearer open sesame"}, 200, "OK"},
		"the hook is refused while the token cannot be read":      {nil, Options{Tokens: func() ([]string, error) { return nil, errors.New("gone") }}, "GET", "/shutdown", []string{"Authorization", "Bearer "}, 401, "token"},
		"no token is asked for where none is set":                 {nil, Options{Tokens: func() ([]string, error) { return []string{""}, nil }}, "GET", "/shutdown", nil, 200, "OK"},
		"the hook of a process that has ended":                    {func(_ *testing.T, p *pod) { p.end() }, none, "GET", "/shutdown", nil, 503, "ended"},
		"not safe while serving":                                  {nil, none, "GET", "/ok", nil, 503, "serving"},
		"not safe while draining":                                 {hooked, none, "GET", "/ok", nil, 503, "draining: "},
		"safe when drained":                                       {over, none, "GET", "/ok", nil, 200, "OK"},
		"not safe when expired":                                   {func(t *testing.T, p *pod) { p.connect(1); over(t, p) }, none, "GET", "/ok", nil, 503, "deadline"},
		"safe needs no token":                                     {over, token, "GET", "/ok", nil, 200, "OK"},
		"healthy while serving":                                   {nil, none, "GET", "/healthz", nil, 200, "OK"},
		"healthy while draining":                                  {hooked, none, "GET", "/healthz", nil, 200, "OK"},
		"healthy when drained":                                    {over, none, "GET", "/healthz", nil, 200, "OK"},
		"ready while serving":                                     {nil, none, "GET", "/readyz", nil, 200, "serving"},
		"ready while draining":                                    {hooked, none, "GET", "/readyz", nil, 200, "draining"},
		"ready when drained":                                      {over, none, "GET", "/readyz", nil, 200, "drained"},
		"not ready without the app":                               {func(t *testing.T, p *pod) { p.crash(); time.Sleep(time.Second) }, none, "GET", "/readyz", nil, 503, "does not listen"},
		"not ready while draining where that is wanted":           {hooked, Options{UnreadyWhenDraining: true}, "GET", "/readyz", nil, 503, "draining"},
		"ready while serving also where draining is not":          {nil, Options{UnreadyWhenDraining: true}, "GET", "/readyz", nil, 200, "serving"},
		"ready when registered":                                   {nil, Options{ReadyWhenRegistered: true}, "GET", "/readyz", nil, 200, "serving"},
		"resume answers at once":                                  {hooked, none, "GET", "/resume", nil, 200, "OK"},
		"resume may be a POST":                                    {hooked, none, "POST", "/resume", nil, 200, "OK"},
		"resume is refused without the token":                     {hooked, token, "POST", "/resume", nil, 401, "token"},
		"resume is let in with the token":                         {hooked, token, "GET", "/resume", []string{"Authorization", "Bearer open sesame"}, 200, "OK"},
		"status needs no token":                                   {nil, token, "GET", "/status", nil, 200, `"state": "serving"`},
		"metrics":                                                 {nil, none, "GET", "/metrics", nil, 200, `prestop_build_info{version="1.2.3"} 1`},
		"the paths are listed":                                    {nil, none, "GET", "/", nil, 200, "GET/POST /shutdown"},
		"another path":                                            {nil, none, "GET", "/stop", nil, 404, "GET / lists"},
		"a path below one":                                        {nil, none, "GET", "/shutdown/now", nil, 404, ""},
		"a path with a slash at its end":                          {nil, none, "GET", "/shutdown/", nil, 200, "OK drained in "},
		"a path with slashes":                                     {nil, none, "POST", "//shutdown//", nil, 200, "OK drained in "},
		"resume with a slash at its end":                          {hooked, none, "GET", "/resume/", nil, 200, "OK"},
		"the Pod's end is answered at once":                       {func(_ *testing.T, p *pod) { p.connect(1) }, none, "GET", "/stopping", nil, 200, "OK"},
		"the Pod's end may be a POST":                             {nil, none, "POST", "/stopping", nil, 200, "OK"},
		"the Pod's end while draining":                            {hooked, none, "GET", "/stopping", nil, 200, "OK"},
		"the Pod's end is refused without the token":              {nil, token, "GET", "/stopping", nil, 401, "token"},
		"the Pod's end is let in with the token":                  {nil, token, "GET", "/stopping", []string{"Authorization", "Bearer open sesame"}, 200, "OK"},
		"the hook is let in with a token of before":               {nil, token, "GET", "/shutdown", []string{"Authorization", "Bearer old sesame"}, 200, "OK"},
		"HEAD does not stop the Pod":                              {nil, none, "HEAD", "/stopping", nil, 405, ""},
		"a path in capitals":                                      {nil, none, "GET", "/SHUTDOWN", nil, 404, ""},
		"Go's profiles are not served":                            {nil, none, "GET", "/debug/pprof/", nil, 404, ""},
		"another method on the hook":                              {nil, none, "PUT", "/shutdown", nil, 405, ""},
		"another method is refused before the token is asked for": {nil, token, "DELETE", "/shutdown", nil, 405, ""},
		"HEAD starts no drain":                                    {nil, none, "HEAD", "/shutdown", nil, 405, ""},
		"HEAD resumes nothing":                                    {hooked, none, "HEAD", "/resume", nil, 405, ""},
		"OPTIONS on the hook":                                     {nil, none, "OPTIONS", "/shutdown", nil, 405, ""},
		"a POST to ok":                                            {nil, none, "POST", "/ok", nil, 405, ""},
		"a POST to healthz":                                       {nil, none, "POST", "/healthz", nil, 405, ""},
		"a POST to readyz":                                        {nil, none, "POST", "/readyz", nil, 405, ""},
		"a POST to status":                                        {nil, none, "POST", "/status", nil, 405, ""},
		"a DELETE of metrics":                                     {nil, none, "DELETE", "/metrics", nil, 405, ""},
		"another method on resume":                                {nil, none, "PATCH", "/resume", nil, 405, ""},
	} {
		t.Run(sentence, func(t *testing.T) {
			in(t, 1, nil, func(t *testing.T, p *pod) {
				if c.before != nil {
					c.before(t, p)
				}
				state := p.drain.Figures().State
				rec := p.call(t.Context(), c.options, c.method, c.path, c.header...)
				body := rec.Body.String()
				if rec.Code != c.code || !strings.Contains(body, c.body) {
					t.Errorf("%s %s is answered %d %q; want %d with %q", c.method, c.path, rec.Code, body, c.code, c.body)
				}
				if rec.Header().Get("Content-Type") == "" || body == "" {
					t.Errorf("no type or no body: %v %q", rec.Header(), body)
				}
				if c.code == 405 && rec.Header().Get("Allow") == "" {
					t.Error("a 405 does not say which methods would do")
				}
				if c.code == 401 && rec.Header().Get("WWW-Authenticate") != "Bearer" {
					t.Error("a 401 does not say what is asked for")
				}
				if lines := strings.Count(body, "\n"); c.path != "/status" && c.path != "/metrics" && c.path != "/" && lines != 1 {
					t.Errorf("%d lines: %q", lines, body)
				}
				if refused := c.code == 401 || c.code == 404 || c.code == 405; refused && p.drain.Figures().State != state {
					t.Errorf("a call that is refused changed the state from %v to %v", state, p.drain.Figures().State)
				}
			})
		})
	}
}

// The kubelet takes any answer for success, so that a wrong path is noticed in the log alone.
func TestAWrongHookPathIsAWarning(t *testing.T) {
	for at, right := range map[string]string{
		"/Shutdown": "/shutdown", "/shutdwn": "/shutdown", "/stop": "/shutdown", "/prestop": "/shutdown", "/drain": "/shutdown",
		"/": "/shutdown", "/ok": "/shutdown", "/healthz": "/shutdown", "/wp-login.php": "/shutdown", "/resumes": "/resume",
		"/Stopping": "/stopping", "/stoping": "/stopping", "/shutdown": "", "/shutdown/": "", "/resume": "", "/stopping/": "",
	} {
		for _, agent := range []string{"kube-lifecycle/1.34", "kube-probe/1.34", "curl/8"} {
			t.Run(at+" "+agent, func(t *testing.T) {
				in(t, 0, nil, func(t *testing.T, p *pod) {
					var said strings.Builder
					p.log = slog.New(slog.NewTextHandler(&said, nil))
					rec := p.call(t.Context(), Options{}, "GET", at, "User-Agent", agent)
					want := right != "" && agent == "kube-lifecycle/1.34"
					if got := strings.Contains(said.String(), "level=WARN") && strings.Contains(said.String(), "right="+right+" "); got != want {
						t.Errorf("answered %d; warned: %v; want %v:\n%s", rec.Code, got, want, said.String())
					}
				})
			})
		}
	}
}

func TestTheSettingsInForceAreTold(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, p *pod) {
		rec := p.call(t.Context(), Options{Settings: map[string]string{"linger": "5s"}}, "GET", "/status")
		var got struct {
			State    string            `json:"state"`
			Settings map[string]string `json:"settings"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got.State != "serving" || got.Settings["linger"] != "5s" {
			t.Errorf("%v: %s", err, rec.Body)
		}
	})
}

func TestAHookThatResumeCancelsIsTold(t *testing.T) {
	in(t, 1, nil, func(t *testing.T, p *pod) {
		p.connect(1)
		got := make(chan *httptest.ResponseRecorder)
		go func() { got <- p.call(t.Context(), Options{}, "GET", "/shutdown") }()
		time.Sleep(5 * time.Second)
		p.call(t.Context(), Options{}, "POST", "/resume")
		if rec := <-got; rec.Code != 503 || !strings.HasPrefix(rec.Body.String(), "CANCELLED after 5") {
			t.Errorf("the hook is answered %d %q", rec.Code, rec.Body)
		}
	})
}

func TestReadyOnlyWhenRegistered(t *testing.T) {
	in(t, 2, nil, func(t *testing.T, p *pod) {
		o := Options{ReadyWhenRegistered: true}
		p.regs[1].set(registry.Absent)
		time.Sleep(3 * time.Minute) // looked at again
		if rec := p.call(t.Context(), o, "GET", "/readyz"); rec.Code != 503 || !strings.Contains(rec.Body.String(), "fake1") {
			t.Errorf("answered %d %q while one registry does not hold the instance", rec.Code, rec.Body)
		}
	})
}

func TestStatusHasTheKeysOfTheContract(t *testing.T) {
	in(t, 2, nil, func(t *testing.T, p *pod) {
		p.connect(3)
		for _, state := range []string{"serving", "draining", "expired"} {
			switch state {
			case "draining":
				hooked(t, p)
				time.Sleep(10 * time.Second)
			case "expired":
				over(t, p)
			}
			var got any
			rec := p.call(t.Context(), Options{}, "GET", "/status")
			if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
				t.Fatalf("%v in %s", err, rec.Body)
			}
			want := map[string]any{
				"": []string{"app", "connections", "deadline", "lingerUntil", "registries", "result", "since", "state"}, "app[]": []string{"listening", "port", "since"}, "connections": []string{"active", "idle", "lastHeard", "open", "peers", "source"},
				"connections.lastHeard": []string{"address", "at"}, "connections.peers[]": []string{"active", "address", "clientPort", "idle", "port", "since"}, "registries[]": []string{"error", "instances", "kind", "reached", "url"},
				"registries[].instances[]": []string{"id", "service", "status"},
			}
			if state == "expired" {
				want[""] = []string{"app", "connections", "deadline", "lastDrain", "lingerUntil", "registries", "result", "since", "state"}
				want["lastDrain"] = []string{"active", "began", "cause", "count", "ended", "leave", "linger", "result"}
			}
			keys := map[string][]string{}
			keysOf("", got, keys)
			for at, names := range want {
				if !slices.Equal(keys[at], names.([]string)) {
					t.Errorf("%s: %q has the keys %q; want %q", state, at, keys[at], names)
				}
			}
			top := got.(map[string]any)
			if top["state"] != state || top["connections"].(map[string]any)["active"] != 3.0 {
				t.Errorf("want %s with 3 connections: %s", state, rec.Body)
			}
			if _, err := time.Parse(time.RFC3339, top["since"].(string)); err != nil {
				t.Error(err)
			}
			if (top["deadline"] == nil) != (state == "serving") {
				t.Errorf("%s with the deadline %v", state, top["deadline"])
			}
			if result := top["result"].(string); strings.HasPrefix(result, "EXPIRED") != (state == "expired") {
				t.Errorf("%s with the result %q", state, result)
			}
		}
	})
}

// keysOf notes the sorted keys of every object in v by where it is.
func keysOf(at string, v any, keys map[string][]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, below := range v {
			keys[at] = append(keys[at], k)
			keysOf(strings.TrimPrefix(at+"."+k, "."), below, keys)
		}
		slices.Sort(keys[at])
		keys[at] = slices.Compact(keys[at])
	case []any:
		for _, below := range v {
			keysOf(at+"[]", below, keys)
		}
	}
}

// throng is a count with as many peers as there can be.
type throng struct{ conns.Counter }

func (c throng) Count(ctx context.Context, ports []uint16) (conns.Tally, error) {
	t, err := c.Counter.Count(ctx, ports)
	t.Peers = nil
	for i := range conns.MaxPeers {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%x", 0x6000+i))
		t.Peers = append(t.Peers, conns.Peer{Address: a, Port: 65535, Active: 10_000, Open: 1_000_000, Since: time.Hour, ClientPort: 65535})
	}
	t.Open, t.Active = 200_000, 200_000
	return t, err
}

// mesh is a registry that holds hundreds of instances of the Pod, and whose every error is long.
type mesh struct {
	*shelf
	sick bool
}

func (m mesh) Find(ctx context.Context, pod registry.Pod) ([]registry.Instance, error) {
	if len(pod.Ports) == 0 {
		return m.shelf.Find(ctx, pod)
	}
	return m.Check(ctx)
}

func (m mesh) Check(context.Context) ([]registry.Instance, error) {
	var all []registry.Instance
	for i := range 500 {
		all = append(all, registry.Instance{ID: strings.Repeat("é", 100) + fmt.Sprint(i), Service: strings.Repeat("orders", 10), Port: appPort, Status: "OUT", State: registry.Out})
	}
	return all, nil
}

func (m mesh) Leave(context.Context) error {
	if m.sick {
		return &registry.Error{Op: strings.Repeat("lève ", 2000), URL: "http://mesh", Code: 403, Final: true}
	}
	return nil
}

func (m mesh) Rejoin(context.Context) error { return nil }

func TestAnswersAreSmall(t *testing.T) {
	in(t, 2, func(o *drain.Options) {
		o.Counter = throng{o.Counter}
		for i, r := range o.Registries {
			o.Registries[i] = mesh{r.(*shelf), i == 0}
		}
	}, func(t *testing.T, p *pod) {
		for _, path := range []string{"/shutdown", "/status", "/metrics", "/ok", "/readyz"} {
			rec := p.call(t.Context(), Options{}, "GET", path)
			if n := rec.Body.Len(); n >= 10<<10 {
				t.Errorf("%s is answered with %d bytes, of which the kubelet reads 10,240", path, n)
			}
			if strings.ContainsRune(rec.Body.String(), '\uFFFD') {
				t.Errorf("%s is cut inside a character", path)
			}
			if path == "/status" {
				var s drain.Status
				if err := json.Unmarshal(rec.Body.Bytes(), &s); err != nil || len(s.Connections.Peers) != conns.MaxPeers || len(s.Registries[0].Instances) == 0 {
					t.Errorf("%v: of what matters most something is left out: %d bytes, %+v", err, rec.Body.Len(), s)
				}
			}
		}
	})
}

func TestTheServerHasEveryTimeout(t *testing.T) {
	in(t, 0, nil, func(t *testing.T, p *pod) {
		s := NewServer(p.drain, Options{Log: p.log})
		for name, d := range map[string]time.Duration{"header": s.ReadHeaderTimeout, "read": s.ReadTimeout, "write": s.WriteTimeout, "idle": s.IdleTimeout} {
			if d <= 0 || d > 5*time.Minute {
				t.Errorf("the %s timeout is %v", name, d)
			}
		}
		if s.MaxHeaderBytes <= 0 || s.MaxHeaderBytes > 64<<10 {
			t.Errorf("headers may have %d bytes", s.MaxHeaderBytes)
		}
		if s.Handler == http.Handler(http.DefaultServeMux) {
			t.Error("the default mux is served")
		}
	})
}
