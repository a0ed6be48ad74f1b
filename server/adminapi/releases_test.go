package adminapi_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
)

func TestCeremonyPublishApproveHoldResume(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	alice, robot := a.person("alice", api.RoleAdmin), a.person("robot", api.RoleCI)
	oscar, olga := a.person("oscar", api.RoleOperator), a.person("olga", api.RoleOperator)
	draft := a.Draft("lamp", "1.0", 1)
	_, err := robot.Publish(t.Context(), draft.Signed(a.Publisher))
	wantReason(t, "uninitialised", err, reason.ServerUninitialised)
	policy := a.Policy("lamp")
	policy.Approvals = 1
	for _, changed := range []bool{true, false} {
		if got, err := alice.Ceremony(t.Context(), a.First(policy)); changed && (err != nil || !got.Changed) {
			t.Fatalf("ceremony: got %+v, %v", got, err)
		} else if !changed && api.ReasonOf(err) == "" {
			t.Error("another first ceremony was taken")
		}
	}
	status, err := a.client("").Status(t.Context())
	if err != nil || !status.Initialised || status.ImageRoot != 1 || status.DirectorRoot != 1 || status.Targets != 1 {
		t.Errorf("status: got %+v, %v", status, err)
	}
	if root, err := a.client("").RepoFile(t.Context(), "1.root.json"); err != nil || !bytes.Equal(root, a.Service.Catalog().ImageRoots[0]) {
		t.Errorf("root: %v", err)
	}
	if got, err := robot.Publish(t.Context(), draft.Signed(a.Publisher)); err != nil || got.State != api.ReleaseStaged {
		t.Fatalf("publish: got %+v, %v", got, err)
	}
	if got, err := oscar.ApproveRelease(t.Context(), "lamp", "1.0"); err != nil || got.State != api.ReleasePublished {
		t.Errorf("approve: got %+v, %v", got, err)
	}
	_, err = oscar.HoldRelease(t.Context(), "lamp", "1.0", api.HoldRequest{})
	wantReason(t, "hold without a word", err, reason.RequestMalformed)
	if got, err := oscar.HoldRelease(t.Context(), "lamp", "1.0", api.HoldRequest{Detail: "slow boots"}); err != nil || !got.Hold {
		t.Errorf("hold: got %+v, %v", got, err)
	}
	for i, who := range []*api.Client{oscar, olga} {
		if got, err := who.ResumeRelease(t.Context(), "lamp", "1.0"); err != nil || got.Hold != (i == 0) {
			t.Errorf("resume by person %d: got %+v, %v", i+1, got, err)
		}
	}
	if page, err := robot.Releases(t.Context(), "lamp", ""); err != nil || len(page.Items) != 1 || page.Items[0].Name != "lamp/1.0" {
		t.Errorf("list: got %+v, %v", page, err)
	}
	if got, err := robot.Release(t.Context(), "lamp", "1.0"); err != nil || got.State != api.ReleasePublished {
		t.Errorf("get: got %+v, %v", got, err)
	}
	_, err = robot.Release(t.Context(), "lamp", "9.0")
	wantReason(t, "unknown", err, reason.ReleaseUnknown)
	_, err = oscar.HoldRelease(t.Context(), "lamp", "9.0", api.HoldRequest{Detail: "x"})
	wantReason(t, "hold of an unknown one", err, reason.ReleaseUnknown)
}

func TestUploadsAreResumed(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	robot := a.person("robot", api.RoleCI)
	data := bytes.Repeat([]byte("image "), 20_000)
	sum := digest.Of(data)
	put := func(offset, length string, body []byte) (int, http.Header, string) {
		return a.send("PUT", "/api/v1/blobs/"+sum.String(), a.tokens["robot"], map[string]string{"Upload-Offset": offset, "Upload-Length": length}, string(body))
	}
	if status, header, body := put("0", "120000", data[:50_000]); status != http.StatusNoContent || header.Get("Upload-Offset") != "50000" {
		t.Fatalf("first chunk: got %d %s %s", status, header.Get("Upload-Offset"), body)
	}
	for _, offset := range []string{"0", "49999", "50001", "120000"} {
		status, header, body := put(offset, "120000", data[:10])
		if status != http.StatusConflict || header.Get("Upload-Offset") != "50000" || !strings.Contains(body, string(reason.Conflict)) {
			t.Errorf("chunk at %s: got %d, offset %s, %s", offset, status, header.Get("Upload-Offset"), body)
		}
	}
	for _, bad := range [][2]string{{"", "120000"}, {"-1", "120000"}, {"120001", "120000"}, {"x", "120000"}, {"0", ""}, {"0", "0"}, {"0", "-5"}, {"0", "99999999999999"}} {
		if status, _, body := put(bad[0], bad[1], nil); status != http.StatusBadRequest {
			t.Errorf("offset %q, length %q: got %d %s", bad[0], bad[1], status, body)
		}
	}
	if at, err := robot.Uploaded(t.Context(), sum, 120_000); err != nil || at.Offset != 50_000 || at.Complete {
		t.Errorf("uploaded: got %+v, %v", at, err)
	}
	if err := robot.Send(t.Context(), sum, 120_000, bytes.NewReader(data), nil); err != nil {
		t.Fatalf("Send: %v", err)
	}
	if size, err := a.Blobs.Stat(t.Context(), sum); err != nil || size != 120_000 {
		t.Errorf("blob: got %d, %v", size, err)
	}
	if status, _, _ := a.send("PUT", "/api/v1/blobs/XYZ", a.tokens["robot"], map[string]string{"Upload-Offset": "0", "Upload-Length": "1"}, "x"); status != http.StatusBadRequest {
		t.Errorf("a name that is no digest: got %d", status)
	}
	wrong := digest.Of([]byte("other"))
	status, _, body := a.send("PUT", "/api/v1/blobs/"+wrong.String(), a.tokens["robot"], map[string]string{"Upload-Offset": "0", "Upload-Length": "5"}, "bytes")
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, string(reason.ArtifactMismatch)) {
		t.Errorf("wrong bytes: got %d %s", status, body)
	}
	if at, err := robot.Uploaded(t.Context(), wrong, 5); err != nil || at.Offset != 0 {
		t.Errorf("after wrong bytes: got %+v, %v", at, err)
	}
}

// The database is gone: the caller is told to come back, and nothing of the inside is shown.
func TestUnreachableDatabaseIsBusy(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.person("alice", api.RoleAdmin)
	if err := a.Store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{a.tokens["alice"], authn.NewToken()} {
		status, header, body := a.send("GET", "/api/v1/people", token, nil, "")
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(body, string(reason.ServerBusy)) {
			t.Errorf("got %d, Retry-After %q, %s", status, header.Get("Retry-After"), body)
		}
		if strings.Contains(body, "sql") || strings.Contains(body, a.Dir) {
			t.Errorf("the answer shows the inside: %s", body)
		}
	}
}
