package enroll_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/enroll"
)

// Enrollment says of an event log what an appraisal would say of it: a kind of event that the project does not know is not a
// device that lies, and must not read like one.
func TestEnrollmentNamesWhatIsWrongWithALog(t *testing.T) {
	t.Parallel()
	good := evidencetest.DirectUKI(evidencetest.Release("lamp/1")).Bytes()
	for name, c := range map[string]struct {
		log  []byte
		want reason.Reason // empty: it is kept
	}{
		"as it should be":         {good, ""},
		"a note of unknown kind":  {append(bytes.Clone(good), note("Exit Boot Services Returned with Success")...), reason.EventlogUnexplained},
		"cut off":                 {good[:len(good)-7], reason.EventlogMismatch},
		"of TPM 1.2":              {sha1Event(), reason.PCRBankWeak},
		"larger than any log is":  {append(bytes.Clone(good), make([]byte, eventlog.MaxBytes)...), reason.RequestTooLarge},
		"not that of its digest ": {nil, reason.EventlogMismatch},
	} {
		e := attestation.Evidence{Log: c.log, LogDigest: digest.Of(c.log)}
		if c.log == nil {
			e.Log = good
		}
		err := enroll.CheckLog(e)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		wantProblem(t, name, err, c.want)
	}
}

// note is an EV_NO_ACTION event of PCR 0.
func note(text string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, eventlog.TypeNoAction)
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = binary.LittleEndian.AppendUint16(b, 0x000b)
	b = append(b, make([]byte, 32)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...)
}

// sha1Event is a log of the format before TPM 2.0.
func sha1Event() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, eventlog.TypeSCRTMVersion)
	b = append(b, make([]byte, 20)...)
	b = binary.LittleEndian.AppendUint32(b, 2)
	return append(b, 0, 0)
}
