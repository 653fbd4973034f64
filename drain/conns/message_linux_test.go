package conns

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestop/drain/conns/inuse"
	"prestop/drain/conns/sockdiag"
)

// The lengths of the kernel's structs: nlmsghdr, inet_diag_msg; and where the latter has the socket's id.
const (
	headerLen  = 16
	messageLen = 72
	socketAt   = 4
)

var native = binary.NativeEndian

// aSocket is a message about an IPv4 connection of port 8080 with as much of tcp_info as infoLen, and an attribute that
// no kernel sends yet before and after.
func aSocket(infoLen int) []byte {
	b := make([]byte, headerLen+messageLen)
	b[headerLen], b[headerLen+1] = unix.AF_INET, inuse.CloseWait
	id := b[headerLen+socketAt:]
	copy(id, []byte{0x1f, 0x90, 0xc3, 0x51, 10, 0, 0, 1})
	copy(id[20:], []byte{10, 0, 0, 2})
	native.PutUint32(id[40:], 0x11223344)
	native.PutUint32(id[44:], 0x55667788)
	native.PutUint32(b[headerLen+56:], 3)
	native.PutUint32(b[headerLen+60:], 4)
	native.PutUint32(b[headerLen+68:], 5)
	unknown := []byte{5, 0, 0xf0, 0, 9, 0, 0, 0}
	info := make([]byte, 4+infoLen)
	native.PutUint16(info, uint16(len(info)))
	native.PutUint16(info[2:], 2 /* INET_DIAG_INFO */)
	for at, value := range map[int]uint32{44: 1000, 52: 2000, 56: 3000, 100: 2, 136: 14, 140: 8, 152: 6, 156: 9} {
		if at+4 <= infoLen {
			native.PutUint32(info[4+at:], value)
		}
	}
	for at, value := range map[int]uint64{120: 1 << 33, 128: 1 << 34, 200: 1<<35 + 300, 208: 300} {
		if at+8 <= infoLen {
			native.PutUint64(info[4+at:], value)
		}
	}
	b = slices.Concat(b, unknown, info, make([]byte, (len(info)+3)&^3-len(info)), unknown)
	return finish(b, unix.SOCK_DIAG_BY_FAMILY)
}

// finish fills in a message's header.
func finish(b []byte, kind uint16) []byte {
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], kind)
	return b
}

func TestASampleHasAsMuchAsTCPInfo(t *testing.T) {
	want := message{
		connection: connection{localPort: 8080, remotePort: 50001,
			local: mapped([4]byte{10, 0, 0, 1}), remote: mapped([4]byte{10, 0, 0, 2})},
		Sample: inuse.Sample{State: inuse.CloseWait, Unread: 3, Unacked: 4},
		cookie: 0x5566778811223344,
		inode:  5,
		family: unix.AF_INET,
		id:     sockdiag.SockID(aSocket(0)[headerLen+socketAt:]),
	}
	clocks := func(m *message) {
		m.HasClocks, m.SinceSent, m.SinceReceived, m.SinceAcked = true, time.Second, 2*time.Second, 3*time.Second
	}
	acked := func(m *message) { m.HasBytes, m.BytesSent, m.BytesReceived = true, 1<<33, 1<<34 }
	segments := func(m *message) {
		m.HasSegments, m.SegmentsReceived, m.SegmentsSent, m.segments, m.BareACKs = true, 6, 7, 8, 5
	}
	sent := func(m *message) { m.BytesSent = 1 << 35 }
	for _, c := range []struct {
		infoLen int
		has     []func(*message)
	}{
		{0, nil}, {59, nil},
		{104, []func(*message){clocks}},                         // Linux 3.x
		{135, []func(*message){clocks}},                         //
		{136, []func(*message){clocks, acked}},                  // 4.1
		{160, []func(*message){clocks, acked, segments}},        // 4.6
		{192, []func(*message){clocks, acked, segments}},        // 4.10
		{224, []func(*message){clocks, acked, segments, sent}},  // 4.19
		{248, []func(*message){clocks, acked, segments, sent}},  // 6.18
		{4096, []func(*message){clocks, acked, segments, sent}}, // one to come
	} {
		want := want
		for _, has := range c.has {
			has(&want)
		}
		var m message
		var d sockdiag.Message
		_, err := sockdiag.Parse(aSocket(c.infoLen), &d, m.from)
		if err != nil || m != want {
			t.Errorf("%d bytes of tcp_info: %v:\n%+v, want\n%+v", c.infoLen, err, m, want)
		}
	}
}

// What a loss had the kernel send again answers nothing, and a counter's wrap does no harm.
func TestRepeatedSegmentsAreNotCounted(t *testing.T) {
	for _, c := range []struct {
		sent, repeated uint32
		bytes          uint64
		want           uint32
	}{
		{9, 2, 700, 7}, {9, 0, 700, 9},
		{1, 3, 100, 1}, {2, 2, 100, 1}, {1, 3, 0, 0}, // SYN-ACKs too, which were not in sent
		{3, 5, 1 << 40, math.MaxUint32 - 1}, {math.MaxUint32, 1, 1 << 40, math.MaxUint32 - 1},
	} {
		if got := withoutRetransmits(c.sent, c.repeated, c.bytes); got != c.want {
			t.Errorf("%d sent, %d of them repeated, %d bytes: %d, want %d", c.sent, c.repeated, c.bytes, got, c.want)
		}
	}
	d := sockdiag.Message{}
	if _, err := sockdiag.Parse(aSocket(248), &d, func(*sockdiag.Message) {}); err != nil {
		t.Fatal(err)
	}
	d.Info.Total_retrans, d.Info.Data_segs_out, d.Info.Bytes_sent, d.Info.Bytes_retrans = 2, 2, 500, 0
	var m message
	if m.from(&d); m.SegmentsSent != 2 || m.BytesSent != 500 {
		t.Errorf("the SYN-ACK alone was repeated, and the data are read as %d bytes in %d segments", m.BytesSent, m.SegmentsSent)
	}
}

func FuzzJudgeOfADump(f *testing.F) {
	f.Add(slices.Concat(aSocket(248), aSocket(136)))
	f.Add(aSocket(60)[:100])
	rule := inuse.Rule{IdleAfter: time.Second, RequestTimeout: time.Minute}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		var d sockdiag.Message
		_, _ = sockdiag.Parse(b, &d, func(d *sockdiag.Message) {
			m.from(d)
			v, past := rule.Judge(&m.Sample, inuse.Memory{})
			if v.Next < 0 || v.Silent < 0 || v.Class != inuse.InUse && v.Next != 0 {
				t.Errorf("judged %+v as %+v", m.Sample, v)
			}
			if again, _ := rule.Judge(&m.Sample, past); again.Class != v.Class {
				t.Errorf("judged %+v as %+v, and then as %+v", m.Sample, v, again)
			}
			if m.State == inuse.Established && !m.HasClocks && v.Class != inuse.InUse {
				t.Errorf("idle without a clock: %+v", m.Sample)
			}
		})
	})
}

// Lines as Linux 6.18 prints them.
const (
	procIPv4 = "   1: 0100007F:1F90 0200007F:C351 08 00000004:00000003 00:00000000 00000000 65534        0 5 1 0000000000000000 20 4 30 10 -1"
	procIPv6 = "  12: 0000000000000000FFFF00000100007F:01BB B80D0120000000000000000001000000:D431 01 00000000:00000000 02:000003E8 00000002     0        0 4026531840 2 0000000000000000 20 4 30 10 -1      "
	procMini = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 7"
)

func TestParseRow(t *testing.T) {
	address := func(s string) [16]byte { return netip.MustParseAddr(s).As16() }
	for line, want := range map[string]message{
		procIPv4: {connection: connection{8080, 50001, address("127.0.0.1"), address("127.0.0.2")},
			Sample: inuse.Sample{State: inuse.CloseWait, Unacked: 4, Unread: 3}, inode: 5, owner: owner{uid: 65534}},
		procIPv6: {connection: connection{443, 54321, address("127.0.0.1"), address("2001:db8::1")},
			Sample: inuse.Sample{State: inuse.Established, SynAckRetransmits: 2}, inode: 4026531840},
		procMini: {connection: connection{8080, 0, address("0.0.0.0"), address("0.0.0.0")},
			Sample: inuse.Sample{State: stateListen, Unread: 1}, inode: 7},
	} {
		var r message
		if !parseRow([]byte(line), &r) || r != want {
			t.Errorf("%q is read as\n%+v, want\n%+v", line, r, want)
		}
	}
	for _, line := range []string{
		"", "   ", "1:", procIPv4[:40], procMini[:len(procMini)-2], "x" + procIPv6[:60], procIPv4[:80],
		"   0: 0000000:1F90 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 7",
		"   0: 00000000:1F90 00000000:0000 0A 0000000000000001 00:00000000 00000000     0        0 7",
		"   0: 00000000:1F90 00000000:0000 XX 00000000:00000001 00:00000000 00000000     0        0 7",
		"   0: 00000000:1F90 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 -7",
	} {
		var r message
		if parseRow([]byte(line), &r) {
			t.Errorf("%q is read as %+v", line, r)
		}
	}
}

func FuzzParseRow(f *testing.F) {
	for _, line := range []string{procIPv4, procIPv6, procMini} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var r message
		if parseRow(line, &r) && len(line) < 8+4+8+4+2+17+2 {
			t.Errorf("%q is read as %+v", line, r)
		}
	})
}
