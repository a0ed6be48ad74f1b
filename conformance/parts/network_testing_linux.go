package parts

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestNetwork makes a network that lives as long as the test.
func TestNetwork(t testing.TB, cfg NetworkConfig) *Network {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = t.Output()
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	n, err := StartNetwork(ctx, cfg)
	if err != nil {
		t.Fatalf("StartNetwork: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Errorf("Network.Stop: %v", err)
		}
	})
	return n
}

// TestEcho answers every line on a TCP port of a host with the same line, until the test ends.
func TestEcho(t testing.TB, h *NetHost, at netip.AddrPort) {
	t.Helper()
	l, err := h.Listen(t.Context(), at.String())
	if err != nil {
		t.Fatalf("listen on %s of %s: %v", at, h.Name, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					text, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := c.Write([]byte(text)); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// TestLine is an open TCP connection to a TestEcho.
type TestLine struct {
	Name   string
	conn   net.Conn
	reader *bufio.Reader
}

// TestConnect opens a connection that lives as long as the test. The error is that of connecting.
func TestConnect(t testing.TB, name string, from *NetHost, to netip.AddrPort, most time.Duration) (*TestLine, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return &TestLine{Name: name, conn: c, reader: bufio.NewReader(c)}, nil
}

// Says sends a word and waits at most so long for its echo. Echoes of what was sent before, which come late when the way was
// closed in between, are passed over.
func (l *TestLine) Says(word string, most time.Duration) error {
	if err := l.conn.SetDeadline(time.Now().Add(most)); err != nil {
		return err
	}
	if _, err := l.conn.Write([]byte(word + "\n")); err != nil {
		return err
	}
	for {
		echo, err := l.reader.ReadString('\n')
		if err != nil || echo == word+"\n" {
			return err
		}
	}
}
