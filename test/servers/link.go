package servers

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
)

// Link is what a server tells its peer through: it can be cut, and hold back what is to be told.
type Link struct {
	server *httptest.Server

	mu   sync.Mutex
	cut  bool
	gate chan struct{} // closed unless it holds
}

// Cut makes every request fail at once, or ends that.
func (l *Link) Cut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

// Hold makes requests wait, or lets those go that still do.
func (l *Link) Hold(hold bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	holds := true
	select {
	case <-l.gate:
		holds = false
	default:
	}
	switch {
	case hold && !holds:
		l.gate = make(chan struct{})
	case !hold && holds:
		close(l.gate)
	}
}

// Close ends the link.
func (l *Link) Close() {
	l.Hold(false)
	l.server.CloseClientConnections()
	l.server.Close()
}

// newLink returns a link to the server at target, e.g. http://localhost:8761/eureka/, and the URL to reach that by.
func newLink(target string) (*Link, string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, "", err
	}
	l := &Link{gate: make(chan struct{})}
	close(l.gate)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host }}
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		gate := l.gate
		l.mu.Unlock()
		select {
		case <-gate:
		case <-r.Context().Done(): // who waited has given up, and may try again
			return
		}
		l.mu.Lock()
		cut := l.cut
		l.mu.Unlock()
		if cut {
			panic(http.ErrAbortHandler)
		}
		forward.ServeHTTP(w, r)
	}))
	via := *u
	via.Host = l.server.Listener.Addr().String()
	return l, via.String(), nil
}
