package provenance_test

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"github.com/cordon-ota/cordon/artifacts/provenance"
)

// asCosign rewrites a hint the way that cosign names keys.
func asCosign(t *testing.T, bundle []byte) []byte {
	t.Helper()
	return change(t, bundle, func(b *protobundle.Bundle) {
		key := b.GetVerificationMaterial().GetPublicKey()
		sum, err := hex.DecodeString(key.GetHint())
		if err != nil {
			t.Fatal(err)
		}
		key.Hint = base64.StdEncoding.EncodeToString(sum)
	})
}

func TestAcceptsKeyThatIsNamedLikeCosignDoes(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	body := payload(t, release())
	p := policy(1, keyPublisher(t, "other", newKey(t)), keyPublisher(t, "ci", key))
	res, err := provenance.Verify(asCosign(t, signed(t, body, key)), p, provenance.Options{})
	if err != nil || len(res.Refusals) != 0 || !slices.Equal(res.Signers, []string{"ci"}) {
		t.Errorf("got %q, %v, %v", res.Signers, res.Refusals, err)
	}
}

// A name selects a key and proves nothing: a stranger, or another publisher, does not become "ci" by borrowing it, and
// one key under two names is one publisher.
func TestNameOfAKeyProvesNothing(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	body := payload(t, release())
	good := signed(t, body, key)
	hint := hintOf(t, asCosign(t, good))
	borrowed := change(t, signed(t, body, other), func(b *protobundle.Bundle) {
		b.GetVerificationMaterial().GetPublicKey().Hint = hint
	})
	p := policy(1, keyPublisher(t, "ci", key), keyPublisher(t, "other", other))
	res, err := provenance.Verify(borrowed, p, provenance.Options{})
	wantRefused(t, res, err, "changed after signing")

	res, err = provenance.VerifyAll([][]byte{good, asCosign(t, good)}, policy(2, p.Publishers...), provenance.Options{})
	wantRefused(t, res, err, "1 of the 2 different publishers")
	for _, hint := range []string{"", "AAAA", base64.StdEncoding.EncodeToString(make([]byte, 32)), hint + "=", hint[:len(hint)-1]} {
		res, err := provenance.Verify(change(t, good, func(b *protobundle.Bundle) {
			b.GetVerificationMaterial().GetPublicKey().Hint = hint
		}), policy(1, p.Publishers[0]), provenance.Options{})
		wantRefused(t, res, err, "no publisher of the policy")
	}
}

func hintOf(t *testing.T, bundle []byte) string {
	t.Helper()
	var hint string
	change(t, bundle, func(b *protobundle.Bundle) { hint = b.GetVerificationMaterial().GetPublicKey().GetHint() })
	return hint
}
