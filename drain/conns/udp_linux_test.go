package conns

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"prestop/drain/conns/connstest"
)

func TestUDPPortsAreThoseOnWhichAnybodyIsServed(t *testing.T) {
	connstest.Pod(t)
	if ports, err := UDPPorts(); err != nil || len(ports) != 0 {
		t.Errorf("in a Pod without UDP: %v, %v", ports, err)
	}
	for _, address := range []string{"0.0.0.0:8443", "[::]:53", "127.0.0.1:0"} {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	client, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if ports, err := UDPPorts(); err != nil || !slices.Equal(ports, []uint16{53, 8443}) {
		t.Errorf("%v, %v; want 53 and 8443, not the client's and not the one that was lent", ports, err)
	}
}

func TestUDPPortsWithoutIPv6(t *testing.T) {
	dir := t.TempDir()
	const text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n" +
		"  42: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0000000000000000 0\n"
	if err := os.WriteFile(filepath.Join(dir, "udp"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if ports, err := udpPortsIn(dir, "/nowhere"); err != nil || !slices.Equal(ports, []uint16{5353}) {
		t.Errorf("%v, %v", ports, err)
	}
}
