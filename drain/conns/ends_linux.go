package conns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Groups of NETLINK_SOCK_DIAG that tell the end of each TCP socket of the namespace (enum sknetlink_groups).
const destroyGroups = 1<<(1-1) | 1<<(3-1) // SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY

// ends listens for the kernel's word that a socket ended. One goroutine reads; close ends it and waits.
type ends struct {
	told chan struct{} // not buffered, see listen
	file *os.File
	raw  syscall.RawConn

	watching sync.Mutex // orders watch
	ports    atomic.Pointer[portSet]
	wakes    atomic.Uint64 // how often the kernel had something for us

	closed  chan struct{}
	closing sync.Once
	running sync.WaitGroup
}

// openEnds starts to listen for the ends of listening sockets.
func openEnds() (*ends, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a socket for ends: %w", err)
	}
	e := &ends{told: make(chan struct{}), closed: make(chan struct{}), file: os.NewFile(uintptr(fd), "netlink")}
	if e.raw, err = e.file.SyscallConn(); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("open a socket for ends: %w", err)
	}
	e.watch(nil) // before joining: a busy app's connections must not wake the sidecar
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: destroyGroups}); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("listen for ends: %w", err)
	}
	e.running.Go(e.listen)
	return e, nil
}

// watch tells the ends of listening sockets and of connections to ports. The kernel drops the rest before it wakes us;
// where it cannot (a filter is refused, or there are too many ports for one) they are dropped here.
func (e *ends) watch(ports []uint16) {
	e.watching.Lock()
	defer e.watching.Unlock()
	var set portSet
	set.set(ports, nil)
	e.ports.Store(&set)
	filter := endFilter(set.list())
	_ = e.raw.Control(func(fd uintptr) {
		if filter == nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			return
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
}

// endFilter is the classic BPF program for watch; nil if there are too many ports for its jumps of one byte.
func endFilter(ports []uint16) []unix.SockFilter {
	const (
		loadHalf = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS // in network order, as ports are
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		result   = unix.BPF_RET | unix.BPF_K
	)
	if len(ports) > 250 {
		return nil
	}
	n := uint8(len(ports))
	program := []unix.SockFilter{
		{Code: loadHalf, K: dportAt},
		{Code: equal, K: 0, Jt: n + 2}, // no remote port: a listening socket (or one that never connected)
		{Code: loadHalf, K: sportAt},
	}
	for i, p := range ports {
		program = append(program, unix.SockFilter{Code: equal, K: uint32(p), Jt: n - uint8(i)})
	}
	return append(program, unix.SockFilter{Code: result, K: 0}, unix.SockFilter{Code: result, K: 1 << 16})
}

// listen tells each batch of ends, until the file is closed.
//
// It hands over to a receiver that is ready and reads nothing meanwhile: a receiver that takes its time between two looks
// costs no wake-ups, the kernel's queue fills and then drops, and what it dropped is told by ENOBUFS.
func (e *ends) listen() {
	buf := make([]byte, 4<<10)
	for {
		var tell bool
		err := e.raw.Read(func(fd uintptr) bool {
			var ended bool
			ended, tell = e.empty(int(fd), buf)
			if ended {
				e.wakes.Add(1)
			}
			return ended || tell
		})
		if err != nil {
			return // closed
		}
		if !tell {
			continue
		}
		select {
		case e.told <- struct{}{}:
		case <-e.closed:
			return
		}
	}
}

// empty reads until nothing is left; until then, after an overflow, the kernel queues nothing new. It reports whether
// anything came, and whether that is to be told.
func (e *ends) empty(fd int, buf []byte) (came, tell bool) {
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return came, tell
		case err != nil: // ENOBUFS: some were lost
			came, tell = true, true
		default:
			came = true
			tell = tell || e.watched(buf[:n])
		}
	}
}

// watched reports whether the end of a socket is to be told. What is not understood is.
func (e *ends) watched(b []byte) bool {
	if len(b) < dportAt+2 {
		return true
	}
	local, remote := binary.BigEndian.Uint16(b[sportAt:]), binary.BigEndian.Uint16(b[dportAt:])
	return remote == 0 || e.ports.Load().has(local)
}

// close ends listen and waits for it. Told is not closed, so that a receiver does not take that for ends.
func (e *ends) close() error {
	var err error
	e.closing.Do(func() {
		close(e.closed)
		err = e.file.Close()
	})
	e.running.Wait()
	return err
}
