package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// BufferSize is as much as the kernel puts into one datagram of a dump (af_netlink.c,
	// netlink_recvmsg).
	BufferSize = 32 << 10
	// dumpRetries is how often a dump that the kernel calls inconsistent is begun again.
	dumpRetries = 3
	// receiveTimeout is how long a receive blocks before the context is asked. A dump is made in
	// the caller's own system call, so only a broken kernel ever waits.
	receiveTimeout = 100 * time.Millisecond
	// destroyGroups tell the end of each TCP socket of the namespace.
	destroyGroups = 1<<(unix.SKNLGRP_INET_TCP_DESTROY-1) | 1<<(unix.SKNLGRP_INET6_TCP_DESTROY-1)
)

// Conn is a netlink socket. A method is called by one goroutine at a time, but Close and Filter by
// any.
type Conn struct {
	file *os.File
	raw  syscall.RawConn
}

// Open opens a socket in the network namespace of the calling thread.
func Open() (*Conn, error) {
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return FromFile(os.NewFile(uintptr(fd), "netlink"))
}

// FromFile makes a Conn of a file that does not block.
func FromFile(f *os.File) (*Conn, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &Conn{f, raw}, nil
}

// Close frees the socket and ends a Wait.
func (c *Conn) Close() error { return c.file.Close() }

// SyscallConn returns the socket itself.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Subscribe has the kernel tell the end of each TCP socket from now on.
func (c *Conn) Subscribe() error {
	return c.control(func(fd int) error {
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: destroyGroups})
	})
}

// SetReceiveBuffer asks for so large a queue; the kernel gives what net.core.rmem_max allows.
func (c *Conn) SetReceiveBuffer(bytes int) {
	_ = c.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes) })
}

// Filter has the kernel drop what the program rejects; nil: nothing. Where it refuses the program,
// nothing is dropped.
func (c *Conn) Filter(program []unix.SockFilter) {
	_ = c.control(func(fd int) error {
		if program == nil {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
}

// Receive receives a datagram that has come: EAGAIN without one, ENOBUFS where some were lost.
func (c *Conn) Receive(buf []byte) (n int, err error) {
	failed := c.raw.Control(func(fd uintptr) { n, err = ReceiveFrom(fd, buf) })
	if failed != nil {
		return 0, failed
	}
	return n, err
}

// Wait calls f until it returns true, again when something has come. The error says that the socket
// is closed. f receives from the descriptor by ReceiveFrom.
func (c *Conn) Wait(f func(fd uintptr) bool) error { return c.raw.Read(f) }

// ReceiveFrom is Receive within Wait.
func ReceiveFrom(fd uintptr, buf []byte) (int, error) {
	for {
		if n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT); err != unix.EINTR {
			return n, err
		}
	}
}

func (c *Conn) control(f func(fd int) error) error {
	var failed error
	err := c.raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// Dumper dumps sockets. Its buffers are kept, so one dump is made after the other.
type Dumper struct {
	buf     []byte
	request []byte
	message Message
	// separately is set once the kernel has refused to tell both families at once.
	separately bool
}

// Dump calls each for the TCP sockets of both families: an IPv4 client of a dual-stack listener is
// an IPv6 socket. at is when the kernel told. Before it begins anew because the kernel called an
// answer inconsistent, it calls restart.
func (d *Dumper) Dump(ctx context.Context, r Request, restart func(), each func(at time.Time, m *Message)) error {
	for range dumpRetries {
		err := d.dump(ctx, r, restart, each)
		if !errors.Is(err, ErrInterrupted) {
			return err
		}
		restart()
	}
	return ErrInterrupted
}

// dump asks in the manner that spares the kernel one of two walks over the sockets of the whole
// machine, if it can.
func (d *Dumper) dump(ctx context.Context, r Request, restart func(), each func(time.Time, *Message)) error {
	if !d.separately {
		err := d.ask(ctx, r, unix.AF_UNSPEC, each)
		if errno := syscall.Errno(0); !errors.As(err, &errno) {
			return err
		}
		d.separately = true
		restart()
	}
	if err := d.ask(ctx, r, unix.AF_INET, each); err != nil {
		return err
	}
	err := d.ask(ctx, r, unix.AF_INET6, each)
	if errors.Is(err, unix.ENOENT) {
		return nil // a kernel without IPv6
	}
	return err
}

// ask makes one request on a socket of its own, so that nothing of an earlier one, given up
// half-way, is left in it.
func (d *Dumper) ask(ctx context.Context, r Request, family uint8, each func(time.Time, *Message)) error {
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(receiveTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return fmt.Errorf("bound a receive: %w", err)
	}
	d.request = r.append(d.request[:0], family)
	if err := unix.Sendto(fd, d.request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask for sockets: %w", err)
	}
	if d.buf == nil {
		d.buf = make([]byte, BufferSize)
	}
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		at := time.Now()
		// With MSG_TRUNC the kernel tells the datagram's full length.
		size, _, err := unix.Recvfrom(fd, d.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ENOBUFS):
			return ErrInterrupted
		case err != nil:
			return fmt.Errorf("receive sockets: %w", err)
		case size == 0 || size > len(d.buf):
			return fmt.Errorf("%w: a datagram of %d bytes", ErrMalformed, size)
		}
		done, err := Parse(d.buf[:size], &d.message, func(m *Message) { each(at, m) })
		if done || err != nil {
			return err
		}
	}
}

// Lookup asks for the one socket that a dump told of by id, on a Conn that is not subscribed. The
// message is valid until the next call. The error is ENOENT or ESTALE if there is none any more.
func (d *Dumper) Lookup(c *Conn, family uint8, id SockID) (*Message, error) {
	d.request = appendLookup(d.request[:0], family, id)
	err := c.control(func(fd int) error {
		return unix.Sendto(fd, d.request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		return nil, err
	}
	if d.buf == nil {
		d.buf = make([]byte, BufferSize)
	}
	size, err := c.Receive(d.buf) // the answer is made while it is asked for
	if err != nil {
		return nil, err
	}
	found := false
	_, err = Parse(d.buf[:size], &d.message, func(m *Message) { found = found || m.ID.Cookie() == id.Cookie() })
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, unix.ENOENT
	}
	return &d.message, nil
}
