// Package tpm is the device side of the TPM: the keys of a cordon device, quotes over its boot registers, credential
// activation and the counter that rollback protection rests on.
//
// Keys are derived, never stored. The attestation key is a primary key of the endorsement hierarchy, so it is the same
// after every restart and after TPM2_Clear, and the clock in its quotes is in clear. Each of its generations is another
// key; the one before certifies the next when it is rotated. The TLS key is a primary key of the
// owner hierarchy: TPM2_Clear, which ends an ownership, replaces it (and deletes the counter), and the device enrolls
// again. Both have noDA: a dictionary-attack lockout must not silence an honest device on flaky power.
//
// A raw TPM socket has no resource manager and room for about three objects, so every operation loads what it needs and
// flushes it; all operations of one TPM are serialised. It refuses to sign anything for a caller with the attestation
// key but quotes and certifications, and it never evicts a persistent object.
//
// Trusted: an attacker who controls this package on a device still cannot forge what its TPM signs.
package tpm

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/go-tpm-tools/client"
	"github.com/google/go-tpm/legacy/tpm2"
	direct "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpmutil"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
)

// Errors that callers test for with errors.Is.
var (
	// ErrLockedOut means that the TPM is in dictionary-attack lockout: no verdict, try later (tpm_locked_out).
	ErrLockedOut = errors.New("the TPM is in dictionary-attack lockout")
	// ErrNoEKCertificate means that the TPM holds no certificate for its RSA-2048 endorsement key.
	ErrNoEKCertificate = errors.New("the TPM holds no endorsement certificate in NV index 0x01c00002")
	// ErrNoCounter means that the release counter does not exist in the TPM (counter_missing).
	ErrNoCounter = errors.New("the TPM holds no release counter")
	// ErrNoSHA256 means that the SHA-256 bank does not cover the boot registers (pcr_bank_weak).
	ErrNoSHA256 = errors.New("the SHA-256 bank of the TPM does not cover the boot registers")
	// ErrUnstable means that the registers changed during every attempt to quote them.
	ErrUnstable = errors.New("the registers kept changing while they were quoted")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the TPM is closed")
)

// TPM is an open TPM. Its methods may be called from several goroutines; they take turns.
type TPM struct {
	mu      sync.Mutex // guards all below
	rw      io.ReadWriteCloser
	managed bool // a resource manager sits in front of the TPM, so other users' objects are not ours to flush
	closed  bool
	saved   map[key][]byte // contexts of derived keys; void after a TPM reset
	publics map[key][]byte // TPMT_PUBLIC, read once
	ek      *x509.Certificate
	ekSPKI  []byte // of the derived endorsement key, read once

	generation uint32 // of the attestation key in use
}

// Open opens the TPM at a device path (/dev/tpmrm0), a unix socket, or host:port with raw TPM commands.
func Open(path string) (*TPM, error) {
	rw, managed, err := dial(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open TPM %q: %w", path, err)
	}
	t := &TPM{rw: rw, managed: managed, saved: map[key][]byte{}, publics: map[key][]byte{}}
	if _, err := t.Clock(); err != nil {
		rw.Close()
		return nil, fmt.Errorf("cannot open TPM %q: %w", path, err)
	}
	return t, nil
}

// Close tells the TPM that an orderly end follows (TPM2_Shutdown), so that a power cut right after is not counted
// against it, and closes the channel. Closing twice is no error.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	err := typed(tpm2.Shutdown(t.rw, tpm2.StartupClear))
	if err != nil {
		err = fmt.Errorf("cannot shut down TPM: %w", err)
	}
	return errors.Join(err, t.rw.Close())
}

// do runs f while no other operation runs. When a raw TPM has no room left, because a process died between load and
// flush, everything transient is flushed and f runs once more.
func (t *TPM) do(f func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	err := f()
	if !t.managed && outOfRoom(err) {
		t.flushAll()
		err = f()
	}
	return typed(err)
}

func (t *TPM) flushAll() {
	for _, kind := range []tpm2.HandleType{tpm2.HandleTypeTransient, tpm2.HandleTypeLoadedSession} {
		handles, err := client.Handles(t.rw, kind)
		if err != nil {
			continue // the second attempt reports what is wrong
		}
		for _, h := range handles {
			_ = tpm2.FlushContext(t.rw, h)
		}
	}
}

func outOfRoom(err error) bool {
	w, ok := errors.AsType[tpm2.Warning](err)
	return ok && (w.Code == tpm2.RCObjectMemory || w.Code == tpm2.RCSessionMemory || w.Code == tpm2.RCObjectHandles || w.Code == tpm2.RCSessionHandles)
}

// typed maps the TPM's own codes to this package's errors.
func typed(err error) error {
	if err == nil {
		return nil
	}
	if w, ok := errors.AsType[tpm2.Warning](err); ok && w.Code == tpm2.RCLockout {
		return fmt.Errorf("%w: %w", ErrLockedOut, err)
	}
	if errors.Is(err, direct.TPMRCLockout) {
		return fmt.Errorf("%w: %w", ErrLockedOut, err)
	}
	return err
}

// Clock reads TPMS_CLOCK_INFO.
func (t *TPM) Clock() (quote.Clock, error) {
	var out quote.Clock
	err := t.do(func() error {
		r, err := direct.ReadClock{}.Execute(transport.FromReadWriter(t.rw))
		if err != nil {
			return fmt.Errorf("cannot read TPM clock: %w", err)
		}
		c := r.CurrentTime.ClockInfo
		out = quote.Clock{ResetCount: c.ResetCount, RestartCount: c.RestartCount, Clock: c.Clock, Safe: bool(c.Safe)}
		return nil
	})
	return out, err
}

// inLockout is bit 9 of TPMA_PERMANENT (TPM 2.0 Part 2, 8.6).
const inLockout = 1 << 9

// LockedOut reports whether the TPM is in dictionary-attack lockout.
func (t *TPM) LockedOut() (bool, error) {
	var out bool
	err := t.do(func() error {
		values, _, err := tpm2.GetCapability(t.rw, tpm2.CapabilityTPMProperties, 1, uint32(tpm2.TPMAPermanent))
		if err != nil {
			return fmt.Errorf("cannot read TPM properties: %w", err)
		}
		if len(values) != 1 {
			return fmt.Errorf("cannot read TPM properties: %d values, want 1", len(values))
		}
		p, ok := values[0].(tpm2.TaggedProperty)
		if !ok {
			return fmt.Errorf("cannot read TPM properties: unexpected %T", values[0])
		}
		out = p.Value&inLockout != 0
		return nil
	})
	return out, err
}

// ekCertificateIndex is where the TCG EK Credential Profile keeps the certificate of the RSA-2048 key.
const ekCertificateIndex = tpmutil.Handle(client.EKCertNVIndexRSA)

// EKCertificate returns the certificate of the RSA-2048 endorsement key. It returns ErrNoEKCertificate.
func (t *TPM) EKCertificate() (*x509.Certificate, error) {
	err := t.do(func() error {
		if t.ek != nil {
			return nil
		}
		der, err := tpm2.NVReadEx(t.rw, ekCertificateIndex, tpm2.HandleOwner, "", 0)
		if err != nil {
			if typed := typed(err); errors.Is(typed, ErrLockedOut) {
				return typed
			}
			return fmt.Errorf("%w: %w", ErrNoEKCertificate, err)
		}
		t.ek, err = identity.ParseEKCertificate(der)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoEKCertificate, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.ek, nil
}

// EKPublic returns the RSA-2048 endorsement key as DER SubjectPublicKeyInfo. It derives the key, so it also works on a TPM
// without an endorsement certificate.
func (t *TPM) EKPublic() ([]byte, error) {
	var out []byte
	err := t.do(func() error {
		if out = t.ekSPKI; out != nil {
			return nil
		}
		ek, err := t.loadEK()
		if err != nil {
			return err
		}
		defer ek.Close()
		if out, err = x509.MarshalPKIXPublicKey(ek.PublicKey()); err != nil {
			return fmt.Errorf("cannot encode endorsement key: %w", err)
		}
		t.ekSPKI = out
		return nil
	})
	return out, err
}

// DeviceID returns the device id that follows from the endorsement certificate, or from the endorsement key itself in a
// TPM that holds no certificate.
func (t *TPM) DeviceID() (identity.DeviceID, error) {
	c, err := t.EKCertificate()
	if errors.Is(err, ErrNoEKCertificate) {
		spki, err := t.EKPublic()
		if err != nil {
			return "", err
		}
		return identity.DeviceIDOf(spki), nil
	}
	if err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(c.PublicKey)
	if err != nil {
		return "", fmt.Errorf("cannot encode endorsement key: %w", err)
	}
	return identity.DeviceIDOf(spki), nil
}
