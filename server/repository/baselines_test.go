package repository_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

func newSigner() *ecdsa.PrivateKey {
	return repositorytest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// trusting is a policy of product lamp whose baselines these keys sign.
func trusting(w *repositorytest.World, signers ...*ecdsa.PrivateKey) artifacts.Policy {
	p := w.Policy("lamp")
	for i, key := range signers {
		if p.Baselines == nil {
			p.Baselines = &artifacts.BaselinePolicy{Threshold: 1}
		}
		p.Baselines.Signers = append(p.Baselines.Signers, repositorytest.PublisherOf("platform-"+string(rune('a'+i)), key))
	}
	return p
}

func platformOf(state string) []reference.Platform {
	var out []reference.Platform
	for _, pcr := range reference.PlatformPCRs() {
		out = append(out, reference.Platform{Index: pcr, Value: digest.Of([]byte{byte(pcr), state[0]})})
	}
	return out
}

func baseline(product string, generation uint64, states ...string) artifacts.PlatformBaseline {
	b := artifacts.PlatformBaseline{Product: product, Profile: "board", Generation: generation}
	for _, s := range states {
		b.Sets = append(b.Sets, artifacts.BaselineSet{Name: s, Source: artifacts.BaselineVendor, PCRs: platformOf(s)})
	}
	return b
}

func bundles(b artifacts.PlatformBaseline, keys ...*ecdsa.PrivateKey) [][]byte {
	payload := repositorytest.Must(repositorytest.Must(artifacts.NewBaselineStatement(b)).Encode())
	var out [][]byte
	for _, k := range keys {
		out = append(out, repositorytest.Bundle(payload, k))
	}
	return out
}

func TestBaselineSignersReplaceEachOther(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	key := newSigner()
	w.Apply(w.First(trusting(w, key)))
	first, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 1, "a"), key))
	if err != nil || !first.Changed || first.State != api.BaselineInForce || len(first.Signers) != 1 {
		t.Fatalf("first: %+v, %v", first, err)
	}
	again, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 1, "a"), key))
	if err != nil || again.Changed {
		t.Errorf("again: %+v, %v", again, err)
	}
	second, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 2, "b", "a"), key))
	if err != nil || !second.Changed {
		t.Fatalf("second: %+v, %v", second, err)
	}
	// Another replica, and this one after a restart, read the same from the database.
	later := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(later)
	got := later.Catalog().Products["lamp"].Baselines["board"]
	if got.Generation != 2 || got.Digest != second.SHA256 || got.Value.Name != "b" || len(got.Value.Variants) != 1 {
		t.Errorf("catalog: %+v", got)
	}
	list, err := w.Service.ListBaselines(t.Context(), "lamp", "")
	if err != nil || len(list) != 2 || list[0].State != api.BaselineInForce || list[1].State != api.BaselineSuperseded || list[0].Bundles != nil {
		t.Errorf("list: %+v, %v", list, err)
	}
	one, err := w.Service.Baseline(t.Context(), "lamp", "board", 1)
	if err != nil || one.State != api.BaselineSuperseded || len(one.Bundles) != 1 {
		t.Errorf("generation 1: %+v, %v", one, err)
	}
	for _, b := range append(list, one) {
		if !slices.Equal(b.Signers, []string{"platform-a"}) {
			t.Errorf("generation %d was signed by %q, want the signer whose signature verified when it was taken in", b.Generation, b.Signers)
		}
	}
	events, err := w.Store.LastEvents(t.Context(), "lamp/board", 10)
	if err != nil || len(events) != 2 || events[0].Type != audit.BaselineAdded || events[0].Actor != "olga" {
		t.Errorf("events: %+v, %v", events, err)
	}
}

func TestRefusesBaselines(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	key := newSigner()
	c := w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{trusting(w, key), func() artifacts.Policy { p := w.Policy("pump"); return p }()},
		Extra: map[string][]byte{artifacts.BaselinePath("lamp", "own"): repositorytest.Must(reference.Baseline{Version: 1, Profile: "own", PCRs: platformOf("a")}.Encode())}})
	first := w.First()
	c.ImageRoots, c.DirectorRoots = first.ImageRoots, first.DirectorRoots
	w.Apply(c)
	if _, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 3, "a"), key)); err != nil {
		t.Fatal(err)
	}
	own := baseline("lamp", 1, "b")
	own.Profile = "own"
	for name, row := range map[string]struct {
		bundles [][]byte
		want    reason.Reason
		text    string
	}{
		"nothing":             {nil, reason.RequestMalformed, "no bundle"},
		"no bundle":           {[][]byte{[]byte("{}")}, reason.BaselineRefused, "cannot be read"},
		"unsigned":            {[][]byte{repositorytest.Must(repositorytest.Must(artifacts.NewBaselineStatement(baseline("lamp", 4, "b"))).Encode())}, reason.BaselineRefused, "cannot be read"},
		"signed by others":    {bundles(baseline("lamp", 4, "b"), newSigner()), reason.BaselineRefused, "no baseline signer of the policy"},
		"signed by publisher": {bundles(baseline("lamp", 4, "b"), w.Publisher), reason.BaselineRefused, "no baseline signer of the policy"},
		"no signers named":    {bundles(baseline("pump", 1, "b"), key), reason.BaselineRefused, "names no baseline signers"},
		"unknown product":     {bundles(baseline("lock", 1, "b"), key), reason.PolicyMissing, "no policy"},
		"older generation":    {bundles(baseline("lamp", 2, "b"), key), reason.BaselineRefused, "not newer than 3"},
		"same generation":     {bundles(baseline("lamp", 3, "b"), key), reason.BaselineRefused, "not newer than 3"},
		"far generation":      {bundles(baseline("lamp", 20, "b"), key), reason.BaselineRefused, "more than 16"},
		"offline goes first":  {bundles(own, key), reason.BaselineRefused, "goes first"},
	} {
		_, err := w.Service.AddBaseline(t.Context(), "olga", row.bundles)
		p, ok := errors.AsType[*problem.Error](err)
		if !ok || p.Reason != row.want || !strings.Contains(p.Detail, row.text) {
			t.Errorf("%s: got %v, want %s with %q", name, err, row.want, row.text)
		}
	}
	if got := w.Service.Catalog().Products["lamp"].Baselines["board"]; got.Generation != 3 || got.Value.Name != "a" {
		t.Errorf("in force: %+v, want generation 3", got)
	}
	if got := w.Service.Catalog().Products["lamp"].Baselines["own"]; got.Generation != 0 {
		t.Errorf("own: %+v, want the offline role's", got)
	}
}

// When the offline role takes a signer's trust away, what it signed counts as missing at once, and nothing older comes
// back in its place.
func TestBaselineOfASignerWhoIsGoneCountsAsMissing(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	good, stolen := newSigner(), newSigner()
	w.Apply(w.First(trusting(w, good, stolen)))
	for generation, key := range map[uint64]*ecdsa.PrivateKey{1: good} {
		if _, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", generation, "a"), key)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 2, "b"), stolen)); err != nil {
		t.Fatal(err)
	}
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{trusting(w, good)}}))
	if got, ok := w.Service.Catalog().Products["lamp"].Baselines["board"]; ok {
		t.Fatalf("still in force: %+v", got)
	}
	list, err := w.Service.ListBaselines(t.Context(), "", "")
	if err != nil || list[0].State != api.BaselineNotTrusted || list[0].Detail == "" {
		t.Errorf("list: %+v, %v", list, err)
	}
	if _, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 3, "a"), good)); err != nil {
		t.Fatal(err)
	}
	if got := w.Service.Catalog().Products["lamp"].Baselines["board"]; got.Generation != 3 {
		t.Errorf("after the next one: %+v", got)
	}
}

// Whoever writes to the database puts no baseline in force: what counts is what was signed.
func TestForgedBaselineRowCountsAsMissing(t *testing.T) {
	t.Parallel()
	key := newSigner()
	for name, change := range map[string]func(*store.Baseline){
		"bundle of others":   func(b *store.Baseline) { b.Bundles = bundles(baseline("lamp", 1, "a"), newSigner()) },
		"no bundle":          func(b *store.Baseline) { b.Bundles = nil },
		"another profile":    func(b *store.Baseline) { b.Profile = "board-b" },
		"another generation": func(b *store.Baseline) { b.Generation = 2 },
		"another digest":     func(b *store.Baseline) { b.Digest = digest.Of(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := repositorytest.New(t)
			w.Apply(w.First(trusting(w, key)))
			s := repositorytest.Must(artifacts.NewBaselineStatement(baseline("lamp", 1, "a")))
			row := store.Baseline{Product: "lamp", Profile: "board", Generation: 1, Digest: s.Subject[0].Digest.SHA256,
				Bundles: bundles(baseline("lamp", 1, "a"), key), By: "olga", At: w.Now()}
			change(&row)
			if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.AddBaseline{Baseline: row}}}); err != nil {
				t.Fatal(err)
			}
			later := w.ServiceOn(w.OpenStore(), w.Blobs)
			w.Load(later)
			if got := later.Catalog().Products["lamp"].Baselines; len(got) != 0 {
				t.Errorf("in force: %+v", got)
			}
		})
	}
}

// What the holders sign themselves goes first, whenever it comes, and the signed one counts again when they take theirs away.
func TestOfflineBaselineGoesFirst(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	key := newSigner()
	policy := trusting(w, key)
	w.Apply(w.First(policy))
	if _, err := w.Service.AddBaseline(t.Context(), "olga", bundles(baseline("lamp", 1, "a"), key)); err != nil {
		t.Fatal(err)
	}
	inForce := func() uint64 {
		b, ok := w.Service.Catalog().Products["lamp"].Baselines["board"]
		if !ok {
			t.Fatal("no baseline")
		}
		return b.Generation
	}
	own := repositorytest.Must(reference.Baseline{Version: 1, Profile: "board", PCRs: platformOf("z")}.Encode())
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}, Extra: map[string][]byte{artifacts.BaselinePath("lamp", "board"): own}}))
	if got := inForce(); got != 0 {
		t.Errorf("with an offline one: generation %d is in force", got)
	}
	list, err := w.Service.ListBaselines(t.Context(), "lamp", "board")
	if err != nil || len(list) != 2 || list[0].State != api.BaselineInForce || list[0].Generation != 0 || list[1].State != api.BaselineSuperseded {
		t.Errorf("list: %+v, %v", list, err)
	}
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 3, Policies: []artifacts.Policy{policy}}))
	if got := inForce(); got != 1 {
		t.Errorf("after it was taken away: generation %d is in force", got)
	}
}
