package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/client/wire"
)

// maxLocation bounds the URL of a redirect.
const maxLocation = 8 << 10

// errElsewhere: a redirect leads nowhere that this device goes.
var errElsewhere = errors.New("the door's redirect cannot be followed")

// follows reports whether the door may send this download to another server.
func (g *download) follows() bool { return !g.atDoor && len(g.client.cfg.Trust.Downloads) > 0 }

// redirected fetches the rest of an image from where the door sent it. A server there gets the URL and a range, and
// nothing of the device: no client certificate, no token, no key. When it brings little or nothing, the door itself has to
// send the bytes from then on.
func (g *download) redirected(ctx context.Context, p part, to *sink, location string) error {
	before := to.at
	err := g.elsewhere(ctx, to, location)
	if errors.Is(err, errTooLong) {
		err = fmt.Errorf("%w: more bytes came than the image has", errElsewhere) // not the door's fault
	}
	if to.at > before {
		g.strays = true
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, errSlot) {
		return err
	}
	if to.at-before >= steadyBytes {
		return err // the line broke; the next request gets a new URL
	}
	g.atDoor = true
	g.client.log.Info("the door has to send the image: another server did not", "target", p.path, "cause", err.Error())
	if to.at == before {
		return g.once(ctx, p, to)
	}
	return err
}

// elsewhere makes the one request. It follows no further redirect.
func (g *download) elsewhere(ctx context.Context, to *sink, location string) error {
	u, download, err := g.client.destination(location)
	if err != nil {
		return err
	}
	conn, err := g.dial(ctx, u, download)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", to.at))
	req.Header.Set("User-Agent", agentName)
	if err := conn.SetDeadline(time.Now().Add(g.client.cfg.Timeout)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // the deadline above may have come after the one of the context
		return err
	}
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("cannot ask %s: %w", u.Host, err)
	}
	remaining := to.end - to.at
	limited := &meter{r: conn, left: maxHeaderBytes + remaining + remaining/8 + 4096}
	res, err := http.ReadResponse(bufio.NewReader(limited), req)
	if err != nil {
		return fmt.Errorf("cannot read answer of %s: %w", u.Host, err)
	}
	// The connection ends with this answer, so its body need not be read to the end.
	want := fmt.Sprintf("bytes %d-%d/%d", to.at, to.end-1, to.end)
	if got := res.Header.Get("Content-Range"); res.StatusCode != http.StatusPartialContent || got != want {
		return fmt.Errorf("%w: %s answers %d with range %.80q, want %q", errElsewhere, u.Host, res.StatusCode, got, want)
	}
	if res.ContentLength > remaining {
		return fmt.Errorf("%w: %s sends more than it should", errElsewhere, u.Host)
	}
	return g.copy(ctx, conn, res.Body, to)
}

// destination holds the URL of a redirect against the trust bundle.
func (c *Client) destination(location string) (*url.URL, wire.Download, error) {
	if len(location) > maxLocation {
		return nil, wire.Download{}, fmt.Errorf("%w: a URL of %d bytes", errElsewhere, len(location))
	}
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, wire.Download{}, fmt.Errorf("%w: it is no https URL", errElsewhere)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	i := slices.IndexFunc(c.cfg.Trust.Downloads, func(d wire.Download) bool { return strings.EqualFold(d.Host, host) })
	if i < 0 {
		return nil, wire.Download{}, fmt.Errorf("%w: %.200q is not in the trust bundle", errElsewhere, host)
	}
	return u, c.cfg.Trust.Downloads[i], nil
}

// dial connects with a TLS configuration of its own, which knows nothing of the device's key.
func (g *download) dial(ctx context.Context, u *url.URL, download wire.Download) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, g.client.cfg.Timeout)
	defer cancel()
	pool, err := download.Pool()
	if err != nil {
		return nil, err
	}
	return g.client.handshake(ctx, download.Host, download.Host, &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: u.Hostname(), NextProtos: []string{"http/1.1"},
	})
}
