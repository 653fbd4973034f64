// Package endpoint names HTTP endpoints inside the Pod, over TCP or a unix socket, as a URL that says which.
package endpoint

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Endpoint is one HTTP endpoint of another container of the Pod.
type Endpoint struct {
	socket string // path of a unix socket; "" for TCP
	url    url.URL
}

// Parse reads
//
//	http://host:port/path?query    TCP; https too
//	unix:///socket:/path?query     a unix socket: its path ends at the first ":/"
//	http+unix://%2Fsocket/path     the same
//
// A user and password before an @ are basic auth. The error does not hold the text, which may hold a password.
func Parse(text string) (Endpoint, error) {
	var e Endpoint
	rest := text
	if after, ok := strings.CutPrefix(text, "unix://"); ok {
		path := ""
		if e.socket, path, ok = strings.Cut(after, ":/"); !ok {
			return Endpoint{}, errors.New("has no path after the socket's")
		}
		rest = "http://localhost/" + path
	} else if after, ok := strings.CutPrefix(text, "http+unix://"); ok {
		host, path, _ := strings.Cut(after, "/")
		var err error
		if e.socket, err = url.PathUnescape(host); err != nil {
			return Endpoint{}, errors.New("has a socket that is not escaped right")
		}
		rest = "http://localhost/" + path
	}
	if rest != text && !strings.HasPrefix(e.socket, "/") {
		return Endpoint{}, errors.New("has no absolute path of a socket")
	}
	u, err := url.Parse(rest)
	if err != nil {
		return Endpoint{}, errors.New("is not a URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return Endpoint{}, errors.New("is not an http, https or unix URL")
	}
	u.Fragment = ""
	e.url = *u
	return e, nil
}

// String is the URL without what must not be shown: the password, and the query, where some put a token.
func (e Endpoint) String() string {
	u := e.url
	u.RawQuery = ""
	if e.socket != "" {
		return "unix://" + e.socket + ":" + u.EscapedPath()
	}
	return u.Redacted()
}

// Request is a request for the endpoint, without a body.
func (e Endpoint) Request(ctx context.Context, method string) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, method, e.url.String(), nil)
}

// idle is how long a connection is kept for the next request: looks follow each other within a second while they matter.
const idle = 5 * time.Second

// Client is a client for this endpoint alone. It follows no redirect and uses no proxy: what answers must be what was
// named. Its requests are bounded by their contexts. CloseIdleConnections ends what it keeps.
func (e Endpoint) Client() *http.Client {
	var d net.Dialer
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if e.socket != "" {
					network, address = "unix", e.socket
				}
				return d.DialContext(ctx, network, address)
			},
			MaxIdleConns: 1, IdleConnTimeout: idle, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// Plain is err without the URL, which the caller says in its own way.
func Plain(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}
