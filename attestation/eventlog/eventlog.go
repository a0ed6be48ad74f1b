// Package eventlog parses and replays crypto-agile TCG event logs and says in plain words what each event is.
//
// It promises: Parse is total (no panic), runs in linear time, allocates no more than a small multiple of what it
// reads, and returns either the whole log or an error, never a part. It refuses what it does not know: unknown digest
// banks, EV_NO_ACTION events off the allow-list, PCRs above 23, trailing bytes. Unknown event types are kept: they are
// extended by the TPM like any other, and a policy that looks for explained events will see them.
//
// A log is a claim by the device. It proves nothing until Replay gives the quoted value of every PCR, and then only
// the digests are proven: types are never hashed, and data only where Disagreements says so. Violations holds the rest
// against the grammar of the specification, Departures against what PC Client firmware always measures. Explain speaks
// about what the log claims; the typed readers (Variable, Image, PartitionTable, SignatureLists, ...) are total too.
//
// It refuses to guess: nothing is added to a log to make it match (V-67), and what it cannot read it calls unexplained.
//
// Layouts follow the TCG PC Client Platform Firmware Profile 1.05 revision 23, section 10.
//
// Trusted: an attacker who controls this code can invent the story that a replayed log tells.
package eventlog

import (
	"crypto/sha256"
	"errors"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Limits that Parse enforces; a log beyond one of them is ErrTooLarge (MaxPCR: ErrMalformed).
const (
	MaxBytes     = 256 << 10
	MaxEvents    = 4096
	MaxDataBytes = 64 << 10
	MaxPCR       = 23
)

// Errors of Parse; test with errors.Is.
var (
	ErrMalformed = errors.New("event log is malformed")
	ErrTooLarge  = errors.New("event log is too large")
	ErrFormat    = errors.New("event log has the TPM 1.2 format (SHA-1 only)")
	// ErrNote comes with ErrMalformed for an EV_NO_ACTION event that the project does not know: a new signature, or a place
	// that is no register. Such events extend nothing, and genuine firmware writes new kinds of them ("NvIndexInstance").
	// The log cannot be judged, and nothing is proven against the device.
	ErrNote = errors.New("event log has a note of an unknown kind")
)

// Event is one entry of the log.
type Event struct {
	Index  int           // position in the log; the Spec ID header is 0
	PCR    int           // the register that it was extended into
	Type   uint32        // see TypeName; not covered by the digest
	Digest digest.SHA256 // what was extended; zero for the header
	Data   []byte        // what the log says about it; a view of the parsed bytes
}

// Log is a parsed event log. It shares memory with the bytes that Parse was given.
type Log struct {
	Events   []Event
	Locality byte // locality of TPM2_Startup: 0, 3 or 4 (it is the last byte of PCR 0's initial value)
}

// Extends reports whether e changed its PCR: EV_NO_ACTION events only inform.
func (e Event) Extends() bool { return e.Type != TypeNoAction }

// Replay computes the value of every PCR that the log has an extended event for. A dynamic launch sets the registers 17
// to 22 to zeros before anything is measured into them, so events there start from zeros.
func (l Log) Replay() map[int]digest.SHA256 {
	r := l.registers()
	for i := range l.Events {
		if e := &l.Events[i]; e.counts() {
			r.extend(e)
		}
	}
	out := make(map[int]digest.SHA256)
	for pcr := range MaxPCR + 1 {
		if value, ok := r.Value(pcr); ok {
			out[pcr] = value
		}
	}
	return out
}

// counts reports whether e changed a register that exists.
func (e *Event) counts() bool { return e.Extends() && e.PCR >= 0 && e.PCR <= MaxPCR }

// Replayed holds where the events of a log lead.
type Replayed struct {
	value [MaxPCR + 1]digest.SHA256
	used  [MaxPCR + 1]bool
}

// registers are those of a machine that has just started as l says.
func (l Log) registers() (r Replayed) {
	r.value[0][digest.Size-1] = l.Locality
	return r
}

func (r *Replayed) extend(e *Event) {
	r.used[e.PCR] = true
	r.value[e.PCR] = Extend(r.value[e.PCR], e.Digest)
}

// Value is what the log leads to in one register; ok is false when the log has no extended event for it.
func (r *Replayed) Value(pcr int) (value digest.SHA256, ok bool) {
	if pcr < 0 || pcr > MaxPCR || !r.used[pcr] {
		return digest.SHA256{}, false
	}
	return r.value[pcr], true
}

// Extend returns the value of a PCR with value v after d was extended into it.
func Extend(v, d digest.SHA256) digest.SHA256 {
	var b [2 * digest.Size]byte
	copy(b[:], v[:])
	copy(b[digest.Size:], d[:])
	return sha256.Sum256(b[:])
}

// ResetValue returns what a PCR that nothing was measured into holds: ones for 17 to 22 (no dynamic launch), else
// zeros. A startup locality of 3 or 4 makes the initial value of PCR 0 differ; Replay knows it.
func ResetValue(pcr int) digest.SHA256 {
	var d digest.SHA256
	if pcr >= 17 && pcr <= 22 {
		for i := range d {
			d[i] = 0xFF
		}
	}
	return d
}
