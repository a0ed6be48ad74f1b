// Package attestation turns Evidence into a Verdict.
//
// It is pure: no clock, no network, no database, no logger. The same Input gives the same Verdict bytes today and in
// ten years, so an auditor can appraise stored Evidence again and must get the same result.
//
// Three outcomes, never two: a Verdict that affirms, a Verdict that refuses (with findings), and an error, which means
// "could not decide" and must fail closed without quarantining anybody. Words follow RFC 9334.
//
// Trusted: an attacker who controls this code can let any device pass. It is given nothing to reach the world with.
package attestation

import (
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// EvidenceVersion is the version that this build writes. Every version ever shipped stays accepted.
const EvidenceVersion = 1

// Limits on Evidence, in bytes; a decoder refuses more before it parses.
const (
	MaxQuoteBytes     = 1024
	MaxSignatureBytes = 1024
	MaxLogBytes       = 256 << 10
	MaxEvidenceBytes  = 400 << 10 // as JSON
)

// Evidence is what a device sends to prove its boot state. Decoding is strict per Version: see DecodeEvidence.
type Evidence struct {
	Version   int           `json:"version"`
	Quote     []byte        `json:"quote"`         // TPMS_ATTEST, TPM 2.0 Part 2, 10.12.12
	Signature []byte        `json:"signature"`     // TPMT_SIGNATURE
	PCRs      []PCR         `json:"pcrs"`          // SHA-256 bank, rising index, exactly the quoted selection
	LogDigest digest.SHA256 `json:"log_digest"`    // SHA-256 of the TCG event log
	Log       []byte        `json:"log,omitempty"` // the log itself, only when the server asked for it
}

// PCR is the value of one platform configuration register in the SHA-256 bank.
type PCR struct {
	Index int           `json:"index"`
	Value digest.SHA256 `json:"sha256"`
}

// AK is a registered attestation key. All fields come from the verifier's own store, never from Evidence (V-30).
type AK struct {
	Public          []byte `json:"public"`           // TPMT_PUBLIC as admitted
	QualifiedSigner []byte `json:"qualified_signer"` // qualified Name as seen at admission (V-36)
}

// Binding is everything that the extraData of a quote commits to; Transcript hashes it (V-34).
type Binding struct {
	Purpose    string          `json:"purpose"`     // PurposePoll or PurposeEnroll
	Nonce      []byte          `json:"nonce"`       // the challenge token, or the 32 bytes of the beacon
	Device     string          `json:"device"`      // device id
	Exporter   []byte          `json:"exporter"`    // 32 bytes of TLS exporter, see ExporterLabel
	LogDigests []digest.SHA256 `json:"log_digests"` // the digests of the logs that belong to the quote, in order
	Claims     digest.SHA256   `json:"claims"`      // SHA-256 of the claims bytes as sent
}

// Purposes of a quote.
const (
	PurposePoll   = "poll"
	PurposeEnroll = "enroll"
)

// ExporterLabel is the TLS exporter label (RFC 5705, RFC 8446 section 7.5) that binds a quote to its connection; the
// context is empty and the length 32 bytes.
const ExporterLabel = "EXPORTER-cordon-quote-v1"

// Expectation is one state that the device may be in.
type Expectation struct {
	Release  string           `json:"release"`  // "product/version"
	Recovery bool             `json:"recovery"` // a recovery release: matches, and restricts what the device may do
	Values   reference.Values `json:"values"`   // Reference Values of the release's measured image
}

// Policy is what the product asks of every device. The zero value is refused (V-81): at least one PCR must be required.
type Policy struct {
	RequiredPCRs []int           `json:"required_pcrs"` // quoted at least; see DefaultRequiredPCRs
	SecureBoot   bool            `json:"secure_boot"`   // Secure Boot must be on
	RevokedBoot  []digest.SHA256 `json:"revoked_boot"`  // event digests no device may have measured
}

// DefaultRequiredPCRs are the PCRs that a direct UKI boot fills: the firmware's and the image's.
var DefaultRequiredPCRs = [...]int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13}

// Input is everything that a verdict depends on.
type Input struct {
	Evidence   Evidence            `json:"evidence"`
	Log        []byte              `json:"-"` // the log with Evidence.LogDigest; nil when the verifier does not have it
	AK         AK                  `json:"ak"`
	Binding    Binding             `json:"binding"`
	Challenge  bool                `json:"challenge"`            // Binding.Nonce is a challenge, not a beacon
	Last       *Accepted           `json:"last,omitempty"`       // the last accepted quote of this AK; nil right after admission
	Expected   []Expectation       `json:"expected"`             // the states that the device may be in; empty never passes
	Superseded []Expectation       `json:"superseded,omitempty"` // older releases that the device has left: a match is a rollback, and says so
	Baseline   *reference.Baseline `json:"baseline,omitempty"`   // the platform's PCR 0/2/3/7; nil is refused
	Policy     Policy              `json:"policy"`
}

// Accepted is what continuity remembers of the last accepted quote (checklist section D).
type Accepted struct {
	Clock    quote.Clock `json:"clock"`
	Firmware uint64      `json:"firmware"` // TPM firmware version
	PCRs     []PCR       `json:"pcrs"`     // boot PCRs: constant within one (resetCount, restartCount) (V-48)
}

// Outcome of an appraisal.
type Outcome string

// The two outcomes; "could not decide" is an error.
const (
	Affirmed Outcome = "affirmed"
	Refused  Outcome = "refused"
)

// Verdict is the Attestation Result.
type Verdict struct {
	Outcome  Outcome       `json:"outcome"`
	Release  string        `json:"release,omitempty"`  // the Expectation that matched; empty when refused
	Recovery bool          `json:"recovery,omitempty"` // the match is a recovery release
	Findings []Finding     `json:"findings,omitempty"` // every failing check, not just the first
	Accepted *Accepted     `json:"accepted,omitempty"` // what continuity must remember; set only when affirmed
	NewBoot  bool          `json:"new_boot,omitempty"` // resetCount or restartCount grew since Input.Last
	Evidence digest.SHA256 `json:"evidence"`           // SHA-256 of the Evidence JSON without its log
}

// Finding is one failing check. Expected, Seen, PCR and Event are for operators and auditors; the device gets the
// reason and its remedy only.
type Finding struct {
	Reason   reason.Reason `json:"reason"`
	Detail   string        `json:"detail"` // one sentence in plain words
	Expected string        `json:"expected,omitempty"`
	Seen     string        `json:"seen,omitempty"`
	PCR      *int          `json:"pcr,omitempty"`
	Event    *int          `json:"event,omitempty"` // index in the event log
}

// Reasons returns the distinct reasons of v in the order of its findings.
func (v Verdict) Reasons() []reason.Reason {
	var out []reason.Reason
	seen := map[reason.Reason]bool{}
	for _, f := range v.Findings {
		if !seen[f.Reason] {
			seen[f.Reason] = true
			out = append(out, f.Reason)
		}
	}
	return out
}
