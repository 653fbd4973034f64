package conns

import (
	"bufio"
	"fmt"
	"os"
)

// UDPPorts returns the ports on which somebody in the Pod receives UDP from anybody, in order:
// QUIC, DNS. What they serve is not counted. Sockets with a port that the kernel lends, as clients
// have, are left out.
func UDPPorts() ([]uint16, error) {
	return udpPortsIn("/proc/thread-self/net", "/proc/sys/net/ipv4/ip_local_port_range")
}

func udpPortsIn(dir, lent string) ([]uint16, error) {
	first, last := 32768, 60999 // Linux' default
	if b, err := os.ReadFile(lent); err == nil {
		_, _ = fmt.Sscan(string(b), &first, &last)
	}
	var found portSet
	for _, name := range []string{"udp", "udp6"} {
		f, err := os.Open(dir + "/" + name)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list UDP sockets: %w", err)
		}
		lines := bufio.NewScanner(f)
		lines.Scan() // the heading
		for lines.Scan() {
			var m message
			if !parseRow(lines.Bytes(), &m) {
				continue
			}
			if port := int(m.localPort); m.remotePort == 0 && port != 0 && (port < first || port > last) {
				found.add(m.localPort)
			}
		}
		err = lines.Err()
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("list UDP sockets: %w", err)
		}
	}
	return found.list(), nil
}
