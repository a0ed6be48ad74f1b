package parts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	commandTimeout = 60 * time.Second // swtpm makes RSA primes on a loaded machine
	maxResponse    = 4096             // TPM2_MAX_RESPONSE_SIZE
	responseHeader = 10               // tag, size, response code
)

// channel speaks raw TPM 2.0 commands over a socket: a Write sends one command, the next Read returns its response.
type channel struct {
	network, addr string
	conn          net.Conn // open between a Write and its Read
}

func (c *channel) Write(b []byte) (int, error) {
	if c.conn != nil {
		return 0, errors.New("cannot send TPM command: the last response was not read")
	}
	conn, err := net.DialTimeout(c.network, c.addr, commandTimeout)
	if err != nil {
		return 0, fmt.Errorf("cannot reach TPM: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		conn.Close()
		return 0, fmt.Errorf("cannot reach TPM: %w", err)
	}
	n, err := conn.Write(b)
	if err != nil {
		conn.Close()
		return n, fmt.Errorf("cannot send TPM command: %w", err)
	}
	c.conn = conn
	return n, nil
}

func (c *channel) Read(b []byte) (int, error) {
	if c.conn == nil {
		return 0, errors.New("cannot read TPM response: no command was sent")
	}
	defer c.Close()
	if len(b) < responseHeader {
		return 0, io.ErrShortBuffer
	}
	if _, err := io.ReadFull(c.conn, b[:responseHeader]); err != nil {
		return 0, fmt.Errorf("cannot read TPM response: %w", err)
	}
	size := int(binary.BigEndian.Uint32(b[2:6]))
	if size < responseHeader || size > maxResponse || size > len(b) {
		return 0, fmt.Errorf("cannot read TPM response: it claims %d bytes", size)
	}
	if _, err := io.ReadFull(c.conn, b[responseHeader:size]); err != nil {
		return 0, fmt.Errorf("cannot read TPM response: %w", err)
	}
	return size, nil
}

func (c *channel) Close() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}
