package retention_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/store"
)

// What the lost server published after the backup is garbage to the restored one. However old it is, people have the
// grace to publish it again.
func TestARestoreBeginsTheGraceAnew(t *testing.T) {
	t.Parallel()
	w := world(t)
	for n := range 4 {
		w.Publish(w.Draft("lamp", []string{"1", "2", "3", "4"}[n], uint64(n+1)))
	}
	forgotten, condemned := w.Upload([]byte("of a release that the backup does not know")), w.Upload([]byte("condemned in the backup, published since"))
	w.Pass(100 * time.Hour)
	w.Load(w.Service)
	err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.CondemnBlob{SHA256: condemned, Before: w.Now(), At: w.Now()}}})
	if err != nil {
		t.Fatal(err)
	}
	restored := w.Now()
	s := service(w, func(c *retention.Config) { c.Restored, c.KeepReleases = restored, 2 })
	plan, err := s.Plan(t.Context())
	if err != nil || plan.Removable != 0 || len(plan.Blobs) != 0 {
		t.Errorf("Plan: got %+v, %v", plan, err)
	}
	if r := collect(t, s); r.Blobs+len(r.Pruned) > 0 || !has(t, w, forgotten) || !has(t, w, condemned) {
		t.Errorf("just restored: got %+v", r)
	}
	if known, err := w.Store.CondemnedBlobs(t.Context(), 10); err != nil || len(known) != 0 {
		t.Errorf("nobody can publish what is condemned: %+v, %v", known, err)
	}
	w.Pass(settings.Grace + time.Second)
	w.Load(w.Service)
	if r := collect(t, s); r.Blobs != 2 || !slices.Contains(r.Pruned, "lamp/1") || has(t, w, forgotten) {
		t.Errorf("after the grace: got %+v", r)
	}
	wantWhole(t, w)
}
