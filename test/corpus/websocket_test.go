package corpus

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// serveWebSocket answers each message but those that are not "echo": these report their arrival.
func serveWebSocket(t testing.TB, d *desk, _ protocol, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		go func() { <-ctx.Done(); c.Close() }()
		for {
			kind, message, err := c.ReadMessage()
			switch {
			case err != nil:
				return
			case string(message) != "echo":
				d.arrive(string(message))
			case c.WriteMessage(kind, message) != nil:
				return
			}
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it ends by Close
	}()
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		<-done
	})
}

// webSocket has n messages answered, and sends one that is not if id is one.
func (v *visit) webSocket(n int, id string) {
	v.Helper()
	c, _, err := (&websocket.Dialer{HandshakeTimeout: 90 * time.Second}).DialContext(v.ctx, "ws://"+v.address(), nil)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { c.Close() })
	for range n {
		v.pause(20 * ms)
		if err := c.WriteMessage(websocket.TextMessage, []byte("echo")); err != nil {
			v.Fatal(err)
		}
		if _, _, err := c.ReadMessage(); err != nil {
			v.Fatal(err)
		}
	}
	if id == "" {
		return
	}
	v.pause(20 * ms)
	if err := c.WriteMessage(websocket.TextMessage, []byte(id)); err != nil {
		v.Fatal(err)
	}
	v.await(id)
}
