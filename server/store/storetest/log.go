package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/store"
)

func keepsCheckpoints(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.Checkpoint(ctx, "log/signed")
	wantError(t, "no checkpoint", err, store.ErrNotFound)
	c := store.Checkpoint{Name: "log/signed", Size: 7, Root: sum("root"), Note: []byte("note"), At: at(0)}
	other := store.Checkpoint{Name: "log/witnessed", Size: 3, Root: sum("older"), Note: []byte("cosigned"), At: at(1)}
	write(t, s, store.PutCheckpoint{Checkpoint: c}, store.PutCheckpoint{Checkpoint: other})
	c.Version, other.Version = 1, 1
	got(s.Checkpoint(ctx, c.Name))(t, "Checkpoint", c)
	got(s.Checkpoint(ctx, other.Name))(t, "the other one", other)
}

// Each leaf fits into an entry of the audit log, and the decision that it records is not lost for its size.
func namesLargeData(t *testing.T, s *store.Store) {
	detail := strings.Repeat("x", tlog.MaxLeafBytes)
	text := map[string]any{"detail": detail}
	commit(t, s, store.Change{Events: []store.Event{event("small", nil), event("large", text)}})
	all := checkEvents(t, s)
	data, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`"data":{"too_large":{"bytes":%d,"sha256":"%s"}}}`, len(data), digest.Of(data))
	if leaf := string(all[1].Leaf); len(leaf) > tlog.MaxLeafBytes || !strings.HasSuffix(leaf, want) {
		t.Errorf("leaf of an event with %d bytes of data: got %d bytes, %.200s..., want it to end with %s", len(data), len(leaf), leaf, want)
	}
}
