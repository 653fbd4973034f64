package conns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/sockdiag"
)

// destroyEvents listens for the kernel's word that a socket ended. One goroutine reads; close ends it and waits.
type destroyEvents struct {
	told chan struct{} // not buffered, see listen
	conn *sockdiag.Conn

	choosing sync.Mutex // orders changes of chosen
	chosen   atomic.Pointer[chosenSockets]
	wakes    atomic.Uint64 // how often the kernel had something for us
	broken   atomic.Bool   // the socket is closed, since the kernel does not tell any more
	log      *slog.Logger

	closed  chan struct{}
	closing sync.Once
	running sync.WaitGroup
}

// chosenSockets are the ends that are told: of connections to some ports and of listening sockets on others.
type chosenSockets struct{ connections, listeners portSet }

// openDestroyEvents starts to listen for ends, none of which is chosen yet.
func openDestroyEvents(log *slog.Logger) (*destroyEvents, error) {
	conn, err := sockdiag.Open()
	if err != nil {
		return nil, err
	}
	e := &destroyEvents{told: make(chan struct{}), closed: make(chan struct{}), log: log, conn: conn}
	e.choose(&chosenSockets{}) // before joining: a busy app's connections must not wake the sidecar
	if err := conn.Subscribe(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for ends: %w", err)
	}
	e.running.Go(e.listen)
	return e, nil
}

// watch chooses the ends of connections to ports, besides those of listening sockets.
func (e *destroyEvents) watch(ports []uint16) {
	e.choosing.Lock()
	defer e.choosing.Unlock()
	next := &chosenSockets{listeners: e.chosen.Load().listeners}
	next.connections.set(ports, nil)
	e.choose(next)
}

// watchListeners chooses the ends of listening sockets on ports, and reports whether one of them was not chosen before:
// if it ended meanwhile, nothing tells.
func (e *destroyEvents) watchListeners(ports *portSet) (more bool) {
	e.choosing.Lock()
	defer e.choosing.Unlock()
	before := e.chosen.Load()
	if before.listeners == *ports {
		return false
	}
	next := &chosenSockets{connections: before.connections, listeners: *ports}
	e.choose(next)
	return !before.listeners.contains(ports)
}

// choose has the kernel drop what is not chosen before it wakes us. Where it cannot (a filter is refused, or there are
// too many ports for one) they are dropped here.
func (e *destroyEvents) choose(c *chosenSockets) {
	e.chosen.Store(c)
	e.conn.Filter(destroyFilter(c.connections.list(), c.listeners.list()))
}

// destroyFilter is the classic BPF program that passes chosen ends; nil if there are too many ports for its jumps of a byte.
//
// A listening socket has no remote port. Neither has a blocking socket whose connection was refused, and one that was
// never connected: an app that redials a dead backend must not wake us, hence the listeners' own ports.
func destroyFilter(connections, listeners []uint16) []unix.SockFilter {
	const (
		loadPort = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS // in network order, as ports are
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		result   = unix.BPF_RET | unix.BPF_K
	)
	tests := len(connections) + len(listeners)
	if tests > 240 {
		return nil
	}
	program := []unix.SockFilter{{Code: loadPort, K: sockdiag.SourcePortAt}}
	// Behind the tests: reject, load, test, reject, accept.
	to := func(behind int) uint8 { return uint8(tests - len(program) + behind) }
	for _, p := range connections {
		program = append(program, unix.SockFilter{Code: equal, K: uint32(p), Jt: to(4)})
	}
	for _, p := range listeners {
		program = append(program, unix.SockFilter{Code: equal, K: uint32(p), Jt: to(1)})
	}
	return append(program,
		unix.SockFilter{Code: result, K: 0},
		unix.SockFilter{Code: loadPort, K: sockdiag.DestinationPortAt},
		unix.SockFilter{Code: equal, K: 0, Jt: 1},
		unix.SockFilter{Code: result, K: 0},
		unix.SockFilter{Code: result, K: 1 << 16})
}

// listen tells each batch of ends, until the file is closed. An error that is not a lost message stays: it
// says so, tells once more, so that whoever waits looks for himself from now on, and closes the file.
//
// It hands over to a receiver that is ready and reads nothing meanwhile: a receiver that takes its time between two looks
// costs no wake-ups, the kernel's queue fills and then drops, and what it dropped is told by ENOBUFS.
func (e *destroyEvents) listen() {
	buf := make([]byte, 4<<10)
	for {
		var tell bool
		var broken error
		err := e.conn.Wait(func(fd uintptr) bool {
			var ended bool
			ended, tell, broken = e.empty(fd, buf)
			if ended {
				e.wakes.Add(1)
			}
			return ended || tell
		})
		if err != nil {
			return // closed
		}
		if broken != nil {
			e.broken.Store(true)
			e.conn.Close()
			e.log.Warn("the kernel does not tell any more when connections end: they are looked at from time to time", "error", broken)
		}
		if !tell {
			continue
		}
		select {
		case e.told <- struct{}{}:
		case <-e.closed:
			return
		}
		if broken != nil {
			return
		}
	}
}

// empty reads until nothing is left; until then, after an overflow, the kernel queues nothing new. It reports whether
// anything came, whether that is to be told, and the error that will stay.
func (e *destroyEvents) empty(fd uintptr, buf []byte) (came, tell bool, broken error) {
	for {
		n, err := sockdiag.ReceiveFrom(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return came, tell, nil
		case errors.Is(err, unix.ENOBUFS): // some were lost
			came, tell = true, true
		case err != nil:
			return true, true, err
		default:
			came = true
			tell = tell || e.watched(buf[:n])
		}
	}
}

// watched reports whether the end of a socket is to be told. What is not understood is.
func (e *destroyEvents) watched(b []byte) bool {
	if len(b) < sockdiag.DestinationPortAt+2 {
		return true
	}
	local, remote := binary.BigEndian.Uint16(b[sockdiag.SourcePortAt:]), binary.BigEndian.Uint16(b[sockdiag.DestinationPortAt:])
	c := e.chosen.Load()
	return c.connections.has(local) || remote == 0 && c.listeners.has(local)
}

// close ends listen and waits for it. Told is not closed, so that a receiver does not take that for ends.
func (e *destroyEvents) close() error {
	var err error
	e.closing.Do(func() {
		close(e.closed)
		err = e.conn.Close()
	})
	e.running.Wait()
	if e.broken.Load() {
		return nil // it was closed before
	}
	return err
}
