package repository_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

// lastVersion is the highest version that the lost server may have used.
const lastVersion = 1 << 40

// follow takes a client from what it has verified to the catalog; it refuses what goes backwards.
func follow(t *testing.T, w *repositorytest.World, image *tufrepo.Image, c *repository.Catalog, names artifacts.Names) {
	t.Helper()
	if err := image.Timestamp(c.Timestamp); err != nil {
		t.Fatalf("timestamp %d: %v", c.TimestampVersion, err)
	}
	for _, product := range []string{"", "lamp"} {
		for {
			want, err := image.Next(product)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				break
			}
			doc, _, err := names.Load(t.Context(), tufrepo.StorePrefix+want.Name)
			if err != nil {
				t.Fatalf("%s: %v", want.Name, err)
			}
			if err := image.Accept(want, doc); err != nil {
				t.Fatalf("%s: %v", want.Name, err)
			}
		}
	}
}

// The rows are those of a backup, the device and perhaps the artifact store have seen more. Nothing that the device is
// shown goes backwards, whether the store is the old one, which is ahead, or an empty one.
func TestNoMetadataGoesBackwardsAfterARestore(t *testing.T) {
	t.Parallel()
	for name, empty := range map[string]bool{"the old artifact store": false, "an empty one": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := repositorytest.New(t)
			w.Apply(w.First(w.Policy("lamp")))
			w.Publish(w.Draft("lamp", "1.0", 1))
			backup := copyOf(t, w.DSN)
			w.Publish(w.Draft("lamp", "1.1", 2)) // the history that is lost
			w.Pass(time.Hour)
			if err := w.Service.Issue(t.Context()); err != nil {
				t.Fatal(err)
			}
			ahead := w.Service.Catalog()
			image, err := tufrepo.NewImage(ahead.ImageRoots[0], w.Now())
			if err != nil {
				t.Fatal(err)
			}
			follow(t, w, image, ahead, w.Blobs)

			blobs := w.Blobs
			if empty {
				blobs = repositorytest.Must(dirstore.Open(t.TempDir()))
				copyBlobs(t, w, blobs)
			}
			s := repositorytest.Must(store.Open(t.Context(), backup, slog.New(slog.DiscardHandler)))
			t.Cleanup(func() { _ = s.Close() })
			lives := repositorytest.Lives
			lives.Above = lastVersion
			service := repository.New(s, blobs, w.Keys, lives, w.Now, slog.New(slog.DiscardHandler))
			if err := service.Load(t.Context()); err != nil {
				t.Fatalf("Load: %v", err)
			}
			now := service.Catalog()
			if now.TimestampVersion <= lastVersion {
				t.Errorf("got timestamp %d, want above %d", now.TimestampVersion, int64(lastVersion))
			}
			follow(t, w, image, now, blobs)
			if state := image.State(); state.Snapshot <= lastVersion || state.Products["lamp"] <= lastVersion {
				t.Errorf("got %+v, want all online roles above %d", state, int64(lastVersion))
			}
			if _, ok := now.Products["lamp"].Release("lamp/1.0"); !ok {
				t.Error("the release of the backup is gone")
			}
			before := now.TimestampVersion
			if err := service.Issue(t.Context()); err != nil || service.Catalog().TimestampVersion != before+1 {
				t.Errorf("the next timestamp: %v, version %d after %d", err, service.Catalog().TimestampVersion, before)
			}
		})
	}
}

// copyOf copies a database as it is now.
func copyOf(t *testing.T, dsn string) string {
	t.Helper()
	to := "sqlite:" + t.TempDir() + "/backup.db"
	err := store.ReadSnapshot(t.Context(), dsn, func(s *store.Snapshot) error {
		events, err := s.Events(t.Context())
		if err != nil {
			return err
		}
		at := repositorytest.Noon
		r := store.Restored{At: at, EventNumber: events + 1, Setting: store.PutSetting{Name: "epoch", Value: []byte("{}")},
			Event: store.Event{At: at, Type: "server.restored", Actor: "server", Subject: "server"}}
		return store.Restore(t.Context(), to, s.Schema, r, slog.New(slog.DiscardHandler), func(l *store.Loader) error {
			for _, table := range s.Tables {
				if err := s.Rows(t.Context(), table, func(row []any) error { return l.Add(table, row) }); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// copyBlobs brings what the releases need, as a restore does.
func copyBlobs(t *testing.T, w *repositorytest.World, to *dirstore.Store) {
	t.Helper()
	rows := repositorytest.Must(w.Store.ListReleases(t.Context(), ""))
	for _, row := range rows {
		for _, sum := range repositorytest.Must(repository.BlobsOf(row)) {
			size := repositorytest.Must(w.Blobs.Stat(t.Context(), sum))
			r := repositorytest.Must(w.Blobs.Open(t.Context(), sum, 0, -1))
			if _, err := to.Write(t.Context(), sum, size, 0, r); err != nil {
				t.Error(err)
			}
			r.Close()
		}
	}
}
