package backup_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

// What Reference Values were predicted from comes back with the release.
func TestRestoreBringsBootLoaders(t *testing.T) {
	t.Parallel()
	w, source := lived(t)
	loader, chain := repositorytest.Loader("a"), repositorytest.Chain("x")
	w.Publish(w.DraftVia("lamp", "7.0", 7, loader))
	w.Publish(w.DraftOf("lamp", "8.0", 8, chain))
	path, to := take(t, source), target(t)
	if _, err := restore(t, path, to); err != nil {
		t.Fatalf("Restore: %v", err)
	}
	for name, want := range map[string][]byte{"loader": loader, "chain": chain} {
		r, err := to.Blobs.Open(t.Context(), digest.Of(want), 0, -1)
		if err != nil {
			t.Errorf("the %s is not there: %v", name, err)
			continue
		}
		if got := repositorytest.Must(io.ReadAll(r)); !bytes.Equal(got, want) {
			t.Errorf("the %s has other bytes", name)
		}
		r.Close()
	}
}
