package conns

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"prestop/drain/conns/connstest"
	"prestop/drain/conns/inuse"
)

// flight is a conversation over a Pod's link that ends with a request in flight, or with none.
type flight struct {
	name string
	// tls is the server's configuration; nil: it speaks in clear.
	tls *tls.Config
	// plain: the server speaks in clear to whoever begins so, on the same port. raw: both ends
	// speak without a protocol.
	plain, raw bool
	// late is by how much the server's process reads late, as in a container that is throttled.
	late time.Duration
	// talk is the client's part. It returns when everything is as it shall stay.
	talk func(v *caller)
	idle bool
}

// caller is the client's side of a flight.
type caller struct {
	*testing.T
	ctx     context.Context
	outside *connstest.Outside
	port    uint16
	app     *flightApp
	client  *http.Client
	scheme  string
	calls   sync.WaitGroup
}

// flightApp answers /quick with so many bytes at once, and /slow when the test is over.
type flightApp struct {
	release chan struct{}
	arrived chan string
	conns   chan net.Conn // accepted, of a raw flight
}

func (a *flightApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if r.URL.Path == "/slow" {
		a.arrived <- r.Proto
		<-a.release
		return
	}
	size, _ := strconv.Atoi(r.FormValue("size"))
	_, _ = w.Write(bytes.Repeat([]byte("x"), size))
}

// with makes the caller's client one of HTTP, by that configuration of TLS and protocol.
func (v *caller) with(config *tls.Config, protocol string) {
	wanted := new(http.Protocols)
	wanted.SetHTTP1(protocol == "HTTP/1.1")
	wanted.SetHTTP2(protocol == "HTTP/2" && config != nil)
	wanted.SetUnencryptedHTTP2(protocol == "HTTP/2" && config == nil)
	v.scheme = "http"
	if config != nil {
		v.scheme = "https"
		config = config.Clone()
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // the server sends tickets to who takes them
	}
	transport := &http.Transport{Protocols: wanted, TLSClientConfig: config, MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return v.outside.Dial(ctx, v.port) }}
	v.client = &http.Client{Transport: transport}
}

// ask makes a request and reads its answer.
func (v *caller) ask(path string, body int) error {
	method, content := "GET", io.Reader(nil)
	if body > 0 {
		method, content = "POST", bytes.NewReader(make([]byte, body))
	}
	r, err := http.NewRequestWithContext(v.ctx, method, fmt.Sprintf("%s://%s:%d%s", v.scheme, v.outside.Address, v.port, path), content)
	if err != nil {
		return err
	}
	answer, err := v.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// quick has n requests answered, one after the other.
func (v *caller) quick(n, size int) {
	for range n {
		if err := v.ask(fmt.Sprintf("/quick?size=%d", size), 0); err != nil {
			v.Errorf("%v", err)
		}
	}
}

// slow begins a request, with so long a body, and returns when the app has it.
func (v *caller) slow(body int) {
	v.calls.Go(func() { _ = v.ask("/slow", body) }) // it ends with the test
	select {
	case <-v.app.arrived:
	case <-v.ctx.Done():
		v.Errorf("the request has not arrived")
	}
}

// pause is a client's time to think.
func (v *caller) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-v.ctx.Done():
	}
}

// raw opens a connection on which both ends speak without a protocol: say has one of them send so
// many bytes, and the other read them.
func (v *caller) raw() (say func(fromClient bool, bytes int)) {
	c, err := v.outside.Dial(v.ctx, v.port)
	if err != nil {
		v.Errorf("%v", err)
		return func(bool, int) {}
	}
	s := <-v.app.conns
	v.Cleanup(func() { c.Close(); s.Close() })
	return func(fromClient bool, n int) {
		from, to := c, s
		if !fromClient {
			from, to = s, c
		}
		if _, err := from.Write(make([]byte, n)); err != nil {
			v.Errorf("%v", err)
		}
		if _, err := io.ReadFull(to, make([]byte, n)); err != nil {
			v.Errorf("%v", err)
		}
	}
}

// chain is a certificate with n in its chain, of so many bytes each at least.
func chain(t *testing.T, n, size int) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Certificate{PrivateKey: key}
	for i := range n {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i)), Subject: pkix.Name{CommonName: "orders.shop.svc.cluster.local"},
			NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"orders"},
			ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 57264, 9}, Value: make([]byte, size)}},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificate = append(c.Certificate, der)
	}
	return c
}

// flights are conversations over HTTP and TLS as clients and servers of today have them, and
// others.
func flights(t *testing.T) []flight {
	long, short := chain(t, 3, 500), chain(t, 1, 10)
	server := func(c tls.Certificate, mutual tls.ClientAuthType) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{c}, ClientAuth: mutual, NextProtos: []string{"h2", "http/1.1"}}
	}
	oldShare := []tls.CurveID{tls.X25519}
	type greeting struct {
		name           string
		server, client *tls.Config
	}
	var greetings []greeting
	for _, g := range []greeting{
		{"TLS 1.3", server(short, tls.RequestClientCert), &tls.Config{}},
		{"TLS 1.3, tickets with the first flight", server(short, tls.NoClientCert), &tls.Config{}},
		{"TLS 1.3, a long chain", server(long, tls.RequestClientCert), &tls.Config{}},
		{"TLS 1.3, a short ClientHello", server(long, tls.RequestClientCert), &tls.Config{MinVersion: tls.VersionTLS13, CurvePreferences: oldShare}},
		{"TLS 1.2", server(short, tls.RequestClientCert), &tls.Config{MaxVersion: tls.VersionTLS12}},
		{"mutual TLS, one certificate", server(short, tls.RequireAnyClientCert), &tls.Config{Certificates: []tls.Certificate{short}}},
		{"mutual TLS, three certificates", server(long, tls.RequireAnyClientCert), &tls.Config{Certificates: []tls.Certificate{long}}},
		{"mutual TLS, an old key share", server(long, tls.RequireAnyClientCert), &tls.Config{Certificates: []tls.Certificate{long}, CurvePreferences: oldShare}},
	} {
		g.client.InsecureSkipVerify, g.client.ServerName = true, "orders"
		greetings = append(greetings, g)
	}
	greetings = append(greetings, greeting{"in clear", nil, nil})

	var all []flight
	add := func(f flight) { all = append(all, f) }
	for _, g := range greetings {
		for _, late := range []time.Duration{0, 15 * time.Millisecond} {
			for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
				web := func(name string, talk func(v *caller)) {
					add(flight{name: fmt.Sprintf("%s, %s, read %v late: %s", protocol, g.name, late, name), tls: g.server, late: late,
						talk: func(v *caller) { v.with(g.client, protocol); talk(v) }})
				}
				web("the first request", func(v *caller) { v.slow(0) })
				web("the first request, of 3 kB", func(v *caller) { v.slow(3000) })
				if late > 0 {
					continue
				}
				web("the first request, of 100 kB", func(v *caller) { v.slow(100_000) })
				web("the second", func(v *caller) { v.quick(1, 100); v.slow(0) })
				web("the 20th", func(v *caller) { v.quick(19, 100); v.slow(0) })
				if protocol == "HTTP/1.1" {
					continue
				}
				for _, size := range []int{5, 2000, 20_000} {
					web(fmt.Sprintf("a slow one, then a quick one of %d bytes", size), func(v *caller) {
						v.slow(0)
						v.pause(3 * time.Millisecond)
						v.quick(1, size)
					})
					web(fmt.Sprintf("20 quick ones, a slow one, 5 quick ones of %d bytes", size), func(v *caller) {
						v.quick(20, size)
						v.slow(0)
						v.quick(5, size)
					})
					web(fmt.Sprintf("two slow ones among ten, of %d bytes", size), func(v *caller) {
						v.quick(1, size)
						v.slow(0)
						for range 8 {
							v.calls.Go(func() { v.quick(1, size) })
						}
						v.slow(0)
					})
				}
			}
		}
	}
	for _, size := range []int{40, 200, 2000, 20_000} {
		for _, gap := range []time.Duration{0, 3 * time.Millisecond, 100 * time.Millisecond} {
			for _, before := range []int{0, 1, 20} {
				for _, beside := range []int{1, 3} {
					add(flight{name: fmt.Sprintf("a slow call, %d quick ones of %d bytes after %v, %d before", beside, size, gap, before), raw: true, talk: func(v *caller) {
						say := v.raw()
						for range before {
							say(true, 120)
							say(false, size)
						}
						if before > 0 {
							v.pause(1200 * time.Millisecond) // it is at rest for a few looks
						}
						say(true, 120)
						for range beside {
							v.pause(gap)
							say(true, 120)
							say(false, size)
						}
					}})
				}
			}
		}
	}
	both := server(long, tls.RequestClientCert)
	add(flight{name: "TLS on a port that speaks in clear, too", tls: both, plain: true, talk: func(v *caller) {
		for range 3 {
			v.with(nil, "HTTP/1.1")
			v.quick(1, 100)
			v.client.CloseIdleConnections()
		}
		v.pause(300 * time.Millisecond)
		v.with(greetings[0].client, "HTTP/1.1")
		v.slow(0)
	}})

	quiet := func(name string, talk func(v *caller)) { add(flight{name: name, idle: true, raw: true, talk: talk}) }
	web := func(name string, talk func(v *caller)) {
		add(flight{name: "HTTP/1.1, " + name, idle: true, talk: func(v *caller) { v.with(nil, "HTTP/1.1"); talk(v) }})
	}
	quiet("connected, and nothing sent", func(v *caller) { v.raw() })
	web("one request answered", func(v *caller) { v.quick(1, 100) })
	web("one request, an answer of 20 kB", func(v *caller) { v.quick(1, 20_000) })
	web("a POST of 100 bytes", func(v *caller) { _ = v.ask("/quick", 100) })
	web("40 requests answered", func(v *caller) { v.quick(40, 100) })
	quiet("one request, an answer of 40 bytes", func(v *caller) { say := v.raw(); say(true, 40); say(false, 40) })
	quiet("22 calls answered", func(v *caller) {
		say := v.raw()
		for range 22 {
			say(true, 120)
			say(false, 200)
		}
	})
	return all
}

// serve serves a flight on a listener of the Pod until the test ends.
func (f *flight) serve(t *testing.T, l net.Listener) *flightApp {
	a := &flightApp{release: make(chan struct{}), arrived: make(chan string, 100), conns: make(chan net.Conn, 10)}
	if f.late > 0 {
		l = lateListener{l, f.late}
	}
	if f.raw {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				a.conns <- c
			}
		}()
		t.Cleanup(func() { l.Close() })
		return a
	}
	wanted := new(http.Protocols)
	wanted.SetHTTP1(true)
	wanted.SetHTTP2(true)
	wanted.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: a, Protocols: wanted, ErrorLog: log.New(io.Discard, "", 0)}
	switch {
	case f.plain:
		go s.Serve(bothListener{l, f.tls})
	case f.tls != nil:
		s.TLSConfig = f.tls.Clone()
		go s.ServeTLS(l, "", "")
	default:
		go s.Serve(l)
	}
	t.Cleanup(func() { close(a.release); s.Close() })
	return a
}

// lateListener makes what the server's process reads come late.
type lateListener struct {
	net.Listener
	late time.Duration
}

type lateConn struct {
	net.Conn
	late time.Duration
}

func (l lateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return lateConn{c, l.late}, nil
}

func (c lateConn) Read(b []byte) (int, error) {
	time.Sleep(c.late)
	return c.Conn.Read(b)
}

// bothListener speaks TLS with the clients that do.
type bothListener struct {
	net.Listener
	config *tls.Config
}

func (l bothListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		c.Close()
		return l.Accept()
	}
	c = &begunConn{c, first}
	if first[0] == 22 { // a record of the handshake
		config := l.config.Clone()
		config.NextProtos = []string{"http/1.1"}
		return tls.Server(lateConn{c, 15 * time.Millisecond}, config), nil
	}
	return c, nil
}

// begunConn is one of which something was read.
type begunConn struct {
	net.Conn
	read []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.read) > 0 {
		n := copy(b, c.read)
		c.read = c.read[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// looker judges all connections to some ports as a drain does.
type looker struct {
	*netlinkCounter
	rule  inuse.Rule
	epoch time.Time
	past  map[uint64]inuse.Memory
}

// look calls each for every connection, with what the rule says.
func (l *looker) look(t *testing.T, ports *portSet, each func(m *message, v inuse.Verdict)) {
	t.Helper()
	at := time.Since(l.epoch)
	err := l.dump(t.Context(), openStates, true, nil, func() {}, func(m *message) {
		if !ports.has(m.localPort) {
			return
		}
		m.At = at
		v, now := l.rule.Judge(&m.Sample, l.past[m.cookie])
		l.past[m.cookie] = now
		each(m, v)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Over a Pod's link no request in flight is ever called idle, whether the connection was looked at
// all along or only afterwards; and what TCP tells to be idle is.
func TestNoRequestInFlightIsCalledIdleOverALink(t *testing.T) {
	for i, mtu := range []int{1500, 1450} {
		t.Run(fmt.Sprintf("MTU %d", mtu), func(t *testing.T) { flyOver(t, i, mtu) })
	}
}

func flyOver(t *testing.T, number, mtu int) {
	connstest.Pod(t)
	outside, err := connstest.NewOutside(number)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(outside.Close)
	if err := outside.SetMTU(mtu); err != nil {
		t.Fatal(err)
	}
	rule := Rule{IdleAfter: 500 * time.Millisecond, RequestTimeout: time.Hour}
	c := counter(t, Netlink, rule).(*netlinkCounter)
	all := flights(t)
	var ports portSet
	of := make(map[uint16]*flight)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var talking, calls sync.WaitGroup
	few := make(chan struct{}, 40) // at a time
	for i := range all {
		f := &all[i]
		l, err := net.Listen("tcp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		port := portOf(l.Addr())
		ports.add(port)
		of[port] = f
		v := &caller{T: t, ctx: ctx, outside: outside, port: port, app: f.serve(t, l)}
		talking.Go(func() {
			few <- struct{}{}
			f.talk(v)
			<-few
			calls.Go(v.calls.Wait)
		})
	}
	talked := make(chan struct{})
	go func() { talking.Wait(); close(talked) }()
	along := &looker{c, rule.inUse(), time.Now(), map[uint64]inuse.Memory{}}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for over := false; !over; {
		along.look(t, &ports, func(*message, inuse.Verdict) {})
		select {
		case <-tick.C:
		case <-talked:
			over = true
		}
	}
	afterwards := &looker{c, rule.inUse(), time.Now(), map[uint64]inuse.Memory{}}
	isIdle := map[string]map[uint16]string{"looked at all along": {}, "looked at afterwards": {}}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); <-tick.C {
		for when, l := range map[string]*looker{"looked at all along": along, "looked at afterwards": afterwards} {
			seen := 0
			l.look(t, &ports, func(m *message, v inuse.Verdict) {
				seen++
				if v.Class == inuse.Idle {
					isIdle[when][m.localPort] = fmt.Sprintf("%+v, %+v", m.Sample, l.past[m.cookie])
				}
			})
			if seen != len(all) {
				t.Fatalf("%d connections of %d flights", seen, len(all))
			}
		}
	}
	for port, f := range of {
		for when, idle := range isIdle {
			if sample, is := idle[port]; is && !f.idle {
				t.Errorf("%s: in flight, and %s it is called idle: %s", f.name, when, sample)
			} else if !is && f.idle {
				t.Errorf("%s: idle, and %s it is not recognised", f.name, when)
			}
		}
	}
	cancel()
	calls.Wait()
}
