//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// probe is a connection to the server with the machine's own TLS key.
type probe struct {
	conn     *tls.Conn
	reader   *bufio.Reader
	exporter []byte
	tpm      *tpm.TPM
	device   string
	log      []byte
}

func (o options) connect(ctx context.Context) (*probe, error) {
	b, err := os.ReadFile(o.trust)
	if err != nil {
		return nil, err
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		return nil, err
	}
	log, err := os.ReadFile(o.log)
	if err != nil {
		return nil, err
	}
	t, err := tpm.Open(o.tpm)
	if err != nil {
		return nil, err
	}
	p := &probe{tpm: t, log: log}
	if err := p.dial(ctx, trust); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return p, nil
}

func (p *probe) dial(ctx context.Context, trust wire.Trust) error {
	id, err := p.tpm.DeviceID()
	if err != nil {
		return err
	}
	p.device = string(id)
	signer, err := p.tpm.TLSSigner()
	if err != nil {
		return err
	}
	certificate, err := selfSigned(signer)
	if err != nil {
		return err
	}
	server, err := url.Parse(trust.Server)
	if err != nil {
		return err
	}
	pool, err := trust.Pool()
	if err != nil {
		return err
	}
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: server.Hostname(),
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: signer, SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}},
	}}
	conn, err := d.DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return err
	}
	p.conn = conn.(*tls.Conn) // tls.Dialer returns nothing else
	p.reader = bufio.NewReader(p.conn)
	state := p.conn.ConnectionState()
	p.exporter, err = state.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	return err
}

func selfSigned(key crypto.Signer) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "harvest"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

func (p *probe) close() {
	_ = p.conn.Close() // every answer is complete by itself
	_ = p.tpm.Close()
}

// send makes one poll.
func (p *probe) send(ctx context.Context, body []byte) (wire.PollAnswer, error) {
	var out wire.PollAnswer
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://server"+wire.PathPoll, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	if err := p.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return out, err
	}
	if err := req.Write(p.conn); err != nil {
		return out, err
	}
	res, err := http.ReadResponse(p.reader, req)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, wire.MaxAnswerBytes))
	if err != nil {
		return out, err
	}
	if res.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if res.StatusCode != http.StatusOK {
		return out, fmt.Errorf("the poll is answered with %d: %s", res.StatusCode, b)
	}
	return out, json.Unmarshal(b, &out)
}
