package config

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Segment is how the network is told where a device may be. Without a point in it the artifact door alone keeps a
// restricted device from firmware, and nothing keeps it from its neighbours.
type Segment struct {
	// LearnAddresses takes the address that a device's last poll came from as one of its addresses, beside those of the
	// inventory. An address that several devices show (NAT) is never used. Default false.
	LearnAddresses bool `toml:"learn_addresses"`
	// BreakerDevices: the mass-quarantine breaker trips when within BreakerWindow at least so many devices of a product are
	// newly restricted, retired ones among them, and more than BreakerPercent of its active devices. Network orders that
	// tighten then wait for 'cordonctl segment resume'. Default 10.
	BreakerDevices int64 `toml:"breaker_devices"`
	// BreakerPercent: see BreakerDevices. Above 0, at most 100. Default 5.
	BreakerPercent float64 `toml:"breaker_percent"`
	// BreakerWindow: see BreakerDevices. Default "10m".
	BreakerWindow Duration `toml:"breaker_window"`
	// Timeout is how long one order or reading back may take at a point. Default "10s".
	Timeout Duration `toml:"timeout"`
	// Parallel is how many orders are under way at one point at the same time. Default 8.
	Parallel int `toml:"parallel"`
	// Rate is how many orders and readings back a point gets per second. Default 100.
	Rate float64 `toml:"rate"`
	// RetryMax is the longest pause between two tries of an order. Default "30s".
	RetryMax Duration `toml:"retry_max"`
	// Reconcile: every verified order is read back this often, and put right if the network shows something else.
	// Default "1m".
	Reconcile Duration `toml:"reconcile"`

	// NFTables are Linux gateways: this host, or one of its network namespaces. Optional.
	NFTables []NFTables `toml:"nftables"`
	// RADIUS are switches and access points with 802.1X. Optional.
	RADIUS []RADIUS `toml:"radius"`
	// Webhook are receivers that somebody else runs. Optional.
	Webhook []Webhook `toml:"webhook"`
}

// NFTables is one gateway (package server/segment/nft). cordond needs CAP_NET_ADMIN for it.
type NFTables struct {
	// Name of the point: lower-case letters, digits and hyphens, unique among all points.
	Name string `toml:"name"`
	// Table is the table that cordond keeps for itself. Default "cordon".
	Table string `toml:"table"`
	// Family is "inet" for routed traffic, or "bridge" for traffic inside a Linux bridge. Default "inet".
	Family string `toml:"family"`
	// Hooks are where restricted devices are stopped: "forward", "input", "output". Default all three.
	Hooks []string `toml:"hooks"`
	// Priority of the chains. Default -10.
	Priority int `toml:"priority"`
	// Recovery is what a restricted device may still reach, like ["10.0.0.5:8443", "udp/10.0.0.1:53"]: the device listener
	// of this server, as the gateway sees it, and what a device needs to get there. At least one.
	Recovery []string `toml:"recovery"`
	// Namespace is the network namespace to work in: a name or an absolute path. Optional: default cordond's own.
	Namespace string `toml:"namespace"`
}

// RADIUS is one switch, access point or RADIUS proxy (package server/segment/radius).
type RADIUS struct {
	// Name of the point: as of nftables.
	Name string `toml:"name"`
	// Server is host:port of the dynamic authorization server; the standard port is 3799.
	Server string `toml:"server"`
	// SecretFile holds the shared secret for Server: one line, at least 16 bytes.
	SecretFile string `toml:"secret_file"`
	// Mode is "coa" to change a session in place, or "disconnect" to end it, so that the device signs on again. Default "coa".
	Mode string `toml:"mode"`
	// NASIdentifier goes into every request, for a proxy that routes by it. Optional.
	NASIdentifier string `toml:"nas_identifier"`
	// NASAddress: NAS-IP-Address or NAS-IPv6-Address, likewise. Optional.
	NASAddress string `toml:"nas_address"`
	// MACFormat is how the switch writes a link address, shown by example. Default "02-00-00-00-00-0A".
	MACFormat string `toml:"mac_format"`
	// RestrictedFilter is the Filter-Id of restricted devices. A filter or a VLAN is needed for each segment.
	RestrictedFilter string `toml:"restricted_filter"`
	// RestrictedVLAN is the VLAN of restricted devices, by number or name.
	RestrictedVLAN string `toml:"restricted_vlan"`
	// ProductionFilter is the Filter-Id of devices in production.
	ProductionFilter string `toml:"production_filter"`
	// ProductionVLAN is the VLAN of devices in production.
	ProductionVLAN string `toml:"production_vlan"`
	// SendClass says that the switch takes Class in a request and repeats it in accounting. Default false.
	SendClass bool `toml:"send_class"`
	// StrictReplies refuses replies without Message-Authenticator. Default false.
	StrictReplies bool `toml:"strict_replies"`
	// Timeout of one try. Default "2s".
	Timeout Duration `toml:"timeout"`
	// Tries is how often a request is sent before the switch counts as unreachable. Default 3.
	Tries int `toml:"tries"`
	// Rate is how many requests per second the switch gets at most. Default 50.
	Rate float64 `toml:"rate"`
	// AccountingListen is the UDP address where accounting arrives, like ":1813". Optional: without it nothing is ever
	// verified, only acknowledged.
	AccountingListen string `toml:"accounting_listen"`
	// AccountingSecretFile holds the shared secret of the accounting. Needed with AccountingListen.
	AccountingSecretFile string `toml:"accounting_secret_file"`
	// AccountingClients are the networks that may send accounting, like ["10.0.0.0/24"]. Needed with AccountingListen.
	AccountingClients []string `toml:"accounting_clients"`
	// ClockSkew is how far the clock of the switch may be off. Default "2s".
	ClockSkew Duration `toml:"clock_skew"`
}

// Webhook is one receiver of signed orders (package server/segment/webhook); conformance/docs/network.md has
// the rules for its author.
type Webhook struct {
	// Name of the point: as of nftables. The receiver refuses orders for another name.
	Name string `toml:"name"`
	// URL of the receiver; https.
	URL string `toml:"url"`
	// CAFile holds the PEM certificates of its CA. Optional: default the system's.
	CAFile string `toml:"ca_file"`
	// Finds is what the receiver finds a device by: "device", "address" or "mac". Default "device".
	Finds string `toml:"finds"`
}

var pointName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// PointNames are the names of all network enforcement points, in the order of the file.
func (s Segment) PointNames() []string {
	var out []string
	for _, p := range s.NFTables {
		out = append(out, p.Name)
	}
	for _, p := range s.RADIUS {
		out = append(out, p.Name)
	}
	for _, p := range s.Webhook {
		out = append(out, p.Name)
	}
	return out
}

func (s *Segment) setDefaults() {
	span := func(field *Duration, value time.Duration) {
		if *field == 0 {
			*field = Duration(value)
		}
	}
	span(&s.BreakerWindow, 10*time.Minute)
	span(&s.Timeout, 10*time.Second)
	span(&s.RetryMax, 30*time.Second)
	span(&s.Reconcile, time.Minute)
	if s.BreakerDevices == 0 {
		s.BreakerDevices = 10
	}
	if s.BreakerPercent == 0 {
		s.BreakerPercent = 5
	}
	if s.Parallel == 0 {
		s.Parallel = 8
	}
	if s.Rate == 0 {
		s.Rate = 100
	}
	for i := range s.Webhook {
		if s.Webhook[i].Finds == "" {
			s.Webhook[i].Finds = "device"
		}
	}
}

// validate checks what the points themselves do not check when they are made.
func (s *Segment) validate(say func(format string, args ...any)) {
	names := s.PointNames()
	for i, name := range names {
		if !pointName.MatchString(name) || name == "door" {
			say("segment: %q is no name of a point: lower-case letters, digits and hyphens, at most 32, and not \"door\"", name)
		}
		if slices.Contains(names[:i], name) {
			say("segment: two points have the name %q", name)
		}
	}
	for key, d := range map[string]Duration{
		"breaker_window": s.BreakerWindow, "timeout": s.Timeout, "retry_max": s.RetryMax, "reconcile": s.Reconcile,
	} {
		if d <= 0 {
			say("segment.%s must be longer than zero", key)
		}
	}
	if s.BreakerDevices < 1 {
		say("segment.breaker_devices must be at least 1")
	}
	if !(s.BreakerPercent > 0 && s.BreakerPercent <= 100) {
		say("segment.breaker_percent must be above 0 and at most 100")
	}
	if s.Parallel < 1 || s.Parallel > 1024 {
		say("segment.parallel must be 1 to 1024")
	}
	if !(s.Rate > 0 && s.Rate <= 1e6) {
		say("segment.rate must be above 0 and at most 1000000")
	}
	for _, w := range s.Webhook {
		if !slices.Contains([]string{"device", "address", "mac"}, w.Finds) {
			say("segment.webhook: finds %q is none of \"device\", \"address\", \"mac\"", w.Finds)
		}
	}
	for _, p := range s.NFTables {
		if len(p.Recovery) == 0 {
			say("segment.nftables %s needs recovery: the device listener that restricted devices may still reach", fmt.Sprintf("%q", p.Name))
		}
	}
}
