package attestation

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// authenticate is the first stage of Appraise: is the Evidence authentic and fresh? It records findings with the
// effect retry or hold only.
func (a *appraisal) authenticate() error {
	if err := checkEvidence(a.in.Evidence); err != nil {
		a.refuse(reason.QuoteMalformed, "%v", err)
		return nil
	}
	key, err := a.attestationKey()
	if err != nil {
		return err
	}
	q, err := quote.ParseQuote(a.in.Evidence.Quote)
	weak := errors.Is(err, quote.ErrBank)
	if err != nil && !weak {
		a.refuse(reason.QuoteMalformed, "the quote cannot be parsed: %v", err)
		return nil
	}
	if !a.checkSignature(key) {
		return nil // nothing in the quote means anything
	}
	a.quote = q
	a.checkSigner()
	a.checkBinding()
	a.checkContinuity()
	if weak {
		a.refuse(reason.PCRBankWeak, "the quote does not cover exactly the SHA-256 bank")
		return nil
	}
	a.checkValues()
	return nil
}

// attestationKey parses the registered key and checks that it is one that can be trusted (V-14, V-16). A key that
// cannot be parsed is damage in the verifier's own store.
func (a *appraisal) attestationKey() (identity.Public, error) {
	ak := a.in.AK
	if len(ak.Public) == 0 {
		a.refuse(reason.AKUnknown, "no attestation key is registered for this device")
		return identity.Public{}, nil
	}
	key, err := identity.ParsePublic(ak.Public)
	if errors.Is(err, identity.ErrUnsupported) {
		a.refuse(reason.AKNotBound, "the registered attestation key cannot be used: %v", err)
		return identity.Public{}, nil
	}
	if err != nil {
		return identity.Public{}, fmt.Errorf("%w: registered attestation key: %w", ErrUndecidable, err)
	}
	for _, p := range identity.CheckAK(key) {
		a.add(Finding{Reason: p.Reason, Detail: p.Detail, Expected: p.Expected, Seen: p.Seen})
	}
	if want := identity.QualifiedNameUnderEndorsement(key.Name); !bytes.Equal(ak.QualifiedSigner, want) {
		a.add(Finding{Reason: reason.AKNotBound, Detail: "the registered attestation key is not a primary key of the endorsement hierarchy",
			Expected: hex.EncodeToString(want), Seen: hex.EncodeToString(ak.QualifiedSigner)})
	}
	return key, nil
}

func (a *appraisal) checkSignature(key identity.Public) bool {
	if key.Key == nil {
		return false // attestationKey has said why
	}
	err := quote.VerifySignature(key.Key, a.in.Evidence.Quote, a.in.Evidence.Signature)
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

// checkSigner compares the qualified Name in the quote with the one seen at admission (V-36).
func (a *appraisal) checkSigner() {
	if bytes.Equal(a.quote.QualifiedSigner, a.in.AK.QualifiedSigner) {
		return
	}
	a.add(Finding{Reason: reason.AKNotBound, Detail: "the quote was signed by a key of another place in the TPM than the one that was admitted",
		Expected: hex.EncodeToString(a.in.AK.QualifiedSigner), Seen: hex.EncodeToString(a.quote.QualifiedSigner)})
}

// checkBinding compares extraData with the transcript (V-34). The transcript must commit to the log digest of this
// Evidence: the second stage relies on the log.
func (a *appraisal) checkBinding() {
	want := Transcript(a.in.Binding)
	if subtle.ConstantTimeCompare(a.quote.ExtraData, want[:]) != 1 {
		a.add(Finding{Reason: reason.NonceUnknown, Detail: "the quote is bound to another transcript",
			Expected: want.String(), Seen: hex.EncodeToString(a.quote.ExtraData)})
	}
	if !slices.Contains(a.in.Binding.LogDigests, a.in.Evidence.LogDigest) {
		a.add(Finding{Reason: reason.NonceUnknown, Detail: "the transcript does not commit to the event log of this Evidence",
			Seen: a.in.Evidence.LogDigest.String()})
	}
}

// checkContinuity is what stops replay (V-45, V-46): the clock is strictly later than that of the last accepted
// quote. After an unorderly shutdown the TPM says that its clock may have gone back; that is accepted only for a
// challenge, and only when the reset counter shows that the device has booted since.
func (a *appraisal) checkContinuity() {
	now, last := a.quote.Clock, a.in.Last
	if !now.Safe && (!a.in.Challenge || last != nil && now.ResetCount <= last.Clock.ResetCount) {
		a.refuse(reason.NonceReused, "the TPM says that its clock may have gone back; a quote over a challenge, after a boot, is needed")
	}
	if last != nil && !now.After(last.Clock) {
		a.add(Finding{Reason: reason.NonceReused, Detail: "the TPM clock did not advance since the last accepted quote",
			Expected: "later than " + clockText(last.Clock), Seen: clockText(now)})
	}
}

func clockText(c quote.Clock) string {
	return fmt.Sprintf("reset %d, restart %d, clock %d", c.ResetCount, c.RestartCount, c.Clock)
}

// checkValues checks that the PCR values are those of the quote (V-38) and that they are enough (V-37, V-39); then it
// sets quoted.
func (a *appraisal) checkValues() {
	required := requiredPCRs(a.in)
	for _, pcr := range required {
		if a.quote.Selection&(1<<pcr) == 0 {
			a.add(Finding{Reason: reason.PCRBankWeak, Detail: fmt.Sprintf("PCR %d is required and was not quoted", pcr), PCR: &pcr})
		}
	}
	var listed uint32
	values := make([]digest.SHA256, 0, len(a.in.Evidence.PCRs))
	quoted := make(map[int]digest.SHA256, len(a.in.Evidence.PCRs))
	for _, p := range a.in.Evidence.PCRs {
		listed |= 1 << p.Index
		values = append(values, p.Value)
		quoted[p.Index] = p.Value
	}
	if listed != a.quote.Selection {
		a.add(Finding{Reason: reason.QuoteMalformed, Detail: "the listed PCRs are not those that were quoted",
			Expected: fmt.Sprintf("%#06x", a.quote.Selection), Seen: fmt.Sprintf("%#06x", listed)})
		return
	}
	if sum := quote.PCRDigest(values); subtle.ConstantTimeCompare(sum[:], a.quote.PCRDigest[:]) != 1 {
		a.add(Finding{Reason: reason.QuoteMalformed, Detail: "the listed PCR values are not those that were quoted",
			Expected: a.quote.PCRDigest.String(), Seen: sum.String()})
		return
	}
	for _, pcr := range required {
		if value, ok := quoted[pcr]; ok && pcr <= lastFirmwarePCR && neverExtended(value) {
			a.add(Finding{Reason: reason.PCRBankWeak, Detail: fmt.Sprintf("the firmware has not measured anything into PCR %d", pcr),
				Seen: value.String(), PCR: &pcr})
		}
	}
	a.quoted = quoted
}

// neverExtended reports whether v is a reset value: a bank that is allocated but not used (V-39).
func neverExtended(v digest.SHA256) bool {
	return bytes.Count(v[:], []byte{0x00}) == len(v) || bytes.Count(v[:], []byte{0xff}) == len(v)
}
