//go:build linux

// Package connstest makes a Pod's network and the connections to it, by the hundred thousand, for tests and benchmarks. It
// needs root and the command ip.
package connstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// /proc/net is that of the main thread, which outlives a goroutine that was locked to it: no test may run on it, which only
// the time of initialization can see to.
func init() { runtime.LockOSThread() }

// Pod moves the calling goroutine, and what it starts, into a network namespace of its own, as a Pod has it. Its thread dies
// with it.
func Pod(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := isolate(); err != nil {
		t.Fatal(err)
	}
}

// isolate moves the calling thread into a new network namespace.
func isolate() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace (run as root): %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(up))); errno != 0 {
		return fmt.Errorf("raise the loopback interface: %w", errno)
	}
	return nil
}

// Outside is a place in another network namespace, from which the Pod is reached at Address: where its clients are.
type Outside struct {
	// Address is the Pod's.
	Address string
	// Namespace is the file of its network namespace, for nsenter.
	Namespace string
	number    int
	calls     chan func()
}

// outsides is how many places a Pod may have.
const outsides = 250

// NewOutside joins a place to the calling goroutine's namespace, which has none of that number, from 0 to 249, yet.
func NewOutside(number int) (*Outside, error) {
	if number < 0 || number >= outsides {
		return nil, fmt.Errorf("no place has the number %d", number)
	}
	o := &Outside{Address: fmt.Sprintf("10.%d.0.1", number), number: number, calls: make(chan func())}
	threads := make(chan int)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := isolate(); err != nil {
			failed <- err
			return
		}
		threads <- unix.Gettid()
		for f := range o.calls {
			f()
		}
	}()
	var thread int
	select {
	case thread = <-threads:
	case err := <-failed:
		return nil, err
	}
	o.Namespace = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), thread)
	inside, outside := fmt.Sprintf("in%d", number), fmt.Sprintf("out%d", number)
	err := ips(
		fmt.Sprintf("link add %s type veth peer name %s netns %d", inside, outside, thread),
		fmt.Sprintf("address add %s/24 dev %s", o.Address, inside),
		fmt.Sprintf("link set %s up", inside),
	)
	if err == nil {
		o.Do(func() {
			err = ips(
				fmt.Sprintf("address add 10.%d.0.2/24 dev %s", number, outside),
				fmt.Sprintf("link set %s up", outside),
				fmt.Sprintf("route add local 10.%d.128.0/17 dev lo", number),
			)
		})
	}
	if err == nil {
		// By one gateway: the kernel knows a thousand neighbours at most.
		err = ips(fmt.Sprintf("route add 10.%d.128.0/17 via 10.%d.0.2", number, number))
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// SetMTU bounds what a segment to and from the place holds, as the link of a Pod does.
func (o *Outside) SetMTU(mtu int) error {
	err := ips(fmt.Sprintf("link set in%d mtu %d", o.number, mtu))
	if err == nil {
		o.Do(func() { err = ips(fmt.Sprintf("link set out%d mtu %d", o.number, mtu)) })
	}
	return err
}

// Dial connects from there to a port of the Pod.
func (o *Outside) Dial(ctx context.Context, port uint16) (c net.Conn, err error) {
	o.Do(func() {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", o.Address, port))
	})
	return c, err
}

// Do runs f there and waits for it. Sockets that f itself opens, not another goroutine, are there.
func (o *Outside) Do(f func()) {
	done := make(chan struct{})
	o.calls <- func() { defer close(done); f() }
	<-done
}

// Close gives the place up, with the connections that are left in it.
func (o *Outside) Close() { close(o.calls) }

// ips runs the command ip with each of the arguments.
func ips(all ...string) error {
	for _, args := range all {
		out, err := exec.Command("sh", "-c", "exec ip "+args).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s (of iproute2): %w: %s", args, err, out)
		}
	}
	return nil
}
