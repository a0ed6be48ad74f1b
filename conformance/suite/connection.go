package suite

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/wire"
)

// maxWait bounds how long a server that is busy is waited for, in all, for one request.
const maxWait = time.Minute

// connection is one TLS connection with a client key; it is opened anew when the server has closed it.
type connection struct {
	run      *run
	key      evidencetest.Key
	conn     *tls.Conn
	reader   *bufio.Reader
	exporter []byte
}

func (r *run) connect(ctx context.Context, key evidencetest.Key) (*connection, error) {
	c := &connection{run: r, key: key}
	return c, c.open(ctx)
}

func (c *connection) open(ctx context.Context) error {
	c.close()
	der, err := selfSigned(c.key.Private)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.run.cfg.Timeout)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: c.run.pool, ServerName: c.run.name,
		Certificates: []tls.Certificate{{
			Certificate: [][]byte{der}, PrivateKey: c.key.Private, SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		}},
	}}
	raw, err := d.DialContext(ctx, "tcp", c.run.host)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	conn := raw.(*tls.Conn) // tls.Dialer returns nothing else
	state := conn.ConnectionState()
	c.exporter, err = state.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, errors.Join(err, conn.Close()))
	}
	c.conn, c.reader = conn, bufio.NewReader(conn)
	return nil
}

func (c *connection) close() {
	if c.conn != nil {
		_ = c.conn.Close() // every answer is complete by itself
		c.conn = nil
	}
}

func selfSigned(key *ecdsa.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance suite"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// answer is a complete answer of the server.
type answer struct {
	status int
	wait   time.Duration // Retry-After
	body   []byte
}

// problem is the answer's problem document; without one there is no reason, and no check takes that for one.
func (a answer) problem() wire.Problem {
	var p wire.Problem
	if json.Unmarshal(a.body, &p) != nil {
		return wire.Problem{}
	}
	return p
}

// sending makes the body of a request for the connection as it is: a quote is bound to it.
type sending func(*connection) ([]byte, error)

// exchange sends one request and reads its answer. A connection that the server has closed is opened once more, and a
// server that says "later" is asked again, for as long as maxWait.
func (c *connection) exchange(ctx context.Context, method, path string, body sending) (answer, error) {
	again := true
	for waited := time.Duration(0); ; {
		if c.conn == nil {
			if err := c.open(ctx); err != nil {
				return answer{}, err
			}
		}
		a, err := c.once(ctx, method, path, body)
		switch {
		case ctx.Err() != nil:
			return answer{}, ctx.Err()
		case err != nil && again:
			again = false
			c.close()
			continue
		case err != nil:
			return answer{}, err
		case a.status != http.StatusTooManyRequests || waited+a.wait > maxWait:
			return a, nil
		}
		waited += max(a.wait, time.Second)
		if err := pause(ctx, max(a.wait, time.Second)); err != nil {
			return answer{}, err
		}
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *connection) once(ctx context.Context, method, path string, body sending) (answer, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = body(c); err != nil {
			return answer{}, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.run.host+path, bytes.NewReader(b))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if strings.HasPrefix(path, wire.PathArtifacts) {
		req.Header.Set("Range", "bytes=0-0") // whether it opens is the question
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.run.cfg.Timeout)); err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Now()) })
	defer stop()
	// A server that refuses a body by its length may stop reading: its answer counts all the same.
	written := req.Write(c.conn)
	res, err := http.ReadResponse(c.reader, req)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrSetup, errors.Join(written, err))
	}
	defer res.Body.Close()
	limit := int64(wire.MaxMetadataBytes)
	out := answer{status: res.StatusCode}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		out.wait = time.Duration(min(seconds, 3600)) * time.Second
	}
	if out.body, err = io.ReadAll(io.LimitReader(res.Body, limit+1)); err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if int64(len(out.body)) > limit {
		return answer{}, fmt.Errorf("%w: an answer of more than %d bytes", ErrSetup, limit)
	}
	if res.Close || written != nil {
		c.close()
	}
	return out, nil
}
