package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"
)

// newTransport makes connections that end when nothing moves on them for the idle time. A limit on a whole request
// would cut the download of a large image over a slow line.
func newTransport(roots *x509.CertPool, idle time.Duration) *http.Transport {
	if idle <= 0 {
		idle = defaultIdle
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &idleConn{Conn: c, idle: idle}, nil
		},
		// With its own TLS configuration the transport speaks HTTP/1.1: one request per connection at a time, so a
		// stalled download holds up no other one.
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        256,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     min(time.Minute, idle),
		DisableCompression:  true, // else objects with a content encoding change on the way
	}
}

// idleConn moves its deadline with every byte. A write moves the deadline of a read that waits, and the other way
// round: while a large body goes out, nothing comes in.
type idleConn struct {
	net.Conn
	idle time.Duration
}

func (c *idleConn) Read(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *idleConn) Write(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
