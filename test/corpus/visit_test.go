package corpus

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestop/drain/conns/connstest"
)

// visit is one client's connection to a server, which is judged.
type visit struct {
	*testing.T
	protocol
	ctx     context.Context // ends with the test
	port    uint16
	outside *connstest.Outside // where the client is
	begun   func(id string) bool
	prefix  string // of ids
	client  *http.Client
	done    time.Time // when the connection was as the shape wants it
}

var visits atomic.Int64

func (v *visit) address() string { return fmt.Sprintf("%s:%d", v.outside.Address, v.port) }

func (v *visit) url(path string) string { return v.scheme() + "://" + v.address() + path }

// id is one that no other request has.
func (v *visit) id() string { return fmt.Sprintf("%s-%d", v.prefix, visits.Add(1)) }

// tls is the client's configuration, which takes every certificate.
func (v *visit) tls() *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost",
		ClientSessionCache: tls.NewLRUClientSessionCache(1)} // tickets are sent to who takes them
	if strings.Contains(string(v.protocol), "mutual") {
		config.Certificates = []tls.Certificate{certificate(v).chain}
	}
	if strings.Contains(string(v.protocol), "1.2") {
		config.MaxVersion = tls.VersionTLS12
	}
	if strings.Contains(string(v.protocol), "old key share") {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	return config
}

// http makes the visit's client that of net/http, with one connection.
func (v *visit) http() {
	transport := &http.Transport{Protocols: v.protocols(), MaxConnsPerHost: 1, TLSClientConfig: v.tls(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return v.outside.Dial(ctx, v.port) }}
	v.client = &http.Client{Transport: transport}
	v.Cleanup(transport.CloseIdleConnections)
}

// dial opens a connection by hand, with its TLS handshake.
func (v *visit) dial() net.Conn {
	v.Helper()
	c, err := v.outside.Dial(v.ctx, v.port)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { c.Close() })
	if !v.secure() {
		return c
	}
	config := v.tls()
	if v.multiplexed() {
		config.NextProtos = []string{"h2"}
	}
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(v.ctx); err != nil {
		v.Fatal(err)
	}
	return secure
}

// call has n requests answered, one after the other, thinking in between.
func (v *visit) call(n int, think time.Duration, method, path, body string) {
	v.Helper()
	for i := range n {
		if i > 0 {
			v.pause(think)
		}
		v.ask(method, path, body)
	}
}

func (v *visit) ask(method, path, body string) {
	v.Helper()
	request, err := http.NewRequestWithContext(v.ctx, method, v.url(path), strings.NewReader(body))
	if err != nil {
		v.Fatal(err)
	}
	if body == "" {
		request.Body = nil
	}
	answer, err := v.client.Do(request)
	if err != nil {
		v.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		v.Fatal(err)
	}
}

// together has n requests answered at the same time.
func (v *visit) together(n int, path string) {
	v.Helper()
	var all sync.WaitGroup
	for range n {
		all.Go(func() { v.ask("GET", path, "") })
	}
	all.Wait()
}

// pause is a client's time to think.
func (v *visit) pause(think time.Duration) {
	if think == 0 {
		return
	}
	select {
	case <-time.After(think):
	case <-v.ctx.Done():
	}
}

// begin sends a request whose answer does not end, and returns once the server has it.
func (v *visit) begin(method, path string, body io.Reader) {
	v.Helper()
	ctx, cancel := context.WithCancel(v.ctx)
	id := v.id()
	request, err := http.NewRequestWithContext(ctx, method, v.url(path)+"?id="+id, body)
	if err != nil {
		v.Fatal(err)
	}
	if d, ok := body.(*drip); ok {
		d.ctx = ctx
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if answer, err := v.client.Do(request); err == nil {
			defer answer.Body.Close()
			if path == "/endless" {
				<-ctx.Done()
			} else {
				_, _ = io.Copy(io.Discard, answer.Body)
			}
		}
	}()
	v.Cleanup(func() {
		cancel()
		<-over
	})
	v.await(id)
}

// await waits until the server has the request.
func (v *visit) await(id string) {
	v.Helper()
	for enough := time.Now().Add(90 * time.Second); !v.begun(id); v.pause(5 * ms) {
		if time.Now().After(enough) {
			v.Fatal("the request has not arrived within 90 s")
		}
	}
}

// drip is a body that never ends: a byte now and then, or nothing after the first.
type drip struct {
	ctx   context.Context
	every time.Duration
	first bool
}

func (d *drip) Read(b []byte) (int, error) {
	var next <-chan time.Time
	switch {
	case !d.first:
		d.first = true
		b[0] = 'x'
		return 1, nil
	case d.every > 0:
		next = time.After(d.every)
	}
	select {
	case <-next:
		b[0] = 'x'
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}
