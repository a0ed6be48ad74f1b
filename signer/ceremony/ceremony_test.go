package ceremony_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/ceremony"
	"github.com/cordon-ota/cordon/signer/keys"
)

var (
	now     = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	expires = now.AddDate(1, 0, 0)
)

type holder struct {
	key crypto.Signer
	ceremony.HolderKey
}

func newHolder(t *testing.T, name string) holder {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return holder{key, ceremony.HolderKey{Name: name, Public: key.Public()}}
}

func online(t *testing.T) []api.OnlineKey {
	t.Helper()
	var out []api.OnlineKey
	for _, use := range []string{api.KeySnapshot, api.KeyTimestamp, api.KeyProduct, api.KeyDirector} {
		pub := publisherKey(t).Public()
		text, err := keys.EncodePublic(pub)
		if err != nil {
			t.Fatal(err)
		}
		fingerprint, err := keys.Fingerprint(pub)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, api.OnlineKey{Use: use, PublicPEM: string(text), Fingerprint: fingerprint})
	}
	return out
}

func publisherKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func policy(t *testing.T) artifacts.Policy {
	t.Helper()
	text, err := keys.EncodePublic(publisherKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: "gateway", Threshold: 1,
		Publishers: []artifacts.Publisher{{Name: "ci", KeyPEM: string(text)}},
	}
}

// begin makes a ceremony of alice and bob, threshold 2, nothing signed.
func begin(t *testing.T) (d *ceremony.Dir, path string, alice, bob holder) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ceremony")
	d, err := ceremony.Create(path, ceremony.Settings{Server: "https://cordon.example:8444", CASHA256: digest.Of([]byte("ca")), Keys: online(t)})
	if err != nil {
		t.Fatal(err)
	}
	alice, bob = newHolder(t, "alice"), newHolder(t, "bob")
	if err := d.Init([]ceremony.HolderKey{alice.HolderKey, bob.HolderKey}, 2, expires); err != nil {
		t.Fatal(err)
	}
	return d, path, alice, bob
}

func sign(t *testing.T, d *ceremony.Dir, holders ...holder) {
	t.Helper()
	for _, h := range holders {
		if _, err := d.Sign(h.key); err != nil {
			t.Fatal(err)
		}
	}
}

func apply(t *testing.T, d *ceremony.Dir) {
	t.Helper()
	out, err := d.Assemble(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Applied(out); err != nil {
		t.Fatal(err)
	}
}

func wantAssemble(t *testing.T, d *ceremony.Dir, want error) {
	t.Helper()
	if _, err := d.Assemble(now); !errors.Is(err, want) {
		t.Errorf("Assemble() error = %v, want %v", err, want)
	}
}

// edit changes a file of the directory by hand.
func edit(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not hold %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), old, new)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOneOfTwoIsNotEnough(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	wantAssemble(t, d, ceremony.ErrThreshold)
	sign(t, d, alice)
	wantAssemble(t, d, ceremony.ErrThreshold)
	sign(t, d, alice) // the same holder again counts once
	wantAssemble(t, d, ceremony.ErrThreshold)
	sign(t, d, bob)
	wantAssemble(t, d, nil)
}

func TestForeignKeyIsRefused(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	mallory := newHolder(t, "mallory")
	if _, err := d.Sign(mallory.key); !errors.Is(err, ceremony.ErrForeign) {
		t.Errorf("Sign() error = %v, want ErrForeign", err)
	}
	sign(t, d, alice, bob)

	// the signature file of somebody whom nobody asked, slipped in
	other, otherPath, _, _ := begin(t)
	if err := os.RemoveAll(otherPath); err != nil {
		t.Fatal(err)
	}
	other, err := ceremony.Create(otherPath, other.Settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Init([]ceremony.HolderKey{mallory.HolderKey}, 1, expires); err != nil {
		t.Fatal(err)
	}
	sign(t, other, mallory)
	copyDir(t, filepath.Join(otherPath, "signatures", ceremony.ImageRoot), filepath.Join(path, "signatures", ceremony.ImageRoot))
	wantAssemble(t, d, ceremony.ErrForeign)
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPayloadTamperedAfterASignatureIsDetected(t *testing.T) {
	t.Parallel()
	for _, name := range []string{ceremony.ImageRoot, ceremony.DirectorRoot, ceremony.Targets} {
		d, path, alice, bob := begin(t)
		sign(t, d, alice, bob)
		edit(t, filepath.Join(path, "pending", name), "2027-11-22", "2037-11-22")
		wantAssemble(t, d, ceremony.ErrTampered)
		if _, err := d.Show(); !errors.Is(err, ceremony.ErrTampered) {
			t.Errorf("%s: Show() error = %v, want ErrTampered", name, err)
		}
	}
}

func TestSignatureUnderAnotherPayloadDigestIsDetected(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	sign(t, d, alice, bob)
	doc := filepath.Join(path, "pending", ceremony.Targets)
	before := payloadDigest(t, doc)
	edit(t, doc, "2027-11-22", "2037-11-22")
	entries, err := os.ReadDir(filepath.Join(path, "signatures", ceremony.Targets))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		edit(t, filepath.Join(path, "signatures", ceremony.Targets, e.Name()), before, payloadDigest(t, doc))
	}
	wantAssemble(t, d, ceremony.ErrTampered)
}

func payloadDigest(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := tufrepo.PayloadBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return digest.Of(payload).String()
}

func TestOfflineFileTamperedIsDetected(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	if _, err := d.SetPolicy(policy(t), expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	edit(t, filepath.Join(path, "pending", "files", "policy", "gateway.json"), `"minimum_tier":0`, `"minimum_tier":1`)
	wantAssemble(t, d, ceremony.ErrInvalid)
}

func TestFileThatNobodySignedIsRefused(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	sign(t, d, alice, bob)
	if err := os.MkdirAll(filepath.Join(path, "pending", "files", "policy"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "pending", "files", "policy", "extra.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantAssemble(t, d, ceremony.ErrInvalid)
}

func TestSignaturesOfAnOlderPayloadAreDropped(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	sign(t, d, alice, bob)
	change, err := d.SetPolicy(policy(t), expires)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := change.Dropped, 2; got != want {
		t.Errorf("dropped %d signatures, want %d", got, want)
	}
	wantAssemble(t, d, ceremony.ErrThreshold)
	sign(t, d, bob, alice)
	wantAssemble(t, d, nil)
}

func TestSameChangeAgainKeepsTheSignatures(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	p := policy(t)
	if _, err := d.SetPolicy(p, expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	change, err := d.SetPolicy(p, expires.AddDate(0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	if change.Changed || change.Dropped != 0 {
		t.Errorf("change = %+v, want none", change)
	}
	apply(t, d)
}

func TestSignsWhatWasShown(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	review, err := d.Review()
	if err != nil {
		t.Fatal(err)
	}
	// between the look and the signature somebody changes the directory
	edit(t, filepath.Join(path, "pending", ceremony.Targets), "2027-11-22", "2037-11-22")
	if _, err := review.Sign(alice.key); err != nil {
		t.Fatal(err)
	}
	wantAssemble(t, d, ceremony.ErrTampered)
	edit(t, filepath.Join(path, "pending", ceremony.Targets), "2037-11-22", "2027-11-22")
	sign(t, d, bob)
	wantAssemble(t, d, nil)
}

func TestChangeStartsOneVersionAboveTheCurrent(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	sign(t, d, alice, bob)
	apply(t, d)
	wantAssemble(t, d, ceremony.ErrNothing)
	for range 2 { // a second change joins the pending one
		change, err := d.SetPolicy(policy(t), expires)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := change.Version, int64(2); got != want {
			t.Errorf("version = %d, want %d", got, want)
		}
	}
}

func TestApplyCutOffBetweenItsWritesCanBeRepeated(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	sign(t, d, alice, bob)
	out, err := d.Assemble(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "current"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "current", ceremony.ImageRoot), out.Docs[ceremony.ImageRoot], 0o644); err != nil {
		t.Fatal(err)
	}
	apply(t, d)
	wantAssemble(t, d, ceremony.ErrNothing)
}

func TestNewRootNeedsOldAndNewHolders(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	sign(t, d, alice, bob)
	apply(t, d)
	carol, dave := newHolder(t, "carol"), newHolder(t, "dave")
	err := d.Rotate(ceremony.Rotation{Add: []ceremony.HolderKey{carol.HolderKey, dave.HolderKey}, Remove: []crypto.PublicKey{alice.Public, bob.Public}, Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	sign(t, d, carol, dave)
	wantAssemble(t, d, ceremony.ErrThreshold)
	sign(t, d, alice)
	wantAssemble(t, d, ceremony.ErrThreshold)
	sign(t, d, bob)
	apply(t, d)
	if _, err := d.SetPolicy(policy(t), expires); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sign(alice.key); !errors.Is(err, ceremony.ErrForeign) {
		t.Errorf("Sign() by a former holder: error = %v, want ErrForeign", err)
	}
}

func TestServerKeyCannotBeAHolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ceremony")
	ks := online(t)
	d, err := ceremony.Create(path, ceremony.Settings{Keys: ks})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := keys.ParsePublic([]byte(ks[0].PublicPEM))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Init([]ceremony.HolderKey{{Name: "x", Public: pub}}, 1, expires); !errors.Is(err, ceremony.ErrInvalid) {
		t.Errorf("Init() error = %v, want ErrInvalid", err)
	}
}

func TestServerKeyWithAnotherFingerprintIsRefused(t *testing.T) {
	t.Parallel()
	ks := online(t)
	ks[1].Fingerprint = ks[0].Fingerprint
	d, err := ceremony.Create(filepath.Join(t.TempDir(), "ceremony"), ceremony.Settings{Keys: ks})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Init([]ceremony.HolderKey{newHolder(t, "alice").HolderKey}, 1, expires); !errors.Is(err, ceremony.ErrInvalid) {
		t.Errorf("Init() error = %v, want ErrInvalid", err)
	}
}

func TestExpiredPayloadIsNotAssembled(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	sign(t, d, alice, bob)
	if _, err := d.Assemble(expires); !errors.Is(err, ceremony.ErrInvalid) {
		t.Errorf("Assemble() error = %v, want ErrInvalid", err)
	}
}

func TestPolicyFileCannotLoseWhatWasDecided(t *testing.T) {
	t.Parallel()
	d, _, _, _ := begin(t)
	p := policy(t)
	p.MinimumCounter = 7
	if _, err := d.SetPolicy(p, expires); err != nil {
		t.Fatal(err)
	}
	bad := digest.Of([]byte("bad image"))
	if _, err := d.Withdraw("gateway", bad, expires); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AllowRecovery("gateway", bad, expires); !errors.Is(err, artifacts.ErrPolicy) {
		t.Errorf("AllowRecovery() of a withdrawn image: error = %v, want ErrPolicy", err)
	}
	if _, err := d.SetPolicy(p, expires); err != nil {
		t.Fatal(err)
	}
	got, err := d.Policy("gateway")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Withdrawn) != 1 || got.Withdrawn[0] != bad {
		t.Errorf("withdrawn = %v, want %v", got.Withdrawn, bad)
	}
	p.MinimumCounter = 6
	if _, err := d.SetPolicy(p, expires); !errors.Is(err, artifacts.ErrPolicy) {
		t.Errorf("SetPolicy() with a lower counter: error = %v, want ErrPolicy", err)
	}
}

func TestNamesCannotWriteToTheTerminal(t *testing.T) {
	t.Parallel()
	_, path, _, _ := begin(t)
	edit(t, filepath.Join(path, "ceremony.json"), `"alice"`, `"\u001b[2Jbob"`)
	d, err := ceremony.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := d.Show()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "\x1b") {
		t.Error("Show() passes escape sequences on")
	}
}

func TestRequestLeavesKnownFilesOutOnlyWhenItMust(t *testing.T) {
	t.Parallel()
	small := ceremony.Assembled{Files: map[string][]byte{"policy/a.json": []byte("a")}}
	if got, want := len(small.Request(small.Files).Files), 1; got != want {
		t.Errorf("small: %d files, want %d", got, want)
	}
	large := ceremony.Assembled{Files: map[string][]byte{"policy/a.json": make([]byte, api.MaxCeremonyBytes), "policy/b.json": []byte("b")}}
	got := large.Request(map[string][]byte{"policy/a.json": make([]byte, api.MaxCeremonyBytes)}).Files
	if _, ok := got["policy/b.json"]; !ok || len(got) != 1 {
		t.Errorf("large: %d files, want the changed one", len(got))
	}
}
