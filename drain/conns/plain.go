package conns

// plainEnough is how many answered conversations of one segment it takes to believe a port.
const plainEnough = 3

// plain knows the ports that speak without TLS, from their conversations since they are watched: one in which the client
// has sent one segment, and has been answered, is none of TLS, whose client speaks twice before its first answer. The
// kubelet's probes by HTTP are such, and so is every client's first request. A single one may be a handshake that was given up.
type plain struct {
	seen map[uint16]int
	sure portSet
}

// note takes a connection to port that has ended, or is idle.
func (p *plain) note(port uint16, s sample) {
	if !s.hasBytes || !s.hasSegments || s.segmentsReceived != 1 || s.segmentsSent == 0 || s.bytesSent < leastAnswer || p.sure.has(port) {
		return
	}
	if p.seen == nil {
		p.seen = make(map[uint16]int)
	}
	if p.seen[port]++; p.seen[port] >= plainEnough {
		p.sure.add(port)
	}
}

func (p *plain) known(port uint16) bool { return p.sure.has(port) }

func (p *plain) forget() { *p = plain{} }
