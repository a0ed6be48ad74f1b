package artifacts_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

func reasons(refusals []artifacts.Refusal) []reason.Reason {
	var out []reason.Reason
	for _, r := range refusals {
		out = append(out, r.Reason)
	}
	return out
}

func TestCheckRelease(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(*artifacts.Policy, *artifacts.Release)
		want  []reason.Reason
	}{
		"recovery release":  {func(*artifacts.Policy, *artifacts.Release) {}, nil},
		"ordinary release":  {func(p *artifacts.Policy, r *artifacts.Release) { r.Recovery, p.Recovery = false, nil }, nil},
		"at the minimum":    {func(p *artifacts.Policy, r *artifacts.Release) { p.MinimumCounter = 12 }, nil},
		"below the minimum": {func(p *artifacts.Policy, r *artifacts.Release) { p.MinimumCounter = 13 }, []reason.Reason{reason.DowngradeRefused}},
		"withdrawn":         {func(p *artifacts.Policy, r *artifacts.Release) { p.Withdrawn = append(p.Withdrawn, sum("radio")) }, []reason.Reason{reason.ReleaseWithdrawn}},
		"recovery, one component not listed": {func(p *artifacts.Policy, r *artifacts.Release) {
			p.Recovery = []digest.SHA256{sum("system")}
		}, []reason.Reason{reason.RecoveryNotListed}},
		"other product": {func(p *artifacts.Policy, r *artifacts.Release) { r.Product = "boiler" }, []reason.Reason{reason.PolicyMissing}},
		"empty policy":  {func(p *artifacts.Policy, r *artifacts.Release) { *p = artifacts.Policy{Product: r.Product} }, []reason.Reason{reason.PolicyMissing}},
		"everything at once": {func(p *artifacts.Policy, r *artifacts.Release) {
			p.MinimumCounter, p.Withdrawn, p.Recovery = 99, []digest.SHA256{sum("system")}, []digest.SHA256{sum("radio")}
		}, []reason.Reason{reason.DowngradeRefused, reason.ReleaseWithdrawn, reason.RecoveryNotListed}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, r := policy(t), release()
			test.spoil(&p, &r)
			if got := reasons(artifacts.CheckRelease(p, r)); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestEffectiveTierOnlyRises(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ policy, release, want int }{{0, 0, 0}, {1, 3, 3}, {4, 3, 4}} {
		if got := artifacts.EffectiveTier(artifacts.Policy{MinimumTier: test.policy}, artifacts.Release{MinimumTier: test.release}); got != test.want {
			t.Errorf("policy %d, release %d: got %d, want %d", test.policy, test.release, got, test.want)
		}
	}
}

func TestCheckCustomRefusesEveryDifference(t *testing.T) {
	t.Parallel()
	s := statement(t)
	signed, _ := s.Predicate.Component("system")
	good := artifacts.CustomOf(s.Predicate, signed)
	if got := artifacts.CheckCustom(s, "system", good); len(got) != 0 {
		t.Fatalf("the same: got %v", got)
	}
	for field, spoil := range map[string]func(*artifacts.Custom){
		"product":      func(c *artifacts.Custom) { c.Product = "boiler" },
		"version":      func(c *artifacts.Custom) { c.Version = "1.2.1" },
		"counter":      func(c *artifacts.Custom) { c.Counter = 13 },
		"component":    func(c *artifacts.Custom) { c.Component = "radio" },
		"hardware_ids": func(c *artifacts.Custom) { c.HardwareIDs = []string{"rev-a", "rev-b"} },
		"minimum_tier": func(c *artifacts.Custom) { c.MinimumTier = 0 },
		"recovery":     func(c *artifacts.Custom) { c.Recovery = false },
	} {
		c := good
		spoil(&c)
		got := artifacts.CheckCustom(s, "system", c)
		if len(got) != 1 || got[0].Reason != reason.StatementMismatch || !strings.HasPrefix(got[0].Detail, field+" is ") {
			t.Errorf("%s: got %v, want one %s", field, got, reason.StatementMismatch)
		}
	}
	if got := reasons(artifacts.CheckCustom(s, "nothing", good)); !slices.Equal(got, []reason.Reason{reason.StatementMismatch}) {
		t.Errorf("unknown component: got %v", got)
	}
}

func TestCheckImage(t *testing.T) {
	t.Parallel()
	s := statement(t)
	want := []reason.Reason{reason.StatementMismatch}
	if got := artifacts.CheckImage(s, "radio", 5, sum("radio")); len(got) != 0 {
		t.Errorf("the same: got %v", got)
	}
	if got := reasons(artifacts.CheckImage(s, "radio", 6, sum("radio"))); !slices.Equal(got, want) {
		t.Errorf("other length: got %v", got)
	}
	if got := reasons(artifacts.CheckImage(s, "radio", 5, sum("system"))); !slices.Equal(got, want) {
		t.Errorf("digest of another component: got %v", got)
	}
	if got := reasons(artifacts.CheckImage(s, "nothing", 5, sum("radio"))); !slices.Equal(got, want) {
		t.Errorf("unknown component: got %v", got)
	}
}

func custom(t testing.TB) (artifacts.Custom, []byte) {
	t.Helper()
	r := release()
	c := artifacts.CustomOf(r, r.Components[0])
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return c, b
}

func TestDecodeCustomIsStrict(t *testing.T) {
	t.Parallel()
	want, b := custom(t)
	got, err := artifacts.DecodeCustom(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded custom (-want +got):\n%s", diff)
	}
	good := string(b)
	for name, b := range map[string]string{
		"empty": "", "null": "null", "object": "{}", "trailing": good + "x", "unknown": `{"extra":1,` + good[1:],
		"repeated": `{"counter":1,` + good[1:], "no hardware": strings.Replace(good, `["rev-b","rev-a"]`, `[]`, 1),
		"counter 0": strings.Replace(good, `"counter":12`, `"counter":0`, 1), "tier": strings.Replace(good, `"minimum_tier":3`, `"minimum_tier":7`, 1),
		"name": strings.Replace(good, `"system"`, `"../system"`, 1), "oversized": good + strings.Repeat(" ", artifacts.MaxCustomBytes),
	} {
		if _, err := artifacts.DecodeCustom([]byte(b)); !errors.Is(err, artifacts.ErrCustom) {
			t.Errorf("%s: got %v, want %v", name, err, artifacts.ErrCustom)
		}
	}
}

func FuzzDecodeCustom(f *testing.F) {
	_, b := custom(f)
	f.Add(b)
	f.Add([]byte(`{"product":"a","hardware_ids":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := artifacts.DecodeCustom(b)
		if err != nil {
			if !errors.Is(err, artifacts.ErrCustom) {
				t.Errorf("got %v, want %v", err, artifacts.ErrCustom)
			}
			return
		}
		if _, err := c.Encode(); err != nil {
			t.Errorf("decoded what cannot be encoded: %v", err)
		}
	})
}
