package sockdiag

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// aSocket is a message about an IPv4 connection of port 8080 with as much of tcp_info as infoLen,
// and an attribute that no kernel sends yet before and after.
func aSocket(infoLen int) []byte {
	b := make([]byte, sizeofNlmsghdr+sizeofInetDiagMsg)
	b[sizeofNlmsghdr], b[sizeofNlmsghdr+1] = unix.AF_INET, 8 /* CLOSE_WAIT */
	id := b[sizeofNlmsghdr+4:]
	copy(id, []byte{0x1f, 0x90, 0xc3, 0x51, 10, 0, 0, 1})
	copy(id[20:], []byte{10, 0, 0, 2})
	native.PutUint32(id[40:], 0x11223344)
	native.PutUint32(id[44:], 0x55667788)
	native.PutUint32(b[sizeofNlmsghdr+56:], 3)
	native.PutUint32(b[sizeofNlmsghdr+60:], 4)
	native.PutUint32(b[sizeofNlmsghdr+68:], 5)
	unknown := []byte{5, 0, 0xf0, 0, 9, 0, 0, 0}
	info := make([]byte, 4+infoLen)
	native.PutUint16(info, uint16(len(info)))
	native.PutUint16(info[2:], inetDiagInfo)
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
	b = slices.Concat(b, unknown, info, make([]byte, align(len(info))-len(info)), unknown)
	return finish(b, unix.SOCK_DIAG_BY_FAMILY)
}

// finish fills in a message's header.
func finish(b []byte, kind uint16) []byte {
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], kind)
	return b
}

// anEnd is a message that ends a dump, with an errno or none.
func anEnd(kind uint16, errno ...int32) []byte {
	b := make([]byte, sizeofNlmsghdr)
	for _, e := range errno {
		b = native.AppendUint32(b, uint32(e))
	}
	return finish(b, kind)
}

func TestParseReadsAsMuchOfTCPInfoAsThereIs(t *testing.T) {
	for _, c := range []struct {
		infoLen int
		has     []uintptr
	}{
		{0, nil}, {59, nil},
		{104, []uintptr{EndOfLastAckRecv, EndOfTotalRetrans}}, // Linux 3.x
		{135, []uintptr{EndOfLastAckRecv, EndOfTotalRetrans}},
		{136, []uintptr{EndOfLastAckRecv, EndOfTotalRetrans, EndOfBytesReceived}},                                                   // 4.1
		{160, []uintptr{EndOfLastAckRecv, EndOfTotalRetrans, EndOfBytesReceived, EndOfSegsIn, EndOfDataSegsOut}},                    // 4.6
		{224, []uintptr{EndOfLastAckRecv, EndOfTotalRetrans, EndOfBytesReceived, EndOfSegsIn, EndOfDataSegsOut, EndOfBytesRetrans}}, // 4.19
		{4096, []uintptr{EndOfLastAckRecv, EndOfTotalRetrans, EndOfBytesReceived, EndOfSegsIn, EndOfDataSegsOut, EndOfBytesRetrans}},
	} {
		var m Message
		m.Info.Delivered = 99 // of a socket before
		calls := 0
		done, err := Parse(slices.Concat(aSocket(c.infoLen), anEnd(unix.NLMSG_DONE, 0)), &m, func(*Message) { calls++ })
		if err != nil || !done || calls != 1 {
			t.Fatalf("%d bytes of tcp_info: %d sockets, done %t, %v", c.infoLen, calls, done, err)
		}
		var has []uintptr
		for _, end := range []uintptr{EndOfLastAckRecv, EndOfTotalRetrans, EndOfBytesReceived, EndOfSegsIn, EndOfDataSegsOut, EndOfBytesRetrans} {
			if m.HasInfo(end) {
				has = append(has, end)
			}
		}
		if !slices.Equal(has, c.has) || m.Info.Delivered != 0 {
			t.Errorf("%d bytes of tcp_info reach to %d, want %d; %d delivered", c.infoLen, has, c.has, m.Info.Delivered)
		}
		if m.ID.SourcePort() != 8080 || m.ID.DestinationPort() != 50001 || m.ID.Cookie() != 0x5566778811223344 || m.Rqueue != 3 || m.Wqueue != 4 || m.Inode != 5 {
			t.Errorf("the socket is read as %+v", m)
		}
		if c.infoLen >= 224 && (m.Info.Last_data_sent != 1000 || m.Info.Last_data_recv != 2000 || m.Info.Last_ack_recv != 3000 ||
			m.Info.Data_segs_in != 6 || m.Info.Data_segs_out != 9 || m.Info.Bytes_retrans != 300) {
			t.Errorf("tcp_info is read as %+v", m.Info)
		}
	}
}

func TestParseDumpEnds(t *testing.T) {
	interrupted := aSocket(248)
	native.PutUint16(interrupted[6:], unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR)
	long := aSocket(248)
	native.PutUint32(long, 5000)
	tooShort := anEnd(unix.NLMSG_NOOP)
	native.PutUint32(tooShort, sizeofNlmsghdr-1)
	short := finish(make([]byte, sizeofNlmsghdr+sizeofInetDiagMsg-1), unix.SOCK_DIAG_BY_FAMILY)
	attribute := aSocket(248)
	native.PutUint16(attribute[sizeofNlmsghdr+sizeofInetDiagMsg:], 3)
	for name, c := range map[string]struct {
		b       []byte
		sockets int
		done    bool
		err     error
	}{
		"nothing":                          {nil, 0, false, nil},
		"two sockets, more to come":        {slices.Concat(aSocket(248), aSocket(0)), 2, false, nil},
		"done":                             {anEnd(unix.NLMSG_DONE, 0), 0, true, nil},
		"done, by an old kernel":           {anEnd(unix.NLMSG_DONE), 0, true, nil},
		"done after an error":              {anEnd(unix.NLMSG_DONE, -int32(unix.ENOMEM)), 0, true, unix.ENOMEM},
		"refused":                          {anEnd(unix.NLMSG_ERROR, -int32(unix.ENOENT)), 0, false, unix.ENOENT},
		"an error without its number":      {anEnd(unix.NLMSG_ERROR), 0, false, ErrMalformed},
		"overrun":                          {anEnd(unix.NLMSG_OVERRUN), 0, false, ErrInterrupted},
		"a message of no interest":         {slices.Concat(anEnd(unix.NLMSG_NOOP), aSocket(8)), 1, false, nil},
		"an inconsistent dump":             {slices.Concat(aSocket(248), interrupted), 1, false, ErrInterrupted},
		"an inconsistent dump at its end":  {withFlags(anEnd(unix.NLMSG_DONE, 0), unix.NLM_F_DUMP_INTR), 0, false, ErrInterrupted},
		"a length beyond the datagram":     {long, 0, false, ErrMalformed},
		"a length below a header":          {tooShort, 0, false, ErrMalformed},
		"a socket cut short":               {short, 0, false, ErrMalformed},
		"an attribute shorter than itself": {attribute, 0, false, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			var m Message
			sockets := 0
			done, err := Parse(c.b, &m, func(*Message) { sockets++ })
			if sockets != c.sockets || done != c.done || !errors.Is(err, c.err) {
				t.Errorf("%d sockets, done %t, %v; want %d, %t, %v", sockets, done, err, c.sockets, c.done, c.err)
			}
		})
	}
}

func withFlags(b []byte, flags uint16) []byte {
	native.PutUint16(b[6:], flags)
	return b
}

func FuzzParse(f *testing.F) {
	f.Add(slices.Concat(aSocket(248), aSocket(136), anEnd(unix.NLMSG_DONE, 0)))
	f.Add(anEnd(unix.NLMSG_ERROR, -2))
	f.Add(aSocket(60)[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		sockets := 0
		_, _ = Parse(b, &m, func(*Message) { sockets++ })
		if most := len(b) / (sizeofNlmsghdr + sizeofInetDiagMsg); sockets > most {
			t.Errorf("%d sockets in %d bytes", sockets, len(b))
		}
	})
}
