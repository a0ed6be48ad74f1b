package attestation

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// The rules of this file ask whether the Evidence is authentic and fresh. They record findings with the effect retry
// or hold only.

// form makes a rule of one of formRules. Evidence without its form ends the stage.
func form(check func(Evidence) error) func(*appraisal) bool {
	return func(a *appraisal) bool {
		err := check(a.in.Evidence)
		if err != nil {
			a.refuse(reason.QuoteMalformed, "%v", err)
		}
		return err == nil
	}
}

func (a *appraisal) keyRegistered() bool {
	if len(a.in.AK.Public) == 0 {
		a.refuse(reason.AKUnknown, "no attestation key is registered for this device")
	}
	return true
}

func (a *appraisal) prepareKey() bool {
	if len(a.in.AK.Public) > 0 {
		a.key, a.keyErr = identity.ParsePublic(a.in.AK.Public)
	}
	return true
}

func (a *appraisal) keyKind() bool {
	if errors.Is(a.keyErr, identity.ErrUnsupported) {
		a.refuse(reason.AKNotBound, "the registered attestation key cannot be used: %v", a.keyErr)
	}
	return true
}

// keyReadable: a key that cannot be parsed is damage in the verifier's own store.
func (a *appraisal) keyReadable() bool {
	if a.keyErr != nil && !errors.Is(a.keyErr, identity.ErrUnsupported) {
		return a.giveUp("registered attestation key: %w", a.keyErr)
	}
	return true
}

// keyAttributes is V-14.
func (a *appraisal) keyAttributes() bool {
	if a.key.Key == nil {
		return true // an earlier rule has said why
	}
	for _, p := range identity.CheckAK(a.key) {
		a.add(Finding{Reason: p.Reason, Detail: p.Detail, Expected: p.Expected, Seen: p.Seen})
	}
	return true
}

// keyHierarchy is V-16.
func (a *appraisal) keyHierarchy() bool {
	if a.key.Key == nil {
		return true
	}
	if want := identity.QualifiedNameUnderEndorsement(a.key.Name); !bytes.Equal(a.in.AK.QualifiedSigner, want) {
		a.add(Finding{Reason: reason.AKNotBound, Detail: "the registered attestation key is not a primary key of the endorsement hierarchy",
			Expected: hex.EncodeToString(want), Seen: hex.EncodeToString(a.in.AK.QualifiedSigner)})
	}
	return true
}

func (a *appraisal) prepareQuote() bool {
	a.quote, a.quoteErr = quote.ParseQuote(a.in.Evidence.Quote)
	return true
}

// quoteForm is V-33. A quote of other banks is one that a TPM writes: quoteBank refuses it once it is authentic.
func (a *appraisal) quoteForm() bool {
	if a.quoteErr == nil || errors.Is(a.quoteErr, quote.ErrBank) {
		return true
	}
	a.refuse(reason.QuoteMalformed, "the quote cannot be parsed: %v", a.quoteErr)
	return false
}

// quoteSignature is V-31 and V-32. Nothing in a quote that is not signed means anything.
func (a *appraisal) quoteSignature() bool {
	if a.key.Key == nil {
		return false // an earlier rule has said why, and nobody has signed anything
	}
	err := quote.VerifySignature(a.key.Key, a.in.Evidence.Quote, a.in.Evidence.Signature)
	switch {
	case err == nil:
		return true
	case errors.Is(err, quote.ErrMalformed):
		a.refuse(reason.QuoteMalformed, "the signature cannot be parsed: %v", err)
	default:
		a.refuse(reason.QuoteSignatureInvalid, "the registered attestation key did not sign this quote: %v", err)
	}
	return false
}

// quoteSigner compares the qualified Name in the quote with the one seen at admission (V-36).
func (a *appraisal) quoteSigner() bool {
	if !bytes.Equal(a.quote.QualifiedSigner, a.in.AK.QualifiedSigner) {
		a.add(Finding{Reason: reason.AKNotBound, Detail: "the quote was signed by a key of another place in the TPM than the one that was admitted",
			Expected: hex.EncodeToString(a.in.AK.QualifiedSigner), Seen: hex.EncodeToString(a.quote.QualifiedSigner)})
	}
	return true
}

// quoteTranscript compares extraData with the transcript (V-34).
func (a *appraisal) quoteTranscript() bool {
	want := Transcript(a.in.Binding)
	if subtle.ConstantTimeCompare(a.quote.ExtraData, want[:]) != 1 {
		a.add(Finding{Reason: reason.NonceUnknown, Detail: "the quote is bound to another transcript",
			Expected: want.String(), Seen: hex.EncodeToString(a.quote.ExtraData)})
	}
	return true
}

// quoteLog: the transcript must commit to the log digest of this Evidence, because the second stage relies on the log.
func (a *appraisal) quoteLog() bool {
	if !slices.Contains(a.in.Binding.LogDigests, a.in.Evidence.LogDigest) {
		a.add(Finding{Reason: reason.NonceUnknown, Detail: "the transcript does not commit to the event log of this Evidence",
			Seen: a.in.Evidence.LogDigest.String()})
	}
	return true
}

// clockSafe is V-45. After an unorderly shutdown the TPM says that its clock may have gone back; that is accepted only
// for a challenge, and only when the reset counter shows that the device has booted since.
func (a *appraisal) clockSafe() bool {
	now, last := a.quote.Clock, a.in.Last
	if !now.Safe && (!a.in.Challenge || last != nil && now.ResetCount <= last.Clock.ResetCount) {
		a.refuse(reason.NonceReused, "the TPM says that its clock may have gone back; a quote over a challenge, after a boot, is needed")
	}
	return true
}

// clockAdvances is what stops replay (V-46).
func (a *appraisal) clockAdvances() bool {
	now, last := a.quote.Clock, a.in.Last
	if last != nil && !now.After(last.Clock) {
		a.add(Finding{Reason: reason.NonceReused, Detail: "the TPM clock did not advance since the last accepted quote",
			Expected: "later than " + clockText(last.Clock), Seen: clockText(now)})
	}
	return true
}

func clockText(c quote.Clock) string {
	return fmt.Sprintf("reset %d, restart %d, clock %d", c.ResetCount, c.RestartCount, c.Clock)
}

// quoteBank is the first half of V-37 and V-40.
func (a *appraisal) quoteBank() bool {
	if !errors.Is(a.quoteErr, quote.ErrBank) {
		return true
	}
	a.refuse(reason.PCRBankWeak, "the quote does not cover exactly the SHA-256 bank")
	return false
}

// pcrRequired is the second half of V-37.
func (a *appraisal) pcrRequired() bool {
	for missing := a.required &^ a.quote.Selection; missing != 0; missing &= missing - 1 {
		pcr := bits.TrailingZeros32(missing)
		a.add(Finding{Reason: reason.PCRBankWeak, Detail: fmt.Sprintf("PCR %d is required and was not quoted", pcr), PCR: &pcr})
	}
	return true
}

func (a *appraisal) pcrListed() bool {
	var listed uint32
	for _, p := range a.in.Evidence.PCRs {
		listed |= 1 << p.Index
	}
	if listed == a.quote.Selection {
		return true
	}
	a.add(Finding{Reason: reason.QuoteMalformed, Detail: "the listed PCRs are not those that were quoted",
		Expected: fmt.Sprintf("%#06x", a.quote.Selection), Seen: fmt.Sprintf("%#06x", listed)})
	return false
}

// pcrDigest is V-38.
func (a *appraisal) pcrDigest() bool {
	values := make([]digest.SHA256, 0, highestPCR+1)
	for _, p := range a.in.Evidence.PCRs {
		values = append(values, p.Value)
	}
	sum := quote.PCRDigest(values)
	if subtle.ConstantTimeCompare(sum[:], a.quote.PCRDigest[:]) == 1 {
		return true
	}
	a.add(Finding{Reason: reason.QuoteMalformed, Detail: "the listed PCR values are not those that were quoted",
		Expected: a.quote.PCRDigest.String(), Seen: sum.String()})
	return false
}

// pcrExtended finds a bank that is allocated but not used (V-39).
func (a *appraisal) pcrExtended() bool {
	for _, p := range a.in.Evidence.PCRs {
		if a.required&(1<<p.Index) != 0 && p.Index <= lastFirmwarePCR && neverExtended(p.Value) {
			pcr := p.Index
			a.add(Finding{Reason: reason.PCRBankWeak, Detail: fmt.Sprintf("the firmware has not measured anything into PCR %d", pcr),
				Seen: p.Value.String(), PCR: &pcr})
		}
	}
	return true
}

// neverExtended reports whether v is a reset value.
func neverExtended(v digest.SHA256) bool {
	same := func(b byte) bool { return bytes.Count(v[:], []byte{b}) == len(v) }
	return same(0x00) || same(0xff)
}
