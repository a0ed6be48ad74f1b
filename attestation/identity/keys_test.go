package identity_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

func seed(label string) *bytes.Reader {
	sum := sha256.Sum256([]byte(label))
	return bytes.NewReader(sum[:])
}

func parse(t *testing.T, b []byte) identity.Public {
	t.Helper()
	p, err := identity.ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDeviceIDHasOneForm(t *testing.T) {
	t.Parallel()
	id := identity.DeviceIDOf([]byte("spki"))
	if got, want := len(id), 26; got != want {
		t.Errorf("length: got %d, want %d", got, want)
	}
	if got, err := identity.ParseDeviceID(string(id)); err != nil || got != id {
		t.Errorf("got %q, %v, want %q", got, err, id)
	}
	last := id[25]
	for _, bad := range []string{"", string(id[:25]), string(id) + "a", strings.ToUpper(string(id)), string(id[:25]) + string(last+1), "0" + string(id[1:]), string(id[:25]) + "="} {
		if _, err := identity.ParseDeviceID(bad); !errors.Is(err, identity.ErrDeviceID) {
			t.Errorf("%q: got %v, want ErrDeviceID", bad, err)
		}
	}
}

func TestAcceptsGenuineAK(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("../../conformance/vectors/measured-boot/*/ak.pub")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, path := range dirs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if problems := identity.CheckAK(parse(t, b)); len(problems) > 0 {
			t.Errorf("%s: %+v", path, problems)
		}
	}
}

// N32: the recorded keys live in the owner hierarchy, and their quotes say so.
func TestGenuineOwnerHierarchyQuoteIsNotUnderEndorsement(t *testing.T) {
	t.Parallel()
	dir := "../../conformance/vectors/measured-boot/sdboot-ab-1-v1/"
	public, err := os.ReadFile(dir + "ak.pub")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := os.ReadFile(dir + "quote.msg")
	if err != nil {
		t.Fatal(err)
	}
	q, err := quote.ParseQuote(msg)
	if err != nil {
		t.Fatal(err)
	}
	name := parse(t, public).Name
	owner := sha256.New()
	owner.Write([]byte{0x40, 0, 0, 1}) // TPM_RH_OWNER
	owner.Write(name)
	if got, want := hex.EncodeToString(q.QualifiedSigner), "000b"+hex.EncodeToString(owner.Sum(nil)); got != want {
		t.Errorf("owner hierarchy: got %s, want %s", got, want)
	}
	if bytes.Equal(q.QualifiedSigner, identity.QualifiedNameUnderEndorsement(name)) {
		t.Error("an owner-hierarchy key passes for an endorsement-hierarchy key")
	}
}

// The reflective decoder of go-tpm is the oracle for every field.
func TestAgreesWithGoTPM(t *testing.T) {
	t.Parallel()
	for _, key := range []evidencetest.Key{evidencetest.NewAK(seed("ak")).Key, evidencetest.NewTLSKey(seed("tls"))} {
		theirs, err := tpm2.Unmarshal[tpm2.TPMTPublic](key.Public)
		if err != nil {
			t.Fatal(err)
		}
		name, err := tpm2.ObjectName(theirs)
		if err != nil {
			t.Fatal(err)
		}
		p := parse(t, key.Public)
		if !bytes.Equal(p.Name, name.Buffer) {
			t.Errorf("name: got %x, want %x", p.Name, name.Buffer)
		}
		if !key.Private.PublicKey.Equal(p.Key) {
			t.Error("another key")
		}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := tpm2.RSAEKTemplate
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: rsaKey.N.Bytes()})
	p := parse(t, tpm2.Marshal(public))
	if !rsaKey.PublicKey.Equal(p.Key) {
		t.Error("another RSA key")
	}
	if problems := identity.CheckAK(p); len(problems) < 4 {
		t.Errorf("an EK passes as an AK: %+v", problems)
	}
}

// N26, N29, N30, N31 and every other attribute of V-14.
func TestRefusesAKs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*evidencetest.PublicSpec)
		detail string
	}{
		{"N26 unrestricted", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.Restricted }, "lacks the attribute restricted"},
		{"N29 storage key", func(s *evidencetest.PublicSpec) { s.Attributes |= identity.Decrypt }, "has the attribute decrypt"},
		{"N30 duplicable", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.FixedTPM }, "lacks the attribute fixedTPM"},
		{"movable", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.FixedParent }, "lacks the attribute fixedParent"},
		{"N31 imported", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.SensitiveDataOrigin }, "lacks the attribute sensitiveDataOrigin"},
		{"no user authorisation", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.UserWithAuth }, "lacks the attribute userWithAuth"},
		{"cannot sign", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.Sign }, "lacks the attribute sign"},
		{"adminWithPolicy", func(s *evidencetest.PublicSpec) { s.Attributes |= identity.AdminWithPolicy }, "has the attribute adminWithPolicy"},
		{"stClear", func(s *evidencetest.PublicSpec) { s.Attributes |= identity.STClear }, "has the attribute stClear"},
		{"encryptedDuplication", func(s *evidencetest.PublicSpec) { s.Attributes |= identity.EncryptedDup }, "has the attribute encryptedDuplication"},
		{"x509sign", func(s *evidencetest.PublicSpec) { s.Attributes |= 1 << 19 }, "unknown attributes"},
		{"reserved bit", func(s *evidencetest.PublicSpec) { s.Attributes |= 1 << 31 }, "unknown attributes"},
		{"policy", func(s *evidencetest.PublicSpec) { s.Policy = make([]byte, 32) }, "authorisation policy"},
		{"open scheme", func(s *evidencetest.PublicSpec) { s.Scheme = evidencetest.AlgNull }, "scheme"},
		{"N22 SHA-1 scheme", func(s *evidencetest.PublicSpec) { s.Hash = evidencetest.AlgSHA1 }, "scheme"},
		{"RSASSA scheme", func(s *evidencetest.PublicSpec) { s.Scheme = evidencetest.AlgRSASSA }, "scheme"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := evidencetest.GoodAK()
			tt.change(&spec)
			problems := identity.CheckAK(parse(t, evidencetest.NewKey(seed("ak"), spec).Public))
			if len(problems) != 1 || problems[0].Reason != reason.AKNotBound || !strings.Contains(problems[0].Detail, tt.detail) {
				t.Errorf("got %+v, want one ak_not_bound about %q", problems, tt.detail)
			}
		})
	}
	spec := evidencetest.GoodAK()
	spec.Attributes &^= identity.NoDA
	if problems := identity.CheckAK(parse(t, evidencetest.NewKey(seed("ak"), spec).Public)); len(problems) > 0 {
		t.Errorf("without noDA: %+v", problems)
	}
}

// N33 and malformed public areas.
func TestRefusesPublicAreas(t *testing.T) {
	t.Parallel()
	good := evidencetest.NewAK(seed("ak"))
	spec := func(change func(*evidencetest.PublicSpec)) []byte {
		s := evidencetest.GoodAK()
		change(&s)
		return evidencetest.PublicArea(&good.Private.PublicKey, s)
	}
	offCurve := bytes.Clone(good.Public)
	offCurve[len(offCurve)-1] ^= 1
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"trailing byte", append(bytes.Clone(good.Public), 0), identity.ErrMalformed},
		{"point off the curve", offCurve, identity.ErrMalformed},
		{"too large", make([]byte, identity.MaxPublicBytes+1), identity.ErrMalformed},
		{"SHA-1 name", spec(func(s *evidencetest.PublicSpec) { s.NameAlg = evidencetest.AlgSHA1 }), identity.ErrUnsupported},
		{"P-224", spec(func(s *evidencetest.PublicSpec) { s.Curve = 2 }), identity.ErrUnsupported},
		{"BN-256", spec(func(s *evidencetest.PublicSpec) { s.Curve = 0x10 }), identity.ErrUnsupported},
		{"ECDAA", spec(func(s *evidencetest.PublicSpec) { s.Scheme = 0x1a }), identity.ErrUnsupported},
		{"keyed hash", append([]byte{0, 8}, good.Public[2:]...), identity.ErrUnsupported},
		{"RSA-1024", rsaPublic(1024, 0, 1024), identity.ErrUnsupported},
		{"RSA exponent 3", rsaPublic(2048, 3, 2048), identity.ErrUnsupported},
		{"RSA shorter than it says", rsaPublic(2048, 0, 2040), identity.ErrMalformed},
	}
	for _, tt := range tests {
		if _, err := identity.ParsePublic(tt.in); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	for n := range good.Public {
		if _, err := identity.ParsePublic(good.Public[:n]); !errors.Is(err, identity.ErrMalformed) {
			t.Errorf("cut at %d: got %v, want ErrMalformed", n, err)
		}
	}
}

// badAreas are public areas of which each breaks one rule alone.
func badAreas() map[string][]byte {
	good := evidencetest.NewAK(seed("ak"))
	kdf := bytes.Clone(good.Public)
	kdf[len(kdf)-2*34-1] = 0x20 // TPM_ALG_KDF1_SP800_56A
	odd := rsaPublic(2048, 0, 2048)
	odd[len(odd)-1] = 0xfe
	return map[string][]byte{
		"KDF": kdf, "even modulus": odd, "RSA-1024": rsaPublic(1024, 0, 1024), "RSA exponent 3": rsaPublic(2048, 3, 2048),
		"RSA shorter than it says": rsaPublic(2048, 0, 2040), "trailing byte": append(bytes.Clone(good.Public), 0),
		"ECDAA": evidencetest.PublicArea(&good.Private.PublicKey, func() evidencetest.PublicSpec {
			s := evidencetest.GoodAK()
			s.Scheme = 0x1a
			return s
		}()),
	}
}

func rsaPublic(bits uint16, exponent uint32, modulusBits int) []byte {
	b := []byte{0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b}
	b = binary.BigEndian.AppendUint16(b, bits)
	b = binary.BigEndian.AppendUint32(b, exponent)
	b = binary.BigEndian.AppendUint16(b, uint16(modulusBits/8))
	return append(b, bytes.Repeat([]byte{0xff}, modulusBits/8)...)
}

// N50: each part of the certification broken alone.
func TestRefusesCertifications(t *testing.T) {
	t.Parallel()
	ak, other := evidencetest.NewAK(seed("ak")), evidencetest.NewAK(seed("other"))
	tls, otherTLS := evidencetest.NewTLSKey(seed("tls")), evidencetest.NewTLSKey(seed("other tls"))
	transcript := []byte("transcript")
	tests := []struct {
		name   string
		spec   func(*evidencetest.CertifySpec)
		key    evidencetest.Key
		signer evidencetest.AK
		tail   []byte
		want   []reason.Reason
	}{
		{name: "good", key: tls, signer: ak},
		{name: "other key", key: otherTLS, signer: ak, want: []reason.Reason{reason.AKNotBound}},
		{name: "other transcript", key: tls, signer: ak, spec: func(s *evidencetest.CertifySpec) { s.ExtraData = []byte("x") }, want: []reason.Reason{reason.NonceUnknown}},
		{name: "no transcript", key: tls, signer: ak, spec: func(s *evidencetest.CertifySpec) { s.ExtraData = nil }, want: []reason.Reason{reason.NonceUnknown}},
		{name: "other hierarchy", key: tls, signer: ak, spec: func(s *evidencetest.CertifySpec) { s.QualifiedSigner = other.QualifiedSigner() }, want: []reason.Reason{reason.AKNotBound}},
		{name: "other signer", key: tls, signer: other, want: []reason.Reason{reason.QuoteSignatureInvalid}},
		{name: "signed by the TLS key", key: tls, signer: evidencetest.AK{Key: tls}, want: []reason.Reason{reason.QuoteSignatureInvalid}},
		{name: "a quote", key: tls, signer: ak, spec: func(s *evidencetest.CertifySpec) { s.Type = 0x8018 }, want: []reason.Reason{reason.QuoteMalformed}},
		{name: "trailing byte", key: tls, signer: ak, tail: []byte{0}, want: []reason.Reason{reason.QuoteMalformed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := evidencetest.CertifySpec{ExtraData: transcript, Name: tls.Name()}
			if tt.spec != nil {
				tt.spec(&spec)
			}
			info, sig := tt.signer.Certify(spec)
			var got []reason.Reason
			for _, p := range identity.VerifyCertify(parse(t, ak.Public), ak.QualifiedSigner(), append(info, tt.tail...), sig, transcript, parse(t, tt.key.Public)) {
				got = append(got, p.Reason)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	info, sig := ak.Certify(evidencetest.CertifySpec{Name: tls.Name()})
	if problems := identity.VerifyCertify(parse(t, ak.Public), ak.QualifiedSigner(), info, sig, nil, parse(t, tls.Public)); len(problems) != 1 {
		t.Errorf("empty transcript on both sides: got %+v, want one problem", problems)
	}
	if problems := identity.VerifyCertify(identity.Public{}, nil, info, append(sig, 0), nil, identity.Public{}); len(problems) != 1 {
		t.Errorf("no key at all: got %+v, want one problem", problems)
	}
}

func TestRefusesTLSKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*evidencetest.PublicSpec)
		detail string
	}{
		{"restricted", func(s *evidencetest.PublicSpec) { s.Attributes |= identity.Restricted }, "has the attribute restricted"},
		{"decrypt", func(s *evidencetest.PublicSpec) { s.Attributes |= identity.Decrypt }, "has the attribute decrypt"},
		{"importable", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.SensitiveDataOrigin }, "lacks the attribute sensitiveDataOrigin"},
		{"duplicable", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.FixedTPM }, "lacks the attribute fixedTPM"},
		{"movable", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.FixedParent }, "lacks the attribute fixedParent"},
		{"cannot sign", func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.Sign }, "lacks the attribute sign"},
		{"SHA-1", func(s *evidencetest.PublicSpec) { s.Scheme, s.Hash = evidencetest.AlgECDSA, evidencetest.AlgSHA1 }, "scheme"},
	}
	for _, tt := range tests {
		spec := evidencetest.GoodTLS()
		tt.change(&spec)
		problems := identity.CheckTLSKey(parse(t, evidencetest.NewKey(seed("tls"), spec).Public))
		if len(problems) != 1 || !strings.Contains(problems[0].Detail, tt.detail) {
			t.Errorf("%s: got %+v, want one problem about %q", tt.name, problems, tt.detail)
		}
	}
}

func FuzzParsePublic(f *testing.F) {
	f.Add(evidencetest.NewAK(seed("ak")).Public)
	f.Add(evidencetest.NewTLSKey(seed("tls")).Public)
	f.Add(rsaPublic(2048, 0, 2048))
	f.Add(tpm2.Marshal(tpm2.RSAEKTemplate))
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = identity.ParsePublic(b) })
		p, err := identity.ParsePublic(b)
		if err != nil {
			if !errors.Is(err, identity.ErrMalformed) && !errors.Is(err, identity.ErrUnsupported) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		if p.Key == nil || len(p.Name) != 34 {
			t.Errorf("incomplete %+v", p)
		}
		identity.CheckAK(p)
		identity.CheckTLSKey(p)
	})
}
