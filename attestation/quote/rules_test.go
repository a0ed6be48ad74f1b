package quote_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
)

// Each rule about the form is dropped in turn; for one of the cases it must have been the only one that refuses.
func TestEveryFormRuleHasAKiller(t *testing.T) {
	t.Parallel()
	quotes := map[string][]byte{}
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic) {
		b := c.Input().Evidence.Quote
		if _, err := quote.ParseQuote(b); errors.Is(err, quote.ErrMalformed) {
			quotes[c.ID+" "+c.Name] = b
		}
	}
	for _, id := range quote.FormRuleIDs() {
		killed := 0
		for _, b := range quotes {
			if _, err := quote.ParseQuoteWithout(id, b); !errors.Is(err, quote.ErrMalformed) {
				killed++
			}
		}
		if killed == 0 {
			t.Errorf("no case needs the rule %q: without it the same quotes are refused", id)
		}
	}
}

// sealedBy is a key with something that it is said to have signed.
type sealedBy struct {
	key               crypto.PublicKey
	signed, signature []byte
}

// rsaSealed is a signature by a new RSA key, with any algorithm in it.
func rsaSealed(t *testing.T, bits int, alg, hash uint16, tail ...byte) sealedBy {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	signed := []byte("what was signed")
	sum := sha256.Sum256(signed)
	value, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	out := binary.BigEndian.AppendUint16(nil, alg)
	out = binary.BigEndian.AppendUint16(out, hash)
	out = append(binary.BigEndian.AppendUint16(out, uint16(len(value))), value...)
	return sealedBy{&key.PublicKey, signed, append(out, tail...)}
}

func TestEverySignatureRuleHasAKiller(t *testing.T) {
	t.Parallel()
	const rsapss = 0x0016
	other := rsaSealed(t, 2048, evidencetest.AlgRSASSA, evidencetest.AlgSHA256)
	other.signed = []byte("something else")
	all := []sealedBy{
		other, rsaSealed(t, 1024, evidencetest.AlgRSASSA, evidencetest.AlgSHA256), rsaSealed(t, 2048, rsapss, evidencetest.AlgSHA256),
		rsaSealed(t, 2048, evidencetest.AlgRSASSA, evidencetest.AlgSHA1), rsaSealed(t, 2048, evidencetest.AlgRSASSA, evidencetest.AlgSHA256, 0),
	}
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic) {
		in := c.Input()
		if ak, err := identity.ParsePublic(in.AK.Public); err == nil {
			all = append(all, sealedBy{ak.Key, in.Evidence.Quote, in.Evidence.Signature})
		}
	}
	for _, id := range quote.SignatureRuleIDs() {
		killed := 0
		for _, x := range all {
			refused := quote.VerifySignature(x.key, x.signed, x.signature) != nil
			if refused && quote.VerifySignatureWithout(id, x.key, x.signed, x.signature) == nil {
				killed++
			}
		}
		if killed == 0 {
			t.Errorf("nothing needs the rule %q: without it the same signatures are refused", id)
		}
	}
	if good := rsaSealed(t, 2048, evidencetest.AlgRSASSA, evidencetest.AlgSHA256); quote.VerifySignature(good.key, good.signed, good.signature) != nil {
		t.Error("a good RSA signature is refused")
	}
}
