package repository_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

func wantReason(t *testing.T, err error, want reason.Reason) {
	t.Helper()
	var known *problem.Error
	if !errors.As(err, &known) {
		t.Fatalf("got error %v, want the reason %s", err, want)
	}
	if known.Reason != want {
		t.Errorf("got reason %s (%s), want %s", known.Reason, known.Detail, want)
	}
}

// client walks what a service serves as a device does that knows root 1 only: nothing but the served timestamp, and files
// of the artifact store.
func client(t *testing.T, w *repositorytest.World, s *repository.Service) *tufrepo.Image {
	t.Helper()
	catalog := s.Catalog()
	if !catalog.Initialised() {
		t.Fatal("the catalog is not initialised")
	}
	image, err := tufrepo.NewImage(file(t, w, "1.root.json"), w.Now())
	if err != nil {
		t.Fatalf("root 1: %v", err)
	}
	for v := int64(2); v <= int64(len(catalog.ImageRoots)); v++ {
		if err := image.UpdateRoot(file(t, w, tufrepo.FileName(v, tufrepo.RoleRoot))); err != nil {
			t.Fatalf("root %d: %v", v, err)
		}
	}
	if err := image.Timestamp(catalog.Timestamp); err != nil {
		t.Fatalf("timestamp: %v", err)
	}
	fetch(t, w, image, "")
	for product := range catalog.Products {
		fetch(t, w, image, product)
	}
	return image
}

func fetch(t *testing.T, w *repositorytest.World, image *tufrepo.Image, product string) {
	t.Helper()
	for {
		want, err := image.Next(product)
		if err != nil {
			t.Fatalf("next of %q: %v", product, err)
		}
		if want == nil {
			return
		}
		if err := image.Accept(want, file(t, w, want.Name)); err != nil {
			t.Fatalf("%s: %v", want.Name, err)
		}
	}
}

func file(t *testing.T, w *repositorytest.World, name string) []byte {
	t.Helper()
	data, _, err := w.Blobs.Load(t.Context(), tufrepo.StorePrefix+name)
	if err != nil {
		t.Fatalf("file %s: %v", name, err)
	}
	return data
}

// check verifies every invariant from outside: all that is served verifies, the catalog's beacon is recorded as issued,
// every release in the metadata is authentic, and its documents are there.
func check(t *testing.T, w *repositorytest.World, s *repository.Service) *tufrepo.Image {
	t.Helper()
	image := client(t, w, s)
	catalog := s.Catalog()
	beacon, err := w.Store.Beacon(t.Context(), catalog.Beacon)
	if err != nil || beacon.Version != catalog.TimestampVersion || digest.Of(catalog.Timestamp) != catalog.Beacon {
		t.Errorf("the beacon of timestamp %d: %v", catalog.TimestampVersion, err)
	}
	for name, p := range catalog.Products {
		for _, r := range p.Releases {
			withdrawn := slices.ContainsFunc(r.Statement.Predicate.Components, func(c artifacts.Component) bool {
				return slices.Contains(p.Policy.Withdrawn, c.SHA256)
			})
			for _, c := range r.Statement.Predicate.Components {
				checkTarget(t, w, image, p.Policy, r, c, withdrawn)
			}
		}
		for _, path := range image.Paths(name) {
			if len(p.Releases) == 0 {
				t.Errorf("%s is in the metadata, but the catalog has no release", path)
			}
		}
	}
	return image
}

func checkTarget(t *testing.T, w *repositorytest.World, image *tufrepo.Image, policy artifacts.Policy, r *repository.Release, c artifacts.Component, withdrawn bool) {
	t.Helper()
	path := artifacts.TargetPath(r.Statement.Predicate.Product, r.Statement.Predicate.Version, c.Name)
	target, _, ok := image.Target(path)
	if ok == withdrawn {
		t.Errorf("%s: in the metadata %v, withdrawn %v", path, ok, withdrawn)
	}
	if !ok {
		return
	}
	bundle, _, ok := image.Target(path + artifacts.BundleSuffix)
	if !ok {
		t.Fatalf("%s has no bundle", path)
	}
	proof, err := provenance.Verify(blob(t, w, bundle.SHA256), policy, provenance.Options{})
	if err != nil || len(proof.Refusals) > 0 {
		t.Fatalf("%s: bundle: %v %v", path, err, proof.Refusals)
	}
	custom, err := artifacts.DecodeCustom(target.Custom)
	if err != nil {
		t.Fatalf("%s: custom: %v", path, err)
	}
	if refusals := append(artifacts.CheckCustom(proof.Statement, c.Name, custom), artifacts.CheckImage(proof.Statement, c.Name, target.Length, target.SHA256)...); len(refusals) > 0 {
		t.Errorf("%s: %v", path, refusals)
	}
	for name, sum := range r.Documents {
		document, _, ok := image.Target(artifacts.TargetPath(r.Statement.Predicate.Product, r.Statement.Predicate.Version, name))
		if !ok || document.SHA256 != sum || int64(len(blob(t, w, sum))) != document.Length {
			t.Errorf("document %s of %s: in the metadata %v", name, r.Name, ok)
		}
	}
}

func blob(t *testing.T, w *repositorytest.World, sum digest.SHA256) []byte {
	t.Helper()
	r, err := w.Blobs.Open(t.Context(), sum, 0, -1)
	if err != nil {
		t.Fatalf("blob %s: %v", sum, err)
	}
	defer r.Close()
	var out []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			return out
		}
	}
}

// state is what must be the same after something that changes nothing.
func state(t *testing.T, w *repositorytest.World) (store.Repo, int64) {
	t.Helper()
	repo, err := w.Store.Repo(t.Context(), store.RepoImage)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	feed, err := w.Store.Feed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return repo, feed
}

// wantUnchanged fails if run changes the repository or writes an event.
func wantUnchanged(t *testing.T, w *repositorytest.World, run func()) {
	t.Helper()
	before, feed := state(t, w)
	run()
	after, now := state(t, w)
	if before.Version != after.Version || feed != now {
		t.Errorf("row version %d became %d, event %d became %d; want no change", before.Version, after.Version, feed, now)
	}
}
