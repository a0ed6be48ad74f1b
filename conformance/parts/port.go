package parts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Ports that tests are given. The kernel gives others to whoever does not say which one (net.ipv4.ip_local_port_range begins
// at 32768), so nobody comes by one of these by chance.
const (
	firstPort = 24000
	portCount = 2000
)

// FreePort chooses a TCP port that nobody listens at. No other test of this user is given it as long as this process
// lives, however often what listens there is stopped and started again.
func FreePort(ctx context.Context, host string) (int, error) {
	base, err := CacheDir()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(base, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("cannot make lock folder: %w", err)
	}
	begin := rand.IntN(portCount)
	for i := range portCount {
		port := firstPort + (begin+i)%portCount
		ok, err := takePort(ctx, filepath.Join(dir, "port-"+strconv.Itoa(port)), net.JoinHostPort(host, strconv.Itoa(port)))
		if ok || err != nil {
			return port, err
		}
	}
	return 0, fmt.Errorf("cannot find a free port from %d on: all %d are taken", firstPort, portCount)
}

// takePort holds a lock until the process ends: its descriptor is closed by nobody.
func takePort(ctx context.Context, lock, address string) (bool, error) {
	fd, err := unix.Open(lock, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return false, fmt.Errorf("cannot open lock: %w", err)
	}
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
		var lc net.ListenConfig
		if l, err := lc.Listen(ctx, "tcp", address); err == nil {
			return true, l.Close()
		}
	}
	if err := unix.Close(fd); err != nil {
		return false, fmt.Errorf("cannot close lock: %w", err)
	}
	return false, ctx.Err()
}

// FreeAddress is FreePort on the loopback, as host:port.
func FreeAddress(ctx context.Context) (string, error) {
	port, err := FreePort(ctx, "127.0.0.1")
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
}
