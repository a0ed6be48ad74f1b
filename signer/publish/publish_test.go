package publish_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/signer/keys"
	"github.com/cordon-ota/cordon/signer/publish"
)

// memory is a Server in memory that verifies bundles with the real verifier.
type memory struct {
	policy   artifacts.Policy
	blobs    map[digest.SHA256][]byte
	releases []api.Release
	asked    int                  // dry runs
	requests []api.PublishRequest // the others
	fail     error                // what Publish answers
	faster   *api.Release         // another pipeline's release, which comes in between the dry run and the publish, once
}

func (m *memory) Releases(context.Context, string, string) (api.Page[api.Release], error) {
	return api.Page[api.Release]{Items: m.releases}, nil
}

func (m *memory) Uploaded(_ context.Context, d digest.SHA256, length int64) (api.Upload, error) {
	n := int64(len(m.blobs[d]))
	return api.Upload{Offset: n, Length: length, Complete: n == length}, nil
}

func (m *memory) Send(_ context.Context, d digest.SHA256, length int64, r io.ReaderAt, progress func(int64)) error {
	at := int64(len(m.blobs[d]))
	progress(at)
	b, err := io.ReadAll(io.NewSectionReader(r, 0, length))
	if err != nil {
		return err
	}
	if digest.Of(b) != d {
		return &api.Error{Problem: wire.Problem{Status: 422, Reason: reason.ArtifactMismatch, Title: "mismatch"}}
	}
	m.blobs[d] = b
	progress(length)
	return nil
}

func (m *memory) Publish(_ context.Context, r api.PublishRequest) (api.Release, error) {
	if r.DryRun {
		m.asked++
	} else {
		m.requests = append(m.requests, r)
	}
	if m.fail != nil {
		return api.Release{}, m.fail
	}
	if m.faster != nil && !r.DryRun {
		m.releases, m.faster = append(m.releases, *m.faster), nil
	}
	proof, err := provenance.VerifyAll(r.Bundles, m.policy, provenance.Options{})
	if err != nil {
		return api.Release{}, err
	}
	if len(proof.Refusals) > 0 {
		return api.Release{}, &api.Error{Problem: wire.Problem{Status: 422, Reason: proof.Refusals[0].Reason, Title: proof.Refusals[0].Detail}}
	}
	if slices.ContainsFunc(m.releases, func(o api.Release) bool { return o.Release.Counter == proof.Statement.Predicate.Counter }) {
		return api.Release{}, &api.Error{Problem: wire.Problem{Status: 409, Reason: reason.CounterRefused}}
	}
	out := api.Release{State: api.ReleasePublished, Release: proof.Statement.Predicate, Publishers: proof.Signers, Changed: true}
	if !r.DryRun {
		m.releases = append(m.releases, out)
	}
	return out, nil
}

func newPublisher(t *testing.T, name string) (crypto.Signer, artifacts.Publisher) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keys.EncodePublic(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, artifacts.Publisher{Name: name, KeyPEM: string(text)}
}

func newMemory(threshold int, publishers ...artifacts.Publisher) *memory {
	return &memory{blobs: map[digest.SHA256][]byte{}, policy: artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: "gateway", Threshold: threshold, Publishers: publishers,
	}}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func options(t *testing.T, key crypto.Signer, text string) publish.Options {
	t.Helper()
	return publish.Options{Product: "gateway", Version: "1.0", Key: key, Components: []publish.Spec{
		{Name: "b", File: writeFile(t, "b.img", "second "+text), Hardware: []string{"board-a"}, Installer: "rauc"},
		{Name: "a", File: writeFile(t, "a.img", "first "+text), Hardware: []string{"board-a"}, Installer: "rauc"},
	}}
}

func run(t *testing.T, m *memory, o publish.Options) publish.Result {
	t.Helper()
	got, err := publish.Run(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSameReleaseAgainAsksNothingOfTheServer(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	first := run(t, m, options(t, key, "image"))
	again := run(t, m, options(t, key, "image"))
	if !first.Changed || again.Changed || again.Counter != first.Counter || len(m.requests) != 1 || again.Uploaded != 0 {
		t.Errorf("first %+v, again %+v, %d requests", first, again, len(m.requests))
	}
}

func TestSameVersionWithOtherContentIsAConflict(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	run(t, m, options(t, key, "image"))
	for name, change := range map[string]func(*publish.Options){
		"bytes":         func(o *publish.Options) { o.Components[0].File = writeFile(t, "x.img", "other") },
		"hardware":      func(o *publish.Options) { o.Components[0].Hardware = []string{"board-b"} },
		"installer":     func(o *publish.Options) { o.Components[0].Installer = "script" },
		"one component": func(o *publish.Options) { o.Components = o.Components[:1] },
		"another name":  func(o *publish.Options) { o.Components[0].Name = "c" },
		"counter":       func(o *publish.Options) { o.Counter = 9 },
		"floor":         func(o *publish.Options) { o.Floor = 1 },
		"minimum tier":  func(o *publish.Options) { o.MinimumTier = 2 },
		"recovery":      func(o *publish.Options) { o.Recovery = true },
	} {
		o := options(t, key, "image")
		change(&o)
		if _, err := publish.Run(t.Context(), m, o); !errors.Is(err, publish.ErrConflict) {
			t.Errorf("%s: error = %v, want ErrConflict", name, err)
		}
	}
	if len(m.requests) != 1 {
		t.Errorf("%d requests, want 1", len(m.requests))
	}
}

func TestConflictThatTheServerFindsIsTheSameError(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	m.fail = &api.Error{Problem: wire.Problem{Status: 409, Reason: reason.ReleaseConflict}}
	if _, err := publish.Run(t.Context(), m, options(t, key, "image")); !errors.Is(err, publish.ErrConflict) {
		t.Errorf("error = %v, want ErrConflict", err)
	}
}

func TestCounterContinuesAfterTheHighest(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	m.releases = []api.Release{
		{Release: artifacts.Release{Product: "gateway", Version: "0.9", Counter: 7}},
		{Release: artifacts.Release{Product: "gateway", Version: "0.8", Counter: 3}},
		{Release: artifacts.Release{Product: "other", Version: "1.0", Counter: 90}},
	}
	if got, want := run(t, m, options(t, key, "image")).Counter, uint64(8); got != want {
		t.Errorf("counter = %d, want %d", got, want)
	}
}

func TestCounterThatAnotherPipelineTook(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	m.faster = &api.Release{Release: artifacts.Release{Product: "gateway", Version: "0.9", Counter: 1}}
	if got, want := run(t, m, options(t, key, "image")).Counter, uint64(2); got != want {
		t.Errorf("counter = %d, want %d", got, want)
	}
	m.faster = &api.Release{Release: artifacts.Release{Product: "gateway", Version: "1.0.1", Counter: 3}}
	o := options(t, key, "image")
	o.Version, o.Counter = "1.1", 3 // a counter that was asked for is never changed
	if _, err := publish.Run(t.Context(), m, o); api.ReasonOf(err) != reason.CounterRefused {
		t.Errorf("error = %v, want counter_refused", err)
	}
}

func TestTwoPublishersOverOneStatement(t *testing.T) {
	t.Parallel()
	keyA, a := newPublisher(t, "builder-a")
	keyB, b := newPublisher(t, "builder-b")
	m := newMemory(2, a, b)
	if _, err := publish.Run(t.Context(), m, options(t, keyA, "image")); api.ReasonOf(err) != reason.PublisherRefused {
		t.Fatalf("one of two: error = %v, want publisher_refused", err)
	}
	dry := options(t, keyA, "image")
	dry.DryRun = true
	first, err := publish.Run(t.Context(), m, dry) // refused, and yet the other one gets a bundle to sign beside
	if api.ReasonOf(err) != reason.PublisherRefused || first.Bundle == nil {
		t.Fatalf("dry run of one of two: %+v, %v, want publisher_refused and a bundle", first, err)
	}
	o := options(t, keyB, "image")
	o.Bundles = [][]byte{first.Bundle}
	if got := run(t, m, o); !got.Changed {
		t.Error("two of two: nothing changed")
	}
}

func TestDryRunUploadsNothing(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	o := options(t, key, "image")
	o.DryRun = true
	got := run(t, m, o)
	if len(m.blobs) != 0 || len(m.requests) != 0 || m.asked != 1 || got.Checked != "server" {
		t.Errorf("%d blobs, %d requests, %d asked, checked %q", len(m.blobs), len(m.requests), m.asked, got.Checked)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got.Missing); diff != "" {
		t.Error(diff)
	}
}

// TestRefusalComesBeforeTheUpload: a large image is not uploaded to learn that nobody wanted it.
func TestRefusalComesBeforeTheUpload(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	stranger, _ := newPublisher(t, "stranger")
	taken := api.Release{Release: artifacts.Release{Product: "gateway", Version: "0.9", Counter: 7}}
	for name, c := range map[string]struct {
		key     crypto.Signer
		counter uint64
		want    reason.Reason
	}{
		"stranger":      {stranger, 0, reason.PublisherRefused},
		"taken counter": {key, 7, reason.CounterRefused},
	} {
		for _, dryRun := range []bool{false, true} {
			m := newMemory(1, pub)
			m.releases = []api.Release{taken}
			o := options(t, c.key, "image")
			o.Counter, o.DryRun = c.counter, dryRun
			if _, err := publish.Run(t.Context(), m, o); api.ReasonOf(err) != c.want {
				t.Errorf("%s, dry run %t: error = %v, want %s", name, dryRun, err, c.want)
			}
			if len(m.blobs) != 0 || len(m.requests) != 0 {
				t.Errorf("%s, dry run %t: %d blobs, %d requests", name, dryRun, len(m.blobs), len(m.requests))
			}
		}
	}
}

func TestImageThatChangesIsNotPublished(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	o := options(t, key, "image")
	o.Progress = func(what, name string, _, _ int64) {
		if what == "upload" && name == "a" {
			if err := os.WriteFile(o.Components[0].File, []byte("second other"), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := publish.Run(t.Context(), m, o); !errors.Is(err, publish.ErrChanged) {
		t.Errorf("error = %v, want ErrChanged", err)
	}
	if len(m.requests) != 0 {
		t.Error("it was published")
	}
}

func TestRefusesWhatIsNoImage(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	for name, path := range map[string]string{"empty": writeFile(t, "e", ""), "directory": t.TempDir(), "gone": filepath.Join(t.TempDir(), "gone")} {
		o := options(t, key, "image")
		o.Components[0].File = path
		if _, err := publish.Run(t.Context(), newMemory(1, pub), o); !errors.Is(err, publish.ErrImage) {
			t.Errorf("%s: error = %v, want ErrImage", name, err)
		}
	}
	o := options(t, key, "image")
	o.Components[0].Measured = true
	if _, err := publish.Run(t.Context(), newMemory(1, pub), o); !errors.Is(err, publish.ErrNotUKI) {
		t.Errorf("measured: error = %v, want ErrNotUKI", err)
	}
}

func TestSBOMGoesWithItsComponent(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	o := options(t, key, "image")
	o.SBOMs = map[string]string{"a": writeFile(t, "a.json", "{}")}
	run(t, m, o)
	sum := digest.Of([]byte("{}"))
	if m.requests[0].SBOMs["a"] != sum || !bytes.Equal(m.blobs[sum], []byte("{}")) {
		t.Error("the SBOM did not arrive")
	}
	o.SBOMs = map[string]string{"nobody": writeFile(t, "n.json", "{}")}
	o.Version = "1.1"
	if _, err := publish.Run(t.Context(), m, o); !errors.Is(err, publish.ErrSpec) {
		t.Errorf("SBOM of no component: error = %v, want ErrSpec", err)
	}
}

func TestParseSpec(t *testing.T) {
	t.Parallel()
	tests := map[string]publish.Spec{
		"app=out/app.efi,hw=board-b+board-a,installer=uki": {Name: "app", File: "out/app.efi", Hardware: []string{"board-a", "board-b"}, Installer: "uki", Measured: true},
		"app=a=b.img,installer=ab,hw=x,measured=no":        {Name: "app", File: "a=b.img", Hardware: []string{"x"}, Installer: "ab"},
		"app=a.img,hw=x,installer=rauc":                    {Name: "app", File: "a.img", Hardware: []string{"x"}, Installer: "rauc"},
	}
	for text, want := range tests {
		got, err := publish.ParseSpec(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	for _, text := range []string{
		"", "app", "app=", "=file", "App=f,hw=x,installer=uki", "app=f,hw=x", "app=f,installer=uki", "app=f,hw=x,installer=uki,measured=maybe",
		"app=f,hw=x,hw=y,installer=uki", "app=f,hw=x,installer=uki,colour=red", "app=f,hw=,installer=uki",
	} {
		if _, err := publish.ParseSpec(text); !errors.Is(err, publish.ErrSpec) {
			t.Errorf("%q: error = %v, want ErrSpec", text, err)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("app=out/app.efi,hw=board-b+board-a,installer=uki,measured=yes")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := publish.ParseSpec(text)
		if err == nil && (artifacts.ValidName(s.Name) != nil || s.File == "" || strings.Contains(s.File, ",")) {
			t.Errorf("ParseSpec(%q) = %+v", text, s)
		}
	})
}
