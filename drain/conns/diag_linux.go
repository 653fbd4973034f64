package conns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/inuse"
)

// The messages of sock_diag: what is asked, and what comes back. include/uapi/linux/{netlink,inet_diag,tcp}.h.
// Everything is in the host's byte order, but ports and addresses.
const (
	headerLen  = 16 // struct nlmsghdr
	sockidLen  = 48 // struct inet_diag_sockid
	messageLen = 72 // struct inet_diag_msg
	socketAt   = 4  // struct inet_diag_sockid in inet_diag_msg
	sportAt    = headerLen + socketAt
	dportAt    = sportAt + 2

	stateSynSent = 2 // nobody's connection yet, but a client's end
	stateListen  = 10

	tcpDiagGetSock   = 18 // TCPDIAG_GETSOCK: struct inet_diag_req, of 60 bytes
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY: struct inet_diag_req_v2, of 56
	attrInfo         = 2  // INET_DIAG_INFO
	attrCgroup       = 21 // INET_DIAG_CGROUP_ID, Linux 5.8
	attrBytecode     = 1  // INET_DIAG_REQ_BYTECODE

	bytecodeJump       = 1 // INET_DIAG_BC_JMP
	bytecodeSourceFrom = 2 // INET_DIAG_BC_S_GE
	bytecodeSourceTo   = 3 // INET_DIAG_BC_S_LE
	// filteredPorts is for how many ports the kernel filters; its work grows with them, for each socket, ours does not.
	filteredPorts = 32
)

var (
	native = binary.NativeEndian

	errMalformed   = errors.New("malformed answer of the kernel")
	errInterrupted = errors.New("the socket table changed while it was read")
)

// openStates are the states in which a connection may count. FIN_WAIT2 and TIME_WAIT are none of them:
// everything was delivered and acknowledged. SYN_RECV is reported for what is kept as NEW_SYN_RECV, so both
// are asked for.
const openStates = 1<<inuse.Established | 1<<inuse.SynRecv | 1<<inuse.NewSynRecv | 1<<inuse.CloseWait |
	1<<inuse.FinWait1 | 1<<inuse.Closing | 1<<inuse.LastAck

// appendDump appends the request for all TCP sockets of a family in states, with tcp_info if info, and with ports only
// those that have one as their own. AF_UNSPEC asks for both families in the manner of Linux before 3.3, which takes one
// walk over the sockets where the present manner takes two.
func appendDump(b []byte, family uint8, states uint32, info bool, ports []uint16) []byte {
	var extensions uint8
	if info {
		extensions = 1 << (attrInfo - 1)
	}
	start := len(b)
	b = native.AppendUint32(b, 0) // the length, below
	kind := uint16(sockDiagByFamily)
	if family == unix.AF_UNSPEC {
		kind = tcpDiagGetSock
	}
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = native.AppendUint32(b, 0) // sequence: one request for each socket
	b = native.AppendUint32(b, 0) // to the kernel
	if family == unix.AF_UNSPEC {
		b = append(b, family, 0, 0, extensions)
		b = append(b, make([]byte, sockidLen)...) // any socket
		b = native.AppendUint32(b, states)
		b = native.AppendUint32(b, 0)
	} else {
		b = append(b, family, unix.IPPROTO_TCP, extensions, 0)
		b = native.AppendUint32(b, states)
		b = append(b, make([]byte, sockidLen)...)
	}
	if len(ports) > 0 && len(ports) <= filteredPorts {
		code := appendPortFilter(nil, ports)
		b = native.AppendUint16(b, uint16(4+len(code)))
		b = native.AppendUint16(b, attrBytecode)
		b = append(b, code...)
	}
	native.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendLookup appends the request for the one socket that a dump told of by id.
func appendLookup(b []byte, family uint8, id [sockidLen]byte) []byte {
	const size = headerLen + 8 + sockidLen
	b = native.AppendUint32(b, size)
	b = native.AppendUint16(b, sockDiagByFamily)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence, and to the kernel
	b = append(b, family, unix.IPPROTO_TCP, 1<<(attrInfo-1), 0)
	b = native.AppendUint32(b, 1<<32-1) // in any state
	return append(b, id[:]...)
}

// appendPortFilter appends the program that accepts sockets whose own port is one of ports. An operation is struct
// inet_diag_bc_op: code, where to go if true, where if false, relative to itself; past the end by 4 rejects. A comparison
// is followed by its operand. The kernel accepts the program only if every jump lands on an operation.
func appendPortFilter(b []byte, ports []uint16) []byte {
	const compare, jump = 8, 4
	const block = 2*compare + jump
	end := len(ports)*block - jump // the last block falls off the end, which accepts
	op := func(code, yes uint8, no int) { b = native.AppendUint16(append(b, code, yes), uint16(no)) }
	for i, port := range ports {
		at := i * block
		next := at + block
		if i == len(ports)-1 {
			next = end + 4
		}
		op(bytecodeSourceFrom, compare, next-at)
		op(0, 0, int(port))
		op(bytecodeSourceTo, compare, next-at-compare)
		op(0, 0, int(port))
		if i < len(ports)-1 {
			op(bytecodeJump, jump, end-at-2*compare)
		}
	}
	return b
}

// message is one socket as a dump tells it.
type message struct {
	connection
	inuse.Sample
	cookie uint64
	inode  uint32 // 0: no process holds it, as in the accept queue or after a close
	owner  owner
	// opened: this end opened the connection (Linux 4.19; else false).
	opened bool
	// family and id name the socket to the kernel.
	family uint8
	id     [sockidLen]byte
	// segments were received, those without data too (Linux 4.2). They wrap.
	segments uint32
}

// listener is the listening socket that a message tells of.
func (m *message) listener() Listener {
	id := uint64(m.inode)
	if id == 0 {
		id = m.cookie
	}
	return Listener{
		Port: m.localPort, ID: id, Address: netip.AddrFrom16(m.local).Unmap(),
		UID: m.owner.uid, HasUID: true, Cgroup: m.owner.cgroup,
	}
}

// open reports whether data may go both ways.
func (m *message) open() bool { return m.State == inuse.Established || m.State == inuse.CloseWait }

// opening reports whether the handshake is not over.
func (m *message) opening() bool { return m.State == inuse.SynRecv || m.State == inuse.NewSynRecv }

// parseDump calls each for every socket in b, a whole datagram of a dump's answer, and reports whether the dump is
// complete. The message is reused between calls.
func parseDump(b []byte, m *message, each func(*message)) (done bool, err error) {
	for len(b) >= headerLen {
		length := int(native.Uint32(b))
		kind, flags := native.Uint16(b[4:]), native.Uint16(b[6:])
		if length < headerLen || length > len(b) {
			return false, fmt.Errorf("%w: a message of %d bytes in %d", errMalformed, length, len(b))
		}
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return false, errInterrupted
		}
		body := b[headerLen:length]
		switch kind {
		case unix.NLMSG_DONE:
			return true, parseErrno(body, true)
		case unix.NLMSG_ERROR:
			return false, parseErrno(body, false)
		case unix.NLMSG_OVERRUN:
			return false, errInterrupted
		case sockDiagByFamily, tcpDiagGetSock:
			if !parseMessage(body, m) {
				return false, fmt.Errorf("%w: a socket of %d bytes", errMalformed, len(body))
			}
			each(m)
		}
		b = b[min(align4(length), len(b)):]
	}
	return false, nil
}

// parseErrno reads the negative errno that ends a dump. Old kernels end a good one without.
func parseErrno(b []byte, optional bool) error {
	if len(b) < 4 {
		if optional {
			return nil
		}
		return fmt.Errorf("%w: an error of %d bytes", errMalformed, len(b))
	}
	if errno := int32(native.Uint32(b)); errno < 0 {
		return syscall.Errno(-errno)
	}
	return nil
}

// parseMessage reads struct inet_diag_msg and its attributes, of which unknown ones are passed over.
func parseMessage(b []byte, m *message) bool {
	if len(b) < messageLen {
		return false
	}
	*m = message{}
	m.State, m.SynAckRetransmits = b[1], b[3]
	id := b[socketAt:]
	m.localPort, m.remotePort = binary.BigEndian.Uint16(id), binary.BigEndian.Uint16(id[2:])
	if b[0] == unix.AF_INET {
		m.local, m.remote = mapped([4]byte(id[4:])), mapped([4]byte(id[20:]))
	} else {
		m.local, m.remote = [16]byte(id[4:]), [16]byte(id[20:])
	}
	m.cookie = uint64(native.Uint32(id[44:]))<<32 | uint64(native.Uint32(id[40:]))
	m.Unread, m.Unacked = native.Uint32(b[56:]), native.Uint32(b[60:])
	m.owner.uid = native.Uint32(b[64:])
	m.inode = native.Uint32(b[68:])
	m.family, m.id = b[0], [sockidLen]byte(id)
	for a := b[messageLen:]; len(a) >= 4; {
		length := int(native.Uint16(a))
		if length < 4 || length > len(a) {
			return false
		}
		switch native.Uint16(a[2:]) {
		case attrInfo:
			info := a[4:length]
			parseInfo(info, &m.Sample)
			m.opened = openedHere(info)
			if len(info) >= 144 {
				m.segments = native.Uint32(info[140:])
			}
		case attrCgroup:
			if length >= 4+8 {
				m.owner.cgroup = native.Uint64(a[4:])
			}
		}
		a = a[min(align4(length), len(a)):]
	}
	return true
}

// parseInfo reads struct tcp_info, which has grown over the years and never changed: what an older kernel's lacks is
// marked as missing.
func parseInfo(b []byte, s *inuse.Sample) {
	if len(b) >= 60 {
		s.HasClocks = true
		s.SinceSent = millis(b[44:])
		s.SinceReceived = millis(b[52:])
		s.SinceAcked = millis(b[56:])
	}
	if len(b) >= 24 {
		s.LargestReceived = native.Uint32(b[20:])
	}
	if len(b) >= 136 {
		s.HasBytes = true
		s.BytesSent = native.Uint64(b[120:]) // acknowledged
		s.BytesReceived = native.Uint64(b[128:])
	}
	if len(b) >= 160 {
		s.HasSegments = true
		s.SegmentsReceived = native.Uint32(b[152:])
		s.SegmentsSent = native.Uint32(b[156:])
		s.BareACKs = uint16(native.Uint32(b[136:]) - s.SegmentsSent)
	}
	if len(b) >= 216 {
		repeated := native.Uint64(b[208:])
		s.BytesSent = native.Uint64(b[200:]) - repeated
		if repeated == 0 {
			return // nothing was repeated but SYN-ACKs
		}
	}
	if s.HasSegments {
		s.SegmentsSent = fresh(s.SegmentsSent, native.Uint32(b[100:]), s.BytesSent)
	}
}

// openedHere reports whether this end opened the connection. The kernel counts the SYN as a byte that was acknowledged
// (tcp_ack in SYN_SENT) and not as one that was sent; who accepts a connection never has more acknowledged than sent.
func openedHere(info []byte) bool {
	if len(info) < 216 {
		return false
	}
	acked, sent, repeated := native.Uint64(info[120:]), native.Uint64(info[200:]), native.Uint64(info[208:])
	return acked > sent-repeated
}

// fresh is how many of the segments sent were not sent before: what a loss had the kernel repeat is no other answer. A
// SYN-ACK that was repeated as well is in repeated and was never in sent, so that the result may be too low, as of a server that
// has answered less. It wraps as sent does.
func fresh(sent, repeated uint32, bytes uint64) uint32 {
	if repeated < sent || bytes > math.MaxUint32 {
		return sent - repeated
	}
	return uint32(min(bytes, 1)) // nothing has wrapped: there is a byte in each
}

func millis(b []byte) time.Duration { return time.Duration(native.Uint32(b)) * time.Millisecond }

func align4(n int) int { return (n + 3) &^ 3 }
