package conns

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// site is a server and its one client, whose connection is judged.
type site struct {
	port   uint16
	url    string
	secure bool
	client *http.Client
	ctx    context.Context // ends with the test
	begun  chan struct{}   // a request that will not be answered has come
}

// protocols are what net/http speaks.
var protocols = []string{"HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2", "HTTP/2 over TLS"}

// serve starts a site.
func serve(t *testing.T, protocol string) *site {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := new(site)
	mux := http.NewServeMux()
	mux.HandleFunc("/fast", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "an answer")
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("a large answer ", 20_000))
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		s.begun <- struct{}{}
		<-ctx.Done()
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		s.begun <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		s.begun <- struct{}{}
		for tick := time.NewTicker(50 * time.Millisecond); ; {
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
		s.begun <- struct{}{}
		for chunk := make([]byte, 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	server := httptest.NewUnstartedServer(mux)
	s.ctx, s.begun, s.secure = ctx, make(chan struct{}, 8), strings.HasSuffix(protocol, "TLS")
	wanted := new(http.Protocols)
	wanted.SetHTTP1(strings.HasPrefix(protocol, "HTTP/1.1"))
	wanted.SetHTTP2(protocol == "HTTP/2 over TLS")
	wanted.SetUnencryptedHTTP2(protocol == "HTTP/2")
	server.Config.Protocols = wanted
	if s.secure {
		server.EnableHTTP2 = protocol == "HTTP/2 over TLS"
		server.StartTLS()
	} else {
		server.Start()
	}
	s.url, s.port = server.URL, portOf(server.Listener.Addr())
	transport := &http.Transport{
		Protocols: wanted, MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	s.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		cancel()
		transport.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

// dial opens a connection of the site's protocol by hand.
func (s *site) dial(t *testing.T) net.Conn {
	t.Helper()
	address := strings.TrimPrefix(strings.TrimPrefix(s.url, "http://"), "https://")
	c := dial(t, "tcp", address)
	if !s.secure {
		return c
	}
	secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := secure.HandshakeContext(s.ctx); err != nil {
		t.Fatal(err)
	}
	return secure
}

// call has n requests answered, one after the other, pausing for think in between.
func (s *site) call(t *testing.T, n int, think time.Duration, method, path, body string) {
	t.Helper()
	for i := range n {
		if i > 0 {
			s.pause(think)
		}
		request, err := http.NewRequestWithContext(s.ctx, method, s.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
}

// pause is a client's time to think.
func (s *site) pause(think time.Duration) {
	if think == 0 {
		return
	}
	select {
	case <-time.After(think):
	case <-s.ctx.Done():
	}
}

// begin sends a request whose answer does not end, and returns once the server has it.
func (s *site) begin(t *testing.T, method, path string, body io.Reader) {
	t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := body.(*drip); ok {
		d.ctx = ctx
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if answer, err := s.client.Do(request); err == nil {
			defer answer.Body.Close()
			if path == "/stream" {
				_, _ = io.Copy(io.Discard, answer.Body)
			} else {
				<-ctx.Done()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-over
	})
	<-s.begun
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

// shape is something that a client and a server do, after which the connection is in use or idle.
type shape struct {
	name  string
	drive func(t *testing.T, s *site)
	want  use
	only  string // the protocols, by prefix
	// blind: the kernel does not tell (RULE.md); whether it is called in use is shown, not asked for.
	blind bool
}

var shapes = []shape{
	{"a GET answered", func(t *testing.T, s *site) { s.call(t, 1, 0, "GET", "/fast", "") }, idle, "", false},
	{"two GETs answered", func(t *testing.T, s *site) { s.call(t, 2, 0, "GET", "/fast", "") }, idle, "", false},
	{"30 GETs answered", func(t *testing.T, s *site) { s.call(t, 30, 0, "GET", "/fast", "") }, idle, "", false},
	{"5 GETs answered, thinking", func(t *testing.T, s *site) { s.call(t, 5, 30*time.Millisecond, "GET", "/fast", "") }, idle, "", false},
	{"a small POST answered", func(t *testing.T, s *site) { s.call(t, 1, 0, "POST", "/fast", "small") }, idle, "", false},
	{"10 small POSTs answered", func(t *testing.T, s *site) { s.call(t, 10, 0, "POST", "/fast", "small") }, idle, "", false},
	{"a large answer read", func(t *testing.T, s *site) { s.call(t, 1, 0, "GET", "/large", "") }, idle, "", false},
	{"5 large answers read", func(t *testing.T, s *site) { s.call(t, 5, 0, "GET", "/large", "") }, idle, "", false},
	{"a GET in flight", func(t *testing.T, s *site) { s.begin(t, "GET", "/slow", nil) }, active, "", false},
	{"a GET answered, one in flight", func(t *testing.T, s *site) {
		s.call(t, 1, 0, "GET", "/fast", "")
		s.begin(t, "GET", "/slow", nil)
	}, active, "", false},
	{"30 GETs answered, one in flight", func(t *testing.T, s *site) {
		s.call(t, 30, 0, "GET", "/fast", "")
		s.begin(t, "GET", "/slow", nil)
	}, active, "", false},
	{"large answers read, a GET in flight", func(t *testing.T, s *site) {
		s.call(t, 3, 0, "GET", "/large", "")
		s.begin(t, "GET", "/slow", nil)
	}, active, "", false},
	{"streaming", func(t *testing.T, s *site) { s.begin(t, "GET", "/stream", nil) }, active, "", false},
	{"uploading", func(t *testing.T, s *site) {
		s.begin(t, "POST", "/upload", &drip{every: 50 * time.Millisecond})
	}, active, "", false},
	{"an upload that stopped half-way", func(t *testing.T, s *site) { s.begin(t, "POST", "/upload", new(drip)) }, active, "HTTP/1.1", false},
	{"an upload that stopped half-way", func(t *testing.T, s *site) { s.begin(t, "POST", "/upload", new(drip)) }, active, "HTTP/2", true},
	{"an answer that the client does not read", func(t *testing.T, s *site) { s.begin(t, "GET", "/endless", nil) }, active, "HTTP/1.1", false},
	{"half a request", func(t *testing.T, s *site) { fmt.Fprint(s.dial(t), "GET /fast HTTP/1.1\r\nHost: ") }, active, "HTTP/1.1", false},
	{"a GET in flight, half closed", func(t *testing.T, s *site) {
		c := s.dial(t)
		fmt.Fprint(c, "GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		<-s.begun
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}, active, "HTTP/1.1 over", false}, // net/http ends the handler of a clear one that half closes
	{"two streams in flight, three answered meanwhile", func(t *testing.T, s *site) {
		s.begin(t, "GET", "/slow", nil)
		s.begin(t, "GET", "/slow", nil)
		s.pause(100 * time.Millisecond)
		s.call(t, 3, 0, "GET", "/fast", "")
	}, active, "HTTP/2", true},
	{"one stream in flight, one answered meanwhile", func(t *testing.T, s *site) {
		s.begin(t, "GET", "/slow", nil)
		s.pause(100 * time.Millisecond)
		s.call(t, 1, 0, "GET", "/fast", "")
	}, active, "HTTP/2", true},
	{"30 answered, one stream in flight, five answered meanwhile", func(t *testing.T, s *site) {
		s.call(t, 30, 0, "GET", "/fast", "")
		s.begin(t, "GET", "/slow", nil)
		s.pause(100 * time.Millisecond)
		s.call(t, 5, 10*time.Millisecond, "GET", "/fast", "")
	}, active, "HTTP/2", true},
}

// corpusRule is quick, and gives up no request while a test lasts.
var corpusRule = Rule{IdleAfter: 400 * time.Millisecond, RequestTimeout: time.Hour}

// recognised is how many of the idle shapes must be, by protocol: the rest is doubt, and doubt is use. How segments fall
// has the last word: a quiet machine recognises 0.95, 0.9, 0.5 and 0.4 of them, a busy one less.
var recognised = map[string]float64{"HTTP/1.1": 0.8, "HTTP/1.1 over TLS": 0.6, "HTTP/2": 0.25, "HTTP/2 over TLS": 0.2}

// A connection in use is never called idle, and most of those that have their answer are recognised: by a counter that
// looked all along, as it does while draining, and by one that looks once it is over.
func TestShapes(t *testing.T) {
	var (
		guard sync.Mutex
		found = map[string][2]int{} // by protocol: idle shapes called idle, idle shapes
		seen  [2]int                // blind shapes called in use, blind shapes
	)
	note := func(protocol string, s shape, called use) {
		guard.Lock()
		defer guard.Unlock()
		hit := 0
		if called == s.want {
			hit = 1
		}
		if s.blind {
			seen = [2]int{seen[0] + hit, seen[1] + 1}
		} else if s.want == idle {
			found[protocol] = [2]int{found[protocol][0] + hit, found[protocol][1] + 1}
		}
	}
	t.Run("each", func(t *testing.T) {
		for _, protocol := range protocols {
			for _, shape := range shapes {
				if !strings.HasPrefix(protocol, shape.only) {
					continue
				}
				for _, looked := range []string{"looked at afterwards", "looked at all along", "at rest before"} {
					t.Run(protocol+"/"+shape.name+"/"+looked, func(t *testing.T) {
						t.Parallel()
						s := serve(t, protocol)
						c := counter(t, Netlink, corpusRule)
						stop := func() {}
						if looked != "looked at afterwards" {
							stop = lookOn(t, c, s.port)
						}
						if looked == "at rest before" {
							s.call(t, 3, 0, "GET", "/fast", "")
							s.pause(corpusRule.IdleAfter * 3 / 2)
						}
						shape.drive(t, s)
						stop()
						called := called(t, c, s)
						note(protocol, shape, called)
						switch {
						case called == shape.want:
						case shape.want == active && !shape.blind:
							t.Errorf("in use, and called idle:\n%s", explain(t, s.port))
						default:
							t.Logf("not told by the kernel:\n%s", explain(t, s.port))
						}
					})
				}
			}
		}
	})
	t.Logf("of %d connections in use where the kernel does not tell, %d were called so", seen[1], seen[0])
	for _, protocol := range protocols {
		got := found[protocol]
		t.Logf("%s: of %d idle connections %d were recognised", protocol, got[1], got[0])
		if float64(got[0]) < recognised[protocol]*float64(got[1]) {
			t.Errorf("%s: too few idle connections recognised", protocol)
		}
	}
}

// lookOn counts every 10 ms, as the drain does when few are left, until stop, which waits for it.
func lookOn(t *testing.T, c Counter, port uint16) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		for again := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; {
			if _, err := c.Count(ctx, []uint16{port}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			select {
			case <-again.C:
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		looking.Wait()
	}
}

// called looks as the drain does until the connection is called idle, or for long enough to see that it is not.
func called(t *testing.T, c Counter, s *site) use {
	t.Helper()
	for enough := time.After(corpusRule.IdleAfter * 7 / 2); ; {
		tally := count(t, c, s.port)
		if tally.Active == 0 {
			if tally.Open != 1 {
				t.Fatalf("one connection is counted as %+v", tally)
			}
			return idle
		}
		select {
		case <-time.After(min(tally.NextIdle, 100*time.Millisecond) + time.Millisecond):
		case <-enough:
			return active
		}
	}
}

// explain shows what the kernel tells of the connections to port.
func explain(t *testing.T, port uint16) string {
	t.Helper()
	c := counter(t, Netlink, corpusRule).(*netlinkCounter)
	var all strings.Builder
	err := c.dump(t.Context(), openStates, true, []uint16{port}, all.Reset, func(m *message) {
		fmt.Fprintf(&all, "%+v\n", m.sample)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
