package identity_test

import (
	"bytes"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
)

func FuzzParseDeviceID(f *testing.F) {
	f.Add(identity.DeviceIDOf([]byte("key")).String())
	f.Add("aaaaaaaaaaaaaaaaaaaaaaaaab") // two unused bits are set
	f.Fuzz(func(t *testing.T, text string) {
		id, err := identity.ParseDeviceID(text)
		if err == nil && id.String() != text {
			t.Errorf("%q has another form, %q", text, id)
		}
	})
}

// Whatever a device sends as certification and certified key, nothing that the registered key has not certified is taken.
func FuzzCertification(f *testing.F) {
	var made []*evidencetest.CertifyQuestion // by the registered key, for one use or another
	q := &evidencetest.CertifyQuestion{}
	for _, c := range evidencetest.IdentityCases() {
		if c.Certify == nil {
			continue
		}
		f.Add(c.Certify.CertifyInfo, c.Certify.Signature, c.Certify.Object)
		made = append(made, c.Certify)
		if len(c.Reasons) == 0 {
			q = c.Certify
		}
	}
	ak, err := identity.ParsePublic(q.AK)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, info, signature, object []byte) {
		evidencetest.Bounded(t, len(info)+len(signature)+len(object), func() {
			key, err := identity.ParsePublic(object)
			if err != nil {
				return
			}
			identity.VerifyCertify(ak, q.QualifiedSigner, info, signature, q.ExtraData, key)
			identity.VerifySuccessor(ak, q.QualifiedSigner, info, signature, q.ExtraData, key)
			identity.VerifyWrapKey(ak, q.QualifiedSigner, info, signature, q.ExtraData, key)
		})
		key, err := identity.ParsePublic(object)
		if err != nil {
			return
		}
		for _, verify := range []func(identity.Public, []byte, []byte, []byte, []byte, identity.Public) []identity.Problem{
			identity.VerifyCertify, identity.VerifySuccessor, identity.VerifyWrapKey,
		} {
			known := false
			for _, c := range made {
				known = known || bytes.Equal(c.CertifyInfo, info) && bytes.Equal(c.Object, object)
			}
			if len(verify(ak, q.QualifiedSigner, info, signature, q.ExtraData, key)) == 0 && !known {
				t.Errorf("taken: %x certifies %x", info, object)
			}
		}
	})
}

// A device sends the intermediates of its certificate: none of them makes a chain that nobody issued.
func FuzzIntermediates(f *testing.F) {
	roots := swtpmRoots(f)
	genuine, issuer := ekVector(f, "ek-rsa2048.crt"), ekVector(f, "issuer.pem")
	f.Add(genuine, issuer, issuer)
	f.Add(genuine, genuine, []byte{})
	f.Add(issuer, issuer, genuine)
	f.Fuzz(func(t *testing.T, leaf, first, second []byte) {
		var problems []identity.Problem
		evidencetest.Bounded(t, len(leaf)+len(first)+len(second), func() {
			_, problems = identity.VerifyEK(leaf, [][]byte{first, second}, roots, today)
		})
		if trimmed := bytes.TrimRight(bytes.TrimRight(leaf, "\x00"), "\xff"); len(problems) == 0 && !bytes.HasPrefix(genuine, trimmed) {
			t.Errorf("taken: %x", leaf)
		}
	})
}
