package tufrepo_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
)

// One holder lists the own key a second time: a member that nobody knows gives it another key id, and both ids are
// right. A threshold of two would then be met by one holder.
func TestOneKeyUnderTwoIDsIsRefused(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.PublicKey{public, other}
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	doc, err := tufrepo.RootPayload(tufrepo.RootSpec{Version: 1, Expires: now.AddDate(1, 0, 0),
		Keys:      map[string][]crypto.PublicKey{"root": keys, "targets": keys, "snapshot": {public}, "timestamp": {public}},
		Threshold: map[string]int{"root": 2, "targets": 2, "snapshot": 1, "timestamp": 1}})
	if err != nil {
		t.Fatal(err)
	}
	root, err := new(metadata.Metadata[metadata.RootType]).FromBytes(doc)
	if err != nil {
		t.Fatal(err)
	}
	own, err := tufrepo.KeyID(public)
	if err != nil {
		t.Fatal(err)
	}
	gone, err := tufrepo.KeyID(other)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(root.Signed.Keys[own])
	if err != nil {
		t.Fatal(err)
	}
	twin := new(metadata.Key)
	if err := json.Unmarshal(b, twin); err != nil {
		t.Fatal(err)
	}
	twin.UnrecognizedFields = map[string]any{"x-note": "mine too"}
	id, err := twin.ID()
	if err != nil || id == own {
		t.Fatalf("ID = %s, %v, want another one than %s", id, err, own)
	}
	delete(root.Signed.Keys, gone)
	root.Signed.Keys[id] = twin
	for _, role := range []string{"root", "targets"} {
		root.Signed.Roles[role].KeyIDs = []string{own, id}
	}
	root.ClearSignatures()
	unsigned, err := root.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := tufrepo.PayloadBytes(unsigned)
	if err != nil {
		t.Fatal(err)
	}
	sig := ed25519.Sign(private, payload)
	for _, keyID := range []string{own, id} {
		root.Signatures = append(root.Signatures, metadata.Signature{KeyID: keyID, Signature: sig})
	}
	signed, err := root.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tufrepo.NewImage(signed, now); !errors.Is(err, tufrepo.ErrMalformed) {
		t.Errorf("NewImage with %s twice: %v, want ErrMalformed", hex.EncodeToString(public), err)
	}
}
