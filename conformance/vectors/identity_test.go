package vectors_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

const identityFolder = "identity"

// identityVector makes the question of a case with the answer that the case demands.
func identityVector(c evidencetest.IdentityCase) vectors.Vector {
	name := nameOf(evidencetest.Case{ID: c.ID, Name: c.Name})
	v := vectors.Vector{
		Format: vectors.Format, Case: c.ID, About: c.About, Stage: "identity", Note: c.Note, MaxAlloc: vectors.MaxAlloc,
		Question: vectors.Question{Name: name}, Answer: vectors.Answer{Name: name, Outcome: vectors.Affirmed, Reasons: c.Reasons},
	}
	if len(c.Reasons) > 0 {
		v.Answer.Outcome = vectors.Refused
	}
	if c.Certify != nil {
		q := vectors.CertifyQuestion(*c.Certify)
		v.Question.Certify = &q
		return v
	}
	q := vectors.EKQuestion{
		Certificate: c.EK.Certificate, Intermediates: c.EK.Intermediates, Manufacturers: c.EK.Manufacturers, RefuseUnbound: c.EK.RefuseUnbound,
		RefuseExpired: c.EK.RefuseExpired, At: c.EK.At, Firmware: c.EK.Firmware, Denials: c.EK.Denials,
	}
	for _, r := range c.EK.Roots {
		q.Roots = append(q.Roots, vectors.EKRoot(r))
	}
	v.Question.EK = &q
	return v
}

// The questions about who a device is are what the cases make.
func TestIdentityVectorsAreCurrent(t *testing.T) {
	t.Parallel()
	var all []vectors.Vector
	for _, c := range evidencetest.IdentityCases() {
		all = append(all, identityVector(c))
	}
	all = append(all, kept(t).vectors(t)...)
	compareFolder(t, identityFolder, all)
}

// identityChapter is the part of the page about who a device is.
func identityChapter() string {
	var b strings.Builder
	b.WriteString(identityHead)
	cases := evidencetest.IdentityCases()
	for _, s := range []struct {
		title string
		in    func(evidencetest.IdentityCase) bool
	}{
		{"Endorsement certificates", func(c evidencetest.IdentityCase) bool { return c.EK != nil && len(c.EK.Denials) == 0 }},
		{"Endorsement keys on the deny list", func(c evidencetest.IdentityCase) bool { return c.EK != nil && len(c.EK.Denials) > 0 }},
		{"Certifications of a device's other keys", func(c evidencetest.IdentityCase) bool { return c.Certify != nil }},
	} {
		fmt.Fprintf(&b, "\n### %s\n\n| case | what is done | outcome |\n|---|---|---|\n", s.title)
		for _, c := range cases {
			if !s.in(c) {
				continue
			}
			fmt.Fprintf(&b, "| %s %s | %s | %s%s |\n", c.ID, c.Name, c.About, identityVector(c).Answer.Outcome, reasons(c.Reasons))
		}
	}
	b.WriteString("\nBeside them P12 and P21 are genuine: the endorsement certificate of an emulated TPM, and its certifications of a TLS key,\ntwo wrap keys and the next attestation key, as recorded in `conformance/vectors/ek`. All are affirmed.\n")
	return b.String()
}

const identityHead = `
## Who a device is

Whether a TPM is genuine, and whether a key lives in it, are questions of their own. They lie in
` + "`conformance/vectors/identity`" + ` and are asked in the same way: ` + "`go run ./conformance run --vectors conformance/vectors/identity`" + `.
Go-tpm-tools and go-attestation are not asked: neither has a function that takes a certificate with roots and decides, nor
one that takes a certification with what it must be bound to.

| member of a question | what |
|---|---|
| ` + "`ek`" + ` | an endorsement certificate with the chain that the device sends, and the verifier's side: roots with the manufacturers that each speaks for, admitted manufacturers, time, denials, and the firmware version that the TPM's quotes carry |
| ` + "`certify`" + ` | a TPMS_ATTEST of type certify with its signature, the registered attestation key and its qualified Name, what it must be bound to, the certified public area, and its use: ` + "`tls`, `wrap` or `successor`" + ` (the next attestation key) |

The outcomes are affirmed and refused. Opening a credential (TPM2_ActivateCredential) is an exchange with randomness in
it and no question to a file: the cases N41 to N47 and N51 are held by tests.

Each rule about certificates, public areas, certified keys, certifications and signatures is a row of a table; a test
drops each row in turn and demands that one of the cases is then accepted.
`

// A question of two kinds, or of none, is none.
func TestRefusesQuestionsOfTwoKinds(t *testing.T) {
	t.Parallel()
	cases := evidencetest.IdentityCases()
	ek := identityVector(cases[0])
	certify := identityVector(cases[len(cases)-1])
	both := ek
	both.Question.Certify = certify.Question.Certify
	none := ek
	none.Question.EK = nil
	for name, v := range map[string]vectors.Vector{"two kinds": both, "none": none} {
		b, err := v.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vectors.Decode(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
