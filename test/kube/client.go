package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// client speaks to the API server through a `kubectl proxy` on a unix socket, which knows how to log in.
type client struct {
	http http.Client
}

// Error is an answer of the API server that is not a success.
type Error struct {
	Code int
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Text) }

// connect starts the proxy, which ends with the test.
func connect(t testing.TB, kubectl []string) (*client, error) {
	dir, err := os.MkdirTemp("", "kube-") // a socket's path has at most 107 bytes, and a test's folder its name
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	// The empty pattern of rejected paths: calls to Pods are made through it.
	args := append(kubectl[1:len(kubectl):len(kubectl)], "proxy", "--unix-socket="+socket, "--reject-paths=^$")
	proxy := command(ctx, kubectl[0], args...)
	var said bytes.Buffer
	proxy.Stdout, proxy.Stderr = &said, &said
	if err := proxy.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("%w; install kubectl", err)
	}
	t.Cleanup(func() {
		cancel()
		_ = proxy.Wait() // killed
		_ = os.RemoveAll(dir)
	})
	c := &client{http: http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
	limit := time.After(time.Minute)
	for tick := time.Tick(50 * time.Millisecond); ; {
		_, err := c.do(t.Context(), http.MethodGet, "/readyz", "", nil)
		if err == nil {
			return c, nil
		}
		select {
		case <-tick:
		case <-limit:
			return nil, fmt.Errorf("the API server is not reached by kubectl proxy: %w\n%s", err, said.String())
		}
	}
}

// URL is an address at which a program on this machine speaks to the API server as we do. It ends with the test.
func (c *Cluster) URL(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(&httputil.ReverseProxy{
		Transport: c.client.http.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "localhost", "localhost"
		},
	})
	t.Cleanup(s.Close)
	return s.URL
}

// do makes a call; contentType is that of the body, application/json if "".
func (c *client) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	resp, err := c.open(ctx, method, path, contentType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// open makes a call whose answer is a stream.
func (c *client) open(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType == "" {
		contentType = "application/json"
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<14))
		if err != nil {
			return nil, err
		}
		return nil, &Error{resp.StatusCode, string(text)}
	}
	return resp, nil
}

// Call makes a call to the API server and returns the body; an answer that is no success is an *Error. contentType is that
// of body; "" is application/json.
func (c *Cluster) Call(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	return c.client.do(ctx, method, path, contentType, body)
}

// Open makes a call without a body whose answer is a stream, for the caller to close.
func (c *Cluster) Open(ctx context.Context, method, path string) (*http.Response, error) {
	return c.client.open(ctx, method, path, "", nil)
}

// Get reads an object into out.
func (c *Cluster) Get(ctx context.Context, path string, out any) error {
	body, err := c.client.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// Post creates object, a value that marshals to JSON, in the collection path.
func (c *Cluster) Post(ctx context.Context, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	_, err = c.client.do(ctx, http.MethodPost, path, "", body)
	return err
}

// Patch changes an object by a JSON merge patch.
func (c *Cluster) Patch(ctx context.Context, path, patch string) error {
	_, err := c.client.do(ctx, http.MethodPatch, path, "application/merge-patch+json", []byte(patch))
	return err
}

// Watch calls heard with each object of the collection path as it is, and again when it changes, until ctx ends. What is
// "ADDED", "MODIFIED" or "DELETED". A watch that breaks is taken up again; objects may then be told twice.
func (c *Cluster) Watch(ctx context.Context, path string, heard func(what string, object json.RawMessage)) {
	for tick := time.Tick(200 * time.Millisecond); ctx.Err() == nil; {
		c.watchOnce(ctx, path, heard)
		select {
		case <-ctx.Done():
		case <-tick:
		}
	}
}

func (c *Cluster) watchOnce(ctx context.Context, path string, heard func(string, json.RawMessage)) {
	resp, err := c.client.open(ctx, http.MethodGet, path+"?watch=true", "", nil)
	if err != nil {
		return // ended, or to be taken up again
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if d.Decode(&e) != nil {
			return
		}
		if e.Type == "ERROR" {
			return
		}
		heard(e.Type, e.Object)
	}
}
