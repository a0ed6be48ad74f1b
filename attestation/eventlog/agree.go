package eventlog

import (
	"encoding/binary"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// efiGlobal is the vendor GUID of the variables that the UEFI specification owns, as it stands in a log.
var efiGlobal = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

// The two values that EV_SEPARATOR may measure: the pre-boot phase ended well, or with an error.
var (
	separatorOK    = digest.Of([]byte{0, 0, 0, 0})
	separatorError = digest.Of([]byte{0xFF, 0xFF, 0xFF, 0xFF})
)

// variable is UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile, section 10.2.6).
type variable struct {
	GUID  [16]byte
	Name  string
	Data  []byte
	exact bool // nothing follows the variable
}

// parseVariable reads UEFI_VARIABLE_DATA; ok is false when the lengths in it do not fit into b.
func parseVariable(b []byte) (v variable, ok bool) {
	const fixed = 32
	if len(b) < fixed {
		return variable{}, false
	}
	copy(v.GUID[:], b)
	name := binary.LittleEndian.Uint64(b[16:])
	data := binary.LittleEndian.Uint64(b[24:])
	rest := uint64(len(b) - fixed)
	if name > rest/2 || data > rest-2*name {
		return variable{}, false
	}
	v.Name = fromUTF16(b[fixed : fixed+2*name])
	v.Data = b[fixed+2*name : fixed+2*name+data]
	v.exact = 2*name+data == rest
	return v, true
}

// SecureBoot reports what the firmware measured as the state of Secure Boot: the one variable SecureBoot in PCR 7
// before the separator of PCR 7. known is false when the log does not tell or tells it twice, or when the digest of
// the event is not that of its data, so that the data proves nothing.
func (l Log) SecureBoot() (on, known bool) {
	for _, e := range l.Events {
		if e.PCR != 7 || !e.Extends() {
			continue
		}
		if e.Type == TypeSeparator {
			known = known && e.Digest == separatorOK
			return on && known, known
		}
		v, ok := parseVariable(e.Data)
		if e.Type != TypeEFIVariableConfig || !ok || v.Name != "SecureBoot" || v.GUID != efiGlobal {
			continue
		}
		if known || !v.exact || len(v.Data) > 1 || digest.Of(e.Data) != e.Digest {
			return false, false
		}
		if len(v.Data) == 1 && v.Data[0] > 1 {
			return false, false
		}
		on, known = len(v.Data) == 1 && v.Data[0] == 1, true // firmware without the variable measures it empty: off
	}
	return false, false // no separator: whatever follows is not the firmware's word
}

// Disagreements lists the indices of events whose type says that the digest is made of the data, and it is not (V-64).
//
// Only types where firmware keeps to that are held to it. S-CRTM versions are not: Boot Guard machines log a text and
// measure something else. For image loads, firmware blobs, EV_IPL and EV_EVENT_TAG the digest is of something that
// the log does not carry. The digest of a separator under another type is a disagreement too: it hides where the
// firmware handed over (retyping an event leaves its digest alone).
func (l Log) Disagreements() []int {
	var out []int
	for _, e := range l.Events {
		if e.Extends() && !e.agrees() {
			out = append(out, e.Index)
		}
	}
	return out
}

// agrees applies the rule of e's type.
func (e Event) agrees() bool {
	switch e.Type {
	case TypeSeparator:
		return len(e.Data) == 4 && (e.Digest == separatorOK || e.Digest == separatorError) && digest.Of(e.Data) == e.Digest
	case TypeAction, TypeEFIAction, TypeEFIVariableConfig, TypeEFIGPT:
		return digest.Of(e.Data) == e.Digest
	case TypeEFIVariableBoot:
		// Firmware measures the variable's value alone (EDK II) or the whole structure (early OVMF).
		v, ok := parseVariable(e.Data)
		return digest.Of(e.Data) == e.Digest || ok && digest.Of(v.Data) == e.Digest
	case TypeEFIAuthority:
		// Early versions of shim logged six bytes too many and left the last of them out of the digest.
		v, ok := parseVariable(e.Data)
		return digest.Of(e.Data) == e.Digest || ok && !v.exact && digest.Of(e.Data[:len(e.Data)-1]) == e.Digest
	case TypeSCRTMContents:
		return e.Digest != separatorError // an empty firmware table entry is measured as four zero bytes
	default:
		return e.Digest != separatorOK && e.Digest != separatorError
	}
}
