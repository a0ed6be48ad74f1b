package identity_test

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
)

// Each rule of CheckAK is dropped in turn; for one of the cases it must have been the only one that refuses the key.
func TestEveryAKRuleHasAKiller(t *testing.T) {
	t.Parallel()
	keys := map[string]identity.Public{}
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic) {
		key, err := identity.ParsePublic(c.Input().AK.Public)
		if err == nil && len(identity.CheckAK(key)) > 0 {
			keys[c.ID+" "+c.Name] = key
		}
	}
	for _, id := range identity.AKRuleIDs() {
		accepted := 0
		for _, key := range keys {
			if len(identity.CheckAKWithout(id, key)) == 0 {
				accepted++
			}
		}
		if accepted == 0 {
			t.Errorf("no case needs the rule %q: without it the same keys are refused", id)
		}
	}
}
