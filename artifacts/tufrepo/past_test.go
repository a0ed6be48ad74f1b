package tufrepo_test

import (
	"crypto"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
)

func TestVerifyTargetsOfThePast(t *testing.T) {
	t.Parallel()
	holder, other, online := ecKey(t), ecKey(t), edKey(t)
	root := func(targets crypto.Signer) []byte {
		return must(tufrepo.RootPayload(tufrepo.RootSpec{Version: 1, Expires: now, Keys: map[string][]crypto.PublicKey{
			tufrepo.RoleRoot: publics(holder), tufrepo.RoleTargets: publics(targets), tufrepo.RoleSnapshot: publics(online), tufrepo.RoleTimestamp: publics(online),
		}, Threshold: map[string]int{tufrepo.RoleRoot: 1, tufrepo.RoleTargets: 1, tufrepo.RoleSnapshot: 1, tufrepo.RoleTimestamp: 1}}))(t)
	}
	unsigned := must(tufrepo.TargetsPayload(tufrepo.TargetsSpec{Version: 3, Expires: now.AddDate(-1, 0, 0)}))(t)
	signed := holderSign(t, unsigned, holder)
	spec, err := tufrepo.VerifyTargets(root(holder), signed)
	if err != nil || spec.Version != 3 {
		t.Errorf("got version %d, %v; want 3: an expired document of the past is fine", spec.Version, err)
	}
	for name, doc := range map[string][]byte{"unsigned": unsigned, "of another holder": holderSign(t, unsigned, other)} {
		if _, err := tufrepo.VerifyTargets(root(holder), doc); !errors.Is(err, tufrepo.ErrSignature) {
			t.Errorf("%s: got %v, want ErrSignature", name, err)
		}
	}
	if _, err := tufrepo.VerifyTargets(root(holder), root(holder)); !errors.Is(err, tufrepo.ErrMalformed) {
		t.Errorf("a root as targets: got %v, want ErrMalformed", err)
	}
}
