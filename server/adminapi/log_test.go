package adminapi_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/adminapi"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

func TestLogIsReadByAuditors(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	auditor, ci := a.person("ann", api.RoleAuditor), a.person("pipe", api.RoleCI)
	if _, err := auditor.LogCheckpoint(t.Context()); statusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("a log without a checkpoint: got %v", err)
	}
	var c store.Change
	for range 300 {
		c.Events = append(c.Events, store.Event{At: a.Now(), Type: audit.TimestampIssued, Actor: "server", Subject: "server"})
	}
	if err := a.Store.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	a.auditLog.Round(t.Context())
	raw, err := auditor.LogCheckpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cp, err := tlog.OpenLogCheckpoint(raw, a.logKey.Verifier())
	if err != nil || cp.Size < 300 {
		t.Fatalf("checkpoint: %+v, %v", cp, err)
	}
	bundle, err := auditor.LogFile(t.Context(), tlog.EntriesPath(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	tile, err := auditor.LogFile(t.Context(), tlog.TilePath(0, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := tlog.ParseEntries(bundle, 256)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := tlog.ParseHashes(tile, 256)
	if err != nil || tlog.LeafHash(leaves[255]) != hashes[255] {
		t.Errorf("leaf and hash differ: %v", err)
	}
	if b, err := auditor.LogFile(t.Context(), tlog.TilePath(1, 0, 1)); err != nil || len(b) != 32 {
		t.Errorf("a partial tile: %d bytes, %v", len(b), err)
	}
	if _, err := ci.LogFile(t.Context(), tlog.TilePath(0, 0, 0)); api.ReasonOf(err) != reason.PermissionDenied {
		t.Errorf("CI reads the log: %v", err)
	}
	if _, err := a.client("").LogCheckpoint(t.Context()); err == nil {
		t.Error("a stranger reads the log")
	}
}

func statusOf(err error) int {
	problem, ok := errors.AsType[*api.Error](err)
	if !ok {
		return 0
	}
	return problem.Status
}

// A tile has one name, and no name leads anywhere else.
func TestLogTilesHaveOneName(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.person("ann", api.RoleAuditor)
	for path, want := range map[string]int{
		"0/005": 404, "0/000.p/255": 404, "60/000": 404, "0/x999/x999/999": 404, "entries/x001/234": 404, "entries/000.p/1": 404,
		"0/0": 400, "0/0000": 400, "0/x000/001": 400, "0/000.p/0": 400, "0/000.p/256": 400, "0/000.p/01": 400, "0/000.p": 400,
		"00/000": 400, "+1/000": 400, "-1/000": 400, "300/000": 400, "a/000": 400, "0/000/001": 400, "0/001.p/2/3": 400,
		"entries/x1/000": 400, "entries/..%2f..%2fstate.json": 400, "0/..%2f..%2fcheckpoint": 400, "entries/": 400,
		"0/" + strings.Repeat("x001/", 40) + "001": 400,
	} {
		if got, _, body := a.send(http.MethodGet, "/api/v1/log/tile/"+path, a.tokens["ann"], nil, ""); got != want {
			t.Errorf("%s: got %d, want %d: %s", path, got, want, body)
		}
	}
}

func FuzzTileName(f *testing.F) {
	for _, seed := range []string{"067", "x001/x234/067", "067.p/8", "x001/067.p/255", "../state.json", "000.p/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		index, partial, err := adminapi.TileName(name)
		if err == nil && tlog.EntriesPath(index, partial) != "tile/entries/"+name {
			t.Errorf("%q was read as %d.p/%d", name, index, partial)
		}
	})
}
