package corpus

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/interop/grpc_testing"
)

// outcome is what a shape's connection is once it has been driven.
type outcome string

const (
	idle outcome = "idle"
	used outcome = "in use"
)

// shape is something that a client and a server do, after which the connection is in use or idle.
type shape struct {
	name  string
	want  outcome
	drive func(v *visit)
	on    func(p protocol) bool
	// common ones must be recognised without exception.
	common bool
	// blind: the kernel does not tell (RULE.md); what it is called is shown, not asked for.
	blind bool
	// mixed: others were answered while one was in flight, as only multiplexed protocols do it.
	mixed bool
	// paced: in use because something is said all the time, which a busy machine may not do for longer than --idle-after.
	paced bool
	// alone: by net/http as server; the others by all of them.
	alone bool
}

func every(protocol) bool    { return true }
func plain(p protocol) bool  { return !p.multiplexed() }
func shared(p protocol) bool { return p.multiplexed() }
func over(p ...protocol) func(protocol) bool {
	return func(q protocol) bool {
		for _, p := range p {
			if p == q {
				return true
			}
		}
		return false
	}
}

const ms = time.Millisecond

// webShapes are those of HTTP, by the client of net/http unless they say otherwise.
var webShapes = []shape{
	{name: "a GET answered", want: idle, common: true, on: every, drive: func(v *visit) { v.call(1, 0, "GET", "/fast", "") }},
	{name: "two GETs answered", want: idle, alone: true, common: true, on: every, drive: func(v *visit) { v.call(2, 0, "GET", "/fast", "") }},
	{name: "30 GETs answered", want: idle, common: true, on: every, drive: func(v *visit) { v.call(30, 0, "GET", "/fast", "") }},
	{name: "5 GETs answered, thinking 30 ms", want: idle, alone: true, common: true, on: every, drive: func(v *visit) { v.call(5, 30*ms, "GET", "/fast", "") }},
	{name: "8 GETs answered, thinking 110 ms", want: idle, common: true, on: every, drive: func(v *visit) { v.call(8, 110*ms, "GET", "/fast", "") }},
	{name: "20 GETs answered, thinking 60 ms", want: idle, alone: true, common: true, on: every, drive: func(v *visit) { v.call(20, 60*ms, "GET", "/fast", "") }},
	{name: "a small POST answered", want: idle, common: true, on: every, drive: func(v *visit) { v.call(1, 0, "POST", "/fast", "small") }},
	{name: "10 small POSTs answered", want: idle, alone: true, common: true, on: every, drive: func(v *visit) { v.call(10, 0, "POST", "/fast", "small") }},
	{name: "8 small POSTs answered, thinking 110 ms", want: idle, common: true, on: every, drive: func(v *visit) { v.call(8, 110*ms, "POST", "/fast", "small") }},
	{name: "5 answered after 100 ms each", want: idle, common: true, on: every, drive: func(v *visit) { v.call(5, 20*ms, "GET", "/slow?ms=100", "") }},
	{name: "10 answered after 10 ms each", want: idle, alone: true, common: true, on: every, drive: func(v *visit) { v.call(10, 50*ms, "GET", "/slow?ms=10", "") }},
	{name: "a large answer read", want: idle, alone: true, on: every, drive: func(v *visit) { v.call(1, 0, "GET", "/large", "") }},
	{name: "5 large answers read", want: idle, on: every, drive: func(v *visit) { v.call(5, 30*ms, "GET", "/large", "") }},
	{name: "a POST of 100 kB answered", want: idle, alone: true, on: every, drive: func(v *visit) { v.call(1, 0, "POST", "/fast", strings.Repeat("x", 100_000)) }},
	{name: "6 streams answered at the same time", want: idle, alone: true, on: shared, drive: func(v *visit) { v.call(1, 0, "GET", "/fast", ""); v.together(6, "/fast") }},
	{name: "6 streams answered at the same time, 30 before", want: idle, alone: true, on: shared, drive: func(v *visit) { v.call(30, 0, "GET", "/fast", ""); v.together(6, "/slow?ms=20") }},
	{name: "opened and nothing said", want: idle, alone: true, on: plain, drive: func(v *visit) { v.dial() }},

	{name: "a GET in flight", want: used, on: every, drive: func(v *visit) { v.begin("GET", "/slow", nil) }},
	{name: "a GET answered, one in flight", want: used, on: every, drive: func(v *visit) {
		v.call(1, 0, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "30 GETs answered, one in flight", want: used, on: every, drive: func(v *visit) {
		v.call(30, 0, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "8 GETs answered, thinking, one in flight", want: used, alone: true, on: every, drive: func(v *visit) {
		v.call(8, 60*ms, "GET", "/fast", "")
		v.pause(60 * ms)
		v.begin("GET", "/slow", nil)
	}},
	{name: "8 GETs answered, thinking, one in flight at once", want: used, on: every, drive: func(v *visit) {
		v.call(8, 60*ms, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "5 slow ones answered, one in flight", want: used, alone: true, on: every, drive: func(v *visit) {
		v.call(5, 20*ms, "GET", "/slow?ms=100", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "3 large answers read, a GET in flight", want: used, on: every, drive: func(v *visit) {
		v.call(3, 0, "GET", "/large", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "a small POST in flight", want: used, alone: true, on: every, drive: func(v *visit) { v.begin("POST", "/slow", strings.NewReader("small")) }},
	{name: "5 small POSTs answered, one in flight", want: used, on: every, drive: func(v *visit) {
		v.call(5, 0, "POST", "/fast", "small")
		v.begin("POST", "/slow", strings.NewReader("small"))
	}},
	{name: "streaming", want: used, paced: true, on: every, drive: func(v *visit) { v.begin("GET", "/stream", nil) }},
	{name: "uploading", want: used, paced: true, alone: true, on: every, drive: func(v *visit) { v.begin("POST", "/upload", &drip{every: 50 * ms}) }},
	{name: "an upload that stopped half-way", want: used, on: plain, drive: func(v *visit) { v.begin("POST", "/upload", new(drip)) }},
	{name: "an upload that stopped half-way", want: used, alone: true, on: shared, drive: func(v *visit) { v.begin("POST", "/upload", new(drip)) }},
	{name: "10 GETs answered, an upload that stopped half-way", want: used, alone: true, on: every, drive: func(v *visit) {
		v.call(10, 0, "GET", "/fast", "")
		v.begin("POST", "/upload", new(drip))
	}},
	{name: "an answer that the client does not read", want: used, alone: true, on: plain, drive: func(v *visit) { v.begin("GET", "/endless", nil) }},

	{name: "one stream in flight, one answered meanwhile", want: used, mixed: true, on: shared, drive: func(v *visit) {
		v.begin("GET", "/slow", nil)
		v.pause(100 * ms)
		v.call(1, 0, "GET", "/fast", "")
	}},
	{name: "one stream in flight among ten, nine answered at the same time", want: used, mixed: true, on: shared, drive: func(v *visit) {
		v.begin("GET", "/slow", nil)
		v.together(9, "/fast")
	}},
	{name: "ten answered at the same time, then one stream in flight, one answered 3 ms later", want: used, mixed: true, on: shared, drive: func(v *visit) {
		v.together(10, "/fast")
		v.begin("GET", "/slow", nil)
		v.pause(3 * ms)
		v.call(1, 0, "GET", "/fast", "")
	}},
	{name: "two streams in flight, three answered meanwhile", want: used, mixed: true, alone: true, on: shared, drive: func(v *visit) {
		v.begin("GET", "/slow", nil)
		v.begin("GET", "/slow", nil)
		v.pause(100 * ms)
		v.call(3, 0, "GET", "/fast", "")
	}},
	{name: "30 answered, one stream in flight, five answered meanwhile", want: used, mixed: true, on: shared, drive: func(v *visit) {
		v.call(30, 0, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
		v.pause(100 * ms)
		v.call(5, 10*ms, "GET", "/fast", "")
	}},
	{name: "10 answered thinking, one stream in flight, ten answered meanwhile", want: used, mixed: true, on: shared, drive: func(v *visit) {
		v.call(10, 60*ms, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
		v.call(10, 60*ms, "GET", "/fast", "")
	}},
	{name: "10 answered, one stream in flight, ten answered at once", want: used, mixed: true, alone: true, on: shared, drive: func(v *visit) {
		v.call(10, 0, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
		v.call(10, 0, "GET", "/fast", "")
	}},
	{name: "5 GETs of 3 kB answered", want: idle, alone: true, on: every, drive: func(v *visit) { v.call(5, 0, "GET", "/medium", "") }},
	{name: "8 GETs of 3 kB answered, thinking 60 ms", want: idle, alone: true, on: every, drive: func(v *visit) { v.call(8, 60*ms, "GET", "/medium", "") }},
	{name: "8 GETs of 3 kB answered after 10 ms each", want: idle, alone: true, on: every, drive: func(v *visit) { v.call(8, 20*ms, "GET", "/slow?ms=10&size=3000", "") }},
	{name: "5 GETs of 3 kB answered, one in flight", want: used, alone: true, on: every, drive: func(v *visit) {
		v.call(5, 0, "GET", "/medium", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "8 GETs of 3 kB answered, thinking, one in flight", want: used, alone: true, on: every, drive: func(v *visit) {
		v.call(8, 60*ms, "GET", "/medium", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "one stream in flight, 5 GETs of 3 kB answered", want: used, alone: true, mixed: true, on: shared, drive: func(v *visit) {
		v.begin("GET", "/slow", nil)
		v.pause(100 * ms)
		v.call(5, 10*ms, "GET", "/medium", "")
	}},
	{name: "one stream in flight, large answers read meanwhile", want: used, alone: true, on: shared, mixed: true, drive: func(v *visit) {
		v.begin("GET", "/slow", nil)
		v.pause(100 * ms)
		v.call(3, 10*ms, "GET", "/large", "")
	}},
}

// firstShapes are those of a connection's first requests.
var firstShapes = []shape{
	{name: "a GET in flight", want: used, on: every, drive: func(v *visit) { v.begin("GET", "/slow", nil) }},
	{name: "a POST of 3 kB in flight", want: used, on: every, drive: func(v *visit) { v.begin("POST", "/slow", strings.NewReader(strings.Repeat("x", 3000))) }},
	{name: "a POST of 100 kB in flight", want: used, on: every, drive: func(v *visit) { v.begin("POST", "/slow", strings.NewReader(strings.Repeat("x", 100_000))) }},
	{name: "a POST of 1 MB in flight", want: used, on: every, drive: func(v *visit) { v.begin("POST", "/slow", strings.NewReader(strings.Repeat("x", 1_000_000))) }},
	{name: "a GET answered, one in flight", want: used, on: every, drive: func(v *visit) {
		v.call(1, 0, "GET", "/fast", "")
		v.begin("GET", "/slow", nil)
	}},
	{name: "a GET answered", want: idle, common: true, on: every, drive: func(v *visit) { v.call(1, 0, "GET", "/fast", "") }},
}

// handShapes are made by hand on HTTP/1.1.
var handShapes = []shape{
	{name: "half a request", want: used, on: plain, drive: func(v *visit) { fmt.Fprint(v.dial(), "GET /fast HTTP/1.1\r\nHost: ") }},
	{name: "a GET answered, half the next", want: used, on: plain, drive: func(v *visit) {
		c := v.dial()
		fmt.Fprint(c, "GET /fast HTTP/1.1\r\nHost: x\r\n\r\n")
		v.read(c, "an answer")
		fmt.Fprint(c, "GET /fast HTTP/1.1\r\nHost: ")
	}},
	{name: "a GET in flight, half closed", want: used, on: over(web1TLS), drive: func(v *visit) { // net/http ends the handler of a clear one
		c := v.dial()
		id := v.id()
		fmt.Fprintf(c, "GET /slow?deaf=yes&id=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id)
		v.await(id)
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			v.Fatal(err)
		}
	}},
	{name: "a slow reader of a large answer", want: used, paced: true, on: plain, drive: func(v *visit) {
		c := v.dial()
		id := v.id()
		fmt.Fprintf(c, "GET /endless?id=%s HTTP/1.1\r\nHost: x\r\n\r\n", id)
		v.await(id)
		v.background(func(ctx context.Context) {
			for b := make([]byte, 1000); ; {
				select {
				case <-ctx.Done():
					return
				case <-time.After(50 * ms):
				}
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		})
	}},
	{name: "two requests in one segment, the second in flight", want: used, blind: true, on: plain, drive: func(v *visit) {
		c := v.dial()
		id := v.id()
		fmt.Fprintf(c, "GET /fast HTTP/1.1\r\nHost: x\r\n\r\nGET /slow?id=%s HTTP/1.1\r\nHost: x\r\n\r\n", id)
		v.await(id)
	}},
	{name: "head and body in two segments, answered 5 times", want: idle, on: plain, drive: func(v *visit) {
		c := v.dial()
		for range 5 {
			fmt.Fprint(c, "POST /fast HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
			v.pause(5 * ms)
			fmt.Fprint(c, "small")
			v.read(c, "an answer")
		}
	}},
	{name: "opened, handshake made, nothing said", want: idle, on: over(web1TLS), drive: func(v *visit) { v.dial() }},
}

// frameShapes are made by hand on HTTP/2.
var frameShapes = []shape{
	{name: "two streams in one segment, one in flight", want: used, blind: true, on: shared, drive: func(v *visit) {
		f := v.frames()
		id := v.id()
		f.flush(func() { f.get(1, "/fast"); f.get(3, "/slow?id="+id) })
		v.await(id)
	}},
	{name: "5 GETs answered, then pings", want: idle, on: shared, drive: func(v *visit) {
		f := v.frames()
		for i := range 5 {
			f.flush(func() { f.get(uint32(2*i+1), "/fast") })
			f.answered(v)
		}
		v.background(func(ctx context.Context) { f.pings(ctx, 1500*ms) })
	}},
	{name: "pings, one stream in flight", want: used, mixed: true, on: shared, drive: func(v *visit) {
		f := v.frames()
		id := v.id()
		f.flush(func() { f.get(1, "/slow?id="+id) })
		v.await(id)
		v.background(func(ctx context.Context) { f.pings(ctx, 200*ms) })
	}},
}

// rpcShapes are those of gRPC.
var rpcShapes = []shape{
	{name: "a call answered", want: idle, common: true, on: every, drive: func(v *visit) { v.unary(v.grpc(), 1, 0, 10, 10) }},
	{name: "two calls answered", want: idle, common: true, on: every, drive: func(v *visit) { v.unary(v.grpc(), 2, 0, 10, 10) }},
	{name: "30 calls answered", want: idle, common: true, on: every, drive: func(v *visit) { v.unary(v.grpc(), 30, 0, 10, 10) }},
	{name: "5 calls answered, thinking 30 ms", want: idle, common: true, on: every, drive: func(v *visit) { v.unary(v.grpc(), 5, 30*ms, 10, 10) }},
	{name: "8 calls answered, thinking 110 ms", want: idle, common: true, on: every, drive: func(v *visit) { v.unary(v.grpc(), 8, 110*ms, 10, 10) }},
	{name: "20 calls answered, thinking 60 ms", want: idle, common: true, on: every, drive: func(v *visit) { v.unary(v.grpc(), 20, 60*ms, 100, 1000) }},
	{name: "5 large calls answered", want: idle, on: every, drive: func(v *visit) { v.unary(v.grpc(), 5, 30*ms, 100, 100_000) }},
	{name: "a call in flight", want: used, on: every, drive: func(v *visit) { v.hangUnary(v.grpc()) }},
	{name: "a call answered, one in flight", want: used, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.unary(c, 1, 0, 10, 10)
		v.hangUnary(c)
	}},
	{name: "30 calls answered, one in flight", want: used, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.unary(c, 30, 0, 10, 10)
		v.hangUnary(c)
	}},
	{name: "8 calls answered, thinking, one in flight", want: used, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.unary(c, 8, 60*ms, 10, 10)
		v.pause(60 * ms)
		v.hangUnary(c)
	}},
	{name: "one call in flight, five answered meanwhile", want: used, mixed: true, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.hangUnary(c)
		v.pause(100 * ms)
		v.unary(c, 5, 10*ms, 10, 10)
	}},
	{name: "30 calls answered, one in flight, five answered meanwhile", want: used, mixed: true, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.unary(c, 30, 0, 10, 10)
		v.hangUnary(c)
		v.unary(c, 5, 60*ms, 10, 10)
	}},
	{name: "a server's stream", want: used, paced: true, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.hang(func(ctx context.Context) {
			s, err := c.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{})
			for err == nil {
				_, err = s.Recv()
			}
		}, "goes-on", "yes")
	}},
	{name: "a client's stream", want: used, paced: true, on: every, drive: func(v *visit) {
		c := v.grpc()
		v.hang(func(ctx context.Context) {
			s, err := c.StreamingInputCall(ctx)
			for err == nil {
				err = s.Send(&grpc_testing.StreamingInputCallRequest{})
				select {
				case <-ctx.Done():
				case <-time.After(50 * ms):
				}
			}
		}, "goes-on", "yes")
	}},
}

// rawShapes are those of other protocols; each has its server.
var rawShapes = []shape{
	{name: "a greeting, nothing said", want: idle, on: every, drive: func(v *visit) { v.read(v.dial(), "hello") }},
	{name: "a greeting, a login and 5 queries", want: idle, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		for range 6 {
			fmt.Fprint(c, "echo\n")
			v.read(c, "echo\n")
		}
	}},
	{name: "a greeting, a query in flight at once", want: used, blind: true, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		id := v.id()
		fmt.Fprintf(c, "wait %s\n", id)
		v.await(id)
	}},
	{name: "a greeting, a query in flight", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		v.pause(20 * ms)
		id := v.id()
		fmt.Fprintf(c, "wait %s\n", id)
		v.await(id)
	}},
	{name: "a greeting, 5 queries, one in flight", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		for range 5 {
			fmt.Fprint(c, "echo\n")
			v.read(c, "echo\n")
		}
		id := v.id()
		fmt.Fprintf(c, "wait %s\n", id)
		v.await(id)
	}},
	{name: "a greeting, large rows, a query in flight", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		for range 5 {
			fmt.Fprint(c, "rows\n")
			v.read(c, "end\n")
		}
		id := v.id()
		fmt.Fprintf(c, "wait %s\n", id)
		v.await(id)
	}},
	{name: "a greeting, large rows", want: idle, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		for range 5 {
			fmt.Fprint(c, "rows\n")
			v.read(c, "end\n")
		}
	}},
	{name: "bytes that the app does not read", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		id := v.id()
		fmt.Fprintf(c, "deaf %s\n", id)
		v.await(id)
		fmt.Fprint(c, "unheard")
		v.pause(20 * ms)
	}},
	{name: "a full send buffer", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		id := v.id()
		fmt.Fprintf(c, "flood %s\n", id)
		v.await(id)
		v.pause(50 * ms)
	}},
	{name: "a client that half closed, and is answered", want: idle, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		fmt.Fprint(c, "keep\n")
		v.read(c, "kept\n")
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			v.Fatal(err)
		}
		v.pause(20 * ms)
	}},
	{name: "a client that half closed, a query in flight", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		v.pause(20 * ms)
		id := v.id()
		fmt.Fprintf(c, "wait %s\n", id)
		v.await(id)
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			v.Fatal(err)
		}
		v.pause(20 * ms)
	}},
	{name: "TCP keepalives after 5 queries", want: idle, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		for range 5 {
			fmt.Fprint(c, "echo\n")
			v.read(c, "echo\n")
		}
		v.keepalive(c)
	}},
	{name: "TCP keepalives, a query in flight", want: used, on: every, drive: func(v *visit) {
		c := v.dial()
		v.read(c, "hello")
		fmt.Fprint(c, "echo\n")
		v.read(c, "echo\n")
		id := v.id()
		fmt.Fprintf(c, "wait %s\n", id)
		v.await(id)
		v.keepalive(c)
	}},
}

// queueShapes are those of a server that accepts no connection.
var queueShapes = []shape{
	{name: "in the accept queue, a request sent", want: used, on: every, drive: func(v *visit) { fmt.Fprint(v.dial(), "echo\n") }},
	{name: "in the accept queue, nothing said", want: idle, on: every, drive: func(v *visit) { v.dial() }},
}

// socketShapes are those of a WebSocket.
var socketShapes = []shape{
	{name: "WebSocket, 5 messages answered", want: idle, on: every, drive: func(v *visit) { v.webSocket(5, "") }},
	{name: "WebSocket, nothing said", want: idle, on: every, drive: func(v *visit) { v.webSocket(0, "") }},
	{name: "WebSocket, a message unanswered", want: used, on: every, drive: func(v *visit) { v.webSocket(0, v.id()) }},
	{name: "WebSocket, 5 messages answered, one not", want: used, on: every, drive: func(v *visit) { v.webSocket(5, v.id()) }},
}

// background goes on until the test ends.
func (v *visit) background(f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(v.ctx)
	over := make(chan struct{})
	go func() { defer close(over); f(ctx) }()
	v.Cleanup(func() { cancel(); <-over })
}

// read reads until what has come ends with the text.
func (v *visit) read(c net.Conn, end string) {
	v.Helper()
	var all strings.Builder
	if err := c.SetReadDeadline(time.Now().Add(90 * time.Second)); err != nil {
		v.Fatal(err)
	}
	for b := make([]byte, 1<<14); !strings.HasSuffix(all.String(), end); {
		n, err := c.Read(b)
		if err != nil {
			v.Fatalf("%v after %q", err, all.String())
		}
		all.Write(b[:n])
	}
}

// keepalive has the client's kernel probe every second.
func (v *visit) keepalive(c net.Conn) {
	v.Helper()
	if err := c.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 9}); err != nil {
		v.Fatal(err)
	}
}

func (v *visit) hangUnary(c grpc_testing.TestServiceClient) {
	v.Helper()
	v.hang(func(ctx context.Context) { _, _ = c.UnaryCall(ctx, &grpc_testing.SimpleRequest{}) })
}

// framed is an HTTP/2 client by hand.
type framed struct {
	conn   net.Conn
	out    strings.Builder
	framer *http2.Framer
	heads  strings.Builder
	hpack  *hpack.Encoder
}

func (v *visit) frames() *framed {
	v.Helper()
	f := &framed{conn: v.dial()}
	f.framer = http2.NewFramer(&f.out, f.conn)
	f.hpack = hpack.NewEncoder(&f.heads)
	f.flush(func() { f.out.WriteString(http2.ClientPreface); _ = f.framer.WriteSettings() })
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			v.Fatal(err)
		}
		if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
			f.flush(func() { _ = f.framer.WriteSettingsAck() })
			return f
		}
	}
}

// flush sends what write has written in one segment.
func (f *framed) flush(write func()) {
	write()
	_, _ = io.WriteString(f.conn, f.out.String())
	f.out.Reset()
}

func (f *framed) get(stream uint32, path string) {
	f.heads.Reset()
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}} {
		_ = f.hpack.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte(f.heads.String()), EndStream: true, EndHeaders: true})
}

// answered reads until a stream ends.
func (f *framed) answered(v *visit) {
	v.Helper()
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			v.Fatal(err)
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) && frame.Header().StreamID > 0 {
			return
		}
	}
}

func (f *framed) pings(ctx context.Context, every time.Duration) {
	go func() { _, _ = io.Copy(io.Discard, f.conn) }() // until the connection is closed
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		f.flush(func() { _ = f.framer.WritePing(false, [8]byte{1}) })
	}
}
