package world

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a network namespace. It ends with its last socket, process and descriptor, so nothing of
// it is left when the test process dies.
type netns struct{ file *os.File }

// home is the namespace of the test process.
var home = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/self/ns/net") })

// newNetns makes a namespace whose loopback interface is up. It needs root.
func newNetns() (*netns, error) {
	back, err := home()
	if err != nil {
		return nil, err
	}
	n := &netns{}
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (run as root): %w", err)
		}
		defer unix.Setns(int(back.Fd()), unix.CLONE_NEWNET)
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return command("ip", "link set lo up")
	})
	return n, err
}

// onThread calls f on a thread of its own, which ends with it if f leaves it in another state.
func onThread(f func() error) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		failed <- f()
	}()
	return <-failed
}

// do calls f in the namespace as a user. What f opens or starts itself is there.
func (n *netns) do(uid int, f func() error) error {
	back, err := home()
	if err != nil {
		return err
	}
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the namespace: %w", err)
		}
		defer unix.Setns(int(back.Fd()), unix.CLONE_NEWNET)
		if uid != 0 {
			if _, err := unix.SetfsuidRetUid(uid); err != nil {
				return err
			}
			defer unix.SetfsuidRetUid(0)
		}
		return f()
	})
}

func (n *netns) close() { n.file.Close() }

// run runs a command in the namespace.
func (n *netns) run(name, args string) error {
	return n.do(0, func() error { return command(name, args) })
}

func command(name, args string) error {
	out, err := exec.Command("sh", "-c", "exec "+name+" "+args).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args, err, out)
	}
	return nil
}

// dial connects from the namespace, as a user. An empty from leaves the address to the kernel.
func (n *netns) dial(uid int, from, to string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: 15 * time.Second, KeepAlive: -1}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	err = n.do(uid, func() (err error) { c, err = d.Dial("tcp", to); return err })
	return c, err
}

// listener is a listening socket of a user in the namespace, with the connections that it accepted.
type listener struct {
	net.Listener
	accepted chan net.Conn

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

// listen opens a listening socket. The connections belong to the same user.
func (n *netns) listen(uid int, address string) (*listener, error) {
	l := &listener{accepted: make(chan net.Conn), open: map[net.Conn]bool{}}
	err := n.do(uid, func() (err error) { l.Listener, err = net.Listen("tcp", address); return err })
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(l.accepted)
		_ = onThread(func() error {
			if uid != 0 {
				if _, err := unix.SetfsuidRetUid(uid); err != nil {
					return err
				}
				defer unix.SetfsuidRetUid(0)
			}
			for {
				c, err := l.Listener.Accept()
				if err != nil {
					return err
				}
				l.accepted <- c
			}
		})
	}()
	return l, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, ok := <-l.accepted
	if !ok {
		return nil, net.ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	o := &openConn{c.(*net.TCPConn), l}
	l.open[o] = true
	return o, nil
}

// kill closes the socket and every connection, as the end of their process does.
func (l *listener) kill() {
	l.Listener.Close()
	l.mu.Lock()
	l.closed = true
	open := l.open
	l.open = map[net.Conn]bool{}
	l.mu.Unlock()
	for c := range open {
		c.(*openConn).TCPConn.Close()
	}
	for c := range l.accepted {
		c.Close()
	}
}

// openConn is a connection that its listener knows of.
type openConn struct {
	*net.TCPConn
	of *listener
}

func (c *openConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.TCPConn.Close()
}
