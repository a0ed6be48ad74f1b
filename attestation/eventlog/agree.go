package eventlog

import (
	"github.com/cordon-ota/cordon/attestation/digest"
)

// The two values that EV_SEPARATOR may measure: the pre-boot phase ended well, or with an error.
var (
	separatorOK    = digest.Of([]byte{0, 0, 0, 0})
	separatorError = digest.Of([]byte{0xFF, 0xFF, 0xFF, 0xFF})
)

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
		if e.Type != TypeEFIVariableConfig {
			continue
		}
		v, ok := parseVariable(e.Data)
		if !ok || v.Name != "SecureBoot" || v.GUID != efiGlobal {
			continue
		}
		if known || !v.Exact || len(v.Data) > 1 || digest.Of(e.Data) != e.Digest {
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
	for _, v := range l.check(agreementRules[:]) {
		if len(out) == 0 || out[len(out)-1] != v.Event {
			out = append(out, v.Event)
		}
	}
	return out
}
