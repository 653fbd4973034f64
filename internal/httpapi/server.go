// Package httpapi is the HTTP in front of a drain: its paths, the token, the limits, the hooks that
// wait, and /metrics. It decides nothing: it asks the drain, and writes what that answers.
package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"prestop/drain"
	"prestop/registry"
)

// Options are the settings of the HTTP side.
type Options struct {
	// Tokens, if it is not nil and returns any, are those of which one is required as a bearer
	// token on /shutdown, /stopping and /resume. With an error and no token every call is refused.
	Tokens func() ([]string, error)
	// ReadyWhenRegistered and UnreadyWhenDraining change /readyz.
	ReadyWhenRegistered, UnreadyWhenDraining bool
	// Version is told on /metrics.
	Version string
	// Traffic is the requests to the registries, by their kind; told on /metrics.
	Traffic map[string]*registry.Traffic
	// Settings are those in force, by flag, without secrets; told on /status.
	Settings map[string]string
	Log      *slog.Logger
}

// Server is the HTTP server in front of a drain.
type Server struct {
	*http.Server
	waiters *waiters
}

// Shutdown stops the server when every caller has its answer, the parked ones of the
// hook among them, or when ctx ends. The Drain must have ended, or callers of the hook wait for it.
func (s *Server) Shutdown(ctx context.Context) error {
	return errors.Join(s.Server.Shutdown(ctx), s.waiters.answered(ctx))
}

// handler answers for a drain.
type handler struct {
	drain *drain.Drain
	Options
	waiters *waiters
	routes  map[string]route
}

// route is a path of the contract.
type route struct {
	post   bool // also by POST
	about  string
	answer http.HandlerFunc
}

// NewServer returns the HTTP server in front of d: the public paths and nothing else, every other
// one 404, another method 405. A slash at the end of a path changes nothing. Connections, headers
// and bodies are bounded and timed, but for the answer of /shutdown, which comes when the drain
// ends.
func NewServer(d *drain.Drain, o Options) *Server {
	h := &handler{drain: d, Options: o, waiters: &waiters{}}
	h.routes = map[string]route{
		"/shutdown": {true, "start or join the drain, and wait for its end", h.guarded(h.shutdown)},
		"/stopping": {true, "for prestop's own preStop hook: the Pod goes; returns at once", h.guarded(h.stopping)},
		"/resume":   {true, "cancel the drain and rejoin every registry", h.guarded(h.resume)},
		"/ok":       {false, "200 when it is safe to terminate the Pod, else 503 and why", h.ok},
		"/healthz":  {false, "200 while the sidecar works", h.healthz},
		"/readyz":   {false, "200 while the app serves or drains", h.readyz},
		"/status":   {false, "everything that is known, as JSON", h.status},
		"/metrics":  {false, "for Prometheus", h.metrics},
		"/":         {false, "this list", h.list},
	}
	limiter := newConnLimiter()
	return &Server{waiters: h.waiters, Server: &http.Server{
		Handler:           limiter.serve(http.HandlerFunc(h.serve)),
		ConnContext:       limiter.accept,
		ConnState:         limiter.changed,
		ReadHeaderTimeout: ioTimeout,
		ReadTimeout:       ioTimeout,
		WriteTimeout:      ioTimeout,       // /shutdown takes it off
		IdleTimeout:       2 * time.Minute, // the kubelet keeps its connection from postStart to preStop
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}}
}

// serve finds the path. HEAD is refused like any other method that is not named: one that is said
// to be safe must not start a drain.
func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	at := path.Clean("/" + r.URL.Path)
	to, found := h.routes[at]
	if isHook(r) && !slices.Contains(hooks, at) {
		h.Log.Warn("the kubelet called a path that stops nothing, and takes any answer for success: "+
			"correct the path of the lifecycle hook", "path", r.URL.Path, "right", rightHook(at), "from", hostOf(r.RemoteAddr))
	}
	if !found && strings.HasPrefix(strings.ToLower(r.UserAgent()), "kube-probe") {
		h.Log.Warn("the kubelet probes a path that does not exist, so the probe fails: "+
			"correct the path of the probe", "path", r.URL.Path, "right", "/readyz or /healthz", "from", hostOf(r.RemoteAddr))
	}
	switch {
	case !found:
		answer(w, http.StatusNotFound, "no such path; GET / lists them")
	case r.Method == http.MethodGet, r.Method == http.MethodPost && to.post:
		to.answer(w, r)
	default:
		allow := "GET"
		if to.post {
			allow = "GET, POST"
		}
		w.Header().Set("Allow", allow)
		answer(w, http.StatusMethodNotAllowed, r.Method+" is not supported here; use "+allow)
	}
}

// hooks are the paths for lifecycle hooks.
var hooks = []string{"/shutdown", "/stopping", "/resume"}

// isHook reports whether the kubelet calls for a lifecycle hook, and not for a probe.
func isHook(r *http.Request) bool {
	return strings.HasPrefix(strings.ToLower(r.UserAgent()), "kube-lifecycle")
}

// rightHook is the path that was probably meant; /shutdown where at tells nothing.
func rightHook(at string) string {
	at = strings.ToLower(at)
	for _, hook := range hooks {
		if hook != "/stopping" && strings.Contains(at, hook[1:5]) {
			return hook
		}
	}
	if strings.HasPrefix(at, "/stop") && strings.Contains(at, "ing") {
		return "/stopping"
	}
	return "/shutdown"
}

// list tells the paths.
func (h *handler) list(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	b.WriteString("prestop " + h.Version + "\n")
	for _, at := range slices.Sorted(maps.Keys(h.routes)) {
		method := "GET     "
		if h.routes[at].post {
			method = "GET/POST"
		}
		fmt.Fprintf(&b, "%s %-10s %s\n", method, at, h.routes[at].about)
	}
	answer(w, http.StatusOK, strings.TrimSuffix(b.String(), "\n"))
}

// ioTimeout bounds a request's header and body, and the time to write an answer.
const ioTimeout = 10 * time.Second

// shutdown is the hook: it blocks until the drain is over.
func (h *handler) shutdown(w http.ResponseWriter, r *http.Request) {
	if h.waiters.enter() {
		defer h.waiters.leave()
	} else if h.waiters.park(w, h.drain, h.Log) {
		return
	}
	c := http.NewResponseController(w)
	// The drain has its own deadline; a caller that goes away ends r's context, and cancels
	// nothing.
	err := errors.Join(c.SetWriteDeadline(time.Time{}), c.SetReadDeadline(time.Time{}))
	if err != nil {
		h.Log.Debug("cannot take the timeouts off a hook", "error", err)
	}
	h.Log.Info("hook called", "from", r.RemoteAddr, "agent", r.UserAgent())
	began := time.Now()
	out, err := h.drain.Shutdown(r.Context())
	if err != nil && r.Context().Err() != nil {
		h.Log.Warn("a caller of the hook went away; the drain goes on", "from", r.RemoteAddr, "after", time.Since(began).Round(time.Millisecond).String())
		return
	}
	// The read deadline too: before the answer of a POST goes out, what is left of its body is
	// read.
	end := time.Now().Add(ioTimeout)
	if err := errors.Join(c.SetWriteDeadline(end), c.SetReadDeadline(end)); err != nil {
		h.Log.Debug("cannot bound the answer of a hook", "error", err)
	}
	code, line := verdict(out, err)
	answer(w, code, line)
}

// stopping says that the Pod goes. It answers at once, and the drain has begun then.
func (h *handler) stopping(w http.ResponseWriter, r *http.Request) {
	h.Log.Info("the Pod is said to stop", "from", r.RemoteAddr, "agent", r.UserAgent())
	h.drain.Stopping()
	answer(w, http.StatusOK, "OK")
}

func (h *handler) resume(w http.ResponseWriter, r *http.Request) {
	h.Log.Info("resume called", "from", r.RemoteAddr, "agent", r.UserAgent())
	h.drain.Resume()
	answer(w, http.StatusOK, "OK")
}

func (h *handler) ok(w http.ResponseWriter, _ *http.Request) {
	good, why := h.drain.Safe()
	respond(w, good, why)
}

func (h *handler) readyz(w http.ResponseWriter, _ *http.Request) {
	good, why := h.drain.Ready(h.ReadyWhenRegistered, h.UnreadyWhenDraining)
	respond(w, good, why)
}

// healthz asks the owner of the drain, so that one that is stuck is noticed.
func (h *handler) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if err := h.drain.Alive(ctx); err != nil {
		answer(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer(w, http.StatusOK, "OK")
}

func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), ioTimeout/2)
	defer cancel()
	body, err := marshalBounded(h.drain.Status(ctx), h.Settings)
	if err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the reader went away
}

// answerLimit bounds an answer: the kubelet reads no more than 10 KiB, and others shall not have
// to.
const answerLimit = 10 << 10

// marshalBounded returns s as JSON of less than answerLimit: as many instances of each registry are
// listed as fit.
func marshalBounded(s drain.Status, settings map[string]string) ([]byte, error) {
	for {
		body, err := json.MarshalIndent(struct {
			*drain.Status
			Settings map[string]string `json:"settings,omitempty"`
		}{&s, settings}, "", "  ")
		if err != nil || len(body) < answerLimit || !shorten(&s) {
			return body, err
		}
	}
}

// shorten halves the longest list of instances; false if there is nothing left to halve.
func shorten(s *drain.Status) bool {
	longest := 0
	for i, r := range s.Registries {
		if len(r.Instances) > len(s.Registries[longest].Instances) {
			longest = i
		}
	}
	if len(s.Registries) == 0 || len(s.Registries[longest].Instances) == 0 {
		return false
	}
	r := &s.Registries[longest]
	r.Instances = r.Instances[:len(r.Instances)/2]
	return true
}

func (h *handler) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(metrics(h.drain.Figures(), h.Traffic, h.Version)) // the reader went away
}

// guarded asks for the token, if one is set.
func (h *handler) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h.Tokens == nil {
			next(w, r)
			return
		}
		good, err := h.Tokens()
		good = slices.DeleteFunc(slices.Clone(good), func(s string) bool { return s == "" })
		if err != nil {
			h.Log.Error("the token file cannot be read; the tokens that it had stay good", "error", err)
		}
		got, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if bearer && oneOf(good, got) || len(good) == 0 && err == nil {
			next(w, r)
			return
		}
		h.Log.Warn("refused a call without the token: set it in the httpHeaders of the hook, as Authorization: Bearer …",
			"path", r.URL.Path, "from", hostOf(r.RemoteAddr), "agent", r.UserAgent())
		w.Header().Set("WWW-Authenticate", "Bearer")
		answer(w, http.StatusUnauthorized, "the token is missing or wrong: send it as Authorization: Bearer …")
	}
}

// oneOf compares with every token, in a time that does not tell which one is right.
func oneOf(good []string, got string) bool {
	is := false
	for _, want := range good {
		is = equalSecret(got, want) || is
	}
	return is
}

// equalSecret compares in a time that tells nothing, not even the length.
func equalSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// hostOf is the host of an address with a port.
func hostOf(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

// respond answers 200 or 503.
func respond(w http.ResponseWriter, good bool, text string) {
	code := http.StatusOK
	if !good {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, text)
}

func answer(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, line) // the reader went away
}
