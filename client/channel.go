package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/wire"
)

// maxHeaderBytes bounds status line and headers of one answer.
const maxHeaderBytes = 32 << 10

// exporterBytes is the length of the TLS exporter that a quote is bound to.
const exporterBytes = 32

// dialer makes channels with the device's TLS key.
type dialer struct {
	client *Client
	config *tls.Config
	server string // host:port
}

// newDialer derives the TLS key and wraps it into a self-signed certificate: the server knows the device by the key.
func newDialer(c *Client) (*dialer, error) {
	signer, err := c.cfg.TPM.TLSSigner()
	if err != nil {
		return nil, fmt.Errorf("cannot use TLS key: %w", err)
	}
	der, err := selfSigned(signer, c.id.String())
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    c.pool,
		ServerName: c.url.Hostname(),
		Certificates: []tls.Certificate{{
			Certificate: [][]byte{der}, PrivateKey: signer,
			SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		}},
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	server := c.url.Host
	if c.url.Port() == "" {
		server = net.JoinHostPort(c.url.Hostname(), "443")
	}
	return &dialer{client: c, config: config, server: server}, nil
}

func selfSigned(signer crypto.Signer, device string) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: device},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if _, ok := signer.Public().(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("cannot use TLS key: it is a %T", signer.Public())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("cannot sign own certificate: %w", err)
	}
	return der, nil
}

// channel is one TLS connection to the server. Requests on it take turns; each answer is read to its end before the
// next request.
type channel struct {
	dialer   *dialer
	conn     *tls.Conn
	meter    *meter
	reader   *bufio.Reader
	exporter []byte
}

// meter ends a connection whose answer is longer than its budget, headers included.
type meter struct {
	r    io.Reader
	left int64
}

var errBudget = errors.New("the answer is longer than its budget")

func (m *meter) Read(b []byte) (int, error) {
	if m.left <= 0 {
		return 0, errBudget
	}
	if int64(len(b)) > m.left {
		b = b[:m.left]
	}
	n, err := m.r.Read(b)
	m.left -= int64(n)
	return n, err
}

// open connects, and takes the exporter before any request is built, since a quote is bound to it.
func (d *dialer) open(ctx context.Context) (*channel, error) {
	ctx, cancel := context.WithTimeout(ctx, d.client.cfg.Timeout)
	defer cancel()
	conn, err := d.client.handshake(ctx, "the server", d.server, d.config)
	if err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(attestation.ExporterLabel, nil, exporterBytes)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot take TLS exporter: %w", err)
	}
	m := &meter{r: conn}
	return &channel{dialer: d, conn: conn, meter: m, reader: bufio.NewReader(m), exporter: exporter}, nil
}

// close ends the connection. Nothing depends on a clean end: every answer is complete by itself.
func (ch *channel) close() { _ = ch.conn.Close() }

// answer is a complete answer of the server.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes one exchange and reads the whole answer, at most limit bytes of it.
func (ch *channel) send(ctx context.Context, method, path string, body []byte, limit int64) (answer, error) {
	res, done, err := ch.start(ctx, method, path, body, nil, limit)
	if err != nil {
		return answer{}, err
	}
	defer done()
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return answer{}, fmt.Errorf("cannot read answer of %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		ch.close()
		return answer{}, fmt.Errorf("%w: answer of %s is longer than %d bytes", ErrServer, path, limit)
	}
	return answer{status: res.StatusCode, header: res.Header, body: b}, nil
}

// start sends a request and returns the answer with its body still to be read. The caller calls done after that.
func (ch *channel) start(ctx context.Context, method, path string, body []byte, header http.Header, limit int64) (*http.Response, func(), error) {
	u := *ch.dialer.client.url
	u.Path, u.RawPath, u.RawQuery, u.Fragment, u.User = path, "", "", "", nil
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot build request: %w", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", agentName)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	ch.meter.left = maxHeaderBytes + limit + limit/8 + 4096 // the rest is for the framing of chunks
	deadline := time.Now().Add(ch.dialer.client.cfg.Timeout)
	if err := ch.conn.SetDeadline(deadline); err != nil {
		return nil, nil, fmt.Errorf("cannot send request: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ch.conn.SetDeadline(time.Unix(1, 0)) })
	res, err := ch.roundTrip(req)
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("cannot exchange %s with the server: %w", path, errors.Join(err, ctx.Err()))
	}
	done := func() {
		stop()
		_ = res.Body.Close() // drains what is left of a small body; the connection may be used again
	}
	return res, done, nil
}

func (ch *channel) roundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Write(ch.conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(ch.reader, req)
}

// problem reads an RFC 9457 document; an answer without one gets a problem without a reason.
func (a answer) problem() wire.Problem {
	var p wire.Problem
	if json.Unmarshal(a.body, &p) != nil {
		return wire.Problem{Status: a.status}
	}
	return p
}

// Certificate returns the device's SPIFFE certificate with its TPM key, for connections to other relying parties. ok is
// false without one, when it has expired, or when it is not for this device's key.
func (c *Client) Certificate() (cert tls.Certificate, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.dialer.config.Certificates[0]
	if len(c.state.Chain) == 0 {
		return tls.Certificate{}, false
	}
	leaf, err := x509.ParseCertificate(c.state.Chain[0])
	if err != nil || !c.now().Before(leaf.NotAfter) {
		return tls.Certificate{}, false
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !key.Equal(own.PrivateKey.(crypto.Signer).Public()) {
		return tls.Certificate{}, false
	}
	own.Certificate, own.Leaf = c.state.Chain, leaf
	return own, true
}
