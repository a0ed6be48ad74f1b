package enroll

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// proof is what round 2 has shown.
type proof struct {
	claims     wire.Claims
	log        *store.AddLog // nil when none came along
	transcript digest.SHA256
	firmware   uint64      // of the TPM, by its quote
	clock      quote.Clock // likewise
}

// prove checks everything that round 2 has to show: the TPM of the EK opened the credential for this AK, the AK vouches
// for the TLS key, and it quoted; all over one transcript that also binds the connection and the claims.
func (s *Service) prove(a applicant, exporter []byte, req wire.ActivateRequest) (proof, error) {
	var claims wire.Claims
	if len(req.Claims) > wire.MaxClaimsBytes {
		return proof{}, problem.TooLarge(wire.MaxClaimsBytes)
	}
	if err := json.Unmarshal(req.Claims, &claims); err != nil {
		return proof{}, problem.Malformed("the claims are not valid JSON: %v", err)
	}
	evidence, err := attestation.DecodeEvidence(req.Evidence)
	if err != nil {
		return proof{}, problem.Malformed("the Evidence cannot be read: %v", err)
	}
	transcript := attestation.Transcript(attestation.Binding{
		Purpose: attestation.PurposeEnroll, Nonce: req.Challenge, Device: a.id, Exporter: exporter,
		LogDigests: []digest.SHA256{evidence.LogDigest}, Claims: digest.Of(req.Claims),
	})
	mac := hmac.New(sha256.New, s.secret(req.Challenge))
	mac.Write(transcript[:])
	if !hmac.Equal(mac.Sum(nil), req.HMAC) {
		return proof{}, problem.New(http.StatusForbidden, reason.AKNotBound, "the TPM did not open the credential")
	}
	if problems := identity.VerifyCertify(a.ak, a.qn, req.Certify, req.CertifySignature, transcript[:], a.tls); len(problems) > 0 {
		return proof{}, refuse(problems)
	}
	q, err := checkQuote(a, evidence, transcript)
	if err != nil {
		return proof{}, err
	}
	log, err := checkLog(evidence)
	return proof{claims: claims, log: log, transcript: transcript, firmware: q.Firmware, clock: q.Clock}, err
}

// checkQuote checks authenticity only: what the device booted is judged by the first poll. The quotes of an
// endorsement-hierarchy key carry the TPM's firmware version and its reset and restart counts in clear.
func checkQuote(a applicant, e attestation.Evidence, transcript digest.SHA256) (quote.Attest, error) {
	q, err := quote.ParseQuote(e.Quote)
	if errors.Is(err, quote.ErrBank) {
		return quote.Attest{}, problem.New(http.StatusForbidden, reason.PCRBankWeak, "%v", err)
	}
	if err != nil {
		return quote.Attest{}, problem.New(http.StatusForbidden, reason.QuoteMalformed, "%v", err)
	}
	if err := quote.VerifySignature(a.ak.Key, e.Quote, e.Signature); err != nil {
		return quote.Attest{}, problem.New(http.StatusForbidden, reason.QuoteSignatureInvalid, "%v", err)
	}
	if subtle.ConstantTimeCompare(q.QualifiedSigner, a.qn) != 1 {
		return quote.Attest{}, problem.New(http.StatusForbidden, reason.AKNotBound, "the attestation key is not a primary key of the endorsement hierarchy")
	}
	if subtle.ConstantTimeCompare(q.ExtraData, transcript[:]) != 1 {
		return quote.Attest{}, problem.New(http.StatusForbidden, reason.NonceUnknown, "the quote is not over this enrollment")
	}
	return q, nil
}

// checkLog keeps a log that came along, if it is the one that the quote commits to.
func checkLog(e attestation.Evidence) (*store.AddLog, error) {
	if len(e.Log) == 0 {
		return nil, nil
	}
	if digest.Of(e.Log) != e.LogDigest {
		return nil, problem.New(http.StatusForbidden, reason.EventlogMismatch, "the event log is not the one that the quote commits to")
	}
	if _, err := eventlog.Parse(e.Log); err != nil {
		return nil, problem.New(http.StatusForbidden, logReason(err), "the event log cannot be parsed: %v", err)
	}
	return &store.AddLog{Digest: e.LogDigest, Bytes: e.Log}, nil
}

// logReason names what is wrong with a log as an appraisal would: only a log that contradicts itself speaks against the device.
func logReason(err error) reason.Reason {
	switch {
	case errors.Is(err, eventlog.ErrTooLarge):
		return reason.RequestTooLarge
	case errors.Is(err, eventlog.ErrFormat):
		return reason.PCRBankWeak
	case errors.Is(err, eventlog.ErrNote):
		return reason.EventlogUnexplained
	}
	return reason.EventlogMismatch
}
