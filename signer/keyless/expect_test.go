package keyless_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/signer/keyless"
	"github.com/cordon-ota/cordon/signer/keys"
)

// repository is an Image repository in memory, signed with real keys.
type repository map[string][]byte

func (r repository) RepoFile(_ context.Context, name string) ([]byte, error) {
	if b, ok := r[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (r repository) ImageRoot(ctx context.Context, version int64) ([]byte, error) {
	return r.RepoFile(ctx, tufrepo.FileName(version, tufrepo.RoleRoot))
}

func holderKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func hold(t *testing.T, doc []byte, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	payload, err := tufrepo.PayloadBytes(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if doc, err = tufrepo.AddSignature(doc, key.Public(), ed25519.Sign(key, payload)); err != nil {
			t.Fatal(err)
		}
	}
	return doc
}

// newRepository signs files as the offline role does, under root version 2.
func newRepository(t *testing.T, files map[string][]byte) repository {
	t.Helper()
	key, expires := holderKey(t), now.Add(time.Hour)
	r := repository{}
	for version := range int64(2) {
		spec := tufrepo.RootSpec{Version: version + 1, Expires: expires, Keys: map[string][]crypto.PublicKey{}, Threshold: map[string]int{}}
		for _, role := range []string{tufrepo.RoleRoot, tufrepo.RoleTargets, tufrepo.RoleSnapshot, tufrepo.RoleTimestamp} {
			spec.Keys[role], spec.Threshold[role] = []crypto.PublicKey{key.Public()}, 1
		}
		doc, err := tufrepo.RootPayload(spec)
		if err != nil {
			t.Fatal(err)
		}
		r[tufrepo.FileName(version+1, tufrepo.RoleRoot)] = hold(t, doc, key)
	}
	spec := tufrepo.TargetsSpec{Version: 1, Expires: expires, Files: map[string]tufrepo.File{}}
	for path, b := range files {
		spec.Files[path] = tufrepo.File{Length: int64(len(b)), SHA256: digest.Of(b)}
		r[tufrepo.TargetFileName(path, digest.Of(b))] = b
	}
	targets, err := tufrepo.TargetsPayload(spec)
	if err != nil {
		t.Fatal(err)
	}
	targets = hold(t, targets, key)
	snapshot, err := tufrepo.SignSnapshot(1, expires, map[string]tufrepo.Doc{tufrepo.RoleTargets: tufrepo.DocOf(1, targets)}, key)
	if err != nil {
		t.Fatal(err)
	}
	timestamp, err := tufrepo.SignTimestamp(1, expires, tufrepo.DocOf(1, snapshot), [32]byte{1}, key)
	if err != nil {
		t.Fatal(err)
	}
	r[tufrepo.FileName(1, tufrepo.RoleTargets)], r[tufrepo.FileName(1, tufrepo.RoleSnapshot)], r[tufrepo.TimestampName] = targets, snapshot, timestamp
	return r
}

func encodePolicy(t *testing.T, p artifacts.Policy) []byte {
	t.Helper()
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goodFiles(t *testing.T) map[string][]byte {
	t.Helper()
	p := policyFor(parts.Identity{Issuer: "https://ci.example", Subject: "https://ci.example/acme"})
	p.Publishers[0].Refs = nil
	return map[string][]byte{artifacts.PolicyPath("gateway"): encodePolicy(t, p), artifacts.TrustedRootPath: []byte(`{"a":"root"}`)}
}

func TestFetchReadsWhatTheHoldersSigned(t *testing.T) {
	t.Parallel()
	files := goodFiles(t)
	got, err := keyless.Fetch(t.Context(), newRepository(t, files), 2, "gateway", now)
	if err != nil {
		t.Fatal(err)
	}
	if got.Policy.Product != "gateway" || string(got.TrustedRoot) != string(files[artifacts.TrustedRootPath]) {
		t.Errorf("got %+v", got)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	keysOnly := artifacts.Policy{Version: artifacts.PolicyVersion, Product: "gateway", Threshold: 1, Publishers: []artifacts.Publisher{{Name: "vendor", KeyPEM: publisherKey(t)}}}
	tests := map[string]struct {
		change func(files map[string][]byte)
		spoil  func(r repository)
		at     time.Time
		want   error
	}{
		"no policy":       {change: func(f map[string][]byte) { delete(f, artifacts.PolicyPath("gateway")) }, want: keyless.ErrNoPolicy},
		"keys only":       {change: func(f map[string][]byte) { f[artifacts.PolicyPath("gateway")] = encodePolicy(t, keysOnly) }, want: keyless.ErrKeysOnly},
		"no trusted root": {change: func(f map[string][]byte) { delete(f, artifacts.TrustedRootPath) }, want: keyless.ErrNoTrustedRoot},
		"no JSON":         {change: func(f map[string][]byte) { f[artifacts.PolicyPath("gateway")] = []byte("{") }, want: keyless.ErrRepository},
		"too large": {change: func(f map[string][]byte) {
			f[artifacts.PolicyPath("gateway")] = make([]byte, artifacts.MaxPolicyBytes+1)
		}, want: keyless.ErrRepository},
		"expired": {at: now.Add(2 * time.Hour), want: keyless.ErrRepository},
		"another policy of that name": {spoil: func(r repository) {
			for name, b := range r {
				if strings.HasPrefix(name, "targets/policy/") {
					r[name] = bytes.Replace(b, []byte(`"ci"`), []byte(`"cj"`), 1) // of the same length
				}
			}
		}, want: keyless.ErrRepository},
		"targets of another repository":   {spoil: func(r repository) { copyFrom(t, r, tufrepo.FileName(1, tufrepo.RoleTargets)) }, want: keyless.ErrRepository},
		"timestamp of another repository": {spoil: func(r repository) { copyFrom(t, r, tufrepo.TimestampName) }, want: keyless.ErrRepository},
		"root of another repository":      {spoil: func(r repository) { copyFrom(t, r, tufrepo.FileName(2, tufrepo.RoleRoot)) }, want: keyless.ErrRepository},
		"a file that is gone":             {spoil: func(r repository) { delete(r, tufrepo.FileName(1, tufrepo.RoleSnapshot)) }, want: fs.ErrNotExist},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := goodFiles(t)
			if test.change != nil {
				test.change(files)
			}
			r := newRepository(t, files)
			if test.spoil != nil {
				test.spoil(r)
			}
			at := now
			if !test.at.IsZero() {
				at = test.at
			}
			if _, err := keyless.Fetch(t.Context(), r, 2, "gateway", at); !errors.Is(err, test.want) {
				t.Errorf("error = %v, want %v", err, test.want)
			}
		})
	}
}

func publisherKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keys.EncodePublic(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// copyFrom puts a file of another, well signed repository into this one.
func copyFrom(t *testing.T, r repository, name string) {
	t.Helper()
	maps.Copy(r, repository{name: newRepository(t, goodFiles(t))[name]})
}
