// Package sockdiag speaks NETLINK_SOCK_DIAG, by which Linux tells a network namespace's TCP
// sockets, in the kernel's own names: include/uapi/linux/{netlink,sock_diag,inet_diag,tcp}.h. It
// needs no privilege.
//
// Nothing is collected: each socket is parsed as its datagram arrives, so memory does not grow with
// their number.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The lengths of the structs, and the attributes of a socket.
const (
	sizeofNlmsghdr    = 16
	sizeofInetDiagMsg = 72
	sizeofSockID      = 48

	inetDiagInfo     = 2  // INET_DIAG_INFO
	inetDiagCgroupID = 21 // INET_DIAG_CGROUP_ID, Linux 5.8
)

// Where a datagram of one message has the ports of its socket, in network order.
const (
	SourcePortAt      = sizeofNlmsghdr + 4
	DestinationPortAt = SourcePortAt + 2
)

var native = binary.NativeEndian

var (
	// ErrMalformed is a message that is none of the kernel's.
	ErrMalformed = errors.New("malformed answer of the kernel")
	// ErrInterrupted: the socket table changed while it was dumped, so that sockets may be missing.
	ErrInterrupted = errors.New("the socket table changed while it was read")
)

// SockID is struct inet_diag_sockid, which names a socket to the kernel.
type SockID [sizeofSockID]byte

// SourcePort is the socket's own port.
func (id *SockID) SourcePort() uint16 { return binary.BigEndian.Uint16(id[:]) }

// DestinationPort is the peer's port.
func (id *SockID) DestinationPort() uint16 { return binary.BigEndian.Uint16(id[2:]) }

// Source returns the 16 bytes of the socket's own address, of which IPv4 has four.
func (id *SockID) Source() [16]byte { return [16]byte(id[4:]) }

// Destination returns those of the peer's address.
func (id *SockID) Destination() [16]byte { return [16]byte(id[20:]) }

// Cookie is the socket's number, which no other has in the life of the machine.
func (id *SockID) Cookie() uint64 {
	return uint64(native.Uint32(id[44:]))<<32 | uint64(native.Uint32(id[40:]))
}

// Message is one socket: struct inet_diag_msg and the attributes that are known here.
type Message struct {
	Family, State, Retrans     uint8
	ID                         SockID
	Rqueue, Wqueue, UID, Inode uint32
	// CgroupID is that of the process that opened it, 0 before Linux 5.8.
	CgroupID uint64
	// Info is struct tcp_info as far as this kernel has it.
	Info     unix.TCPInfo
	infoSize uintptr
}

// The ends of fields of tcp_info, which grew over the years.
const (
	EndOfLastAckRecv   = unsafe.Offsetof(unix.TCPInfo{}.Last_ack_recv) + 4  // Linux 2.4
	EndOfTotalRetrans  = unsafe.Offsetof(unix.TCPInfo{}.Total_retrans) + 4  // 2.6
	EndOfBytesReceived = unsafe.Offsetof(unix.TCPInfo{}.Bytes_received) + 8 // 4.1
	EndOfSegsIn        = unsafe.Offsetof(unix.TCPInfo{}.Segs_in) + 4        // 4.2
	EndOfDataSegsOut   = unsafe.Offsetof(unix.TCPInfo{}.Data_segs_out) + 4  // 4.6
	EndOfBytesRetrans  = unsafe.Offsetof(unix.TCPInfo{}.Bytes_retrans) + 8  // 4.19
)

// HasInfo reports whether this kernel's tcp_info reaches to that end of a field.
func (m *Message) HasInfo(end uintptr) bool { return m.infoSize >= end }

// Milliseconds is a time of tcp_info.
func Milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

// Parse calls each for every socket in b, a whole datagram, and reports whether the dump that it
// belongs to is complete. The message is reused between calls.
func Parse(b []byte, m *Message, each func(*Message)) (done bool, err error) {
	for len(b) >= sizeofNlmsghdr {
		length := int(native.Uint32(b))
		kind, flags := native.Uint16(b[4:]), native.Uint16(b[6:])
		if length < sizeofNlmsghdr || length > len(b) {
			return false, fmt.Errorf("%w: a message of %d bytes in %d", ErrMalformed, length, len(b))
		}
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return false, ErrInterrupted
		}
		body := b[sizeofNlmsghdr:length]
		switch kind {
		case unix.NLMSG_DONE:
			return true, parseErrno(body, true)
		case unix.NLMSG_ERROR:
			return false, parseErrno(body, false)
		case unix.NLMSG_OVERRUN:
			return false, ErrInterrupted
		case unix.SOCK_DIAG_BY_FAMILY, tcpDiagGetSock:
			if !m.parse(body) {
				return false, fmt.Errorf("%w: a socket of %d bytes", ErrMalformed, len(body))
			}
			each(m)
		}
		b = b[min(align(length), len(b)):]
	}
	return false, nil
}

// parseErrno reads the negative errno that ends a dump. Old kernels end a good one without.
func parseErrno(b []byte, optional bool) error {
	if len(b) < 4 {
		if optional {
			return nil
		}
		return fmt.Errorf("%w: an error of %d bytes", ErrMalformed, len(b))
	}
	if errno := int32(native.Uint32(b)); errno < 0 {
		return syscall.Errno(-errno)
	}
	return nil
}

// parse reads struct inet_diag_msg and its attributes, of which unknown ones are passed over.
func (m *Message) parse(b []byte) bool {
	if len(b) < sizeofInetDiagMsg {
		return false
	}
	m.Family, m.State, m.Retrans = b[0], b[1], b[3]
	m.ID = SockID(b[4:])
	m.Rqueue, m.Wqueue = native.Uint32(b[56:]), native.Uint32(b[60:])
	m.UID, m.Inode = native.Uint32(b[64:]), native.Uint32(b[68:])
	m.CgroupID, m.infoSize = 0, 0
	for a := b[sizeofInetDiagMsg:]; len(a) >= unix.SizeofRtAttr; {
		length := int(native.Uint16(a))
		if length < unix.SizeofRtAttr || length > len(a) {
			return false
		}
		value := a[unix.SizeofRtAttr:length]
		switch native.Uint16(a[2:]) {
		case inetDiagInfo:
			info := (*[unsafe.Sizeof(m.Info)]byte)(unsafe.Pointer(&m.Info))
			m.infoSize = uintptr(copy(info[:], value))
			clear(info[m.infoSize:])
		case inetDiagCgroupID:
			if len(value) >= 8 {
				m.CgroupID = native.Uint64(value)
			}
		}
		a = a[min(align(length), len(a)):]
	}
	return true
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
