package identity_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// wantKillers drops each rule in turn; for one of the cases it must have been the only one that refuses.
func wantKillers(t *testing.T, rules, cases []string, acceptedWithout func(rule, name string) bool) {
	t.Helper()
	for _, rule := range rules {
		if !slices.ContainsFunc(cases, func(name string) bool { return acceptedWithout(rule, name) }) {
			t.Errorf("no case needs the rule %q: without it the same ones are refused", rule)
		}
	}
}

// keep notes a case under its name.
func keep[T any](in map[string]T, names *[]string, name string, value T) {
	in[name] = value
	*names = append(*names, name)
}

func TestEveryAKRuleHasAKiller(t *testing.T) {
	t.Parallel()
	keys, names := map[string]identity.Public{}, []string(nil)
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic) {
		key, err := identity.ParsePublic(c.Input().AK.Public)
		if err == nil && len(identity.CheckAK(key)) > 0 {
			keep(keys, &names, c.ID+" "+c.Name, key)
		}
	}
	wantKillers(t, identity.AKRuleIDs(), names, func(rule, name string) bool {
		return len(identity.CheckAKWithout(rule, keys[name])) == 0
	})
}

func TestEveryRuleOfCertifiedKeysHasAKiller(t *testing.T) {
	t.Parallel()
	for use, of := range map[string]struct {
		rules   []string
		check   func(identity.Public) []identity.Problem
		without func(string, identity.Public) []identity.Problem
	}{
		evidencetest.UseTLS:  {identity.TLSRuleIDs(), identity.CheckTLSKey, identity.CheckTLSKeyWithout},
		evidencetest.UseWrap: {identity.WrapRuleIDs(), identity.CheckWrapKey, identity.CheckWrapKeyWithout},
	} {
		keys, names := map[string]identity.Public{}, []string(nil)
		for _, c := range evidencetest.IdentityCases() {
			if c.Certify == nil || c.Certify.Use != use {
				continue
			}
			if key, err := identity.ParsePublic(c.Certify.Object); err == nil && len(of.check(key)) > 0 {
				keep(keys, &names, c.Name, key)
			}
		}
		wantKillers(t, of.rules, names, func(rule, name string) bool { return len(of.without(rule, keys[name])) == 0 })
	}
}

func TestEveryPublicAreaRuleHasAKiller(t *testing.T) {
	t.Parallel()
	areas, names := map[string][]byte{}, []string(nil)
	add := func(name string, area []byte) {
		if _, err := identity.ParsePublic(area); err != nil {
			keep(areas, &names, name, area)
		}
	}
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic, evidencetest.StageInput) {
		add(c.ID+" "+c.Name, c.Input().AK.Public)
	}
	for name, area := range badAreas() {
		add(name, area)
	}
	wantKillers(t, identity.PublicRuleIDs(), names, func(rule, name string) bool {
		_, err := identity.ParsePublicWithout(rule, areas[name])
		return err == nil
	})
}

func TestEveryCertificationRuleHasAKiller(t *testing.T) {
	t.Parallel()
	questions, names := map[string]evidencetest.CertifyQuestion{}, []string(nil)
	for _, c := range evidencetest.IdentityCases() {
		if c.Certify != nil && len(c.Reasons) > 0 {
			keep(questions, &names, c.Name, *c.Certify)
		}
	}
	wantKillers(t, identity.CertifyRuleIDs(), names, func(rule, name string) bool {
		q := questions[name]
		ak, err := identity.ParsePublic(q.AK)
		object, err2 := identity.ParsePublic(q.Object)
		if err != nil || err2 != nil {
			return false
		}
		check := map[string]func(identity.Public) []identity.Problem{
			evidencetest.UseTLS: identity.CheckTLSKey, evidencetest.UseWrap: identity.CheckWrapKey, evidencetest.UseSuccessor: identity.CheckAK,
		}[q.Use]
		without := func(rule string) []identity.Problem {
			return identity.CertifyWithout(rule, q.Use == evidencetest.UseSuccessor, check, ak, q.QualifiedSigner, q.CertifyInfo, q.Signature, q.ExtraData, object)
		}
		return len(without("")) > 0 && len(without(rule)) == 0
	})
}

// N50: each case with exactly its reasons.
func TestCertifyCases(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.IdentityCases() {
		if c.Certify == nil {
			continue
		}
		q := *c.Certify
		object, err := identity.ParsePublic(q.Object)
		if err != nil {
			if !errors.Is(err, identity.ErrUnsupported) || len(c.Reasons) == 0 {
				t.Errorf("%s: %v", c.Name, err)
			}
			continue
		}
		verify := map[string]func(identity.Public, []byte, []byte, []byte, []byte, identity.Public) []identity.Problem{
			evidencetest.UseTLS: identity.VerifyCertify, evidencetest.UseWrap: identity.VerifyWrapKey, evidencetest.UseSuccessor: identity.VerifySuccessor,
		}[q.Use]
		var got []reason.Reason
		for _, p := range verify(parse(t, q.AK), q.QualifiedSigner, q.CertifyInfo, q.Signature, q.ExtraData, object) {
			if !slices.Contains(got, p.Reason) {
				got = append(got, p.Reason)
			}
		}
		if !slices.Equal(got, c.Reasons) {
			t.Errorf("%s: got %v, want %v", c.Name, got, c.Reasons)
		}
	}
}

func TestEveryEKRuleHasAKiller(t *testing.T) {
	t.Parallel()
	questions, names := map[string]evidencetest.EKQuestion{}, []string(nil)
	for _, c := range evidencetest.IdentityCases() {
		if c.EK != nil && len(c.Reasons) > 0 {
			keep(questions, &names, c.ID+" "+c.Name, *c.EK)
		}
	}
	wantKillers(t, identity.EKRuleIDs(), names, func(rule, name string) bool {
		q := questions[name]
		policy, err := q.Policy()
		if err != nil {
			t.Fatal(err)
		}
		if _, problems := policy.Verify(q.Certificate, q.Intermediates, q.At); len(problems) == 0 {
			return false // refused by a denial
		}
		_, problems := policy.VerifyWithout(rule, q.Certificate, q.Intermediates, q.At)
		return len(problems) == 0
	})
}
