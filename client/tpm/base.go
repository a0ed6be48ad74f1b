package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpmutil"
)

// BaseIndex is the NV index that remembers the base of the release counter, next to it. The counter alone tells nothing:
// who could move its base could make it look new. The index is written once and locked, and goes with the counter when
// the TPM is cleared.
const BaseIndex = tpmutil.Handle(0x0180c0d1)

const (
	baseBytes      = 8
	baseAttributes = tpm2.AttrOwnerWrite | tpm2.AttrOwnerRead | tpm2.AttrAuthRead | tpm2.AttrNoDA | tpm2.AttrWriteDefine
	baseState      = tpm2.AttrWritten | tpm2.AttrWriteLocked // what changes in the attributes of a used index
)

// CounterBase reads the base that AnchorBase has written; ok is false when there is none.
func (t *TPM) CounterBase() (base uint64, ok bool, err error) {
	err = t.do(func() error {
		var err error
		base, ok, err = t.counterBase()
		return err
	})
	return base, ok, err
}

func (t *TPM) counterBase() (uint64, bool, error) {
	public, err := tpm2.NVReadPublic(t.rw, BaseIndex)
	if noSuchIndex(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("cannot read base of the release counter: %w", err)
	}
	if public.Attributes&^baseState != baseAttributes || public.DataSize != baseBytes || public.Attributes&tpm2.AttrWritten == 0 {
		return 0, false, nil
	}
	b, err := tpm2.NVReadEx(t.rw, BaseIndex, tpm2.HandleOwner, "", 0)
	if err != nil {
		return 0, false, fmt.Errorf("cannot read base of the release counter: %w", err)
	}
	if len(b) != baseBytes {
		return 0, false, fmt.Errorf("cannot read base of the release counter: %d bytes", len(b))
	}
	return binary.BigEndian.Uint64(b), true, nil
}

// AnchorBase writes the base and locks it. A base that is there already stays, and is returned.
func (t *TPM) AnchorBase(base uint64) (uint64, error) {
	err := t.do(func() error {
		have, ok, err := t.counterBase()
		if err != nil {
			return err
		}
		if ok {
			base = have
			return t.lockBase()
		}
		if err := t.dropBase(); err != nil {
			return err
		}
		public := tpm2.NVPublic{NVIndex: BaseIndex, NameAlg: tpm2.AlgSHA256, Attributes: baseAttributes, DataSize: baseBytes}
		if err := tpm2.NVDefineSpaceEx(t.rw, tpm2.HandleOwner, "", public, ownerAuth()); err != nil {
			return fmt.Errorf("cannot keep base of the release counter: %w", err)
		}
		if err := tpm2.NVWrite(t.rw, tpm2.HandleOwner, BaseIndex, "", binary.BigEndian.AppendUint64(nil, base), 0); err != nil {
			return fmt.Errorf("cannot keep base of the release counter: %w", err)
		}
		return t.lockBase()
	})
	return base, err
}

// lockBase makes the index unwritable until it is deleted. Locking it again is no error.
func (t *TPM) lockBase() error {
	err := tpm2.NVWriteLock(t.rw, tpm2.HandleOwner, BaseIndex, "")
	if e, ok := errors.AsType[tpm2.Error](err); ok && e.Code == tpm2.RCNVLocked {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot lock base of the release counter: %w", err)
	}
	return nil
}

// dropBase deletes the index if it is there: a counter that was made anew has another base.
func (t *TPM) dropBase() error {
	if _, err := tpm2.NVReadPublic(t.rw, BaseIndex); noSuchIndex(err) {
		return nil
	}
	if err := tpm2.NVUndefineSpace(t.rw, "", tpm2.HandleOwner, BaseIndex); err != nil {
		return fmt.Errorf("cannot forget base of the release counter: %w", err)
	}
	return nil
}
