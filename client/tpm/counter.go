package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpmutil"
)

// CounterIndex is the NV index of the release counter, in the range that the TCG registry leaves to the owner.
const CounterIndex = tpmutil.Handle(0x0180c0d0)

const (
	counterType       = tpm2.NVAttr(0x1 << 4) // TPM_NT_COUNTER in the type bits of TPMA_NV (Part 2, 13.4)
	counterTypeMask   = tpm2.NVAttr(0xf << 4)
	counterBytes      = 8
	counterAttributes = counterType | tpm2.AttrOwnerWrite | tpm2.AttrOwnerRead | tpm2.AttrAuthRead | tpm2.AttrNoDA
)

// MaxCounterSteps bounds how far one call of RaiseCounter goes: NV wears out, and no honest release asks for more.
const MaxCounterSteps = 1024

// Counter reads the raw value of the release counter. It returns ErrNoCounter when the index is not there, is not a
// counter, or was never initialised.
func (t *TPM) Counter() (uint64, error) {
	var out uint64
	err := t.do(func() error {
		var err error
		out, err = t.counter()
		return err
	})
	return out, err
}

func (t *TPM) counter() (uint64, error) {
	public, err := tpm2.NVReadPublic(t.rw, CounterIndex)
	if noSuchIndex(err) {
		return 0, ErrNoCounter
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read release counter: %w", err)
	}
	if public.Attributes&counterTypeMask != counterType || public.DataSize != counterBytes {
		return 0, fmt.Errorf("%w: its NV index holds something else", ErrNoCounter)
	}
	if public.Attributes&tpm2.AttrWritten == 0 {
		return 0, fmt.Errorf("%w: it was never initialised", ErrNoCounter)
	}
	b, err := tpm2.NVReadEx(t.rw, CounterIndex, tpm2.HandleOwner, "", 0)
	if err != nil {
		return 0, fmt.Errorf("cannot read release counter: %w", err)
	}
	if len(b) != counterBytes {
		return 0, fmt.Errorf("cannot read release counter: %d bytes", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// EnsureCounter returns the raw value of the release counter and makes it when it is not there. A new counter starts
// at the highest value that any counter of this TPM ever had, so deleting it never turns it back. It refuses an index
// that holds something else.
func (t *TPM) EnsureCounter() (uint64, error) {
	var out uint64
	err := t.do(func() error {
		var err error
		if out, err = t.counter(); !errors.Is(err, ErrNoCounter) {
			return err
		}
		if err := t.dropBase(); err != nil {
			return err
		}
		_, err = tpm2.NVReadPublic(t.rw, CounterIndex)
		if err != nil {
			public := tpm2.NVPublic{NVIndex: CounterIndex, NameAlg: tpm2.AlgSHA256, Attributes: counterAttributes, DataSize: counterBytes}
			if err := tpm2.NVDefineSpaceEx(t.rw, tpm2.HandleOwner, "", public, ownerAuth()); err != nil {
				return fmt.Errorf("cannot make release counter: %w", err)
			}
		}
		if err := t.increment(); err != nil {
			return err
		}
		out, err = t.counter()
		return err
	})
	return out, err
}

// RaiseCounter increments the release counter until its raw value is at least target, and returns it. Every increment
// is durable by itself, so a call that was cut off is simply repeated. It refuses more than MaxCounterSteps steps.
func (t *TPM) RaiseCounter(target uint64) (uint64, error) {
	var out uint64
	err := t.do(func() error {
		var err error
		if out, err = t.counter(); err != nil {
			return err
		}
		if target > out && target-out > MaxCounterSteps {
			return fmt.Errorf("cannot raise release counter from %d to %d: more than %d steps", out, target, MaxCounterSteps)
		}
		for out < target {
			if err := t.increment(); err != nil {
				return err
			}
			if out, err = t.counter(); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// increment adds one, with the owner's authorisation.
func (t *TPM) increment() error {
	auth, err := tpmutil.Pack(tpm2.HandlePasswordSession, tpmutil.U16Bytes(nil), tpm2.AttrContinueSession, tpmutil.U16Bytes(nil))
	if err != nil {
		return err
	}
	_, code, err := tpmutil.RunCommand(t.rw, tpm2.TagSessions, tpm2.CmdIncrementNVCounter,
		tpmutil.Handle(tpm2.HandleOwner), CounterIndex, tpmutil.U32Bytes(auth))
	if err != nil {
		return fmt.Errorf("cannot raise release counter: %w", err)
	}
	if code != tpmutil.RCSuccess {
		if code == rcLockout {
			return fmt.Errorf("cannot raise release counter: %w", ErrLockedOut)
		}
		return fmt.Errorf("cannot raise release counter: TPM response code %#x", uint32(code))
	}
	return nil
}

// rcLockout is TPM_RC_LOCKOUT (Part 2, 6.6.3).
const rcLockout = tpmutil.ResponseCode(0x921)

func ownerAuth() tpm2.AuthCommand {
	return tpm2.AuthCommand{Session: tpm2.HandlePasswordSession, Attributes: tpm2.AttrContinueSession}
}

// noSuchIndex recognises TPM_RC_HANDLE: nothing is defined at the index.
func noSuchIndex(err error) bool {
	h, ok := errors.AsType[tpm2.HandleError](err)
	return ok && h.Code == tpm2.RCHandle
}
