package world

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"prestop/registry/registrytest"
)

// Where the registries are, as seen from both sides. The sidecar has ports of its own, so that its
// requests are told from those of the apps and the callers.
const (
	outside      = "10.0.0.2"
	ownPort      = "18848"
	everyPort    = "8848"
	eurekaKind   = "eureka"
	nacosKind    = "nacos"
	rebuild      = 300 * time.Millisecond // how late a registry's lists are at most
	beatEvery    = time.Second
	eurekaPath   = "/eureka"
	nacosPath    = "/nacos"
	eurekaOnPort = 1 // added to the port of Nacos
)

// trouble is what is wrong with a registry's server.
type trouble string

const (
	well    trouble = ""
	refuses trouble = "answers 503"
	hangs   trouble = "hangs"
	resets  trouble = "resets connections"
)

// request is one that the sidecar made.
type request struct {
	at          time.Time
	method, uri string
}

// write reports whether the request changes something.
func (r request) write() bool {
	return r.method != http.MethodGet && !strings.Contains(r.uri, "/auth/")
}

// server is one registry behind real HTTP.
type server struct {
	kind   string
	slow   time.Duration
	eureka *registrytest.Eureka
	nacos  *registrytest.Nacos

	mu       sync.Mutex
	wrong    trouble
	cured    chan struct{} // closed when what hangs is let go
	seen     []request     // of the sidecar
	onWrite  func(request) // called for each of the sidecar's, before it is served
	troubles spans
	restarts []time.Time
}

// newServer starts a registry outside the Pod.
func newServer(kind string, p setup, out *netns, onWrite func(*server, request)) (*server, func(), error) {
	s := &server{kind: kind, slow: p.slow, cured: make(chan struct{})}
	s.onWrite = func(r request) { onWrite(s, r) }
	var handler http.Handler
	if kind == eurekaKind {
		s.eureka = registrytest.NewEureka(registrytest.EurekaConfig{Cache: rebuild, Evict: time.Second})
		handler = s.eureka
	} else {
		s.nacos = registrytest.NewNacos(registrytest.NacosConfig{
			Version: p.nacos, NoAdminAuth: true,
			Rebuild: rebuild, Expire: 10 * time.Second, Unhealthy: p.lease, Delete: 2 * p.lease,
		})
		handler = s.nacos
	}
	var close []func()
	for port, own := range map[string]bool{everyPort: false, ownPort: true} {
		l, err := out.listen(0, s.address(port))
		if err != nil {
			return nil, nil, err
		}
		serve := func(w http.ResponseWriter, r *http.Request) { s.serve(handler, own, w, r) }
		h := &http.Server{Handler: http.HandlerFunc(serve)}
		go h.Serve(l)
		close = append(close, func() { l.kill(); h.Close() })
	}
	return s, func() {
		s.set(well)
		for _, f := range close {
			f()
		}
	}, nil
}

func (s *server) address(port string) string {
	var n int
	fmt.Sscan(port, &n)
	if s.kind == eurekaKind {
		n += eurekaOnPort
	}
	return fmt.Sprintf("%s:%d", outside, n)
}

// url is for the apps and the callers; own that for the sidecar.
func (s *server) url() string { return s.at(everyPort) }
func (s *server) own() string { return s.at(ownPort) }

func (s *server) at(port string) string {
	if s.kind == eurekaKind {
		return "http://" + s.address(port) + eurekaPath
	}
	return "http://" + s.address(port) + nacosPath
}

func (s *server) serve(h http.Handler, own bool, w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.mu.Lock()
	wrong, cured := s.wrong, s.cured
	q := request{time.Now(), r.Method, r.URL.RequestURI()}
	if len(body) > 0 {
		q.uri += " " + string(body)
	}
	if own {
		s.seen = append(s.seen, q)
	}
	s.mu.Unlock()
	switch wrong {
	case refuses:
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	case hangs:
		select {
		case <-r.Context().Done():
		case <-cured:
		}
		panic(http.ErrAbortHandler)
	case resets:
		panic(http.ErrAbortHandler)
	}
	_ = wait(r.Context(), s.slow)
	if own && q.write() {
		s.onWrite(q)
	}
	h.ServeHTTP(w, r)
}

// set makes something wrong with the server, or all well.
func (s *server) set(t trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == s.wrong {
		return
	}
	if s.wrong == hangs {
		close(s.cured)
		s.cured = make(chan struct{})
	}
	s.wrong = t
	s.troubles.set(t != well)
}

// trouble tells of when the server was not well.
func (s *server) trouble() spans {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.troubles)
}

// requests are those of the sidecar so far.
func (s *server) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// in reports whether callers are sent to the instance.
func (s *server) in(i identity) bool {
	if s.kind == eurekaKind {
		status, _ := s.eureka.Status(i.service, i.eurekaID())
		return status == "UP"
	}
	return slices.ContainsFunc(s.nacos.Listed(i.service), func(n registrytest.NacosInstance) bool {
		return n.IP == i.nacosIP() && n.Port == i.port
	})
}

// shows is what the registry holds of the instance, in its own words.
func (s *server) shows(i identity) string {
	if s.kind == eurekaKind {
		status, override := s.eureka.Status(i.service, i.eurekaID())
		return fmt.Sprintf("%q, override %q", status, override)
	}
	return fmt.Sprintf("listed: %v", s.in(i))
}

// identity is what an app registers as.
type identity struct {
	service, address string
	port             int
	lease            time.Duration
}

func (i identity) eurekaID() string { return fmt.Sprintf("%s:%s:%d", i.address, i.service, i.port) }

// where is what callers connect to.
func (i identity) where() string { return net.JoinHostPort(i.address, strconv.Itoa(i.port)) }

// nacosIP is the address as Spring Cloud Alibaba writes it: of IPv6 in brackets.
func (i identity) nacosIP() string {
	if strings.Contains(i.address, ":") {
		return "[" + i.address + "]"
	}
	return i.address
}

func (i identity) query() string {
	return url.Values{
		"serviceName": {i.service}, "groupName": {"DEFAULT_GROUP"}, "namespaceId": {"public"}, "ephemeral": {"true"},
		"ip": {i.nacosIP()}, "port": {fmt.Sprint(i.port)},
	}.Encode()
}

// client is an app's or a caller's client of a registry.
type client struct {
	http *http.Client
	base string
	kind string
}

// newClient returns one that connects by dial.
func newClient(s *server, dial func(to string) (net.Conn, error)) *client {
	t := &http.Transport{DialContext: func(_ context.Context, _, to string) (net.Conn, error) { return dial(to) }}
	return &client{&http.Client{Timeout: 2 * time.Second, Transport: t}, s.url(), s.kind}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// errUnknown is a registry's answer to a heartbeat of what it does not hold.
var errUnknown = fmt.Errorf("unknown instance")

// call makes one request, and decodes a JSON answer into answer unless that is nil.
func (c *client) call(ctx context.Context, method, path string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotFound && method == http.MethodPut:
		return errUnknown
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(data, answer)
}

// register is what a Spring application sends when its server listens.
func (c *client) register(ctx context.Context, i identity, status string, dirty time.Time) error {
	if c.kind == nacosKind {
		return c.call(ctx, http.MethodPost, "/v1/ns/instance?"+i.query(), nil, nil)
	}
	type object = map[string]any
	now := fmt.Sprint(dirty.UnixMilli())
	body, err := json.Marshal(object{"instance": object{
		"instanceId": i.eurekaID(), "app": strings.ToUpper(i.service), "vipAddress": i.service,
		"hostName": i.address, "ipAddr": i.address, "port": object{"$": i.port, "@enabled": "true"},
		"status": status, "overriddenStatus": "UNKNOWN", "lastDirtyTimestamp": now, "lastUpdatedTimestamp": now,
		"dataCenterInfo": object{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
		"leaseInfo":      object{"renewalIntervalInSecs": 1, "durationInSecs": int(i.lease.Seconds())},
	}})
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/apps/"+strings.ToUpper(i.service), body, nil)
}

// beat is one heartbeat.
func (c *client) beat(ctx context.Context, i identity, dirty time.Time) error {
	if c.kind == eurekaKind {
		path := fmt.Sprintf("/apps/%s/%s?status=UP&lastDirtyTimestamp=%d", strings.ToUpper(i.service), i.eurekaID(), dirty.UnixMilli())
		return c.call(ctx, http.MethodPut, path, nil, nil)
	}
	var answer struct{ Code int }
	if err := c.call(ctx, http.MethodPut, "/v1/ns/instance/beat?"+i.query(), nil, &answer); err != nil {
		return err
	}
	if answer.Code == 20404 {
		return errUnknown
	}
	return nil
}

func (c *client) deregister(ctx context.Context, i identity) error {
	if c.kind == eurekaKind {
		return c.call(ctx, http.MethodDelete, "/apps/"+strings.ToUpper(i.service)+"/"+i.eurekaID(), nil, nil)
	}
	return c.call(ctx, http.MethodDelete, "/v1/ns/instance?"+i.query(), nil, nil)
}

// list is what callers of the service read: the addresses of its instances.
func (c *client) list(ctx context.Context, service string) ([]string, error) {
	var all []string
	if c.kind == nacosKind {
		var answer struct {
			Hosts []struct {
				IP               string
				Port             int
				Healthy, Enabled bool
				Weight           float64
			}
		}
		if err := c.call(ctx, http.MethodGet, "/v1/ns/instance/list?serviceName="+service+"&healthyOnly=true", nil, &answer); err != nil {
			return nil, err
		}
		for _, h := range answer.Hosts {
			if h.Enabled && h.Healthy && h.Weight > 0 {
				all = append(all, net.JoinHostPort(strings.Trim(h.IP, "[]"), strconv.Itoa(h.Port)))
			}
		}
		return all, nil
	}
	var answer struct {
		Applications struct {
			Application []struct {
				Name     string
				Instance []struct {
					IPAddr string `json:"ipAddr"`
					Status string
					Port   struct {
						Number json.Number `json:"$"`
					}
				}
			}
		}
	}
	if err := c.call(ctx, http.MethodGet, "/apps", nil, &answer); err != nil {
		return nil, err
	}
	for _, app := range answer.Applications.Application {
		for _, i := range app.Instance {
			if strings.EqualFold(app.Name, service) && i.Status == "UP" {
				all = append(all, net.JoinHostPort(i.IPAddr, i.Port.Number.String()))
			}
		}
	}
	return all, nil
}

func (s *server) sick() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrong != well
}

// restarted tells when the server was restarted empty.
func (s *server) restarted() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.restarts)
}

// restart makes the server forget everything.
func (s *server) restart() {
	s.mu.Lock()
	s.restarts = append(s.restarts, time.Now())
	s.mu.Unlock()
	if s.kind == eurekaKind {
		s.eureka.Restart()
	} else {
		s.nacos.Restart()
	}
}
