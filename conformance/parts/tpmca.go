package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// These configure swtpm_setup and swtpm_localca; all paths in them must be absolute.
const (
	setupConf = `create_certs_tool = %s
create_certs_tool_config = %s
create_certs_tool_options = %s
active_pcr_banks = sha256
`
	// The CA's serial number is a plain file, and the first call makes its keys: one call at a time.
	issueScript = `#!/bin/sh
exec flock %s %s "$@"
`
	caConf = `statedir = %[1]s
signingkey = %[1]s/signkey.pem
issuercert = %[1]s/issuercert.pem
certserial = %[1]s/certserial
`
	caOptions = `--platform-manufacturer Acme
--platform-version 1.0
--platform-model EdgeBox
--tpm-manufacturer id:00001014
--tpm-model swtpm
--tpm-version id:20191023
`
)

// tpmCA makes the folder of a TPM manufacturer's CA ready; swtpm_localca makes the keys at the first setup.
func tpmCA(ctx context.Context, dir string) (string, error) {
	if dir == "" {
		base, err := CacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(base, "tpm", "ca")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot use TPM CA folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make TPM CA folder: %w", err)
	}
	tool, err := command("swtpm_localca")
	if err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	issue, conf := filepath.Join(dir, "issue"), filepath.Join(dir, "swtpm-localca.conf")
	options := filepath.Join(dir, "swtpm-localca.options")
	err = errors.Join(
		keepFile(issue, fmt.Appendf(nil, issueScript, shellQuote(filepath.Join(dir, "issuing")), shellQuote(tool)), 0o700),
		keepFile(conf, fmt.Appendf(nil, caConf, dir), 0o600),
		keepFile(options, []byte(caOptions), 0o600),
		keepFile(filepath.Join(dir, "swtpm_setup.conf"), fmt.Appendf(nil, setupConf, issue, conf, options), 0o600),
	)
	if err != nil {
		return "", fmt.Errorf("cannot configure TPM CA: %w", err)
	}
	return dir, nil
}

// keepFile writes a file unless it holds these bytes already.
func keepFile(path string, b []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	return writeFile(path, b, mode)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// provision manufactures a TPM: seeds, EKs, their certificates and the platform certificate. A folder that already
// holds a TPM stays as it is. Setups run side by side; the CA issues one certificate at a time.
func provision(ctx context.Context, dir, ca, name string) error {
	state := filepath.Join(dir, "state")
	if _, err := os.Stat(filepath.Join(state, stateFile)); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make TPM folder: %w", err)
	}
	// swtpm_setup writes the state before it is complete; only a finished TPM gets the folder's name.
	making, err := os.MkdirTemp(dir, ".making-")
	if err != nil {
		return fmt.Errorf("cannot make TPM folder: %w", err)
	}
	defer os.RemoveAll(making)
	_, err = run(ctx, "swtpm_setup", "--tpm2", "--tpmstate", making, "--config", filepath.Join(ca, "swtpm_setup.conf"),
		"--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--pcr-banks", "sha256", "--vmid", name)
	if err != nil {
		return fmt.Errorf("cannot provision TPM %s: %w", name, err)
	}
	if err := os.Rename(making, state); err != nil {
		return fmt.Errorf("cannot provision TPM %s: %w", name, err)
	}
	return nil
}

// takeFromStock gives dir the state of the n-th TPM of the stock, which is manufactured on first use. A folder that
// already holds a TPM stays as it is.
func takeFromStock(ctx context.Context, dir, ca string, n int) error {
	if _, err := os.Stat(filepath.Join(dir, "state", stateFile)); err == nil {
		return nil
	}
	name := fmt.Sprintf("stock-%04d", n)
	stock, err := Cached(ctx, "tpm", name, func(ctx context.Context, made string) error {
		return provision(ctx, made, ca, name)
	})
	if err != nil {
		return err
	}
	return copyState(stock, dir)
}

// copyState copies the persistent state of the TPM in folder from to a folder that holds none yet.
func copyState(from, to string) error {
	b, err := os.ReadFile(filepath.Join(from, "state", stateFile))
	if err != nil {
		return fmt.Errorf("cannot copy TPM: %w", err)
	}
	state := filepath.Join(to, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("cannot copy TPM: %w", err)
	}
	if err := writeFile(filepath.Join(state, stateFile), b, 0o600); err != nil {
		return fmt.Errorf("cannot copy TPM: %w", err)
	}
	return nil
}

// CARoots returns the root certificates and the intermediates, both PEM, of the TPM CA in folder ca; empty means the
// user's own CA, which StartTPM uses by default. There are none before the first TPM was provisioned.
func CARoots(ca string) (roots, intermediates []byte, err error) {
	if ca == "" {
		base, err := CacheDir()
		if err != nil {
			return nil, nil, err
		}
		ca = filepath.Join(base, "tpm", "ca")
	}
	roots, err = os.ReadFile(filepath.Join(ca, "swtpm-localca-rootca-cert.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read TPM CA: %w", err)
	}
	intermediates, err = os.ReadFile(filepath.Join(ca, "issuercert.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read TPM CA: %w", err)
	}
	return roots, intermediates, nil
}
