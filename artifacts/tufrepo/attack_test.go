package tufrepo_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// OT-18: thresholds, duplicates, key ids, unsigned documents. The root is where all of them can be tried.
func TestRefusesRootThatWeakensSignatures(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	good := r.rootDoc(t, 1)
	role := func(signed map[string]any, name string) map[string]any {
		return signed["roles"].(map[string]any)[name].(map[string]any)
	}
	keys := func(signed map[string]any) map[string]any { return signed["keys"].(map[string]any) }
	for name, change := range map[string]func(map[string]any){
		"threshold 0":        func(s map[string]any) { role(s, "timestamp")["threshold"] = 0 },
		"threshold negative": func(s map[string]any) { role(s, "targets")["threshold"] = -1 },
		"threshold unmet":    func(s map[string]any) { role(s, "snapshot")["threshold"] = 2 },
		"no keys":            func(s map[string]any) { role(s, "snapshot")["keyids"] = []any{} },
		"key id twice": func(s map[string]any) {
			ids := role(s, "root")["keyids"].([]any)
			role(s, "root")["keyids"] = []any{ids[0], ids[0]}
		},
		"key under a second id": func(s map[string]any) {
			for _, k := range keys(s) {
				keys(s)[strings.Repeat("a", 64)] = k
				return
			}
		},
		"unknown key id":          func(s map[string]any) { role(s, "targets")["keyids"] = []any{"00"} },
		"role missing":            func(s map[string]any) { delete(s["roles"].(map[string]any), "timestamp") },
		"role null":               func(s map[string]any) { s["roles"].(map[string]any)["timestamp"] = nil },
		"key null":                func(s map[string]any) { keys(s)["00"] = nil },
		"no consistent snapshots": func(s map[string]any) { s["consistent_snapshot"] = false },
		"type":                    func(s map[string]any) { s["_type"] = "targets" },
		"version 0":               func(s map[string]any) { s["version"] = 0 },
		"specification 2":         func(s map[string]any) { s["spec_version"] = "2.0.0" },
	} {
		doc := resign(t, good, change, r.root...)
		if _, err := tufrepo.NewImage(doc, now); !errors.Is(err, tufrepo.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	unsigned := resign(t, good, func(map[string]any) {})
	_, err := tufrepo.NewImage(unsigned, now)
	wantErr(t, err, tufrepo.ErrSignature)
	_, err = tufrepo.NewImage(holderSign(t, unsigned, r.root[0]), now)
	wantErr(t, err, tufrepo.ErrSignature)
}

func TestRefusesUnsignedOrForeignSignatures(t *testing.T) {
	t.Parallel()
	r, other := newRepo(t), newRepo(t)
	none := func(map[string]any) {}
	for name, keys := range map[string][]crypto.Signer{
		"unsigned": {}, "foreign key": {other.snapshot}, "key of another role": {r.timestamp},
	} {
		rel := r.release(t, 1)
		rel.snapshot = resign(t, rel.snapshot, none, keys...)
		rel = r.stampOver(t, rel)
		if err := accept(newImage(t, r.rootDoc(t, 1)), rel); !errors.Is(err, tufrepo.ErrSignature) {
			t.Errorf("snapshot, %s: got %v", name, err)
		}
		rel = r.release(t, 1)
		rel.targets = resign(t, rel.targets, none, keys...)
		if err := accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, rel)); !errors.Is(err, tufrepo.ErrSignature) {
			t.Errorf("targets, %s: got %v", name, err)
		}
		rel = r.release(t, 1)
		rel.products["gw"] = resign(t, rel.products["gw"], none, keys...)
		if err := accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, rel)); !errors.Is(err, tufrepo.ErrSignature) {
			t.Errorf("product, %s: got %v", name, err)
		}
	}
	rel := r.release(t, 1)
	wantErr(t, newImage(t, r.rootDoc(t, 1)).Timestamp(resign(t, rel.stamp, none, r.snapshot)), tufrepo.ErrSignature)
	twice := bytes.Replace(rel.stamp, []byte(`"signatures":[{`), []byte(`"signatures":[{"keyid":"x","sig":""},{"keyid":"x","sig":""},{`), 1)
	wantErr(t, newImage(t, r.rootDoc(t, 1)).Timestamp(twice), tufrepo.ErrMalformed)
	duplicate := bytes.Replace(rel.stamp, []byte(`"version":1`), []byte(`"version":9,"version":1`), 1)
	wantErr(t, newImage(t, r.rootDoc(t, 1)).Timestamp(duplicate), tufrepo.ErrMalformed)
}

// OT-19: a document of one role offered as another, signed by the right keys.
func TestRefusesRoleConfusion(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.timestamp = r.snapshot // one online key for both, as many repositories have
	rel := r.release(t, 1)
	im := newImage(t, r.rootDoc(t, 1))
	wantErr(t, im.Timestamp(rel.snapshot), tufrepo.ErrMalformed)
	wantErr(t, im.Timestamp(rel.targets), tufrepo.ErrMalformed)
	wantErr(t, im.UpdateRoot(rel.targets), tufrepo.ErrMalformed)
	swapped := rel
	swapped.snapshot = rel.targets
	wantErr(t, accept(im, r.stampOver(t, swapped)), tufrepo.ErrMalformed)
	swapped = rel
	swapped.targets = rel.snapshot
	wantErr(t, accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, swapped)), tufrepo.ErrMalformed)
}

// go-tuf panics on null members before it checks signatures; here they are malformed, in every place.
func TestNullMembersAreMalformed(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	root := r.rootDoc(t, 1)
	header := `"_type":"%","version":1,"spec_version":"1.0.31","expires":"2030-01-01T00:00:00Z"`
	signed := func(role, rest string) []byte {
		return []byte(`{"signatures":[],"signed":{` + strings.Replace(header, "%", role, 1) + `,` + rest + `}}`)
	}
	im := newImage(t, root)
	wantErr(t, im.Timestamp(signed("timestamp", `"meta":{}`)), tufrepo.ErrMalformed)
	wantErr(t, im.Timestamp(signed("timestamp", `"meta":{"snapshot.json":null}`)), tufrepo.ErrMalformed)
	wantErr(t, im.UpdateRoot(signed("root", `"consistent_snapshot":true,"keys":null,"roles":null`)), tufrepo.ErrMalformed)
	wantErr(t, im.UpdateRoot(signed("root", `"consistent_snapshot":true,"keys":{"a":null},"roles":{"root":null}`)), tufrepo.ErrMalformed)
	for _, bad := range []string{
		`"targets":{"policy/gw.json":null}`,
		`"targets":{},"delegations":{"keys":{"a":null},"roles":[null]}`,
		`"targets":{},"delegations":{"keys":null,"roles":[{"name":"gw","keyids":["a"],"threshold":1,"paths":["gw/*/*"],"terminating":true}]}`,
	} {
		rel := r.release(t, 1)
		rel.targets = signed("targets", bad)
		err := accept(newImage(t, root), r.finish(t, rel))
		if tufrepo.ReasonOf(err) != reason.MetadataInvalid {
			t.Errorf("%s: got %v", bad, err)
		}
		if _, err := tufrepo.ParseTargets(rel.targets); err == nil {
			t.Errorf("%s: parsed", bad)
		}
	}
	// A signed snapshot with a null member gets past the signature, and no further.
	rel := r.release(t, 1)
	rel.snapshot = resign(t, rel.snapshot, func(s map[string]any) { s["meta"].(map[string]any)["gw.json"] = nil }, r.snapshot)
	wantErr(t, accept(newImage(t, root), r.stampOver(t, rel)), tufrepo.ErrMalformed)
}

// OT-23: a product role that lists another product's path, or an offline path, is not heard on it.
func TestProductRoleSpeaksForItsOwnPathsOnly(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 1)
	evil := file("evil")
	rel.products["sensor"] = resign(t, rel.products["sensor"], func(s map[string]any) {
		targets := s["targets"].(map[string]any)
		entry := map[string]any{"length": evil.Length, "hashes": map[string]any{"sha256": evil.SHA256.String()}}
		for _, path := range []string{"gw/1.2.0/rootfs", "gw/9.9.9/rootfs", "policy/gw.json", "policy/sensor.json"} {
			targets[path] = entry
		}
	}, r.products["sensor"])
	rel = r.finish(t, rel)
	im := newImage(t, r.rootDoc(t, 1))
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"gw/1.2.0/rootfs", "policy/gw.json"} {
		if got, role, _ := im.Target(path); role == "sensor" || got.SHA256 == evil.SHA256 {
			t.Errorf("%s comes from %q", path, role)
		}
	}
	for _, path := range []string{"gw/9.9.9/rootfs", "policy/sensor.json"} {
		if _, role, ok := im.Target(path); ok {
			t.Errorf("%s found in %q", path, role)
		}
	}
	if got := len(im.Paths("sensor")); got != 2 {
		t.Errorf("sensor has %d paths, want 2", got)
	}
}

// OT-23: the shape of delegations.
func TestRefusesOtherDelegations(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	first := func(s map[string]any) map[string]any {
		return s["delegations"].(map[string]any)["roles"].([]any)[0].(map[string]any)
	}
	for name, change := range map[string]func(map[string]any){
		"wider path":      func(s map[string]any) { first(s)["paths"] = []any{"*/*/*"} },
		"two paths":       func(s map[string]any) { first(s)["paths"] = []any{"gw/*/*", "sensor/*/*"} },
		"no path":         func(s map[string]any) { delete(first(s), "paths") },
		"hash prefixes":   func(s map[string]any) { delete(first(s), "paths"); first(s)["path_hash_prefixes"] = []any{""} },
		"name twice":      func(s map[string]any) { first(s)["name"], first(s)["paths"] = "sensor", []any{"sensor/*/*"} },
		"top-level name":  func(s map[string]any) { first(s)["name"], first(s)["paths"] = "snapshot", []any{"snapshot/*/*"} },
		"offline name":    func(s map[string]any) { first(s)["name"], first(s)["paths"] = "policy", []any{"policy/*/*"} },
		"path in a name":  func(s map[string]any) { first(s)["name"] = "../gw" },
		"succinct":        func(s map[string]any) { succinct(s) },
		"quoting in name": func(s map[string]any) { first(s)["name"] = "gw?#" },
	} {
		rel := r.release(t, 1)
		rel.targets = resign(t, rel.targets, change, r.targets)
		if err := accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, rel)); !errors.Is(err, tufrepo.ErrDelegation) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	rel := r.release(t, 1)
	rel.products["gw"] = resign(t, rel.products["gw"], func(s map[string]any) {
		s["delegations"] = map[string]any{"keys": map[string]any{}, "roles": []any{}}
	}, r.products["gw"])
	wantErr(t, accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, rel)), tufrepo.ErrDelegation)
}

func succinct(s map[string]any) {
	d := s["delegations"].(map[string]any)
	delete(d, "roles")
	d["succinct_roles"] = map[string]any{"keyids": []any{}, "threshold": 1, "bit_length": 4, "name_prefix": "bin"}
}

// OT-23: a role that is not delegated, or not in the snapshot, or whose delegated key changed.
func TestRefusesUndelegatedRoles(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 1)
	im := newImage(t, r.rootDoc(t, 1))
	wantErr(t, im.Product("gw", rel.products["gw"]), tufrepo.ErrIncomplete)
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Product("other", rel.products["gw"]), tufrepo.ErrDelegation)
	_, err := im.Next("other")
	wantErr(t, err, tufrepo.ErrDelegation)

	missing := r.release(t, 1)
	gw := missing.products["gw"]
	delete(missing.products, "gw")
	missing = r.finish(t, missing)
	im = newImage(t, r.rootDoc(t, 1))
	if err := accept(im, missing); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Product("gw", gw), tufrepo.ErrDelegation)

	// The cached role must not survive under a delegator that names another key (go-tuf issue 759).
	im = newImage(t, r.rootDoc(t, 1))
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
	r.products["gw"] = edKey(t)
	rotated := r.release(t, 2)
	rotated.products = rel.products
	rotated = r.finish(t, rotated)
	wantErr(t, accept(im, rotated), tufrepo.ErrSignature)
	if _, _, ok := im.Target("gw/1.2.0/rootfs"); ok {
		t.Fatal("a role that its new delegator does not vouch for answers")
	}
	if _, _, ok := im.Target("sensor/1.2.0/rootfs"); !ok {
		t.Fatal("the other product must not suffer")
	}

	// The same through a cache: the documents of another run name the old role under the new key.
	im, other := newImage(t, r.rootDoc(t, 1)), newImage(t, r.rootDoc(t, 1))
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
	wantErr(t, accept(other, rotated), tufrepo.ErrSignature)
	im.Restore(other.Cached())
	if _, _, ok := im.Target("gw/1.2.0/rootfs"); ok {
		t.Fatal("a restored delegator vouches for a role it does not name")
	}
}

// OT-25: names that would need escaping or climb directories.
func TestRefusesPathsThatClimbOrNeedQuoting(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	bad := []string{
		"gw/../rootfs", "gw/1.0/../x", "../gw/1.0/x", "/gw/1.0/x", "gw//x", "gw/1.0/x?y", "gw/1.0/x#y", "gw/1.0/x%2e",
		"gw/1.0/a b", "gw/1.0/X", "gw/1.0/", "gw", "gw/1/2/3", "gw/1.0/\u0000", "gw\\1.0\\x", "gw/1.0/é", "",
	}
	im := newImage(t, r.rootDoc(t, 1))
	if err := accept(im, r.release(t, 1)); err != nil {
		t.Fatal(err)
	}
	for _, path := range bad {
		if tufrepo.ValidPath(path) == nil {
			t.Errorf("%q is valid", path)
		}
		if _, _, ok := im.Target(path); ok {
			t.Errorf("%q found", path)
		}
		rel := r.release(t, 1)
		rel.products["gw"] = resign(t, rel.products["gw"], func(s map[string]any) {
			targets := s["targets"].(map[string]any)
			targets[path] = targets["gw/1.2.0/rootfs"]
		}, r.products["gw"])
		if err := accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, rel)); !errors.Is(err, tufrepo.ErrMalformed) {
			t.Errorf("%q: got %v", path, err)
		}
		_, err := tufrepo.SignProduct(tufrepo.ProductSpec{
			Product: "gw", Version: 1, Expires: now, Files: map[string]tufrepo.File{path: file("x")},
		}, r.products["gw"])
		wantErr(t, err, tufrepo.ErrSpec)
	}
	for _, name := range []string{"root", "targets", "snapshot", "timestamp", "policy", "sigstore", "baseline", "a/b", ".."} {
		if tufrepo.ValidProduct(name) == nil {
			t.Errorf("product %q is valid", name)
		}
	}
}

func TestRefusesOtherHashesAndCounts(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	entry := func(s map[string]any) map[string]any {
		return s["targets"].(map[string]any)["gw/1.2.0/rootfs"].(map[string]any)
	}
	for name, change := range map[string]func(map[string]any){
		"two algorithms": func(s map[string]any) { entry(s)["hashes"].(map[string]any)["sha512"] = strings.Repeat("00", 64) },
		"sha512 only":    func(s map[string]any) { entry(s)["hashes"] = map[string]any{"sha512": strings.Repeat("00", 64)} },
		"short":          func(s map[string]any) { entry(s)["hashes"] = map[string]any{"sha256": "00"} },
		"none":           func(s map[string]any) { entry(s)["hashes"] = map[string]any{} },
		"negative":       func(s map[string]any) { entry(s)["length"] = -1 },
	} {
		rel := r.release(t, 1)
		rel.products["gw"] = resign(t, rel.products["gw"], change, r.products["gw"])
		if err := accept(newImage(t, r.rootDoc(t, 1)), r.finish(t, rel)); !errors.Is(err, tufrepo.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	many := map[string]tufrepo.File{}
	for i := range tufrepo.MaxTargets + 1 {
		many[fmt.Sprintf("gw/1.0.%d/x", i)] = file("x")
	}
	_, err := tufrepo.SignProduct(tufrepo.ProductSpec{Product: "gw", Version: 1, Expires: now, Files: many}, r.products["gw"])
	wantErr(t, err, tufrepo.ErrTooLarge)
}

func TestKeysOutsideTheAllowListAreRefused(t *testing.T) {
	t.Parallel()
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	_, err := tufrepo.KeyID(p384.Public())
	wantErr(t, err, tufrepo.ErrKey)
	_, err = tufrepo.SignTimestamp(1, now, tufrepo.DocOf(1, []byte("x")), [32]byte{}, p384)
	wantErr(t, err, tufrepo.ErrKey)
	_, err = tufrepo.KeyID("key")
	wantErr(t, err, tufrepo.ErrKey)
}

func TestReasonOfIsTotal(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]reason.Reason{
		nil: "", tufrepo.ErrSignature: reason.MetadataInvalid, tufrepo.ErrExpired: reason.MetadataExpired,
		tufrepo.ErrRollback: reason.MetadataExpired, tufrepo.ErrMixAndMatch: reason.MetadataInvalid,
		tufrepo.ErrMalformed: reason.MetadataInvalid, tufrepo.ErrWrongDevice: reason.MetadataForOtherDevice,
		tufrepo.ErrDelegation: reason.MetadataInvalid, tufrepo.ErrTooLarge: reason.MetadataInvalid,
	} {
		if got := tufrepo.ReasonOf(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
