// Package repositorytest is an Image repository with everything around it, for tests of the server: a store, an artifact
// directory, the online keys, the holders of the offline keys, and a publisher.
//
// It promises that what it signs is what a ceremony and a pipeline would sign. Nobody trusts it, and no product code
// imports it.
package repositorytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// Lives of the online metadata.
var Lives = repository.Lives{Timestamp: 24 * time.Hour, Snapshot: 7 * 24 * time.Hour, Product: 90 * 24 * time.Hour, Every: 15 * time.Minute}

// Noon is when a World begins.
var Noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// World is a repository with all of its keys.
type World struct {
	T         testing.TB
	DSN       string
	Dir       string // of the artifact store
	Store     *store.Store
	Blobs     *dirstore.Store
	Keys      repository.Keys
	Service   *repository.Service
	Publisher *ecdsa.PrivateKey
	Holders   []crypto.Signer // of both roots and of the offline targets; threshold 2

	mu  sync.Mutex
	now time.Time
}

// New makes a World on SQLite that no ceremony has initialised.
func New(t testing.TB) *World { return On(t, "sqlite:"+filepath.Join(t.TempDir(), "cordon.db")) }

// On makes a World on an empty database.
func On(t testing.TB, dsn string) *World {
	t.Helper()
	w := &World{T: t, DSN: dsn, Dir: t.TempDir(), Publisher: Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), now: Noon}
	w.Keys = repository.Keys{Snapshot: Key(), Timestamp: Key(), Product: Key(), Director: Key()}
	w.Holders = []crypto.Signer{Key(), Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), Key()}
	w.Store, w.Blobs = w.OpenStore(), Must(dirstore.Open(w.Dir))
	w.Service = w.ServiceOn(w.Store, w.Blobs)
	w.Load(w.Service)
	return w
}

// Holding makes the holders and the publisher of a server that runs elsewhere, with the public halves of its online keys.
// It has no store and no service.
func Holding(t testing.TB, keys repository.Keys, now time.Time) *World {
	w := &World{T: t, Keys: keys, Publisher: Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), now: now}
	w.Holders = []crypto.Signer{Key(), Key(), Key()}
	return w
}

// OpenStore opens another connection to the database of the World.
func (w *World) OpenStore() *store.Store {
	w.T.Helper()
	s, err := store.Open(w.T.Context(), w.DSN, slog.New(slog.DiscardHandler))
	if err != nil {
		w.T.Fatalf("store.Open: %v", err)
	}
	w.T.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.T.Errorf("Close: %v", err)
		}
	})
	return s
}

// ServiceOn makes a service of this World that reads and writes through the given stores.
func (w *World) ServiceOn(s repository.Store, a artifacts.Store) *repository.Service {
	return repository.New(s, a, w.Keys, Lives, w.Now, slog.New(slog.DiscardHandler))
}

// Load loads a service, or ends the test.
func (w *World) Load(s *repository.Service) {
	w.T.Helper()
	if err := s.Load(w.T.Context()); err != nil {
		w.T.Fatalf("Load: %v", err)
	}
}

// Now is the clock of the World.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Pass lets time pass.
func (w *World) Pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Must returns v; an error is a bug of the test.
func Must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// Key makes an Ed25519 key.
func Key() crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return Must(key, err)
}

// Policy is the policy of a product that the World's publisher may publish for.
func (w *World) Policy(product string) artifacts.Policy {
	return artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: product, Threshold: 1,
		Publishers: []artifacts.Publisher{PublisherOf("ci", w.Publisher)},
	}
}

// PublisherOf is the publisher with that key.
func PublisherOf(name string, key *ecdsa.PrivateKey) artifacts.Publisher {
	der := Must(x509.MarshalPKIXPublicKey(key.Public()))
	return artifacts.Publisher{Name: name, KeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

// Sign adds the signatures of holders to a payload.
func Sign(doc []byte, holders ...crypto.Signer) []byte {
	payload := Must(tufrepo.PayloadBytes(doc))
	for _, key := range holders {
		var sig []byte
		if _, ok := key.(ed25519.PrivateKey); ok {
			sig = Must(key.Sign(rand.Reader, payload, crypto.Hash(0)))
		} else {
			sum := digest.Of(payload)
			sig = Must(key.Sign(rand.Reader, sum[:], crypto.SHA256))
		}
		doc = Must(tufrepo.AddSignature(doc, key.Public(), sig))
	}
	return doc
}

func publics(keys ...crypto.Signer) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, k := range keys {
		out = append(out, k.Public())
	}
	return out
}

// ImageRoot is a signed Image root. change may break it before it is signed.
func (w *World) ImageRoot(version int64, change func(*tufrepo.RootSpec)) []byte {
	return w.root(version, w.Keys.Snapshot, w.Keys.Timestamp, w.Holders, change)
}

// DirectorRoot is a signed Director root.
func (w *World) DirectorRoot(version int64, change func(*tufrepo.RootSpec)) []byte {
	return w.root(version, w.Keys.Director, w.Keys.Director, []crypto.Signer{w.Keys.Director}, change)
}

func (w *World) root(version int64, snapshot, timestamp crypto.Signer, targets []crypto.Signer, change func(*tufrepo.RootSpec)) []byte {
	spec := tufrepo.RootSpec{
		Version: version, Expires: w.Now().AddDate(1, 0, 0),
		Keys: map[string][]crypto.PublicKey{
			tufrepo.RoleRoot: publics(w.Holders...), tufrepo.RoleTargets: publics(targets...),
			tufrepo.RoleSnapshot: publics(snapshot), tufrepo.RoleTimestamp: publics(timestamp),
		},
		Threshold: map[string]int{tufrepo.RoleRoot: 2, tufrepo.RoleTargets: min(2, len(targets)), tufrepo.RoleSnapshot: 1, tufrepo.RoleTimestamp: 1},
	}
	if change != nil {
		change(&spec)
	}
	return Sign(Must(tufrepo.RootPayload(spec)), w.Holders[0], w.Holders[1])
}

// Offline is what the offline targets role is to sign.
type Offline struct {
	Version  int64
	Policies []artifacts.Policy
	Extra    map[string][]byte          // other offline targets by path
	Change   func(*tufrepo.TargetsSpec) // Optional: breaks it before it is signed
}

// Ceremony is the signed targets with their files.
func (w *World) Ceremony(o Offline) api.Ceremony {
	c := api.Ceremony{Files: map[string][]byte{}}
	spec := tufrepo.TargetsSpec{Version: o.Version, Expires: w.Now().AddDate(0, 6, 0), Files: map[string]tufrepo.File{}, Products: map[string]tufrepo.Delegation{}}
	add := func(path string, data []byte) {
		c.Files[path] = data
		spec.Files[path] = tufrepo.File{Length: int64(len(data)), SHA256: digest.Of(data)}
	}
	for _, p := range o.Policies {
		add(artifacts.PolicyPath(p.Product), Must(p.Encode()))
		spec.Products[p.Product] = tufrepo.Delegation{Keys: publics(w.Keys.Product), Threshold: 1}
	}
	for path, data := range o.Extra {
		add(path, data)
	}
	if o.Change != nil {
		o.Change(&spec)
	}
	c.Targets = Sign(Must(tufrepo.TargetsPayload(spec)), w.Holders[0], w.Holders[1])
	return c
}

// First is the first ceremony: both roots and targets with these policies.
func (w *World) First(policies ...artifacts.Policy) api.Ceremony {
	c := w.Ceremony(Offline{Version: 1, Policies: policies})
	c.ImageRoots, c.DirectorRoots = [][]byte{w.ImageRoot(1, nil)}, [][]byte{w.DirectorRoot(1, nil)}
	return c
}

// Apply applies a ceremony, or ends the test.
func (w *World) Apply(c api.Ceremony) api.CeremonyResult {
	w.T.Helper()
	out, err := w.Service.Apply(w.T.Context(), "alice", c)
	if err != nil {
		w.T.Fatalf("Apply: %v", err)
	}
	return out
}

// Upload puts a blob into the artifact store.
func (w *World) Upload(data []byte) digest.SHA256 {
	w.T.Helper()
	sum := digest.Of(data)
	if _, err := w.Blobs.Write(w.T.Context(), sum, int64(len(data)), 0, bytes.NewReader(data)); err != nil {
		w.T.Fatalf("Write: %v", err)
	}
	return sum
}
