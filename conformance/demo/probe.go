package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
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
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// probe is one connection to the device API that sends whatever it is told to: an attacker's tool, built on the wire
// format alone.
type probe struct {
	conn     *tls.Conn
	reader   *bufio.Reader
	exporter []byte
	tpm      *tpm.TPM // nil without a device
}

// answer is a complete answer of the server.
type answer struct {
	status int
	body   []byte
}

func (a answer) problem() wire.Problem {
	var p wire.Problem
	_ = json.Unmarshal(a.body, &p) // without a problem document there is no reason, which no check accepts
	return p
}

func (a answer) poll() (wire.PollAnswer, error) {
	var p wire.PollAnswer
	if a.status != http.StatusOK {
		return p, fmt.Errorf("poll was answered with %d: %s", a.status, a.body)
	}
	return p, json.Unmarshal(a.body, &p)
}

// probe connects with the TLS key in the device's TPM.
func (d *device) probe(ctx context.Context) (*probe, error) {
	t, err := tpm.Open(d.machine.TPM().Addr())
	if err != nil {
		return nil, err
	}
	signer, err := t.TLSSigner()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	p, err := d.w.connect(ctx, signer)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	p.tpm = t
	return p, nil
}

// strangerProbe connects with a key that nobody knows.
func (w *world) strangerProbe(ctx context.Context) (*probe, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return w.connect(ctx, key)
}

func (w *world) connect(ctx context.Context, key crypto.Signer) (*probe, error) {
	b, err := os.ReadFile(w.trustFile())
	if err != nil {
		return nil, err
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		return nil, err
	}
	pool, err := trust.Pool()
	if err != nil {
		return nil, err
	}
	der, err := selfSigned(key)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(w.relay.address())
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: host,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}},
	}}
	raw, err := d.DialContext(ctx, "tcp", w.relay.address())
	if err != nil {
		return nil, err
	}
	conn := raw.(*tls.Conn) // tls.Dialer returns nothing else
	state := conn.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &probe{conn: conn, reader: bufio.NewReader(conn), exporter: exporter}, nil
}

func selfSigned(key crypto.Signer) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "probe"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

func (p *probe) close() {
	_ = p.conn.Close() // every answer is complete by itself
	if p.tpm != nil {
		_ = p.tpm.Close() // the next restart of the machine finds out
	}
}

// send makes one exchange.
func (p *probe) send(ctx context.Context, method, path string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://server"+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if err := p.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return answer{}, err
	}
	if err := req.Write(p.conn); err != nil {
		return answer{}, err
	}
	res, err := http.ReadResponse(p.reader, req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, wire.MaxAnswerBytes))
	return answer{status: res.StatusCode, body: b}, err
}

func (p *probe) poll(ctx context.Context, body []byte) (answer, error) {
	return p.send(ctx, http.MethodPost, wire.PathPoll, body)
}

// claims are what the device would say, with a challenge or without one.
func (p *probe) claims(challenge []byte, log []byte) ([]byte, error) {
	c := wire.Claims{
		Version: wire.ClaimsVersion, Challenge: challenge, ImageRoot: 1, DirectorRoot: 1, LogDigest: digest.Of(log),
	}
	index, err := p.tpm.Counter()
	if err != nil {
		return nil, err
	}
	c.Counter = &wire.Counter{Index: index}
	return json.Marshal(c)
}

// evidence quotes over a challenge, for this connection.
func (p *probe) evidence(device string, challenge, log, claims []byte) ([]byte, error) {
	transcript := attestation.Transcript(attestation.Binding{
		Purpose: attestation.PurposePoll, Nonce: challenge, Device: device, Exporter: p.exporter,
		LogDigests: []digest.SHA256{digest.Of(log)}, Claims: digest.Of(claims),
	})
	q, err := p.tpm.Quote(transcript[:])
	if err != nil {
		return nil, err
	}
	return attestation.EncodeEvidence(attestation.Evidence{
		Version: attestation.EvidenceVersion, Quote: q.Attest, Signature: q.Signature, PCRs: q.PCRs, LogDigest: digest.Of(log), Log: log,
	})
}

func encodePoll(claims, evidence []byte) ([]byte, error) {
	return json.Marshal(wire.PollRequest{Claims: claims, Evidence: evidence})
}
