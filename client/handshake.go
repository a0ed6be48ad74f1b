package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// maxLater bounds how often one connection is tried again at a later time: once for each certificate of a chain.
const maxLater = 4

// handshake reaches a host and agrees on TLS at the device's time. That time is never too late by the device's own doing,
// and may be years too early, on a board without a clock: a certificate that is not valid yet says no more than that. It is
// asked again at the first moment at which that certificate is valid, for this connection alone, and then every certificate
// has to be. A later moment never revives a certificate that has ended. who is the host in words.
func (c *Client) handshake(ctx context.Context, who, host string, config *tls.Config) (*tls.Conn, error) {
	at := c.now()
	for again := 0; ; again++ {
		conn, err := c.handshakeAt(ctx, who, host, config, at)
		later, ok := notYetValid(err, at)
		if !ok || again == maxLater {
			return conn, err
		}
		at = later
	}
}

func (c *Client) handshakeAt(ctx context.Context, who, host string, config *tls.Config, at time.Time) (*tls.Conn, error) {
	raw, err := c.cfg.Dial(ctx, "tcp", host)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", who, err)
	}
	config = config.Clone()
	config.Time = func() time.Time { return at }
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("cannot agree on TLS with %s: %w", who, doubtClock(err))
	}
	return conn, nil
}

// notYetValid returns the first moment at which a certificate is valid that was refused for being too new.
func notYetValid(err error, at time.Time) (time.Time, bool) {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || invalid.Cert == nil || !invalid.Cert.NotBefore.After(at) {
		return time.Time{}, false
	}
	return invalid.Cert.NotBefore, true
}

// doubtClock asks about the clock where a certificate is refused for the time: a device that is behind goes on, and one that
// is ahead cannot tell it.
func doubtClock(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w; is the device's clock right?", err)
	}
	return err
}
