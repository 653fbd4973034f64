package corpus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// identity is the certificate of every server that speaks TLS.
type identity struct {
	pair          tls.Certificate
	chain         tls.Certificate // of three, as long as RSA's
	cert, key     []byte          // PEM
	certAt, keyAt string
}

var certified = sync.OnceValues(func() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id := &identity{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
	if id.pair, err = tls.X509KeyPair(id.cert, id.key); err != nil {
		return nil, err
	}
	// Only lengths matter: the others are the first, as long as those of RSA are.
	template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 57264, 9}, Value: make([]byte, 600)}}
	long, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	id.chain = tls.Certificate{Certificate: [][]byte{long, long, long}, PrivateKey: key}
	dir, err := os.MkdirTemp("", "corpus-")
	if err != nil {
		return nil, err
	}
	id.certAt, id.keyAt = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(id.certAt, id.cert, 0o600); err != nil {
		return nil, err
	}
	return id, os.WriteFile(id.keyAt, id.key, 0o600)
})

func certificate(t testing.TB) *identity {
	t.Helper()
	id, err := certified()
	if err != nil {
		t.Fatal(err)
	}
	return id
}
