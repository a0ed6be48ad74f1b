// Package radius is the network enforcement point of 802.1X switches, access points and other NAS: it moves a device to
// another VLAN or filter with Dynamic Authorization (RFC 5176), and believes only what RADIUS accounting (RFC 2866) then
// reports.
//
// A CoA-ACK says that the NAS took the request, not that the port changed: some switches acknowledge what they do not do.
// So the point listens for accounting itself, and a device counts as restricted when the newest record of its session,
// made after the order, names the restricted filter or VLAN. Without accounting an order stays acknowledged and is never
// verified; the NAS must send interim updates (RFC 2869 section 2.1), best right after each change.
//
// What the protocol is worth: RADIUS over UDP rests on a shared secret and MD5. This package sends Message-Authenticator
// (HMAC-MD5) with every request, checks it in every packet that has one (StrictReplies demands it in replies; not every NAS
// sends it), takes a reply only from the address and port that it asked, and takes accounting only from configured
// addresses, with a valid Request Authenticator, a fresh Event-Timestamp, and never a record that is older than one it
// has. Whoever knows the secret forges all of it; whoever reads the traffic can guess at a
// weak secret offline, and sees who is where. Use a random secret of 32 characters or more for each NAS and each direction,
// and carry the packets inside IPsec, or through a local proxy that speaks RadSec (RFC 6614): the standards bodies no longer
// consider bare RADIUS/UDP safe.
//
// It refuses to guess: a wrong secret looks like silence, and is reported as no answer, with that as one possible cause.
// A NAS keeps no epochs. The point refuses an order that is older than the newest one that it has sent or that a record
// names; after a restart, until the NAS reports again, the store's own order of epochs stands alone. With SendClass each
// order's epoch travels as Class, which a NAS repeats in accounting (RFC 2865 section 5.25), and a record proves exactly one
// order; without it, a record proves an order when it was made after the order was sent.
//
// Trusted for the availability of the network: who controls this code can cut devices off or let them back in; it cannot
// make a device install anything.
package radius

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Modes: what is sent to the NAS.
const (
	ModeCoA        = "coa"        // CoA-Request with the attributes of the segment
	ModeDisconnect = "disconnect" // Disconnect-Request: the device signs on again, and the RADIUS server puts it where it belongs
)

// Formats of a link address in Calling-Station-Id.
const (
	FormatHyphenUpper = "02-00-00-00-00-0A" // RFC 3580
	FormatHyphenLower = "02-00-00-00-00-0a"
	FormatColonUpper  = "02:00:00:00:00:0A"
	FormatColonLower  = "02:00:00:00:00:0a"
	FormatDots        = "0200.0000.000a"
	FormatPlainUpper  = "02000000000A"
	FormatPlainLower  = "02000000000a"
)

// Config says how to reach a NAS, or the RADIUS proxy in front of many.
type Config struct {
	Name       string // of the point
	Server     string // host:port of the dynamic authorization server; standard port 3799
	SecretFile string // shared secret for requests to Server; one line, at least 16 bytes
	Mode       string // Optional: coa (default) or disconnect

	NASIdentifier string     // Optional: NAS-Identifier of the requests, for a proxy that routes by it
	NASAddress    netip.Addr // Optional: NAS-IP-Address or NAS-IPv6-Address, likewise
	MACFormat     string     // Optional: one of the Format constants; default 02-00-00-00-00-0A

	Restricted Attributes // how the restricted segment looks in CoA-Request and accounting
	Production Attributes // how production looks; must differ

	// SendClass says that the NAS takes Class in a CoA-Request and repeats it in accounting. Optional: default false, since a
	// NAS may refuse an attribute that it does not expect.
	SendClass bool
	// StrictReplies refuses replies without Message-Authenticator. Optional: default false.
	StrictReplies bool

	Timeout time.Duration // Optional: of one try; default 2 s
	Tries   int           // Optional: how often a request is sent before the NAS counts as unreachable; default 3
	Rate    float64       // Optional: requests per second at most; default 50

	// AccountingListen is the UDP address on which accounting of the NAS arrives, for example ":1813". Optional: without
	// it nothing is ever verified.
	AccountingListen     string
	AccountingSecretFile string         // shared secret of the accounting; as SecretFile
	AccountingClients    []netip.Prefix // who may send accounting; at least one with AccountingListen

	// ClockSkew is how far the clock of a NAS may be off: a record from longer before an order than this does not prove
	// it. Optional: default 2 s.
	ClockSkew time.Duration
	Now       func() time.Time // Optional: default time.Now
	Log       *slog.Logger     // Optional: default none
}

// Attributes name a segment for a NAS. At least one is set.
type Attributes struct {
	FilterID string // Filter-Id: an ACL or role
	VLAN     string // Tunnel-Private-Group-ID with Tunnel-Type VLAN: number or name
}

func (a Attributes) empty() bool { return a == Attributes{} }

// ErrConfig is wrapped by everything that is wrong about a Config.
var ErrConfig = errors.New("configuration of the RADIUS point is wrong")

const (
	defaultTimeout   = 2 * time.Second
	defaultTries     = 3
	defaultRate      = 50.0
	defaultClockSkew = 2 * time.Second
	mostTries        = 10
)

// checked returns the configuration with its defaults.
func (c Config) checked() (Config, error) {
	c.fill()
	wrong := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case c.Name == "" || c.Name == "door":
		return wrong("a point needs a name other than %q", "door")
	case c.Mode != ModeCoA && c.Mode != ModeDisconnect:
		return wrong("cannot use mode %q: coa and disconnect are known", c.Mode)
	case formatMAC("02:00:00:00:00:0a", c.MACFormat) == "":
		return wrong("cannot use the link address format %q", c.MACFormat)
	case c.Restricted.empty() || c.Production.empty():
		return wrong("both segments need a filter or a VLAN")
	case !distinct(c.Restricted, c.Production):
		return wrong("the two segments must be told apart by every attribute that both have, and share at least one kind")
	case c.Timeout < 0 || c.Tries < 1 || c.Tries > mostTries || c.Rate <= 0 || c.Rate > 10000 || c.ClockSkew < 0:
		return wrong("timeout, tries (at most %d), rate or clock skew is out of range", mostTries)
	case c.AccountingListen != "" && len(c.AccountingClients) == 0:
		return wrong("accounting needs the addresses of those who may send it")
	}
	for _, a := range []Attributes{c.Restricted, c.Production} {
		if len(a.FilterID) > 253 || len(a.VLAN) > 32 {
			return wrong("a filter has at most 253 bytes and a VLAN at most 32")
		}
	}
	if len(c.NASIdentifier) > 253 {
		return wrong("NAS-Identifier has at most 253 bytes")
	}
	if err := checkHostPort(c.Server); err != nil {
		return wrong("cannot use server %q: %v", c.Server, err)
	}
	return c, nil
}

func (c *Config) fill() {
	if c.Mode == "" {
		c.Mode = ModeCoA
	}
	if c.MACFormat == "" {
		c.MACFormat = FormatHyphenUpper
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Tries == 0 {
		c.Tries = defaultTries
	}
	if c.Rate == 0 {
		c.Rate = defaultRate
	}
	if c.ClockSkew == 0 {
		c.ClockSkew = defaultClockSkew
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// distinct reports whether one look at a record tells the segments apart.
func distinct(a, b Attributes) bool {
	filter, vlan := a.FilterID != "" && b.FilterID != "", a.VLAN != "" && b.VLAN != ""
	return (filter || vlan) && !(filter && a.FilterID == b.FilterID) && !(vlan && a.VLAN == b.VLAN)
}

func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return errors.New("host:port is needed")
	}
	return nil
}

const (
	leastSecret = 16
	mostSecret  = 1024
)

// readSecret reads a shared secret: one line, without its end.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the shared secret: %w", err)
	}
	defer f.Close()
	b := make([]byte, mostSecret+3)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("cannot read the shared secret %q: %w", path, err)
	}
	secret := strings.TrimRight(string(b[:n]), "\r\n")
	switch {
	case len(secret) < leastSecret:
		return nil, fmt.Errorf("cannot use the shared secret %q: it is shorter than %d bytes; make one with: openssl rand -hex 24", path, leastSecret)
	case n == len(b) || len(secret) > mostSecret || strings.ContainsAny(secret, "\r\n\x00"):
		return nil, fmt.Errorf("cannot use the shared secret %q: one line of at most %d bytes is needed", path, mostSecret)
	}
	return []byte(secret), nil
}
