package evidencetest

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// IdentityCase is a question about who a device is, with the one right answer: an endorsement certificate, or a
// certification of one of the device's keys. Exactly one of EK and Certify is set.
type IdentityCase struct {
	ID      string // number of the negative case; several cases may share it
	Name    string // short and unique together with ID
	About   string // what is done, in one sentence
	Note    string // why this outcome is right, where that is not plain
	EK      *EKQuestion
	Certify *CertifyQuestion
	Reasons []reason.Reason // all that must be given, in order, each once; none: it must be believed
}

// EKQuestion asks about an endorsement certificate.
type EKQuestion struct {
	Certificate   []byte   // DER, as it lies in the TPM
	Intermediates [][]byte // DER, as the device sends them
	Roots         []EKRoot
	Manufacturers []string // the only ones that are admitted; none: all
	RefuseUnbound bool
	RefuseExpired bool
	At            time.Time
	Firmware      uint64 // as the TPM's quotes carry it; absent: not known yet
	Denials       []identity.Denial
}

// EKRoot is a certificate that chains may end in.
type EKRoot struct {
	Certificate   []byte // DER
	Manufacturers []string
}

// Policy is what identity.EKPolicy makes of the question's side of the verifier. It returns an error for roots that
// cannot be read.
func (q EKQuestion) Policy() (identity.EKPolicy, error) {
	var list []identity.Root
	for _, r := range q.Roots {
		cert, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			return identity.EKPolicy{}, err
		}
		list = append(list, identity.Root{Certificate: cert, Manufacturers: r.Manufacturers})
	}
	roots, err := identity.NewRoots(list...)
	if err != nil {
		return identity.EKPolicy{}, err
	}
	return identity.EKPolicy{Roots: roots, Manufacturers: q.Manufacturers, RefuseUnbound: q.RefuseUnbound, RefuseExpired: q.RefuseExpired}, nil
}

// Uses of a certified key.
const (
	UseTLS       = "tls"       // authenticates connections
	UseWrap      = "wrap"      // content keys are encrypted to it
	UseSuccessor = "successor" // becomes the next attestation key
)

// CertifyQuestion asks whether the TPM of a registered attestation key vouches for another key.
type CertifyQuestion struct {
	AK              []byte // TPMT_PUBLIC of the registered key
	QualifiedSigner []byte // its qualified Name
	CertifyInfo     []byte // TPMS_ATTEST
	Signature       []byte // TPMT_SIGNATURE
	ExtraData       []byte // what the certification must be bound to
	Object          []byte // TPMT_PUBLIC of the certified key
	Use             string
}

// IdentityCases returns every case, endorsement keys first. The same build always makes the same bytes.
func IdentityCases() []IdentityCase {
	return slices.Concat(ekCases(), denialCases(), certifyCases())
}

// ekNow is when the cases are asked.
var ekNow = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

// maker is the manufacturer of the cases.
func maker() CA { return CAOfWords("TPM maker", "TPM maker") }

// ekCase is a case about a certificate that maker has issued for an RSA-2048 key, with change in it.
func ekCase(id, name, about string, reasons []reason.Reason, change func(*x509.Certificate), more ...func(*EKQuestion)) IdentityCase {
	ca := maker()
	q := &EKQuestion{Certificate: ca.Endorse(rsaOfWords("endorsement key", 2048), change), Roots: []EKRoot{{Certificate: ca.Certificate.Raw}}, At: ekNow}
	for _, m := range more {
		m(q)
	}
	return IdentityCase{ID: id, Name: name, About: about, EK: q, Reasons: reasons}
}

// certifySpec is what a certification case is made of; the zero value of a field takes what a good one has.
type certifySpec struct {
	use    string
	object *Key // default: a good key for the use
	area   []byte
	signer *AK // default: the registered key
	spec   func(*CertifySpec)
	tail   []byte
}

func certifyCase(id, name, about string, reasons []reason.Reason, c certifySpec) IdentityCase {
	ak := NewAK(Seed("attestation key"))
	object := goodObject(c.use)
	if c.object != nil {
		object = *c.object
	}
	if c.area != nil {
		object = Key{Public: c.area}
	}
	signer := ak
	if c.signer != nil {
		signer = *c.signer
	}
	extra := bytes.Repeat([]byte{0xe7}, 32)
	spec := CertifySpec{ExtraData: extra, Name: object.Name(), QualifiedSigner: ak.QualifiedSigner()}
	if c.spec != nil {
		c.spec(&spec)
	}
	info, sig := signer.Certify(spec)
	return IdentityCase{ID: id, Name: name, About: about, Reasons: reasons, Certify: &CertifyQuestion{
		AK: ak.Public, QualifiedSigner: ak.QualifiedSigner(), CertifyInfo: append(info, c.tail...), Signature: sig, ExtraData: extra,
		Object: object.Public, Use: c.use,
	}}
}

func goodObject(use string) Key {
	switch use {
	case UseWrap:
		return NewKey(Seed("wrap key"), GoodWrap())
	case UseSuccessor:
		return NewAK(Seed("next attestation key")).Key
	}
	return NewTLSKey(Seed("TLS key"))
}
