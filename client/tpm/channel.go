package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpmutil"
)

const (
	commandTimeout = 2 * time.Minute // a slow TPM makes an RSA primary key in tens of seconds
	headerBytes    = 10              // tag, size, response code
)

// dial chooses the channel; managed tells whether a resource manager sits in front of the TPM.
func dial(path string) (rw io.ReadWriteCloser, managed bool, err error) {
	info, statErr := os.Stat(path)
	switch {
	case statErr == nil && info.Mode()&os.ModeSocket != 0:
		return &socket{network: "unix", address: path}, false, nil
	case statErr == nil:
		rw, err := tpmutil.OpenTPM(path)
		return rw, true, err
	}
	if _, _, err := net.SplitHostPort(path); err != nil {
		return nil, false, statErr
	}
	return &socket{network: "tcp", address: path}, false, nil
}

// socket carries raw TPM commands, each over a connection of its own, so that a second process is not kept out and a
// TPM that restarted is found again.
type socket struct {
	network, address string
	conn             net.Conn // open between a Write and its Read
}

// Write sends one command.
func (s *socket) Write(b []byte) (int, error) {
	if s.conn != nil {
		s.hangUp()
	}
	conn, err := net.DialTimeout(s.network, s.address, commandTimeout)
	if err != nil {
		return 0, err
	}
	s.conn = conn
	if err := conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		s.hangUp()
		return 0, err
	}
	n, err := conn.Write(b)
	if err != nil {
		s.hangUp()
	}
	return n, err
}

// Read returns the response to the command before it.
func (s *socket) Read(b []byte) (int, error) {
	if s.conn == nil {
		return 0, errors.New("no command was sent")
	}
	defer s.hangUp()
	return readResponse(s.conn, b)
}

// readResponse reads one TPM response. It refuses a size that is too small for a header or too large for b.
func readResponse(r io.Reader, b []byte) (int, error) {
	if len(b) < headerBytes {
		return 0, io.ErrShortBuffer
	}
	if _, err := io.ReadFull(r, b[:headerBytes]); err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint32(b[2:6])
	if size < headerBytes || uint64(size) > uint64(len(b)) {
		return 0, fmt.Errorf("the TPM's response claims %d bytes", size)
	}
	if _, err := io.ReadFull(r, b[headerBytes:size]); err != nil {
		return 0, err
	}
	return int(size), nil
}

// Close ends a connection that is open between a command and its response.
func (s *socket) Close() error {
	s.hangUp()
	return nil
}

func (s *socket) hangUp() {
	if s.conn != nil {
		_ = s.conn.Close() // the response is read or lost; there is nothing to flush
		s.conn = nil
	}
}
