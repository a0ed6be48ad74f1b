package tufrepo_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const device = "mfrggzdfmztwq2lknnwg23tpoa"

func edKey(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// holderSign is what a holder does in the ceremony: it signs the payload with its own key, outside tufrepo.
func holderSign(t testing.TB, doc []byte, keys ...crypto.Signer) []byte {
	t.Helper()
	payload := must(tufrepo.PayloadBytes(doc))(t)
	for _, key := range keys {
		var sig []byte
		var err error
		if k, ok := key.(ed25519.PrivateKey); ok {
			sig = ed25519.Sign(k, payload)
		} else {
			sum := sha256.Sum256(payload)
			sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
		}
		if err != nil {
			t.Fatal(err)
		}
		doc = must(tufrepo.AddSignature(doc, key.Public(), sig))(t)
	}
	return doc
}

// resign changes a signed part and signs it again: what an attacker who holds keys can do.
func resign(t testing.TB, doc []byte, change func(signed map[string]any), keys ...crypto.Signer) []byte {
	t.Helper()
	var env map[string]any
	if err := json.Unmarshal(doc, &env); err != nil {
		t.Fatal(err)
	}
	change(env["signed"].(map[string]any))
	env["signatures"] = []any{}
	out := must(json.Marshal(env, json.Deterministic(true)))(t)
	return holderSign(t, out, keys...)
}

// repo is an Image repository with all of its keys.
type repo struct {
	root      []crypto.Signer // threshold 2
	targets   crypto.Signer
	snapshot  crypto.Signer
	timestamp crypto.Signer
	products  map[string]crypto.Signer
	policy    []byte
}

func newRepo(t testing.TB) *repo {
	return &repo{
		root: []crypto.Signer{edKey(t), ecKey(t)}, targets: ecKey(t), snapshot: edKey(t), timestamp: edKey(t),
		products: map[string]crypto.Signer{"gw": edKey(t), "sensor": ecKey(t)},
		policy:   []byte(`{"product":"gw"}`),
	}
}

func publics(keys ...crypto.Signer) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, k := range keys {
		out = append(out, k.Public())
	}
	return out
}

func (r *repo) rootSpec(version int64) tufrepo.RootSpec {
	return tufrepo.RootSpec{
		Version: version, Expires: now.AddDate(1, 0, 0),
		Keys: map[string][]crypto.PublicKey{
			"root": publics(r.root...), "targets": publics(r.targets),
			"snapshot": publics(r.snapshot), "timestamp": publics(r.timestamp),
		},
		Threshold: map[string]int{"root": 2, "targets": 1, "snapshot": 1, "timestamp": 1},
	}
}

func (r *repo) rootDoc(t testing.TB, version int64) []byte {
	t.Helper()
	return holderSign(t, must(tufrepo.RootPayload(r.rootSpec(version)))(t), r.root...)
}

// release is one state of the repository.
type release struct {
	version  int64
	expires  time.Time
	products map[string][]byte
	targets  []byte
	snapshot []byte
	stamp    []byte
}

func file(data string) tufrepo.File {
	return tufrepo.File{Length: int64(len(data)), SHA256: digest.Of([]byte(data)), Custom: jsontext.Value(`{"product":"gw","é":"<&>"}`)}
}

// release makes every document at one version.
func (r *repo) release(t testing.TB, version int64) release {
	t.Helper()
	rel := release{version: version, expires: now.AddDate(0, 0, 7), products: map[string][]byte{}}
	for product, key := range r.products {
		spec := tufrepo.ProductSpec{Product: product, Version: version, Expires: rel.expires, Files: map[string]tufrepo.File{
			product + "/1.2.0/rootfs":               file("firmware"),
			product + "/1.2.0/rootfs.sigstore.json": file("bundle"),
		}}
		rel.products[product] = must(tufrepo.SignProduct(spec, key))(t)
	}
	rel.targets = holderSign(t, must(tufrepo.TargetsPayload(r.targetsSpec(version)))(t), r.targets)
	return r.finish(t, rel)
}

func (r *repo) targetsSpec(version int64) tufrepo.TargetsSpec {
	spec := tufrepo.TargetsSpec{
		Version: version, Expires: now.AddDate(0, 3, 0),
		Files:    map[string]tufrepo.File{"policy/gw.json": {Length: int64(len(r.policy)), SHA256: digest.Of(r.policy)}},
		Products: map[string]tufrepo.Delegation{},
	}
	for product, key := range r.products {
		spec.Products[product] = tufrepo.Delegation{Keys: publics(key), Threshold: 1}
	}
	return spec
}

// finish signs snapshot and timestamp over whatever the other documents are now.
func (r *repo) finish(t testing.TB, rel release) release {
	t.Helper()
	docs := map[string]tufrepo.Doc{"targets": tufrepo.DocOf(versionOf(t, rel.targets), rel.targets)}
	for product, doc := range rel.products {
		docs[product] = tufrepo.DocOf(versionOf(t, doc), doc)
	}
	rel.snapshot = must(tufrepo.SignSnapshot(rel.version, rel.expires, docs, r.snapshot))(t)
	return r.stampOver(t, rel)
}

func (r *repo) stampOver(t testing.TB, rel release) release {
	t.Helper()
	var nonce [32]byte
	rand.Read(nonce[:])
	doc := tufrepo.DocOf(versionOf(t, rel.snapshot), rel.snapshot)
	rel.stamp = must(tufrepo.SignTimestamp(rel.version, now.Add(24*time.Hour), doc, nonce, r.timestamp))(t)
	return rel
}

func versionOf(t testing.TB, doc []byte) int64 {
	t.Helper()
	return must(tufrepo.HeaderOf(doc))(t).Version
}

func newImage(t testing.TB, root []byte) *tufrepo.Image {
	t.Helper()
	return must(tufrepo.NewImage(root, now))(t)
}

// accept runs all documents of a release through an Image and returns the first error.
func accept(im *tufrepo.Image, rel release) error {
	if err := im.Timestamp(rel.stamp); err != nil {
		return err
	}
	if err := im.Snapshot(rel.snapshot); err != nil {
		return err
	}
	if err := im.Targets(rel.targets); err != nil {
		return err
	}
	for product, doc := range rel.products {
		if err := im.Product(product, doc); err != nil {
			return err
		}
	}
	return nil
}

// fleet is a Director repository.
type fleet struct {
	root   []crypto.Signer
	online crypto.Signer
}

func newFleet(t testing.TB) *fleet {
	return &fleet{root: []crypto.Signer{ecKey(t)}, online: edKey(t)}
}

func (f *fleet) rootDoc(t testing.TB, version int64) []byte {
	t.Helper()
	online := publics(f.online)
	spec := tufrepo.RootSpec{
		Version: version, Expires: now.AddDate(1, 0, 0),
		Keys:      map[string][]crypto.PublicKey{"root": publics(f.root...), "targets": online, "snapshot": online, "timestamp": online},
		Threshold: map[string]int{"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1},
	}
	return holderSign(t, must(tufrepo.RootPayload(spec))(t), f.root...)
}

func directorSpec(version int64, device string) tufrepo.DirectorSpec {
	return tufrepo.DirectorSpec{
		Device: device, CounterBase: 1<<63 + 7, Version: version, Expires: now.Add(24 * time.Hour),
		Targets: map[string]tufrepo.DirectorFile{
			"gw/1.2.0/rootfs": {Length: 8, SHA256: digest.Of([]byte("firmware")), Deadline: now.Add(time.Hour).Unix()},
			"gw/1.2.0/boot":   {Length: 4, SHA256: digest.Of([]byte("boot"))},
		},
	}
}
