package conns

import (
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/inuse"
	"prestop/drain/conns/sockdiag"
)

const (
	stateSynSent = 2 // nobody's connection yet, but a client's end
	stateListen  = 10
)

// openStates are the states in which a connection may count. FIN_WAIT2 and TIME_WAIT are none of
// them: everything was delivered and acknowledged. SYN_RECV is reported for what is kept as
// NEW_SYN_RECV, so both are asked for.
const openStates = 1<<inuse.Established | 1<<inuse.SynRecv | 1<<inuse.NewSynRecv | 1<<inuse.CloseWait |
	1<<inuse.FinWait1 | 1<<inuse.Closing | 1<<inuse.LastAck

// message is one socket, as a dump or a row of /proc tells of it.
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
	id     sockdiag.SockID
	// segments were received, those without data too (Linux 4.2). They wrap.
	segments uint32
}

// from makes it the socket of a dump.
func (m *message) from(d *sockdiag.Message) {
	m.localPort, m.remotePort = d.ID.SourcePort(), d.ID.DestinationPort()
	m.local, m.remote = d.ID.Source(), d.ID.Destination()
	m.Sample = inuse.Sample{
		State: d.State, SynAckRetransmits: d.Retrans, Unread: d.Rqueue, Unacked: d.Wqueue,
	}
	m.cookie, m.inode, m.owner = d.ID.Cookie(), d.Inode, owner{cgroup: d.CgroupID, uid: d.UID}
	m.family, m.id, m.opened, m.segments = d.Family, d.ID, false, 0
	if d.Family == unix.AF_INET {
		m.local, m.remote = mapped([4]byte(m.local[:])), mapped([4]byte(m.remote[:]))
	}
	info := &d.Info
	if !d.HasInfo(sockdiag.EndOfLastAckRecv) {
		return
	}
	m.HasClocks = true
	m.SinceSent = sockdiag.Milliseconds(info.Last_data_sent)
	m.SinceReceived = sockdiag.Milliseconds(info.Last_data_recv)
	m.SinceAcked = sockdiag.Milliseconds(info.Last_ack_recv)
	m.LargestReceived = info.Rcv_mss
	if d.HasInfo(sockdiag.EndOfBytesReceived) {
		m.HasBytes, m.BytesSent, m.BytesReceived = true, info.Bytes_acked, info.Bytes_received
	}
	if d.HasInfo(sockdiag.EndOfSegsIn) {
		m.segments = info.Segs_in
	}
	if d.HasInfo(sockdiag.EndOfDataSegsOut) {
		m.HasSegments = true
		m.SegmentsReceived, m.SegmentsSent = info.Data_segs_in, info.Data_segs_out
		m.BareACKs = uint16(info.Segs_out - info.Data_segs_out)
	}
	if d.HasInfo(sockdiag.EndOfBytesRetrans) {
		m.BytesSent = info.Bytes_sent - info.Bytes_retrans
		// The kernel counts the SYN as a byte that was acknowledged (tcp_ack in SYN_SENT) and not
		// as one that was sent; who accepts a connection never has more acknowledged than sent.
		m.opened = info.Bytes_acked > m.BytesSent
		if info.Bytes_retrans == 0 {
			return // nothing was sent again but SYN-ACKs
		}
	}
	if m.HasSegments {
		m.SegmentsSent = withoutRetransmits(m.SegmentsSent, info.Total_retrans, m.BytesSent)
	}
}

// withoutRetransmits is how many of the segments sent were not sent before: what a loss had the
// kernel send again is no other answer. A SYN-ACK that was sent again as well is in retransmits and
// was never in sent, so that the result may be too low, as of a server that has answered less. It
// wraps as sent does.
func withoutRetransmits(sent, retransmits uint32, bytes uint64) uint32 {
	if retransmits < sent || bytes > math.MaxUint32 {
		return sent - retransmits
	}
	return uint32(min(bytes, 1)) // nothing has wrapped: there is a byte in each
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
