package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// KernelEventLog is where Linux shows the TCG event log of this boot.
const KernelEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// Paths say where things lie on a device. Trust, TPM and State are needed.
type Paths struct {
	Trust    string // trust bundle, in the measured image
	TPM      string // device, unix socket or host:port
	State    string // folder; made when missing; nothing in it is trusted
	Slots    string // installer, as in "ab:/boot/slots"; without one nothing is installed
	EventLog string // default KernelEventLog
}

// Open makes a client from the files of a device; Close ends it. Programs that need more make a Config and call New.
// Errors are those of New, of wire.DecodeTrust and of tpm.Open.
func Open(p Paths) (*Client, error) {
	bundle, err := readLimited(p.Trust, wire.MaxTrustBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read trust bundle: %w", err)
	}
	trust, err := wire.DecodeTrust(bundle)
	if err != nil {
		return nil, err
	}
	if p.EventLog == "" {
		p.EventLog = KernelEventLog
	}
	cfg := Config{Trust: trust, StateDir: p.State, EventLog: func() ([]byte, error) { return readLimited(p.EventLog, attestation.MaxLogBytes) }}
	if p.Slots != "" {
		slots, err := installer.Open(p.Slots)
		if err != nil {
			return nil, err
		}
		cfg.Installers = []installer.Installer{slots}
	}
	if cfg.TPM, err = tpm.Open(p.TPM); err != nil {
		return nil, err
	}
	c, err := New(cfg)
	if err != nil {
		return nil, errors.Join(err, cfg.TPM.Close())
	}
	return c, nil
}

// Close says goodbye to the TPM of a client that Open made. Without it a power cut counts against the TPM's lockout.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.cfg.TPM.Close()
	if errors.Is(err, tpm.ErrClosed) {
		return nil
	}
	return err
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return b, err
}
