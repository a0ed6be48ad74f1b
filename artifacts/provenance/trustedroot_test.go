package provenance_test

import (
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
)

// The trusted root is a signed target, and a publisher without a key depends on it: whatever it holds, nothing that its
// authorities did not see is accepted, and a publisher with a key is judged without it or not at all.
func FuzzTrustedRoot(f *testing.F) {
	f.Add(newStack(f).trustedRootJSON)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[null],"certificateAuthorities":[{"certChain":{"certificates":[null]}}],"ctlogs":[{"logId":null}],"timestampAuthorities":[{}]}`))
	key := newKey(f)
	bundle := signed(f, payload(f, release()), key)
	f.Fuzz(func(t *testing.T, b []byte) {
		res, err := provenance.Verify(bundle, policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: b})
		if err != nil && !errors.Is(err, artifacts.ErrPolicy) && !errors.Is(err, provenance.ErrTrustedRoot) {
			t.Fatalf("unknown error %v", err)
		}
		if err == nil && len(res.Refusals) == 0 {
			t.Error("a release that no publisher signed is accepted")
		}
	})
}
