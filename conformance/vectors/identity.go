package vectors

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// EKQuestion asks whether an endorsement certificate is to be believed.
type EKQuestion struct {
	Certificate   []byte            `json:"certificate"`            // DER, as it lies in the TPM
	Intermediates [][]byte          `json:"intermediates,omitzero"` // DER, as the device sends them
	Roots         []EKRoot          `json:"roots,omitzero"`
	Manufacturers []string          `json:"manufacturers,omitzero"`   // the only ones that are admitted; none: all
	RefuseUnbound bool              `json:"refuse_unbound,omitzero"`  // a root without manufacturers is not enough
	RefuseExpired bool              `json:"refuse_expired,omitzero"`  // certificates that have ended are not enough
	At            time.Time         `json:"at"`                       // the verifier's clock
	Firmware      uint64            `json:"firmware,string,omitzero"` // as the TPM's quotes carry it; absent: not known yet
	Denials       []identity.Denial `json:"denials,omitzero"`         // TPMs that must not be believed
}

// EKRoot is a certificate that chains may end in, with the manufacturers that it speaks for; none: it is bound to nobody.
type EKRoot struct {
	Certificate   []byte   `json:"certificate"` // DER
	Manufacturers []string `json:"manufacturers,omitzero"`
}

// Uses of a certified key.
const (
	UseTLS       = "tls"       // authenticates connections
	UseWrap      = "wrap"      // content keys are encrypted to it
	UseSuccessor = "successor" // becomes the next attestation key
)

// CertifyQuestion asks whether the TPM of a registered attestation key vouches for another key, and whether that key is
// good for its use.
type CertifyQuestion struct {
	AK              []byte `json:"ak"`               // TPMT_PUBLIC of the registered key
	QualifiedSigner []byte `json:"qualified_signer"` // its qualified Name
	CertifyInfo     []byte `json:"certify_info"`     // TPMS_ATTEST
	Signature       []byte `json:"signature"`        // TPMT_SIGNATURE
	ExtraData       []byte `json:"extra_data"`       // what the certification must be bound to
	Object          []byte `json:"object"`           // TPMT_PUBLIC of the certified key
	Use             string `json:"use"`
}

// ask is cordon's answer. An error means that the question's own side of the verifier cannot be read.
func (q EKQuestion) ask() ([]reason.Reason, error) {
	var list []identity.Root
	for _, r := range q.Roots {
		cert, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			return nil, fmt.Errorf("%w: a root: %w", ErrVector, err)
		}
		list = append(list, identity.Root{Certificate: cert, Manufacturers: r.Manufacturers})
	}
	roots, err := identity.NewRoots(list...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVector, err)
	}
	for _, d := range q.Denials {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrVector, err)
		}
	}
	policy := identity.EKPolicy{Roots: roots, Manufacturers: q.Manufacturers, RefuseUnbound: q.RefuseUnbound, RefuseExpired: q.RefuseExpired}
	ek, problems := policy.Verify(q.Certificate, q.Intermediates, q.At)
	if len(problems) > 0 {
		return reasonsOf(problems), nil
	}
	if _, denied := identity.Denied(ek, q.Firmware, q.Denials); denied {
		return []reason.Reason{reason.EKRevoked}, nil
	}
	return nil, nil
}

func (q CertifyQuestion) ask() ([]reason.Reason, error) {
	verify := map[string]func(identity.Public, []byte, []byte, []byte, []byte, identity.Public) []identity.Problem{
		UseTLS: identity.VerifyCertify, UseWrap: identity.VerifyWrapKey, UseSuccessor: identity.VerifySuccessor,
	}[q.Use]
	if verify == nil {
		return nil, fmt.Errorf("%w: a key for %.20q", ErrVector, q.Use)
	}
	ak, err := identity.ParsePublic(q.AK)
	if err != nil {
		return nil, fmt.Errorf("%w: the registered key: %w", ErrVector, err)
	}
	object, err := identity.ParsePublic(q.Object)
	if err != nil { // the device sent it
		return []reason.Reason{reason.AKNotBound}, nil
	}
	return reasonsOf(verify(ak, q.QualifiedSigner, q.CertifyInfo, q.Signature, q.ExtraData, object)), nil
}

// reasonsOf is each reason once, in order.
func reasonsOf(problems []identity.Problem) []reason.Reason {
	var out []reason.Reason
	for _, p := range problems {
		if !slices.Contains(out, p.Reason) {
			out = append(out, p.Reason)
		}
	}
	return out
}
