package parts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotRoot is returned when network namespaces are needed and the process may not make them.
var ErrNotRoot = errors.New("network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")

// NetworkConfig says which hosts stand around a gateway.
type NetworkConfig struct {
	Hosts []string
	// Bridged puts all hosts into one Ethernet segment, a bridge inside the gateway. Otherwise each host has a subnet of
	// its own, and the gateway routes between them.
	Bridged bool
	Log     io.Writer // Optional: where an installation is announced; default standard error
}

// Network is a set of network namespaces with real links between them. Its namespaces have no names: they end with the
// processes that hold them, and those end with this process, however it ends.
type Network struct {
	gateway *NetHost
	hosts   []*NetHost
}

// NetHost is one network namespace with its addresses.
type NetHost struct {
	Name      string
	Namespace string     // path that setns(2) and nsenter(1) take
	Address4  netip.Addr // of its link to the gateway; of the gateway: its address towards the first host
	Address6  netip.Addr
	MAC       string // of that link
	keeper    *process
	dir       string
}

// StartNetwork makes the namespaces and links. It needs root.
func StartNetwork(ctx context.Context, cfg NetworkConfig) (*Network, error) {
	if cfg.Log == nil {
		cfg.Log = os.Stderr
	}
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	if err := Require(ctx, cfg.Log, "iproute2", "nftables"); err != nil {
		return nil, err
	}
	n := &Network{}
	err := n.make(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

func (n *Network) make(ctx context.Context, cfg NetworkConfig) error {
	var err error
	if n.gateway, err = newNetHost(ctx, "gateway"); err != nil {
		return err
	}
	if err := n.gateway.run(ctx, "sh", "-euc", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"); err != nil {
		return err
	}
	if cfg.Bridged {
		err := n.gateway.ip(ctx, "link add br0 type bridge mcast_snooping 0", "link set br0 up", "addr add 10.77.0.1/24 dev br0", "addr add fd77::1/64 dev br0 nodad")
		if err != nil {
			return err
		}
	}
	for i, name := range cfg.Hosts {
		h, err := newNetHost(ctx, name)
		if err != nil {
			return err
		}
		n.hosts = append(n.hosts, h)
		if err := n.connect(ctx, h, i+1, cfg.Bridged); err != nil {
			return err
		}
	}
	return nil
}

// connect lays a virtual cable between the gateway and the n-th host.
func (n *Network) connect(ctx context.Context, h *NetHost, number int, bridged bool) error {
	net4, net6, last := fmt.Sprintf("10.77.%d.", number), fmt.Sprintf("fd77:%x::", number), 2
	if bridged {
		net4, net6, last = "10.77.0.", "fd77::", number+1
	}
	h.Address4, h.Address6 = netip.MustParseAddr(fmt.Sprintf("%s%d", net4, last)), netip.MustParseAddr(fmt.Sprintf("%s%x", net6, last))
	h.MAC = fmt.Sprintf("02:00:00:00:00:%02x", number)
	port := fmt.Sprintf("p%d", number)
	lines := []string{
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", port, h.MAC, h.keeper.pid),
		"link set " + port + " up",
	}
	if bridged {
		lines = append(lines, "link set "+port+" master br0")
	} else {
		lines = append(lines, fmt.Sprintf("addr add %s1/24 dev %s", net4, port), fmt.Sprintf("addr add %s1/64 dev %s nodad", net6, port))
	}
	if err := n.gateway.ip(ctx, lines...); err != nil {
		return err
	}
	if number == 1 {
		n.gateway.Address4, n.gateway.Address6 = netip.MustParseAddr(net4+"1"), netip.MustParseAddr(net6+"1")
	}
	return h.ip(ctx, "link set eth0 up", fmt.Sprintf("addr add %s/24 dev eth0", h.Address4), fmt.Sprintf("addr add %s/64 dev eth0 nodad", h.Address6),
		"route add default via "+net4+"1", "-6 route add default via "+net6+"1")
}

// newNetHost makes a namespace with its loopback up.
func newNetHost(ctx context.Context, name string) (*NetHost, error) {
	dir, err := os.MkdirTemp("", "cnet")
	if err != nil {
		return nil, fmt.Errorf("cannot make folder for a network namespace: %w", err)
	}
	unshare, err := command("unshare")
	if err != nil {
		return nil, err
	}
	keeper, err := startProcess(processConfig{
		Argv: []string{unshare, "--net", "--", "sleep", "infinity"}, Log: filepath.Join(dir, "log"), Stop: "TERM", Clean: dir,
	})
	if err != nil {
		return nil, err
	}
	h := &NetHost{Name: name, Namespace: "/proc/" + strconv.Itoa(keeper.pid) + "/ns/net", keeper: keeper, dir: dir}
	err = keeper.waitReady(ctx, "a network namespace", func() error {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(keeper.pid) + "/comm")
		if err != nil || strings.TrimSpace(string(comm)) != "sleep" {
			return fmt.Errorf("not there yet: %w", err)
		}
		return nil
	})
	if err == nil {
		err = h.ip(ctx, "link set lo up")
	}
	if err != nil {
		keeper.stop()
		return nil, err
	}
	return h, nil
}

// Gateway is the host in the middle.
func (n *Network) Gateway() *NetHost { return n.gateway }

// Host returns a host by its name, nil if there is none.
func (n *Network) Host(name string) *NetHost {
	for _, h := range n.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Stop ends all namespaces. Calling it again is harmless.
func (n *Network) Stop() error {
	for _, h := range append(n.hosts, n.gateway) {
		if h != nil {
			h.keeper.stop()
		}
	}
	return nil
}

// Command prepares a program that runs in the namespace.
func (h *NetHost) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	nsenter, err := command("nsenter")
	if err != nil {
		return nil, err
	}
	path, err := command(name)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, nsenter, append([]string{"--net=" + h.Namespace, "--", path}, args...)...), nil
}

// Output runs a program in the namespace and returns what it printed.
func (h *NetHost) Output(ctx context.Context, name string, args ...string) (string, error) {
	path, err := command(name)
	if err != nil {
		return "", err
	}
	out, err := run(ctx, "nsenter", append([]string{"--net=" + h.Namespace, "--", path}, args...)...)
	return string(out), err
}

func (h *NetHost) run(ctx context.Context, name string, args ...string) error {
	_, err := h.Output(ctx, name, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// ip runs several command lines of ip(8).
func (h *NetHost) ip(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if err := h.run(ctx, "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// Do runs f on a thread inside the namespace: sockets that f opens itself, not in another goroutine, belong to it for
// ever.
func (h *NetHost) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread goes back to its own namespace and lives on: children that it started before, with a death signal from
		// their parent, would be killed with it. It ends only if there is no way back.
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- fmt.Errorf("cannot keep the own namespace: %w", err)
			return
		}
		defer own.Close()
		ns, err := os.Open(h.Namespace)
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("cannot enter the namespace of %s: %w", h.Name, err)
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			err = f()
			if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
				result <- errors.Join(err, fmt.Errorf("cannot leave the namespace of %s: %w", h.Name, back))
				return
			}
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

// Listen opens a TCP listener in the namespace.
func (h *NetHost) Listen(ctx context.Context, address string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		return err
	})
	return l, err
}

// ListenPacket opens a UDP socket in the namespace.
func (h *NetHost) ListenPacket(ctx context.Context, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = new(net.ListenConfig).ListenPacket(ctx, "udp", address)
		return err
	})
	return c, err
}

// Dial connects from inside the namespace; address holds an IP address, never a name.
func (h *NetHost) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("cannot dial %q: %w", address, err) // a name would be looked up in another goroutine
	}
	err = h.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}
