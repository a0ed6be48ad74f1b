package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client"
)

// impostor answers in the server's place with certificates of its own, each valid later than the one before.
type impostor struct {
	net.Listener
	asked  atomic.Int32 // connections
	agreed atomic.Int32 // of them with an agreement
	from   func(n int32) (notBefore, notAfter time.Time)
}

func newImpostor(t *testing.T, from func(n int32) (notBefore, notAfter time.Time)) *impostor {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{from: from}
	config := &tls.Config{ClientAuth: tls.RequestClientCert, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := &x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}}
		c.NotBefore, c.NotAfter = i.from(i.asked.Add(1))
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}}
	if i.Listener, err = tls.Listen("tcp", "127.0.0.1:0", config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	go func() {
		for {
			conn, err := i.Accept()
			if err != nil {
				return
			}
			if conn.(*tls.Conn).HandshakeContext(t.Context()) == nil {
				i.agreed.Add(1)
			}
			conn.Close()
		}
	}()
	return i
}

// Somebody in between may show certificates that are newer and newer. Each costs him one connection more, up to a few, and wins
// nothing: neither trust nor any time that outlives the connection.
func TestSomebodyInBetweenMovesNoTime(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]func(n int32) (time.Time, time.Time){
		"newer and newer": func(n int32) (time.Time, time.Time) {
			at := start.AddDate(int(n), 0, 0)
			return at, at.AddDate(9, 0, 0)
		},
		"by an hour each": func(n int32) (time.Time, time.Time) {
			at := start.Add(time.Duration(n) * time.Hour)
			return at, at.Add(time.Minute)
		},
		"over before it begins": func(int32) (time.Time, time.Time) { return start.AddDate(1, 0, 0), start.AddDate(0, 6, 0) },
		"at the end of time": func(int32) (time.Time, time.Time) {
			end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
			return end, end
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.enroll()
			d.wantAffirmed("before")
			i := newImpostor(t, from)
			caught := true
			var dials atomic.Int32
			d.cfg = func(c *client.Config) {
				c.Dial = func(ctx context.Context, network, host string) (net.Conn, error) {
					dials.Add(1)
					if caught {
						host = i.Addr().String()
					}
					return (&net.Dialer{}).DialContext(ctx, network, host)
				}
			}
			d.restart()
			if r, err := d.client.Step(t.Context()); err == nil {
				t.Fatalf("Step = %+v", r)
			}
			if n := dials.Load(); n > 5 || i.agreed.Load() > 0 {
				t.Errorf("%d connections, %d of them agreed", n, i.agreed.Load())
			}
			caught = false
			before := dials.Load()
			d.wantAffirmed("at the true server")
			if n := dials.Load() - before; n != 1 {
				t.Errorf("the true server took %d connections, want one at the device's own time", n)
			}
		})
	}
}
