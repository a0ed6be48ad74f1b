package quote_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
)

const vectors = "../../conformance/vectors/measured-boot"

var cases = []string{"direct-uki-v1-no-secureboot", "sdboot-ab-1-v1", "sdboot-ab-2-v2-after-update", "sdboot-secureboot-snakeoil-v1"}

func vector(t testing.TB, name, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name, file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAcceptsGenuineQuotes(t *testing.T) {
	t.Parallel()
	for _, name := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			msg := vector(t, name, "quote.msg")
			a, err := quote.ParseQuote(msg)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := hex.EncodeToString(a.ExtraData), strings.TrimSpace(string(vector(t, name, "nonce.hex"))); got != want {
				t.Errorf("extraData: got %s, want %s", got, want)
			}
			if got, want := a.Selection, uint32(0xffffff); got != want {
				t.Errorf("selection: got %#x, want %#x", got, want)
			}
			if got := quote.PCRDigest(recordedPCRs(t, name)); got != a.PCRDigest {
				t.Errorf("PCR digest: got %s, want %s", got, a.PCRDigest)
			}
			ak, err := identity.ParsePublic(vector(t, name, "ak.pub"))
			if err != nil {
				t.Fatal(err)
			}
			sig := vector(t, name, "quote.sig")
			if err := quote.VerifySignature(ak.Key, msg, sig); err != nil {
				t.Errorf("signature: %v", err)
			}
			msg[len(msg)-1] ^= 1
			if err := quote.VerifySignature(ak.Key, msg, sig); !errors.Is(err, quote.ErrSignature) {
				t.Errorf("flipped bit: got %v, want ErrSignature", err)
			}
		})
	}
}

func recordedPCRs(t *testing.T, name string) []digest.SHA256 {
	t.Helper()
	var values []digest.SHA256
	for line := range strings.Lines(string(vector(t, name, "pcrs.txt"))) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "SHA256" {
			d, err := digest.Parse(f[2])
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, d)
		}
	}
	return values
}

func seed(label string) *bytes.Reader {
	sum := sha256.Sum256([]byte(label))
	return bytes.NewReader(sum[:])
}

func spec() evidencetest.QuoteSpec {
	return evidencetest.QuoteSpec{
		ExtraData: []byte("transcript"),
		Clock:     quote.Clock{ResetCount: 3, RestartCount: 1, Clock: 77, Safe: true},
		Firmware:  0x2017061900163636,
		PCRs:      map[int]digest.SHA256{0: digest.Of([]byte("a")), 7: digest.Of([]byte("b")), 23: {}},
	}
}

func TestParsesEveryField(t *testing.T) {
	t.Parallel()
	ak := evidencetest.NewAK(seed("ak"))
	b, sig := ak.Quote(spec())
	got, err := quote.ParseQuote(b)
	if err != nil {
		t.Fatal(err)
	}
	want := quote.Attest{
		QualifiedSigner: ak.QualifiedSigner(), ExtraData: []byte("transcript"), Clock: spec().Clock, Firmware: spec().Firmware,
		Selection: 1<<0 | 1<<7 | 1<<23,
		PCRDigest: quote.PCRDigest([]digest.SHA256{digest.Of([]byte("a")), digest.Of([]byte("b")), {}}),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := quote.VerifySignature(&ak.Private.PublicKey, b, sig); err != nil {
		t.Error(err)
	}
}

func TestParsesCertification(t *testing.T) {
	t.Parallel()
	ak, tls := evidencetest.NewAK(seed("ak")), evidencetest.NewTLSKey(seed("tls"))
	b, _ := ak.Certify(evidencetest.CertifySpec{ExtraData: []byte("x"), Name: tls.Name()})
	got, err := quote.ParseCertify(b)
	if err != nil {
		t.Fatal(err)
	}
	want := quote.Certification{QualifiedSigner: ak.QualifiedSigner(), ExtraData: []byte("x"), Name: tls.Name(), QualifiedName: tls.QualifiedSigner()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := quote.ParseQuote(b); !errors.Is(err, quote.ErrMalformed) {
		t.Errorf("certification as quote: got %v, want ErrMalformed", err)
	}
}

// N01, N03, N04, N05, N83 and their neighbours.
func TestRefusesWhatNoTPMWrites(t *testing.T) {
	t.Parallel()
	ak := evidencetest.NewAK(seed("ak"))
	good, _ := ak.Quote(spec())
	bank := func(banks ...evidencetest.Bank) []byte {
		s := spec()
		s.Banks = banks
		b, _ := ak.Quote(s)
		return b
	}
	altered := func(f func(*evidencetest.QuoteSpec)) []byte {
		s := spec()
		f(&s)
		b, _ := ak.Quote(s)
		return b
	}
	sha256Bank := evidencetest.Bank{Alg: evidencetest.AlgSHA256, Select: []byte{0x81, 0, 0x80}}
	safe := 4 + 2 + 2 + 34 + 2 + len("transcript") + 16
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"trailing byte", append(bytes.Clone(good), 0), quote.ErrMalformed},
		{"too long", make([]byte, quote.MaxBytes+1), quote.ErrMalformed},
		{"wrong magic", altered(func(s *evidencetest.QuoteSpec) { s.Magic = 0xff544348 }), quote.ErrMalformed},
		{"type certify", altered(func(s *evidencetest.QuoteSpec) { s.Type = 0x8017 }), quote.ErrMalformed},
		{"type creation", altered(func(s *evidencetest.QuoteSpec) { s.Type = 0x801a }), quote.ErrMalformed},
		{"type time", altered(func(s *evidencetest.QuoteSpec) { s.Type = 0x8019 }), quote.ErrMalformed},
		{"type nv", altered(func(s *evidencetest.QuoteSpec) { s.Type = 0x8014 }), quote.ErrMalformed},
		{"extraData of 67 bytes", altered(func(s *evidencetest.QuoteSpec) { s.ExtraData = make([]byte, 67) }), quote.ErrMalformed},
		{"safe = 2", flip(good, safe, 3), quote.ErrMalformed},
		{"bank count 2^32-1", overwrite(good, safe+1+8, 0xffffffff), quote.ErrMalformed},
		{"no bank", bank([]evidencetest.Bank{}...), quote.ErrBank},
		{"SHA-1 bank", bank(evidencetest.Bank{Alg: evidencetest.AlgSHA1, Select: []byte{1, 0, 0}}), quote.ErrBank},
		{"SHA-384 bank", bank(evidencetest.Bank{Alg: 0x000c, Select: []byte{1, 0, 0}}), quote.ErrBank},
		{"two banks", bank(sha256Bank, evidencetest.Bank{Alg: evidencetest.AlgSHA1, Select: []byte{1, 0, 0}}), quote.ErrBank},
		{"the bank twice", bank(sha256Bank, sha256Bank), quote.ErrBank},
		{"selection of 4 bytes", bank(evidencetest.Bank{Alg: evidencetest.AlgSHA256, Select: []byte{1, 0, 0, 1}}), quote.ErrBank},
		{"SHA-1 digest", altered(func(s *evidencetest.QuoteSpec) { s.Digest = make([]byte, 20) }), quote.ErrBank},
		{"digest of 65 bytes", altered(func(s *evidencetest.QuoteSpec) { s.Digest = make([]byte, 65) }), quote.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := quote.ParseQuote(tt.in); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for n := range good {
		if _, err := quote.ParseQuote(good[:n]); !errors.Is(err, quote.ErrMalformed) {
			t.Errorf("cut at %d: got %v, want ErrMalformed", n, err)
		}
	}
}

func TestWeakBankStillShowsWhoAndWhen(t *testing.T) {
	t.Parallel()
	ak, s := evidencetest.NewAK(seed("ak")), spec()
	s.Banks = []evidencetest.Bank{{Alg: evidencetest.AlgSHA1, Select: []byte{1, 0, 0}}}
	b, _ := ak.Quote(s)
	got, err := quote.ParseQuote(b)
	if !errors.Is(err, quote.ErrBank) {
		t.Fatal(err)
	}
	want := quote.Attest{QualifiedSigner: ak.QualifiedSigner(), ExtraData: s.ExtraData, Clock: s.Clock, Firmware: s.Firmware}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func flip(b []byte, at int, mask byte) []byte {
	out := bytes.Clone(b)
	out[at] ^= mask
	return out
}

func overwrite(b []byte, at int, v uint32) []byte {
	out := bytes.Clone(b)
	binary.BigEndian.PutUint32(out[at:], v)
	return out
}

// N02, N20 to N24, N33.
func TestRefusesSignatures(t *testing.T) {
	t.Parallel()
	ak, other := evidencetest.NewAK(seed("ak")), evidencetest.NewAK(seed("other"))
	msg, sig := ak.Quote(spec())
	rsaKey, weakKey := rsaTestKey(t, 2048), rsaTestKey(t, 1024)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := &ak.Private.PublicKey
	zero := append([]byte{0, 0x18, 0, 0x0b, 0, 32}, make([]byte, 32)...)
	zero = append(append(zero, 0, 32), make([]byte, 32)...)
	tests := []struct {
		name string
		key  crypto.PublicKey
		sig  []byte
		want error
	}{
		{"trailing byte", ec, append(bytes.Clone(sig), 0), quote.ErrMalformed},
		{"too long", ec, make([]byte, quote.MaxBytes+1), quote.ErrMalformed},
		{"empty", ec, nil, quote.ErrMalformed},
		{"r of 33 bytes", ec, append([]byte{0, 0x18, 0, 0x0b, 0, 33}, make([]byte, 80)...), quote.ErrMalformed},
		{"all zero", ec, zero, quote.ErrSignature},
		{"other key", &other.Private.PublicKey, sig, quote.ErrSignature},
		{"SHA-1 scheme", ec, flip(sig, 3, 0x0b^0x04), quote.ErrSignature},
		{"ECSCHNORR scheme", ec, flip(sig, 1, 0x18^0x1c), quote.ErrSignature},
		{"null scheme", ec, flip(sig, 1, 0x18^0x10), quote.ErrSignature},
		{"RSA signature for an ECC key", ec, rsassa(t, rsaKey, msg), quote.ErrSignature},
		{"ECC signature for an RSA key", &rsaKey.PublicKey, sig, quote.ErrSignature},
		{"RSAPSS for an RSA key", &rsaKey.PublicKey, flip(rsassa(t, rsaKey, msg), 1, 0x14^0x16), quote.ErrSignature},
		{"RSA-1024", &weakKey.PublicKey, rsassa(t, weakKey, msg), quote.ErrSignature},
		{"RSA signature altered", &rsaKey.PublicKey, flip(rsassa(t, rsaKey, msg), 50, 1), quote.ErrSignature},
		{"P-224", &p224.PublicKey, sig, quote.ErrSignature},
		{"no key", nil, sig, quote.ErrSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := quote.VerifySignature(tt.key, msg, tt.sig); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if err := quote.VerifySignature(&rsaKey.PublicKey, msg, rsassa(t, rsaKey, msg)); err != nil {
		t.Errorf("good RSASSA: %v", err)
	}
	for n := range sig {
		if err := quote.VerifySignature(ec, msg, sig[:n]); err == nil {
			t.Errorf("signature cut at %d was accepted", n)
		}
	}
	for i := range 8 * len(msg) {
		if err := quote.VerifySignature(ec, flip(msg, i/8, 1<<(i%8)), sig); !errors.Is(err, quote.ErrSignature) {
			t.Fatalf("bit %d: got %v, want ErrSignature", i, err)
		}
	}
}

func rsaTestKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsassa(t *testing.T, key *rsa.PrivateKey, msg []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(msg)
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	b := binary.BigEndian.AppendUint16([]byte{0, 0x14, 0, 0x0b}, uint16(len(sig)))
	return append(b, sig...)
}

func TestClockIsLexicographic(t *testing.T) {
	t.Parallel()
	base := quote.Clock{ResetCount: 5, RestartCount: 5, Clock: 5}
	tests := []struct {
		c          quote.Clock
		after, sam bool
	}{
		{quote.Clock{ResetCount: 5, RestartCount: 5, Clock: 5}, false, true},
		{quote.Clock{ResetCount: 5, RestartCount: 5, Clock: 6}, true, true},
		{quote.Clock{ResetCount: 5, RestartCount: 5, Clock: 4}, false, true},
		{quote.Clock{ResetCount: 6}, true, false},
		{quote.Clock{ResetCount: 4, RestartCount: 9, Clock: 9}, false, false},
		{quote.Clock{ResetCount: 5, RestartCount: 6}, true, false},
		{quote.Clock{ResetCount: 5, RestartCount: 4, Clock: 9}, false, false},
	}
	for _, tt := range tests {
		if got := tt.c.After(base); got != tt.after {
			t.Errorf("%+v after: got %t, want %t", tt.c, got, tt.after)
		}
		if got := tt.c.SameBoot(base); got != tt.sam {
			t.Errorf("%+v same boot: got %t, want %t", tt.c, got, tt.sam)
		}
	}
}

func FuzzParseQuote(f *testing.F) {
	for _, name := range cases {
		f.Add(vector(f, name, "quote.msg"))
	}
	ak := evidencetest.NewAK(seed("ak"))
	b, _ := ak.Quote(spec())
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = quote.ParseQuote(b) })
		a, err := quote.ParseQuote(b)
		if err != nil {
			return
		}
		pcrs := map[int]digest.SHA256{}
		for pcr := range 24 {
			if a.Selection&(1<<pcr) != 0 {
				pcrs[pcr] = digest.SHA256{}
			}
		}
		again, _ := ak.Quote(evidencetest.QuoteSpec{QualifiedSigner: a.QualifiedSigner, ExtraData: a.ExtraData, Clock: a.Clock,
			Firmware: a.Firmware, PCRs: pcrs, Digest: a.PCRDigest[:]})
		if !bytes.Equal(again, b) {
			t.Errorf("a parsed quote does not encode to the same bytes:\n%x\n%x", again, b)
		}
	})
}

func FuzzParseCertify(f *testing.F) {
	ak := evidencetest.NewAK(seed("ak"))
	b, _ := ak.Certify(evidencetest.CertifySpec{ExtraData: []byte("x"), Name: ak.Name()})
	f.Add(b)
	f.Add(vector(f, cases[0], "quote.msg"))
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = quote.ParseCertify(b) })
		c, err := quote.ParseCertify(b)
		if err != nil {
			return
		}
		again, _ := ak.Certify(evidencetest.CertifySpec{QualifiedSigner: c.QualifiedSigner, ExtraData: c.ExtraData, Clock: c.Clock,
			Firmware: c.Firmware, Name: c.Name, QualifiedName: c.QualifiedName})
		if !bytes.Equal(again, b) {
			t.Errorf("a parsed certification does not encode to the same bytes:\n%x\n%x", again, b)
		}
	})
}

func FuzzVerifySignature(f *testing.F) {
	ak := evidencetest.NewAK(seed("ak"))
	msg, sig := ak.Quote(spec())
	f.Add(msg, sig)
	f.Add(vector(f, cases[0], "quote.msg"), vector(f, cases[0], "quote.sig"))
	f.Fuzz(func(t *testing.T, signed, signature []byte) {
		evidencetest.Bounded(t, len(signed)+len(signature), func() { _ = quote.VerifySignature(&ak.Private.PublicKey, signed, signature) })
		err := quote.VerifySignature(&ak.Private.PublicKey, signed, signature)
		if err == nil && !bytes.Equal(signed, msg) {
			t.Errorf("accepted a signature that the key did not make: %x", signature)
		}
		if err != nil && !errors.Is(err, quote.ErrSignature) && !errors.Is(err, quote.ErrMalformed) {
			t.Errorf("unknown error %v", err)
		}
	})
}
