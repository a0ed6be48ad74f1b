package attestation

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Sentinel errors of DecodeEvidence.
var (
	// ErrTooLarge is returned for Evidence beyond MaxEvidenceBytes, or with a field beyond its own limit.
	ErrTooLarge = errors.New("evidence is too large")
	// ErrMalformed is returned for anything that is not exactly one Evidence document of a known version.
	ErrMalformed = errors.New("evidence is malformed")
)

// highestPCR is the last register of a PC Client TPM.
const highestPCR = 23

// DecodeEvidence reads one Evidence document. It is strict: unknown members, duplicates, bytes after the end, an
// unknown version, a missing field and PCRs that do not rise within 0..23 are all refused. It returns ErrTooLarge
// before it parses, or ErrMalformed.
func DecodeEvidence(b []byte) (Evidence, error) {
	if len(b) > MaxEvidenceBytes {
		return Evidence{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxEvidenceBytes)
	}
	var e Evidence
	if err := json.Unmarshal(b, &e, json.RejectUnknownMembers(true)); err != nil {
		return Evidence{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := checkEvidence(e); err != nil {
		return Evidence{}, err
	}
	return e, nil
}

// EncodeEvidence writes e; DecodeEvidence(EncodeEvidence(e)) is e. It returns ErrTooLarge or ErrMalformed for
// Evidence that no verifier would accept.
func EncodeEvidence(e Evidence) ([]byte, error) {
	if err := checkEvidence(e); err != nil {
		return nil, err
	}
	b, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b) > MaxEvidenceBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxEvidenceBytes)
	}
	return b, nil
}

// DigestEvidence identifies e in verdicts and audit records: the SHA-256 of its JSON without the log, which
// Evidence.LogDigest stands for. It writes what json.Marshal writes, because that is what every record has ever named.
func DigestEvidence(e Evidence) digest.SHA256 {
	const usual = 4 << 10 // holds 24 registers, a quote and its signature
	b := make([]byte, 0, usual)
	b = strconv.AppendInt(append(b, `{"version":`...), int64(e.Version), 10)
	b = base64.StdEncoding.AppendEncode(append(b, `,"quote":"`...), e.Quote)
	b = base64.StdEncoding.AppendEncode(append(b, `","signature":"`...), e.Signature)
	b = append(b, `","pcrs":[`...)
	for i := range e.PCRs {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"index":`...), int64(e.PCRs[i].Index), 10)
		b = hex.AppendEncode(append(b, `,"sha256":"`...), e.PCRs[i].Value[:])
		b = append(b, `"}`...)
	}
	b = hex.AppendEncode(append(b, `],"log_digest":"`...), e.LogDigest[:])
	return digest.Of(append(b, `"}`...))
}

// formRules are what can be said about Evidence without any key; the first that fails refuses it.
var formRules = [...]func(Evidence) error{checkVersion, checkSizes, checkFields, checkRegisters, checkOrder}

func checkEvidence(e Evidence) error {
	for _, check := range formRules {
		if err := check(e); err != nil {
			return err
		}
	}
	return nil
}

func checkVersion(e Evidence) error {
	if e.Version != EvidenceVersion {
		return fmt.Errorf("%w: version %d, want %d", ErrMalformed, e.Version, EvidenceVersion)
	}
	return nil
}

func checkSizes(e Evidence) error {
	if len(e.Quote) > MaxQuoteBytes || len(e.Signature) > MaxSignatureBytes || len(e.Log) > MaxLogBytes {
		return fmt.Errorf("%w: quote %d, signature %d, log %d bytes; at most %d, %d, %d", ErrTooLarge,
			len(e.Quote), len(e.Signature), len(e.Log), MaxQuoteBytes, MaxSignatureBytes, MaxLogBytes)
	}
	return nil
}

func checkFields(e Evidence) error {
	if len(e.Quote) == 0 || len(e.Signature) == 0 || e.LogDigest.IsZero() {
		return fmt.Errorf("%w: quote, signature and log digest are needed", ErrMalformed)
	}
	return nil
}

func checkRegisters(e Evidence) error {
	if len(e.PCRs) == 0 {
		return fmt.Errorf("%w: no PCRs", ErrMalformed)
	}
	return nil
}

func checkOrder(e Evidence) error {
	previous := -1
	for _, p := range e.PCRs {
		if p.Index <= previous || p.Index > highestPCR {
			return fmt.Errorf("%w: PCR %d after %d, want rising indexes up to %d", ErrMalformed, p.Index, previous, highestPCR)
		}
		previous = p.Index
	}
	return nil
}
