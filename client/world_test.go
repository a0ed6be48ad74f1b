package client_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/signer/keys"
)

const (
	product  = "thermostat"
	hardware = "rev-b"
)

// start is when the tests happen; later moments are offsets from it.
var start = time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)

// repos are both repositories, signed with real keys by the code that signs them in the field.
type repos struct {
	t       testing.TB
	root    ed25519.PrivateKey
	online  map[string]ed25519.PrivateKey
	ci      *ecdsa.PrivateKey
	policy  artifacts.Policy
	expires time.Time

	mu         sync.Mutex // guards all below
	version    int64
	releases   map[string]tufrepo.File // product role
	files      map[string][]byte       // below /repo/image/
	offline    map[string][]byte       // targets of the offline role beside the policy
	images     map[digest.SHA256][]byte
	imageRoots [][]byte
	dirRoots   [][]byte
	timestamp  []byte
	director   tufrepo.DirectorDocs
	dirVersion int64
	base       uint64
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRepos(t testing.TB) *repos {
	t.Helper()
	r := &repos{t: t, root: newKey(t), online: map[string]ed25519.PrivateKey{}, expires: start.Add(24 * time.Hour),
		releases: map[string]tufrepo.File{}, files: map[string][]byte{}, images: map[digest.SHA256][]byte{}}
	for _, role := range []string{"timestamp", "snapshot", "product", "director"} {
		r.online[role] = newKey(t)
	}
	var err error
	if r.ci, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	r.policy = artifacts.Policy{Version: artifacts.PolicyVersion, Product: product, Threshold: 1,
		Publishers: []artifacts.Publisher{{Name: "ci", KeyPEM: publicPEM(t, r.ci.Public())}}}
	r.imageRoots = [][]byte{r.rootDoc(1, map[string]ed25519.PrivateKey{"timestamp": r.online["timestamp"], "snapshot": r.online["snapshot"], "targets": r.root})}
	d := r.online["director"]
	r.dirRoots = [][]byte{r.rootDoc(1, map[string]ed25519.PrivateKey{"timestamp": d, "snapshot": d, "targets": d})}
	return r
}

func publicPEM(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (r *repos) rootDoc(version int64, roles map[string]ed25519.PrivateKey) []byte {
	r.t.Helper()
	spec := tufrepo.RootSpec{Version: version, Expires: start.Add(365 * 24 * time.Hour),
		Keys: map[string][]crypto.PublicKey{"root": {r.root.Public()}}, Threshold: map[string]int{"root": 1}}
	for role, key := range roles {
		spec.Keys[role], spec.Threshold[role] = []crypto.PublicKey{key.Public()}, 1
	}
	doc, err := tufrepo.RootPayload(spec)
	if err != nil {
		r.t.Fatalf("RootPayload: %v", err)
	}
	return r.hold(doc, r.root)
}

// hold signs as a holder of an offline key does.
func (r *repos) hold(doc []byte, key ed25519.PrivateKey) []byte {
	r.t.Helper()
	payload, err := tufrepo.PayloadBytes(doc)
	if err != nil {
		r.t.Fatal(err)
	}
	doc, err = tufrepo.AddSignature(doc, key.Public(), ed25519.Sign(key, payload))
	if err != nil {
		r.t.Fatal(err)
	}
	return doc
}

func release(version string, counter uint64, image []byte) artifacts.Release {
	return artifacts.Release{Product: product, Version: version, Counter: counter, Components: []artifacts.Component{{
		Name: "system", HardwareIDs: []string{hardware}, SHA256: digest.Of(image), Length: int64(len(image)), Installer: "ab",
	}}}
}

// publish signs a release with the publisher's key and puts it into the product role. change may spoil what TUF says.
func (r *repos) publish(rel artifacts.Release, image []byte, key crypto.Signer, change func(path string, files map[string]tufrepo.File)) {
	r.t.Helper()
	s, err := artifacts.NewStatement(rel)
	if err != nil {
		r.t.Fatalf("NewStatement: %v", err)
	}
	payload, err := s.Encode()
	if err != nil {
		r.t.Fatalf("Encode: %v", err)
	}
	bundle, err := keys.SignBundle(r.t.Context(), payload, artifacts.PayloadType, key)
	if err != nil {
		r.t.Fatalf("SignBundle: %v", err)
	}
	component := rel.Components[0]
	custom, err := artifacts.CustomOf(rel, component).Encode()
	if err != nil {
		r.t.Fatalf("Encode: %v", err)
	}
	path := artifacts.TargetPath(rel.Product, rel.Version, component.Name)
	files := map[string]tufrepo.File{path: {Length: component.Length, SHA256: component.SHA256, Custom: custom}}
	r.addFile(path+artifacts.BundleSuffix, bundle, files)
	if change != nil {
		change(path, files)
	}
	r.mu.Lock()
	maps.Copy(r.releases, files)
	r.images[component.SHA256] = image
	r.mu.Unlock()
	r.sign()
}

func (r *repos) addFile(path string, b []byte, files map[string]tufrepo.File) {
	files[path] = tufrepo.File{Length: int64(len(b)), SHA256: digest.Of(b)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[tufrepo.TargetFileName(path, digest.Of(b))] = b
}

// sign makes the next version of everything in the Image repository.
func (r *repos) sign() {
	r.t.Helper()
	policy, err := r.policy.Encode()
	if err != nil {
		r.t.Fatalf("policy: %v", err)
	}
	offline := map[string]tufrepo.File{}
	r.addFile(artifacts.PolicyPath(product), policy, offline)
	for path, b := range r.offline {
		r.addFile(path, b, offline)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version++
	targets, err := tufrepo.TargetsPayload(tufrepo.TargetsSpec{Version: r.version, Expires: r.expires, Files: offline,
		Products: map[string]tufrepo.Delegation{product: {Keys: []crypto.PublicKey{r.online["product"].Public()}, Threshold: 1}}})
	if err != nil {
		r.t.Fatalf("TargetsPayload: %v", err)
	}
	targets = r.hold(targets, r.root)
	role, err := tufrepo.SignProduct(tufrepo.ProductSpec{Product: product, Version: r.version, Expires: r.expires, Files: r.releases}, r.online["product"])
	if err != nil {
		r.t.Fatalf("SignProduct: %v", err)
	}
	docs := map[string]tufrepo.Doc{"targets": tufrepo.DocOf(r.version, targets), product: tufrepo.DocOf(r.version, role)}
	snapshot, err := tufrepo.SignSnapshot(r.version, r.expires, docs, r.online["snapshot"])
	if err != nil {
		r.t.Fatalf("SignSnapshot: %v", err)
	}
	var nonce [32]byte
	rand.Read(nonce[:])
	r.timestamp, err = tufrepo.SignTimestamp(r.version, r.expires, tufrepo.DocOf(r.version, snapshot), nonce, r.online["timestamp"])
	if err != nil {
		r.t.Fatalf("SignTimestamp: %v", err)
	}
	r.files[tufrepo.FileName(r.version, "targets")] = targets
	r.files[tufrepo.FileName(r.version, product)] = role
	r.files[tufrepo.FileName(r.version, "snapshot")] = snapshot
}

// offer signs director metadata for a device.
func (r *repos) offer(device string, rel *artifacts.Release) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirVersion++
	spec := tufrepo.DirectorSpec{Device: device, CounterBase: r.base, Version: r.dirVersion, Expires: r.expires, Targets: map[string]tufrepo.DirectorFile{}}
	if rel != nil {
		c := rel.Components[0]
		spec.Targets[artifacts.TargetPath(rel.Product, rel.Version, c.Name)] = tufrepo.DirectorFile{Length: c.Length, SHA256: c.SHA256}
	}
	docs, err := tufrepo.SignDirector(spec, r.online["director"])
	if err != nil {
		r.t.Fatalf("SignDirector: %v", err)
	}
	r.director = docs
}

// fill puts what a device lacks into an answer.
func (r *repos) fill(claims wire.Claims, p *wire.PollAnswer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := int(claims.ImageRoot); have < len(r.imageRoots) {
		p.Roots = r.imageRoots[have:]
	}
	if have := int(claims.DirectorRoot); have < len(r.dirRoots) {
		p.DirectorRoots = r.dirRoots[have:]
	}
	if claims.Timestamp != tufrepo.Beacon(r.timestamp) {
		p.Timestamp = r.timestamp
	}
	if r.director.Timestamp != nil && claims.DirectorVersion != r.dirVersion {
		p.Director = &wire.Director{Timestamp: r.director.Timestamp, Snapshot: r.director.Snapshot, Targets: r.director.Targets}
	}
}
