package adminapi_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/store"
)

func TestPruneAndCollect(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Pass(time.Since(a.Now()))
	a.Apply(a.First(a.Policy("lamp")))
	oscar, robot := a.person("oscar", api.RoleOperator), a.person("robot", api.RoleCI)
	a.Publish(a.Draft("lamp", "1", 1))
	a.Publish(a.Draft("lamp", "2", 2))
	unused := a.Upload([]byte("never published"))
	a.Pass(48 * time.Hour)

	plan, err := robot.RetentionPlan(t.Context())
	if err != nil || plan.Removable != 1 || len(plan.Releases) != 2 || len(plan.Releases[0].Needs) != 0 || plan.Releases[1].Needs[0].Why != "newest" {
		t.Errorf("plan: got %+v, %v", plan, err)
	}
	_, err = robot.Collect(t.Context())
	wantReason(t, "collect as CI", err, reason.PermissionDenied)
	_, err = oscar.PruneRelease(t.Context(), "lamp", "1", api.PruneRequest{})
	wantReason(t, "prune without a word", err, reason.RequestMalformed)
	for _, dry := range []bool{true, false} {
		_, err = oscar.PruneRelease(t.Context(), "lamp", "2", api.PruneRequest{Detail: "too new", DryRun: dry})
		wantReason(t, "prune the newest", err, reason.ReleaseInUse)
	}
	if r, err := oscar.PruneRelease(t.Context(), "lamp", "1", api.PruneRequest{Detail: "too old", DryRun: true}); err != nil || r.PrunedAt != nil {
		t.Errorf("dry run: got %+v, %v", r, err)
	}
	if r, err := oscar.PruneRelease(t.Context(), "lamp", "1", api.PruneRequest{Detail: "too old"}); err != nil || r.PrunedAt == nil {
		t.Errorf("prune: got %+v, %v", r, err)
	}
	if r, err := oscar.Collect(t.Context()); err != nil || r.Blobs != 1 {
		t.Errorf("collect: got %+v, %v", r, err)
	}
	if _, err := a.Blobs.Stat(t.Context(), unused); err == nil {
		t.Error("the unused blob is still there")
	}
}

// Whoever is told that a blob is there has the grace to publish it; while it is being removed nobody is told so.
func TestUploadsTouchTheirBlob(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Pass(time.Since(a.Now()))
	robot := a.person("robot", api.RoleCI)
	blob := []byte("an image")
	sum := digest.Of(blob)
	touched := func() time.Time {
		t.Helper()
		known, err := a.Store.BlobsOf(t.Context(), []digest.SHA256{sum})
		if err != nil {
			t.Fatal(err)
		}
		if len(known) == 0 {
			return time.Time{}
		}
		return known[0].TouchedAt
	}
	upload := func() error {
		return robot.Send(t.Context(), sum, int64(len(blob)), bytes.NewReader(blob), nil)
	}
	for _, what := range []string{"upload", "upload again"} {
		a.Pass(time.Hour)
		if err := upload(); err != nil || touched().UnixMicro() != a.Now().UnixMicro() {
			t.Errorf("%s: %v, touched %s, want %s", what, err, touched(), a.Now())
		}
	}
	condemn := store.CondemnBlob{SHA256: sum, Before: a.Now(), At: a.Now()}
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{condemn}}); err != nil {
		t.Fatal(err)
	}
	status, _, body := a.send("HEAD", "/api/v1/blobs/"+sum.String(), a.tokens["robot"], map[string]string{"Upload-Length": "8"}, "")
	if status != 503 {
		t.Errorf("a blob that is being removed: got %d %s", status, body)
	}
}
