// Package nft is the network enforcement point of a Linux gateway: it keeps restricted devices apart with nftables, over
// netlink, without running a command.
//
// It owns one table and touches nothing else. The table's chains accept by default, so that it never opens what the
// operator's own firewall closes (an accept ends only our chain) and never closes anything but restricted devices. Inside
// the chains the recovery road comes first, then the drops of everything else from and to a restricted device, in both
// directions and before any rule about established connections, so that open connections end as well, and restricted
// devices do not reach each other. What is in force lives in the kernel, device by device with its epoch, and an order is
// one transaction that fails if anybody else moved the device in between: a restart loses nothing, and an order that was
// overtaken changes nothing.
//
// It refuses to claim what it does not see: a device counts as restricted only if its addresses are in the kernel's set
// and every chain and rule is as this package wrote it. It does not touch other tables, other hosts or routes.
//
// What it cannot do: family inet sees only what the gateway routes (or receives itself). Traffic between two devices on
// the same switch never passes; for a Linux bridge there is family bridge, which finds a device by its link address. A
// flow that the operator offloads to a flowtable passes by the forward chain; do not offload devices. A device that takes
// another address, and another link address, is a stranger to any filter by address: what binds a port to a device is
// 802.1X (package radius).
//
// Trusted for the availability of the network: who controls this code or may write nftables on the gateway can cut
// devices off or let them back in; it cannot make a device install anything.
package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Families of the table.
const (
	FamilyInet   = "inet"   // routed traffic, devices found by IP address (and by link address where it is known)
	FamilyBridge = "bridge" // traffic inside a Linux bridge, devices found by link address
)

// Hooks that a chain may stand at.
const (
	HookForward = "forward" // what passes through this host
	HookInput   = "input"   // what is for this host
	HookOutput  = "output"  // what this host sends
)

const (
	defaultTable    = "cordon"
	defaultPriority = -10 // before the usual filter chains (0), after destination NAT (-100)
	defaultTimeout  = 5 * time.Second
)

// Config says where and how the table is kept.
type Config struct {
	Name     string   // of the point
	Table    string   // Optional: default "cordon". Nobody else may write to it
	Family   string   // Optional: inet (default) or bridge
	Hooks    []string // Optional: default forward, input and output. Without input and output the gateway's own services stay open
	Priority int      // Optional: of the chains; default -10
	// Recovery is what a restricted device may still reach: the device listener of the server, as the gateway sees it
	// after destination NAT, and what the device needs to get there (name service, time, DHCP renewal). At least one.
	Recovery []Service
	// Namespace is the network namespace to work in: a name (as of `ip netns`) or an absolute path. Optional: default
	// the process's own.
	Namespace string
	Timeout   time.Duration    // Optional: of one conversation with the kernel; default 5 s
	Now       func() time.Time // Optional: default time.Now
}

// Service is a port that stays open.
type Service struct {
	Proto   string // tcp or udp
	Address netip.AddrPort
}

// String is the form that ParseService reads.
func (s Service) String() string { return s.Proto + "/" + s.Address.String() }

// ErrConfig is wrapped by everything that is wrong about a Config.
var ErrConfig = errors.New("configuration of the nftables point is wrong")

// ParseService reads "[tcp/|udp/]ADDRESS:PORT", for example "10.0.0.5:8443" or "udp/[2001:db8::53]:53".
func ParseService(text string) (Service, error) {
	proto, rest, found := strings.Cut(text, "/")
	if !found {
		proto, rest = "tcp", text
	}
	if proto != "tcp" && proto != "udp" {
		return Service{}, fmt.Errorf("%w: cannot use protocol %q of %q: tcp and udp are known", ErrConfig, proto, text)
	}
	a, err := netip.ParseAddrPort(rest)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" || !a.Addr().IsValid() {
		return Service{}, fmt.Errorf("%w: cannot read %q as ADDRESS:PORT", ErrConfig, text)
	}
	return Service{Proto: proto, Address: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}, nil
}

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,30}$`)

// serves says whether a recovery service is at the address. What belongs to all is no device's: an entry in the inventory, or
// a poll through a gateway that hides its sender, must not take the road back away from everybody.
func (c Config) serves(a netip.Addr) bool {
	return slices.ContainsFunc(c.Recovery, func(s Service) bool { return s.Address.Addr() == a.Unmap().WithZone("") })
}

// checked returns the configuration with its defaults.
func (c Config) checked() (Config, error) {
	if c.Table == "" {
		c.Table = defaultTable
	}
	if c.Family == "" {
		c.Family = FamilyInet
	}
	if len(c.Hooks) == 0 {
		c.Hooks = []string{HookForward, HookInput, HookOutput}
	}
	if c.Priority == 0 {
		c.Priority = defaultPriority
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Name == "" || c.Name == "door":
		return c, fmt.Errorf("%w: a point needs a name other than %q", ErrConfig, "door")
	case !tableName.MatchString(c.Table):
		return c, fmt.Errorf("%w: cannot use %q as the name of a table", ErrConfig, c.Table)
	case c.Family != FamilyInet && c.Family != FamilyBridge:
		return c, fmt.Errorf("%w: cannot use family %q: inet and bridge are known", ErrConfig, c.Family)
	case len(c.Recovery) == 0:
		return c, fmt.Errorf("%w: without a recovery service a restricted device never comes back", ErrConfig)
	case c.Priority < -300 || c.Priority > 300:
		return c, fmt.Errorf("%w: cannot use priority %d: -300 to 300 are known", ErrConfig, c.Priority)
	case c.Timeout < 0:
		return c, fmt.Errorf("%w: cannot use a negative timeout", ErrConfig)
	case strings.Contains(c.Namespace, "/") && !filepath.IsAbs(c.Namespace), c.Namespace == ".", c.Namespace == "..":
		return c, fmt.Errorf("%w: cannot use namespace %q: a name or an absolute path is needed", ErrConfig, c.Namespace)
	}
	for i, h := range c.Hooks {
		if !slices.Contains([]string{HookForward, HookInput, HookOutput}, h) || slices.Contains(c.Hooks[:i], h) {
			return c, fmt.Errorf("%w: cannot use hook %q: forward, input and output are known, each once", ErrConfig, h)
		}
	}
	for i, s := range c.Recovery {
		if again, err := ParseService(s.String()); err != nil || again != s {
			return c, fmt.Errorf("%w: cannot use the recovery service %q", ErrConfig, s)
		}
		if slices.Contains(c.Recovery[:i], s) {
			return c, fmt.Errorf("%w: the recovery service %s is listed twice", ErrConfig, s)
		}
	}
	return c, nil
}
