package world

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// proxyUID is istio-proxy's.
const proxyUID = 1337

// mesh is a service mesh's proxy in the Pod: all that comes in or goes out is redirected to it.
type mesh struct {
	w         *world
	listeners []*listener
	mu        sync.Mutex
	legs      map[net.Conn]bool
	down      spans
}

// newMesh redirects the Pod's connections, and starts the proxy.
func newMesh(w *world) (*mesh, error) {
	for _, rule := range []string{
		"PREROUTING -p tcp --dport " + hookPort + " -j RETURN",
		"PREROUTING -p tcp -j REDIRECT --to-ports 15006",
		"OUTPUT -m owner --uid-owner 1337 -j RETURN",
		"OUTPUT -o lo -j RETURN",
		"OUTPUT -p tcp -j REDIRECT --to-ports 15001",
	} {
		if err := w.pod.run("iptables", "-w -t nat -A "+rule); err != nil {
			return nil, err
		}
	}
	m := &mesh{w: w, legs: map[net.Conn]bool{}}
	m.down.set(true)
	return m, m.start()
}

// start starts the proxy, unless it runs.
func (m *mesh) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.down.is() {
		return nil
	}
	for port, from := range map[int]string{15006: "127.0.0.6", 15001: "", 15021: "", 15090: ""} {
		l, err := m.w.pod.listen(proxyUID, fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		m.listeners = append(m.listeners, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go m.carry(c.(*openConn), from)
			}
		}()
	}
	m.down.set(false)
	return nil
}

// carry connects to where a connection was meant to go, and passes on what both sides say.
func (m *mesh) carry(c *openConn, from string) {
	defer c.Close()
	to, err := meant(c.TCPConn)
	if err != nil {
		return
	}
	leg, err := m.w.pod.dial(proxyUID, from, to)
	if err != nil {
		return
	}
	defer leg.Close()
	m.mu.Lock()
	if m.down.is() {
		m.mu.Unlock()
		return
	}
	m.legs[leg] = true
	m.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(leg.(*net.TCPConn), c.TCPConn); leg.(*net.TCPConn).CloseWrite() })
	both.Go(func() { io.Copy(c.TCPConn, leg.(*net.TCPConn)); c.CloseWrite() })
	both.Wait()
	m.mu.Lock()
	delete(m.legs, leg)
	m.mu.Unlock()
}

// meant is where a redirected connection was meant to go.
func meant(c *net.TCPConn) (string, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	var to *unix.IPv6Mreq // as large as what comes
	controlErr := raw.Control(func(fd uintptr) {
		to, err = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST)
	})
	if controlErr != nil {
		return "", controlErr
	}
	if err != nil {
		return "", err
	}
	a := to.Multiaddr
	return fmt.Sprintf("%d.%d.%d.%d:%d", a[4], a[5], a[6], a[7], int(a[2])<<8|int(a[3])), nil
}

// end ends the proxy with every connection.
func (m *mesh) end() {
	m.mu.Lock()
	if m.down.is() {
		m.mu.Unlock()
		return
	}
	m.w.say("the mesh's proxy ends")
	m.down.set(true)
	listeners, legs := m.listeners, m.legs
	m.listeners, m.legs = nil, map[net.Conn]bool{}
	m.mu.Unlock()
	for _, l := range listeners {
		l.kill()
	}
	for c := range legs {
		c.Close()
	}
}

func (m *mesh) isDown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down.is()
}

// wasDown reports whether the proxy was down at some time between from and to.
func (m *mesh) wasDown(from, to time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down.touches(from, to)
}
