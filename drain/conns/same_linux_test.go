package conns

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"prestop/drain/conns/inuse"
)

// These are two names of a server: one has TLS tickets sent, as they are by default, and the other has not.
// A bare ACK comes 30 to 220 ms after the data (inuse/RULE.md).
const leastDelayedACK, delayedACK = 30 * time.Millisecond, 220 * time.Millisecond

const withTickets, withoutTickets = "tickets.example", "without.example"

// A first request over TLS that waits for its answer, and one that was answered, on the same port: the tickets that the
// server sends after the handshake are as long as the other's answer. No figure of the kernel differs, so no rule can tell
// one from the other, and both are in use.
func TestTheKernelDoesNotTellAnAnswerFromTLSTickets(t *testing.T) {
	l, _ := listen(t, "tcp", "127.0.0.1:0")
	c := counter(t, Netlink, Rule{IdleAfter: time.Second, RequestTimeout: time.Hour}).(*netlinkCounter)
	config := servesBoth(t)

	first := func(name string, answer int) inuse.Sample { return firstOverTLS(t, l, c, config, name, answer) }
	const some = 100
	answer := some + int(first(withTickets, 0).BytesSent) - int(first(withoutTickets, some).BytesSent)
	if answer <= 0 {
		t.Fatalf("the tickets are %d bytes shorter than no answer", -answer)
	}
	var waiting, answered inuse.Sample
	for range 20 { // how segments and acknowledgements fall has the last word
		if waiting, answered = first(withTickets, 0), first(withoutTickets, answer); waiting == answered {
			break
		}
	}
	if waiting != answered {
		t.Fatalf("the kernel tells them apart: waiting %+v, answered %+v", waiting, answered)
	}
	late := waiting.SinceAcked
	waiting.SinceSent, waiting.SinceReceived, waiting.SinceAcked = time.Minute, time.Minute+waiting.SinceReceived, time.Minute-late
	if v, _ := c.look.rule.inUse().Judge(&waiting, inuse.Memory{}); v.Class != inuse.InUse {
		t.Errorf("what may be in use is judged %+v: %+v", v, waiting)
	}
}

// firstOverTLS is what the kernel tells of a connection to one of the names on which one request was sent; answer is the
// length of its answer, 0 for none yet.
func firstOverTLS(t *testing.T, l net.Listener, c *netlinkCounter, config *tls.Config, name string, answer int) inuse.Sample {
	t.Helper()
	client, server := accepted(t, l, l.Addr().String())
	defer client.Close()
	defer server.Close()
	request := make([]byte, 200)
	answered := make(chan error)
	go func() {
		s := tls.Server(server, config)
		_, err := io.ReadFull(s, request)
		if err == nil && answer > 0 {
			_, err = s.Write(make([]byte, answer))
		}
		answered <- err
	}()
	tlsClient := tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)})
	if _, err := tlsClient.Write(make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if answer > 0 {
		if _, err := io.ReadFull(tlsClient, make([]byte, answer)); err != nil {
			t.Fatal(err)
		}
	}
	var s inuse.Sample
	eventually(t, "the kernels have said all", func() bool {
		err := c.dump(t.Context(), openStates, true, []uint16{portOf(l.Addr())}, func() {}, func(m *message) {
			if m.remotePort == portOf(client.LocalAddr()) {
				s = m.Sample
			}
		})
		return err == nil && min(s.SinceSent, s.SinceReceived) > 2*delayedACK
	})
	// Two runs of the same differ by a jiffy or two, and by how long the client's kernel waits with an acknowledgement.
	if s.SinceReceived -= s.SinceSent; s.SinceReceived.Abs() < 20*time.Millisecond {
		s.SinceReceived = 0
	}
	if s.SinceAcked = s.SinceSent - s.SinceAcked; s.SinceAcked >= leastDelayedACK && s.SinceAcked <= delayedACK {
		s.SinceAcked = leastDelayedACK
	}
	s.SinceSent = 0
	return s
}

// servesBoth is the configuration of a server that has both names.
func servesBoth(t *testing.T) *tls.Config {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader) // its signatures are all as long
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	all := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}
	return &tls.Config{Certificates: all, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// Go's server that asks for no certificate sends its tickets with its first words, others' after the client's last.
		return &tls.Config{Certificates: all, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: hello.ServerName == withoutTickets}, nil
	}}
}
