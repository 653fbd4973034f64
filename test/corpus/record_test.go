package corpus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recordEvery is how closely a recorder looks.
const recordEvery = 10 * time.Millisecond

// moment is what the kernel told of a connection's server end, when it had changed.
type moment struct {
	at             time.Duration // since the recording began
	until          time.Duration // the last look that found it unchanged
	state          uint8
	unread, unsent uint32
	info           unix.TCPInfo
}

// same reports whether nothing but time has passed.
func (m moment) same(o moment) bool { return m.columns() == o.columns() }

// columns are the figures that do not move by themselves.
func (m moment) columns() string {
	i := &m.info
	return fmt.Sprint(m.state, m.unread, m.unsent, i.Bytes_received, i.Bytes_sent, i.Data_segs_in, i.Data_segs_out, i.Segs_in, i.Segs_out)
}

// line is the moment in the recorded form: from when to when, in milliseconds; state, unread and unsent bytes; milliseconds
// since the last data sent, received, and acknowledgement; bytes received and sent; data segments received and sent; all
// segments sent; the estimate of the client's largest segment.
func (m moment) line() string {
	i := &m.info
	return fmt.Sprintln(m.at.Milliseconds(), m.until.Milliseconds(), m.state, m.unread, m.unsent, i.Last_data_sent, i.Last_data_recv, i.Last_ack_recv,
		i.Bytes_received, i.Bytes_sent, i.Data_segs_in, i.Data_segs_out, i.Segs_out, i.Rcv_mss)
}

// recorder looks at all connections to some ports and keeps what changed.
type recorder struct {
	began time.Time
	stop  func()

	mu      sync.Mutex
	moments map[uint16]map[uint16][]moment // by own port and the client's
}

func record(t testing.TB) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{began: time.Now(), moments: make(map[uint16]map[uint16][]moment)}
	var looking sync.WaitGroup
	looking.Go(func() {
		for tick := time.NewTicker(recordEvery); ctx.Err() == nil; {
			if err := r.look(); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	r.stop = func() { cancel(); looking.Wait() }
	return r
}

// of begins to record the connections to port.
func (r *recorder) of(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moments[port] = make(map[uint16][]moment)
}

// now is the recording's time.
func (r *recorder) now() time.Duration { return time.Since(r.began) }

// take ends the recording of port and returns its connections.
func (r *recorder) take(port uint16) map[uint16][]moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.moments[port]
	delete(r.moments, port)
	return m
}

func (r *recorder) look() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		native := binary.NativeEndian
		b := make([]byte, 72)
		native.PutUint32(b, 72)
		native.PutUint16(b[4:], 20) // SOCK_DIAG_BY_FAMILY
		native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		b[16], b[17], b[18] = family, unix.IPPROTO_TCP, 1<<1 // tcp_info
		native.PutUint32(b[20:], 1<<1|1<<4|1<<8|1<<9|1<<11)
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for buf, done := make([]byte, 64<<10), false; !done; {
			at := r.now() // before: a machine that has other work to do may let us wait after it
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return err
			}
			for m := buf[:n]; len(m) >= 16; m = m[(native.Uint32(m)+3)&^3:] {
				switch native.Uint16(m[4:]) {
				case unix.NLMSG_DONE:
					done = true
				case unix.NLMSG_ERROR:
					return errors.New("the kernel refuses to dump its sockets")
				default:
					r.saw(at, m[16:native.Uint32(m)])
				}
				if done {
					break
				}
			}
		}
	}
	return nil
}

// saw takes struct inet_diag_msg and its attributes.
func (r *recorder) saw(at time.Duration, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own, peer := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	of := r.moments[own]
	if of == nil {
		return
	}
	native := binary.NativeEndian
	m := moment{at: at, until: at, state: b[1], unread: native.Uint32(b[56:]), unsent: native.Uint32(b[60:])}
	for a := b[72:]; len(a) >= 4; a = a[min(int(native.Uint16(a)+3)&^3, len(a)):] {
		if native.Uint16(a[2:]) == 2 {
			copy((*[unsafe.Sizeof(m.info)]byte)(unsafe.Pointer(&m.info))[:], a[4:native.Uint16(a)])
		}
	}
	if all := of[peer]; len(all) == 0 || !all[len(all)-1].same(m) {
		of[peer] = append(all, m)
	} else {
		all[len(all)-1].until = at
	}
}

// text is the recording of one connection.
func text(all []moment) string {
	var s strings.Builder
	for _, m := range all {
		s.WriteString(m.line())
	}
	return s.String()
}

// whole reports whether the recording shows what happened: it goes on for a while after done, and no look came
// so late that what it told was older than the look before it.
func whole(all []moment, done time.Duration) bool {
	const late = 30 * time.Millisecond
	for i := 1; i < len(all); i++ {
		was, is := &all[i-1], &all[i]
		since := time.Hour
		if is.info.Bytes_received != was.info.Bytes_received {
			since = min(since, time.Duration(is.info.Last_data_recv)*time.Millisecond)
		}
		if is.info.Bytes_sent != was.info.Bytes_sent {
			since = min(since, time.Duration(is.info.Last_data_sent)*time.Millisecond)
		}
		if since < time.Hour && is.at-since < was.until-late {
			return false
		}
	}
	return len(all) > 0 && all[len(all)-1].until >= done+200*time.Millisecond
}
