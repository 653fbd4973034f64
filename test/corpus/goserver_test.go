package corpus

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// desk is where requests that are not answered report that they have arrived, by their id.
type desk struct {
	mu      sync.Mutex
	arrived map[string]chan struct{}
}

// begun returns the channel that is closed when the request with that id has arrived.
func (d *desk) begun(id string) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.arrived == nil {
		d.arrived = make(map[string]chan struct{})
	}
	c := d.arrived[id]
	if c == nil {
		c = make(chan struct{})
		d.arrived[id] = c
	}
	return c
}

func (d *desk) arrive(id string) {
	c := d.begun(id)
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

// handler is the app of the Go servers and the one behind nginx and Envoy.
//
//	/fast    reads the body and answers at once
//	/large   answers 300 kB
//	/medium  answers 3 kB
//	/slow    reads the body and does not answer; ms=N: after so many milliseconds, with size=N bytes more; deaf=yes: also when the client has left
//	/upload  reads the body to its end, and answers
//	/stream  an event every 50 ms; n=N: so many, then nothing more is said but the answer does not end
//	/endless writes without end
func (d *desk) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/fast", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "an answer")
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("a large answer ", 20_000))
	})
	mux.HandleFunc("/medium", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 3000))
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		d.arrive(r.FormValue("id"))
		gone := r.Context().Done()
		if r.FormValue("deaf") != "" {
			gone = nil
		}
		var enough <-chan time.Time
		if ms, err := strconv.Atoi(r.FormValue("ms")); err == nil {
			enough = time.After(time.Duration(ms) * time.Millisecond)
		}
		select {
		case <-enough:
			size, _ := strconv.Atoi(r.FormValue("size"))
			fmt.Fprint(w, "at last"+strings.Repeat("x", size))
		case <-ctx.Done():
		case <-gone:
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		d.arrive(r.URL.Query().Get("id"))
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "thank you")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		d.arrive(r.FormValue("id"))
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			fmt.Fprintln(w, "an event")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		d.arrive(r.FormValue("id"))
		for chunk := make([]byte, 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	return mux
}

// protocol is what a site speaks.
type protocol string

const (
	web1    protocol = "HTTP/1.1"
	web1TLS protocol = "HTTP/1.1 over TLS"
	web2    protocol = "HTTP/2"
	web2TLS protocol = "HTTP/2 over TLS"
	grpc1   protocol = "gRPC"
	grpcTLS protocol = "gRPC over TLS"
	raw     protocol = "raw"

	web1Mutual protocol = "HTTP/1.1 over mutual TLS"
	web2Mutual protocol = "HTTP/2 over mutual TLS"
	web1TLS12  protocol = "HTTP/1.1 over TLS 1.2"
	web2Old    protocol = "HTTP/2 over TLS, old key share"
)

func (p protocol) secure() bool { return strings.Contains(string(p), "TLS") }

// multiplexed reports whether several requests share a connection.
func (p protocol) multiplexed() bool { return !strings.HasPrefix(string(p), "HTTP/1") && p != raw }

func (p protocol) protocols() *http.Protocols {
	wanted := new(http.Protocols)
	wanted.SetHTTP1(strings.HasPrefix(string(p), "HTTP/1.1"))
	wanted.SetHTTP2(strings.HasPrefix(string(p), "HTTP/2") && p.secure())
	wanted.SetUnencryptedHTTP2(p == web2)
	return wanted
}

func (p protocol) scheme() string {
	if p.secure() {
		return "https"
	}
	return "http"
}

// serveGo serves the handler on a listener until the test is over.
func serveGo(t testing.TB, d *desk, p protocol, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t).pair}}
	if strings.Contains(string(p), "mutual") {
		config.Certificates[0], config.ClientAuth = certificate(t).chain, tls.RequireAnyClientCert
	}
	server := &http.Server{Handler: d.handler(ctx), Protocols: p.protocols(), ErrorLog: log.New(io.Discard, "", 0), TLSConfig: config}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if p.secure() {
			_ = server.ServeTLS(l, "", "") // it ends by Close
		} else {
			_ = server.Serve(l)
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		<-done
	})
}

// serveLate is serveGo in a process that reads late, as one in a container that is throttled.
func serveLate(t testing.TB, d *desk, p protocol, l net.Listener) { serveGo(t, d, p, lateListener{l}) }

type lateListener struct{ net.Listener }

type lateConn struct{ net.Conn }

func (l lateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return lateConn{c}, err
}

func (c lateConn) Read(b []byte) (int, error) {
	time.Sleep(15 * time.Millisecond)
	return c.Conn.Read(b)
}
