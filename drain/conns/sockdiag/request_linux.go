package sockdiag

import "golang.org/x/sys/unix"

// What is asked. Everything is in the host's byte order, but ports and addresses.
const (
	tcpDiagGetSock      = 18 // TCPDIAG_GETSOCK: struct inet_diag_req, of 60 bytes
	sizeofInetDiagReqV2 = 56 // SOCK_DIAG_BY_FAMILY: struct inet_diag_req_v2

	inetDiagReqBytecode = 1 // INET_DIAG_REQ_BYTECODE
	inetDiagBcJmp       = 1 // INET_DIAG_BC_JMP
	inetDiagBcSGe       = 2 // INET_DIAG_BC_S_GE
	inetDiagBcSLe       = 3 // INET_DIAG_BC_S_LE

	// FilteredPorts is for how many ports the kernel filters: its work grows with them, for each
	// socket.
	FilteredPorts = 32
)

// Request is what a dump asks for.
type Request struct {
	// States is a mask of 1<<state.
	States uint32
	// Info asks for tcp_info, which is most of a dump's cost.
	Info bool
	// Ports are the sockets' own ports that are asked for. Of none, or of more than FilteredPorts,
	// the sockets of all are told.
	Ports []uint16
}

// append appends the request for all TCP sockets of a family. AF_UNSPEC asks for both families in
// the manner of Linux before 3.3, which takes one walk over the sockets where the present manner
// takes two.
func (r Request) append(b []byte, family uint8) []byte {
	var extensions uint8
	if r.Info {
		extensions = 1 << (inetDiagInfo - 1)
	}
	start := len(b)
	b = native.AppendUint32(b, 0) // the length, below
	kind := uint16(unix.SOCK_DIAG_BY_FAMILY)
	if family == unix.AF_UNSPEC {
		kind = tcpDiagGetSock
	}
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = native.AppendUint32(b, 0) // sequence: one request at a time
	b = native.AppendUint32(b, 0) // to the kernel
	if family == unix.AF_UNSPEC {
		b = append(b, family, 0, 0, extensions)
		b = append(b, make([]byte, sizeofSockID)...) // any socket
		b = native.AppendUint32(b, r.States)
		b = native.AppendUint32(b, 0)
	} else {
		b = append(b, family, unix.IPPROTO_TCP, extensions, 0)
		b = native.AppendUint32(b, r.States)
		b = append(b, make([]byte, sizeofSockID)...)
	}
	if len(r.Ports) > 0 && len(r.Ports) <= FilteredPorts {
		code := appendPortFilter(nil, r.Ports)
		b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(code)))
		b = native.AppendUint16(b, inetDiagReqBytecode)
		b = append(b, code...)
	}
	native.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendLookup appends the request for one socket.
func appendLookup(b []byte, family uint8, id SockID) []byte {
	b = native.AppendUint32(b, sizeofNlmsghdr+sizeofInetDiagReqV2)
	b = native.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence, and to the kernel
	b = append(b, family, unix.IPPROTO_TCP, 1<<(inetDiagInfo-1), 0)
	b = native.AppendUint32(b, 1<<32-1) // in any state
	return append(b, id[:]...)
}

// appendPortFilter appends the program that accepts sockets whose own port is one of ports. An
// operation is struct inet_diag_bc_op: code, where to go if true, where if false, relative to
// itself; past the end by 4 rejects. A comparison is followed by its operand. The kernel accepts
// the program only if every jump lands on an operation.
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
		op(inetDiagBcSGe, compare, next-at)
		op(0, 0, int(port))
		op(inetDiagBcSLe, compare, next-at-compare)
		op(0, 0, int(port))
		if i < len(ports)-1 {
			op(inetDiagBcJmp, jump, end-at-2*compare)
		}
	}
	return b
}
