package drain

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// HandlerOptions are the settings of the HTTP side.
type HandlerOptions struct {
	// Token, if it is not empty and returns a non-empty string, is required as a bearer token on /shutdown, /stopping and /resume.
	Token func() (string, error)
	// ReadyWhenRegistered and UnreadyWhenDraining change /readyz.
	ReadyWhenRegistered, UnreadyWhenDraining bool
	// Version is told on /metrics.
	Version string
	Log     *slog.Logger
}

// handler answers for a Drain.
type handler struct {
	drain *Drain
	HandlerOptions
	crowd crowd
}

// NewServer returns the HTTP server in front of d: the public paths and nothing else, every other one 404, another method
// 405. Connections, headers and bodies are bounded and timed, but for the answer of /shutdown, which comes when the drain ends.
func NewServer(d *Drain, o HandlerOptions) *http.Server {
	h := &handler{drain: d, HandlerOptions: o}
	mux := http.NewServeMux()
	for path, f := range map[string]http.HandlerFunc{
		"GET /ok": h.ok, "GET /healthz": h.healthz, "GET /readyz": h.readyz, "GET /status": h.status, "GET /metrics": h.metrics,
		"GET /shutdown": h.guarded(h.shutdown), "POST /shutdown": h.guarded(h.shutdown),
		"GET /stopping": h.guarded(h.stopping), "POST /stopping": h.guarded(h.stopping),
		"GET /resume": h.guarded(h.resume), "POST /resume": h.guarded(h.resume),
	} {
		mux.HandleFunc(path, f)
	}
	door := newDoor()
	return &http.Server{
		Handler:           door.serve(noHead(mux)),
		ConnContext:       door.enter,
		ConnState:         door.changed,
		ReadHeaderTimeout: writeTimeout,
		ReadTimeout:       writeTimeout,
		WriteTimeout:      writeTimeout,    // /shutdown takes it off
		IdleTimeout:       2 * time.Minute, // the kubelet keeps its connection from postStart to preStop
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
}

// noHead refuses HEAD, which the mux takes for a GET: a method that is said to be safe must not start a drain.
func noHead(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Allow", "GET, POST")
			answer(w, http.StatusMethodNotAllowed, "HEAD is not supported")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// writeTimeout bounds a request's header and body, and the time to write an answer.
const writeTimeout = 10 * time.Second

// shutdown is the hook: it blocks until the drain is over.
func (h *handler) shutdown(w http.ResponseWriter, r *http.Request) {
	if h.crowd.enter() {
		defer h.crowd.leave()
	} else if h.crowd.park(w, h.drain, h.Log) {
		return
	}
	c := http.NewResponseController(w)
	// The drain has its own deadline; a caller that goes away ends r's context, and cancels nothing.
	err := errors.Join(c.SetWriteDeadline(time.Time{}), c.SetReadDeadline(time.Time{}))
	if err != nil {
		h.Log.Debug("cannot take the timeouts off a hook", "error", err)
	}
	h.Log.Info("hook called", "from", r.RemoteAddr, "agent", r.UserAgent())
	began := time.Now()
	out, err := h.drain.Shutdown(r.Context())
	if err != nil && r.Context().Err() != nil {
		h.Log.Warn("a caller of the hook went away; the drain goes on", "from", r.RemoteAddr, "after", short(time.Since(began)))
		return
	}
	// The read deadline too: before the answer of a POST goes out, what is left of its body is read.
	end := time.Now().Add(writeTimeout)
	if err := errors.Join(c.SetWriteDeadline(end), c.SetReadDeadline(end)); err != nil {
		h.Log.Debug("cannot bound the answer of a hook", "error", err)
	}
	code, line := verdict(out, err)
	answer(w, code, line)
}

// stopping is prestop's own preStop hook: the Pod goes, and not just a container. It waits for nothing: the app's hook does.
func (h *handler) stopping(w http.ResponseWriter, r *http.Request) {
	h.Log.Info("the Pod is stopping", "from", r.RemoteAddr, "agent", r.UserAgent())
	h.drain.Stopping()
	answer(w, http.StatusOK, "OK")
}

func (h *handler) resume(w http.ResponseWriter, r *http.Request) {
	h.Log.Info("resume called", "from", r.RemoteAddr, "agent", r.UserAgent())
	h.drain.Resume()
	answer(w, http.StatusOK, "OK")
}

func (h *handler) ok(w http.ResponseWriter, _ *http.Request) { yes(w)(h.drain.Safe()) }

func (h *handler) readyz(w http.ResponseWriter, _ *http.Request) {
	yes(w)(h.drain.Ready(h.ReadyWhenRegistered, h.UnreadyWhenDraining))
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
	ctx, cancel := context.WithTimeout(r.Context(), writeTimeout/2)
	defer cancel()
	body, err := small(h.drain.Status(ctx))
	if err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the reader went away
}

// answerLimit bounds an answer: the kubelet reads no more than 10 KiB, and others shall not have to.
const answerLimit = 10 << 10

// small is s as JSON of less than answerLimit: as many instances of each registry are listed as fit.
func small(s Status) ([]byte, error) {
	for {
		body, err := json.MarshalIndent(s, "", "  ")
		if err != nil || len(body) < answerLimit || !s.shorten() {
			return body, err
		}
	}
}

func (h *handler) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(h.drain.Metrics(h.Version)) // the reader went away
}

// guarded asks for the token, if one is set.
func (h *handler) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h.Token != nil {
			want, err := h.Token()
			if err != nil {
				h.Log.Error("--token-file cannot be read; refusing", "error", err)
			}
			got, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if err != nil || want != "" && !(bearer && same(got, want)) {
				h.Log.Warn("refused a call without the token", "path", r.URL.Path, "from", host(r.RemoteAddr))
				w.Header().Set("WWW-Authenticate", "Bearer")
				answer(w, http.StatusUnauthorized, "the token is missing or wrong: send it as Authorization: Bearer …")
				return
			}
		}
		next(w, r)
	}
}

// same compares in a time that tells nothing, not even the length.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

func yes(w http.ResponseWriter) func(bool, string) {
	return func(ok bool, text string) {
		if ok {
			answer(w, http.StatusOK, text)
		} else {
			answer(w, http.StatusServiceUnavailable, text)
		}
	}
}

func answer(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, line) // the reader went away
}
