//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
)

// forwardFile holds a port of the host's own loopback that the trust bundle names as 127.0.0.1 or localhost.
const forwardFile = "/etc/cordon/forward"

// forward makes the machine's own loopback lead to the host's, on one port.
func forward() error {
	b, err := os.ReadFile(forwardFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	port := strings.TrimSpace(string(b))
	for _, address := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			return fmt.Errorf("cannot lead port %s to the host: %w", port, err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go pass(conn, net.JoinHostPort("10.0.2.2", port))
			}
		}()
	}
	return nil
}

// pass moves bytes between a connection and an address until both sides have ended.
func pass(conn net.Conn, address string) {
	defer conn.Close()
	peer, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer peer.Close()
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(peer, conn) // either side may hang up at any time
		_ = peer.(*net.TCPConn).CloseWrite()
		close(ended)
	}()
	_, _ = io.Copy(conn, peer)
	_ = conn.(*net.TCPConn).CloseWrite()
	<-ended
}
