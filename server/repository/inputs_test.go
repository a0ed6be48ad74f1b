package repository_test

import (
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

// Reference Values of version 2 are predicted again from image, boot loaders and boot chain as they are stored.
func TestPublishesEveryBootPath(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	a, b := repositorytest.Loader("a"), repositorytest.Loader("b")
	w.Publish(w.DraftVia("lamp", "1", 1))
	w.Publish(w.DraftVia("lamp", "2", 2, a, b))
	w.Publish(w.DraftOf("lamp", "3", 3, repositorytest.Chain("x")))
	w.Publish(w.Draft("lamp", "4", 4)) // version 1, as earlier publishers write it
	check(t, w, w.Service)
	for name, want := range map[string]string{"lamp/1": reference.BootDirectUKI, "lamp/2": reference.BootSystemdBoot, "lamp/3": reference.BootChain, "lamp/4": reference.BootDirectUKI} {
		r, ok := w.Service.Catalog().Products["lamp"].Release(name)
		if !ok || r.Values[repositorytest.Component].Boot != want {
			t.Errorf("%s: got %+v, want boot path %s", name, r, want)
		}
	}
	row := repositorytest.Must(w.Store.Release(t.Context(), "lamp/2"))
	fromStore := repositorytest.Must(repository.Inputs(t.Context(), w.Blobs, row))
	fromCatalog := repositorytest.Must(w.Service.Inputs(t.Context(), row))
	if len(fromStore) != 2 || len(fromCatalog) != 2 || fromStore[0] != fromCatalog[0] || fromStore[1] != fromCatalog[1] {
		t.Errorf("inputs: got %v of the store, %v of the catalog", fromStore, fromCatalog)
	}
	row.PrunedAt = w.Now()
	if got, err := w.Service.Inputs(t.Context(), row); len(got) != 0 || err != nil {
		t.Errorf("a pruned release needs %v, %v", got, err)
	}
}

func TestRefusesValuesThatTheirInputsDoNotSupport(t *testing.T) {
	t.Parallel()
	type world = repositorytest.World
	loader, other := repositorytest.Loader("a"), repositorytest.Loader("b")
	for name, c := range map[string]struct {
		draft func(w *world) *repositorytest.Draft
		want  reason.Reason
		dry   reason.Reason // "" : may come before the upload
	}{
		"loader not uploaded": {func(w *world) *repositorytest.Draft {
			d := w.Draft("lamp", "2", 2)
			d.Claim(w, repositorytest.Must(reference.Predict(reference.SourceOf(d.Image), reference.Boot{Loaders: []reference.Source{reference.SourceOf(other)}})))
			return d
		}, reason.ArtifactMismatch, ""},
		"length of the loader": {func(w *world) *repositorytest.Draft {
			d := w.DraftVia("lamp", "2", 2, loader)
			d.Values.Inputs[0].Length++
			d.Claim(w, d.Values)
			return d
		}, reason.ArtifactMismatch, reason.ArtifactMismatch},
		"description of the loader": {func(w *world) *repositorytest.Draft {
			d := w.DraftVia("lamp", "2", 2, loader)
			d.Values.Inputs[0].What = "systemd-boot 252, believe me"
			d.Claim(w, d.Values)
			return d
		}, reason.ReferenceValuesMismatch, reason.ReferenceValuesMismatch},
		"expectations of another loader": {func(w *world) *repositorytest.Draft {
			d, e := w.DraftVia("lamp", "2", 2, loader), w.DraftVia("lamp", "2", 2, other)
			d.Values.Inputs[0].SHA256, d.Values.Inputs[0].Length = e.Values.Inputs[0].SHA256, e.Values.Inputs[0].Length
			d.Claim(w, d.Values)
			return d
		}, reason.ReferenceValuesMismatch, reason.ReferenceValuesMismatch},
		"a loader that is none": {func(w *world) *repositorytest.Draft {
			d := w.DraftVia("lamp", "2", 2, loader)
			text := w.UploadAgain([]byte("this is not a boot loader, and it has more than 64 bytes: it is a text"))
			d.Values.Inputs[0].SHA256, d.Values.Inputs[0].Length = digest.Of(text), int64(len(text))
			d.Claim(w, d.Values)
			return d
		}, reason.ReferenceValuesMismatch, reason.ReferenceValuesMismatch},
		"a loader of another version": {func(w *world) *repositorytest.Draft {
			d := w.DraftVia("lamp", "2", 2, loader)
			image := w.UploadAgain(repositorytest.UKI("no loader"))
			d.Values.Inputs[0].SHA256, d.Values.Inputs[0].Length = digest.Of(image), int64(len(image))
			d.Claim(w, d.Values)
			return d
		}, reason.ReferenceValuesMismatch, reason.ReferenceValuesMismatch},
		"a chain that says something else": {func(w *world) *repositorytest.Draft {
			d := w.DraftOf("lamp", "2", 2, repositorytest.Chain("x"))
			chain := w.UploadAgain(repositorytest.Chain("y"))
			d.Values.Inputs[0].SHA256 = digest.Of(chain)
			d.Claim(w, d.Values)
			return d
		}, reason.ReferenceValuesMismatch, reason.ReferenceValuesMismatch},
		"a chain that is none": {func(w *world) *repositorytest.Draft {
			d := w.DraftOf("lamp", "2", 2, repositorytest.Chain("x"))
			text := w.UploadAgain([]byte("{}"))
			d.Values.Inputs[0].SHA256, d.Values.Inputs[0].Length = digest.Of(text), int64(len(text))
			d.Claim(w, d.Values)
			return d
		}, reason.ReferenceValuesMismatch, reason.ReferenceValuesMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := repositorytest.New(t)
			w.Apply(w.First(w.Policy("lamp")))
			request := c.draft(w).Signed(w.Publisher)
			wantUnchanged(t, w, func() {
				_, err := w.Service.Publish(t.Context(), "robot", request)
				wantReason(t, err, c.want)
				request.DryRun = true
				_, err = w.Service.Publish(t.Context(), "robot", request)
				if c.dry == "" && err != nil {
					t.Errorf("dry run: %v", err)
				}
				if c.dry != "" {
					wantReason(t, err, c.dry)
				}
			})
		})
	}
}

// A release that waits for approvals needs its loader as it needs its image: without it, it is not published.
func TestRefusesToPublishWithoutItsLoader(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	policy := w.Policy("lamp")
	policy.Approvals = 1
	w.Apply(w.First(policy))
	loader := repositorytest.Loader("a")
	if got := w.Publish(w.DraftVia("lamp", "1", 1, loader)); got.State != api.ReleaseStaged {
		t.Fatalf("got %s", got.State)
	}
	if err := w.Blobs.Remove(t.Context(), digest.Of(loader)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Blobs.Stat(t.Context(), digest.Of(loader)); !errors.Is(err, artifacts.ErrNotFound) {
		t.Fatal(err)
	}
	_, err := w.Service.Approve(t.Context(), "alice", "lamp/1")
	wantReason(t, err, reason.ArtifactMismatch)
	w.Upload(loader)
	if got, err := w.Service.Approve(t.Context(), "alice", "lamp/1"); err != nil || got.State != api.ReleasePublished {
		t.Errorf("with the loader again: got %+v, %v", got, err)
	}
}
