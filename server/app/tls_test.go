package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/app"
)

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// connect makes one connection and reports what the server saw of it.
func connect(t *testing.T, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	seen := make(chan tls.ConnectionState, 1)
	go func() {
		conn := tls.Server(a, server)
		if err := conn.Handshake(); err != nil {
			t.Errorf("server: %v", err)
		}
		_, _ = conn.Write([]byte{1}) // after the tickets
		seen <- conn.ConnectionState()
	}()
	conn := tls.Client(b, client)
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("client: %v", err)
	}
	return <-seen
}

// A session can be resumed for an hour after the device has shown its key, not for an hour after it was last resumed.
func TestSessionEndsAnHourAfterTheKeyWasShown(t *testing.T) {
	t.Parallel()
	k := &clock{}
	server := app.DeviceTLS(selfSigned(t), k.Now)
	client := &tls.Config{
		InsecureSkipVerify: true, ServerName: "server", ClientSessionCache: tls.NewLRUClientSessionCache(4), Certificates: []tls.Certificate{selfSigned(t)},
	}
	for i, step := range []struct {
		pass    time.Duration
		resumed bool
	}{
		{0, false},
		{app.TicketLife / 2, true},
		{app.TicketLife/2 - time.Minute, true},
		{2 * time.Minute, false}, // by the ticket of the connection before, which is two minutes old
		{time.Minute, true},
	} {
		k.Pass(step.pass)
		got := connect(t, server, client)
		if got.DidResume != step.resumed {
			t.Errorf("connection %d: resumed %v, want %v", i, got.DidResume, step.resumed)
		}
		if len(got.PeerCertificates) != 1 {
			t.Errorf("connection %d: the server knows %d client certificates, want 1", i, len(got.PeerCertificates))
		}
	}
}

func TestTicketOfAnotherServerIsAFullHandshake(t *testing.T) {
	t.Parallel()
	k := &clock{}
	cert := selfSigned(t)
	client := &tls.Config{InsecureSkipVerify: true, ServerName: "server", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for i, server := range []*tls.Config{app.DeviceTLS(cert, k.Now), app.DeviceTLS(cert, k.Now)} {
		if got := connect(t, server, client); got.DidResume {
			t.Errorf("connection %d was resumed", i)
		}
	}
}
