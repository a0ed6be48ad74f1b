// Package appraisetest is a small fleet for tests of the server: a real SQLite store, a hand-made catalog, the services
// that answer a poll, and devices whose TPM is in software.
//
// It promises that a device it makes is answered as a real one would be. Nobody trusts it, and no product code imports it.
package appraisetest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/deviceca"
	"github.com/cordon-ota/cordon/server/director"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// Names that every World uses.
const (
	Product  = "lamp"
	Hardware = "rev-a"
)

// Settings are those of the design's defaults.
var Settings = appraise.Settings{
	Terms: fleet.Terms{Lease: 2 * time.Hour, Grace: 24 * time.Hour}, Poll: 15 * time.Minute, Jitter: 0.2,
	BeaconWindow: time.Hour, UpdateDeadline: 6 * time.Hour, Build: "test",
}

// World is a server without its edges.
type World struct {
	t          testing.TB
	Store      *store.Store
	Challenges *appraise.Challenges
	Director   *director.Service
	CA         *deviceca.CA
	Root       []byte // of the Director repository
	Service    *appraise.Service
	Log        *slog.Logger
	Cache      *attestation.Cache // of every Service of the world

	mu       sync.Mutex
	now      time.Time
	product  repository.Product // copied into every catalog
	issued   int64
	catalogs *repository.Catalog
}

// New makes a world with product lamp, its policy, a platform baseline, a first beacon, and no release.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{t: t, now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), Log: slog.New(slog.DiscardHandler), Cache: attestation.NewCache(64)}
	var err error
	w.Store, err = store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "state.db"), w.Log)
	must(t, err)
	t.Cleanup(func() {
		if err := w.Store.Close(); err != nil {
			t.Errorf("cannot close the store: %v", err)
		}
	})
	w.directorAndCA()
	key := sha256.Sum256([]byte("challenge key"))
	w.Challenges = appraise.NewChallenges(key[:], 5*time.Minute)
	w.product = repository.Product{
		Name: Product, PolicyDigest: digest.Of([]byte("policy")),
		Policy: artifacts.Policy{
			Version: artifacts.PolicyVersion, Product: Product, Threshold: 1, MinimumCounter: 1,
			Publishers: []artifacts.Publisher{{Name: "ci", Issuer: "https://ci.example", Subject: "build"}},
		},
		Baselines: map[string]repository.Baseline{},
	}
	platform := evidencetest.DirectUKI(evidencetest.Release("any")).PCRs()
	w.product.Baselines[evidencetest.Profile] = repository.Baseline{
		Value: reference.LearnBaseline(evidencetest.Profile, platform), Digest: digest.Of([]byte("baseline")),
	}
	w.Beacon()
	w.Service = w.ServiceWith(w.Store)
	return w
}

// ServiceWith is the poll service over another store: one that fails, for example.
func (w *World) ServiceWith(s appraise.Store) *appraise.Service {
	set := Settings
	set.Cache = w.Cache
	return appraise.New(s, w.Catalog, w.Challenges, w.Director, w.CA, set, w.Now, w.Log)
}

func (w *World) directorAndCA() {
	_, online, err := ed25519.GenerateKey(rand.Reader)
	must(w.t, err)
	_, holder, err := ed25519.GenerateKey(rand.Reader)
	must(w.t, err)
	w.Director = director.New(online, 7*24*time.Hour)
	w.Root = Root(w.t, holder, online.Public(), w.now.AddDate(1, 0, 0))
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: w.now.AddDate(-1, 0, 0), NotAfter: w.now.AddDate(9, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	must(w.t, err)
	cert, err := x509.ParseCertificate(der)
	must(w.t, err)
	w.CA, err = deviceca.New(cert, caKey, "example.org")
	must(w.t, err)
}

// Root is a Director root that holder signs and that names online for every other role.
func Root(t testing.TB, holder ed25519.PrivateKey, online crypto.PublicKey, expires time.Time) []byte {
	t.Helper()
	keys, thresholds := map[string][]crypto.PublicKey{tufrepo.RoleRoot: {holder.Public()}}, map[string]int{tufrepo.RoleRoot: 1}
	for _, role := range []string{tufrepo.RoleTargets, tufrepo.RoleSnapshot, tufrepo.RoleTimestamp} {
		keys[role], thresholds[role] = []crypto.PublicKey{online}, 1
	}
	doc, err := tufrepo.RootPayload(tufrepo.RootSpec{Version: 1, Expires: expires, Keys: keys, Threshold: thresholds})
	must(t, err)
	payload, err := tufrepo.PayloadBytes(doc)
	must(t, err)
	doc, err = tufrepo.AddSignature(doc, holder.Public(), ed25519.Sign(holder, payload))
	must(t, err)
	return doc
}

// Now is the world's clock; Advance moves it.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Advance lets time pass.
func (w *World) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Catalog is the current catalog.
func (w *World) Catalog() *repository.Catalog {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.catalogs
}

// Beacon issues a new timestamp.
func (w *World) Beacon() {
	w.t.Helper()
	w.issued++
	doc := fmt.Appendf(nil, "timestamp %d", w.issued)
	b := store.Beacon{Digest: digest.Of(doc), Version: w.issued, IssuedAt: w.Now(), Doc: doc}
	must(w.t, w.Store.Commit(w.t.Context(), store.Change{Writes: []store.Write{store.AddBeacon{Beacon: b}}}))
	w.Edit(func(c *repository.Catalog, _ *repository.Product) {
		c.Timestamp, c.TimestampVersion, c.Beacon, c.IssuedAt = doc, w.issued, b.Digest, b.IssuedAt
	})
}

// Edit replaces the catalog by a changed one.
func (w *World) Edit(change func(*repository.Catalog, *repository.Product)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := repository.Catalog{ImageRoots: [][]byte{[]byte("image root")}, DirectorRoots: [][]byte{w.Root}}
	if w.catalogs != nil {
		next = *w.catalogs
	}
	p := w.product
	p.Releases = slices.Clone(p.Releases)
	change(&next, &p)
	w.product = p
	next.Products = map[string]*repository.Product{Product: &p}
	w.catalogs = &next
}

// Publish adds a release with one measured component for Hardware; change may alter it.
func (w *World) Publish(version string, counter uint64, change ...func(*repository.Release)) string {
	name := artifacts.ReleaseName(Product, version)
	r := &repository.Release{
		Name: name, PublishedAt: w.Now(), Values: map[string]reference.Values{"system": evidencetest.Release(name)},
		Statement: artifacts.Statement{Predicate: artifacts.Release{
			Product: Product, Version: version, Counter: counter,
			Components: []artifacts.Component{{
				Name: "system", HardwareIDs: []string{Hardware}, SHA256: Image(name), Length: int64(len(Bytes(name))), Installer: "uki",
				ReferenceValues: digest.Of([]byte("values of " + name)),
			}},
		}},
	}
	for _, c := range change {
		c(r)
	}
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		if r.Statement.Predicate.Recovery {
			p.Policy.Recovery = append(slices.Clone(p.Policy.Recovery), Image(name))
		}
		p.Releases = append(p.Releases, r)
		slices.SortFunc(p.Releases, func(a, b *repository.Release) int {
			return int(b.Statement.Predicate.Counter) - int(a.Statement.Predicate.Counter)
		})
	})
	return name
}

// Recovery makes Publish publish a recovery release.
func Recovery(r *repository.Release) { r.Statement.Predicate.Recovery = true }

// Hold holds a release or lets it go.
func (w *World) Hold(name string, hold bool) {
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		for i, r := range p.Releases {
			if r.Name == name {
				held := *r
				held.Hold = hold
				p.Releases[i] = &held
			}
		}
	})
}

// Bytes are the image of a release.
func Bytes(name string) []byte {
	out := make([]byte, 0, 1<<20)
	for i := 0; len(out) < 1<<20; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
		out = append(out, sum[:]...)
	}
	return out
}

// Image is the digest of Bytes.
func Image(name string) digest.SHA256 { return digest.Of(Bytes(name)) }

// Order reads the newest order of a device.
func (w *World) Order(id string) store.Order {
	w.t.Helper()
	orders, err := w.Store.Orders(w.t.Context(), id, 1)
	must(w.t, err)
	if len(orders) == 0 {
		w.t.Fatalf("device %s: no order", id)
	}
	return orders[0]
}

// Events returns the types of the audit events of a subject, oldest first.
func (w *World) Events(subject string) []string {
	w.t.Helper()
	events, err := w.Store.Events(context.Background(), store.EventFilter{Subject: subject}, 0, 0)
	must(w.t, err)
	var out []string
	for _, e := range events {
		out = append(out, e.Type)
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
