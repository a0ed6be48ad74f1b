package vectors_test

import (
	"bytes"
	"encoding/pem"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	legacy "github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

var record = flag.Bool("record", false, "keep what the emulated TPM of this run says in the folder ek/certified")

const (
	certifiedFolder = "ek/certified"
	ekNVIndex       = 0x01c00002
)

// certified names the keys that the TPM of ek/certified vouches for, with their uses.
var certified = map[string]string{
	"tls": vectors.UseTLS, "wrap-rsa": vectors.UseWrap, "wrap-ecc": vectors.UseWrap, "next": vectors.UseSuccessor,
}

// genuine is what one TPM says about itself, by the name of its file.
type genuine map[string][]byte

// kept reads the recorded files.
func kept(t *testing.T) genuine {
	t.Helper()
	g := genuine{}
	names, err := filepath.Glob(filepath.Join(certifiedFolder, "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if g[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// The recorded words of a real implementation of TPM 2.0 are believed, and so are those of the one that answers today:
// strictness must not mean refusing everything.
func TestGenuineCertificatesAndCertificationsAreBelieved(t *testing.T) {
	t.Parallel()
	kept(t).check(t)
}

func TestTPMOfTodayIsBelieved(t *testing.T) {
	t.Parallel()
	g := askTPM(t, parts.TestTPM(t))
	g.check(t)
	if !*record {
		return
	}
	for name, b := range g {
		if err := os.WriteFile(filepath.Join(certifiedFolder, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (g genuine) check(t *testing.T) {
	t.Helper()
	ak, err := identity.ParsePublic(g["ak.pub"])
	if err != nil {
		t.Fatal(err)
	}
	if problems := identity.CheckAK(ak); len(problems) > 0 {
		t.Errorf("attestation key: %+v", problems)
	}
	all := g.vectors(t)
	if got, want := len(all), 1+len(certified); got != want {
		t.Errorf("got %d questions, want %d", got, want)
	}
	for _, v := range all {
		if a, _, err := vectors.Ask(v.Question); err != nil || a.Outcome != vectors.Affirmed {
			t.Errorf("%s: got %s %v, %v", v.Question.Name, a.Outcome, a.Reasons, err)
		}
	}
}

// vectors are the questions about what the TPM says; each must be affirmed.
func (g genuine) vectors(t *testing.T) []vectors.Vector {
	t.Helper()
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	roots := []vectors.EKRoot{{Certificate: der(t, g["root.pem"]), Manufacturers: []string{"id:00001014"}}}
	out := []vectors.Vector{genuineVector("P12", "endorsement certificate", vectors.Question{EK: &vectors.EKQuestion{
		Certificate: g["ek.crt"], Intermediates: [][]byte{der(t, g["issuer.pem"])}, Roots: roots, RefuseUnbound: true, At: at,
	}})}
	ak, err := identity.ParsePublic(g["ak.pub"])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(certified)) {
		out = append(out, genuineVector("P21", "certification of "+name, vectors.Question{Certify: &vectors.CertifyQuestion{
			AK: g["ak.pub"], QualifiedSigner: identity.QualifiedNameUnderEndorsement(ak.Name), CertifyInfo: g[name+".msg"],
			Signature: g[name+".sig"], ExtraData: g["extra.bin"], Object: g[name+".pub"], Use: certified[name],
		}}))
	}
	return out
}

func genuineVector(id, about string, q vectors.Question) vectors.Vector {
	q.Name = nameOf(evidencetest.Case{ID: id, Name: "genuine " + about})
	return vectors.Vector{
		Format: vectors.Format, Case: id, About: "the genuine " + about + " of an emulated TPM", Stage: "identity", MaxAlloc: vectors.MaxAlloc,
		Question: q, Answer: vectors.Answer{Name: q.Name, Outcome: vectors.Affirmed},
	}
}

func der(t *testing.T, b []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatal("not PEM")
	}
	return block.Bytes
}

// askTPM lets a TPM make its keys and vouch for them.
func askTPM(t *testing.T, p *parts.TPM) genuine {
	t.Helper()
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rw.Close() })
	root, issuer, err := p.CARoots()
	if err != nil {
		t.Fatal(err)
	}
	ek, err := legacy.NVReadEx(rw, ekNVIndex, legacy.HandleOwner, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	extra := bytes.Repeat([]byte{0xe7}, 32)
	g := genuine{"ek.crt": ek, "root.pem": root, "issuer.pem": issuer, "extra.bin": extra}
	tpm := transport.FromReadWriter(rw)
	const signs, decrypts = true, false
	ak := primary(t, tpm, tpm2.TPMRHEndorsement, eccTemplate("key", true, signs))
	g["ak.pub"] = tpm2.Marshal(ak.public)
	for name, of := range map[string]struct {
		hierarchy tpm2.TPMHandle
		template  tpm2.TPMTPublic
	}{
		"tls":      {tpm2.TPMRHOwner, eccTemplate("tls", false, signs)},
		"wrap-ecc": {tpm2.TPMRHOwner, eccTemplate("wrap", false, decrypts)},
		"wrap-rsa": {tpm2.TPMRHOwner, rsaWrapTemplate()},
		"next":     {tpm2.TPMRHEndorsement, eccTemplate("next key", true, signs)},
	} {
		object := primary(t, tpm, of.hierarchy, of.template)
		answer, err := tpm2.Certify{
			ObjectHandle:   tpm2.AuthHandle{Handle: object.handle, Name: object.name, Auth: tpm2.PasswordAuth(nil)},
			SignHandle:     tpm2.AuthHandle{Handle: ak.handle, Name: ak.name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: extra}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(tpm)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		g[name+".pub"], g[name+".msg"], g[name+".sig"] = tpm2.Marshal(object.public), answer.CertifyInfo.Bytes(), tpm2.Marshal(answer.Signature)
		object.flush(t, tpm)
	}
	ak.flush(t, tpm)
	return g
}

// loaded is a key in the TPM.
type loaded struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

func (l loaded) flush(t *testing.T, tpm transport.TPM) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: l.handle}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
}

func primary(t *testing.T, tpm transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) loaded {
	t.Helper()
	answer, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	public, err := answer.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return loaded{answer.ObjectHandle, answer.Name, *public}
}

// eccTemplate is a P-256 key; words make it another one than the others.
func eccTemplate(words string, restricted, signs bool) tpm2.TPMTPublic {
	scheme := tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}
	if restricted {
		scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
	}
	unique := make([]byte, 32)
	copy(unique, words)
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes(restricted, signs),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, Scheme: scheme, CurveID: tpm2.TPMECCNistP256, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: unique}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}}),
	}
}

func rsaWrapTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes(false, false),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, KeyBits: 2048,
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgOAEP, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256})},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: make([]byte, 256)}),
	}
}

func attributes(restricted, signs bool) tpm2.TPMAObject {
	return tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true,
		Restricted: restricted, SignEncrypt: signs, Decrypt: !signs}
}
