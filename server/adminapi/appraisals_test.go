package adminapi_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// appraised stores n appraisals of a device over one log; the last repeats the one before.
func (a *admin) appraised(device string, n int, log []byte) []store.Appraisal {
	a.t.Helper()
	var out []store.Appraisal
	for i := range n {
		input, err := json.Marshal(attestation.Input{
			Evidence: attestation.Evidence{Version: 1, LogDigest: digest.Of(log)}, Binding: attestation.Binding{Device: device},
		}, json.Deterministic(true))
		if err != nil {
			a.t.Fatal(err)
		}
		verdict, err := attestation.Verdict{Outcome: attestation.Refused, Findings: []attestation.Finding{{Reason: reason.PCRBankWeak}}}.Marshal()
		if err != nil {
			a.t.Fatal(err)
		}
		row := store.Appraisal{
			Device: device, Product: "lamp", At: a.Now().Add(time.Duration(i) * time.Second).Truncate(time.Microsecond), Outcome: "refused", Input: input, Verdict: verdict,
			Verifier: "test", Policy: digest.Of([]byte("policy")), References: map[string]digest.SHA256{"lamp/1": digest.Of([]byte("values"))},
		}
		if i == n-1 {
			row.Repeats = out[i-1].ID
		}
		row.ID = digest.Of([]byte(strconv.Itoa(i)))
		if err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{store.AddAppraisal{Appraisal: row}}}); err != nil {
			a.t.Fatal(err)
		}
		out = append(out, row)
	}
	return out
}

func TestAppraisalsByIDNumberAndDevice(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ada := a.person("ada", api.RoleAuditor)
	device, other := a.device("a", nil), a.device("b", nil)
	log := []byte("an event log")
	rows := a.appraised(device, 3, log)
	list, err := ada.Appraisals(t.Context(), device, "")
	if err != nil || len(list.Items) != 3 || list.Items[0].ID != rows[2].ID || list.Items[0].Repeats != rows[1].ID || list.Items[2].ID != rows[0].ID {
		t.Fatalf("list: got %+v, %v", list, err)
	}
	newest := strconv.FormatInt(list.Items[0].Number, 10)
	for _, name := range []string{newest, rows[2].ID.String()} {
		p, err := ada.Appraisal(t.Context(), name)
		if err != nil || !p.At.Equal(rows[2].At) || !bytes.Equal(p.Verdict, rows[2].Verdict) || p.Repeats != rows[1].ID || p.References["lamp/1"].IsZero() {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
		_, err = ada.AppraisalLog(t.Context(), name)
		wantReason(t, "a log that is not stored", err, reason.NotFound)
	}
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.AddLog{Digest: digest.Of(log), Bytes: log}}}); err != nil {
		t.Fatal(err)
	}
	if got, err := ada.AppraisalLog(t.Context(), newest); err != nil || !bytes.Equal(got, log) {
		t.Errorf("log: got %q, %v", got, err)
	}
	if page, err := ada.Appraisals(t.Context(), device, strconv.FormatInt(list.Items[1].Number, 10)); err != nil || len(page.Items) != 1 || page.Items[0].ID != rows[0].ID {
		t.Errorf("behind the second: got %+v, %v", page, err)
	}
	if page, err := ada.Appraisals(t.Context(), other, ""); err != nil || len(page.Items) != 0 {
		t.Errorf("another device: got %+v, %v", page, err)
	}
	for _, name := range []string{"0", "-1", "+1", "01", "1e3", "99999999999999999999", "ABCD", strings.Repeat("AB", 32), "1/../2"} {
		_, err := ada.Appraisal(t.Context(), name)
		wantReason(t, name, err, reason.RequestMalformed)
	}
	_, err = ada.Appraisal(t.Context(), "123456")
	wantReason(t, "no such number", err, reason.NotFound)
	_, err = ada.Appraisals(t.Context(), device, "x")
	wantReason(t, "after x", err, reason.RequestMalformed)
	ci := a.person("cy", api.RoleCI)
	_, err = ci.Appraisals(t.Context(), device, "")
	wantReason(t, "role ci", err, reason.PermissionDenied)
	if status, _, _ := a.send(http.MethodGet, "/api/v1/appraisals/1/log", "", nil, ""); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", status)
	}
}

// A device that stands on a policy of the past is shown as one.
func TestDeviceShowsThatItIsToBeReappraised(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	ada := a.person("ada", api.RoleAuditor)
	grounds := a.Service.Catalog().Products["lamp"].Grounds("board")
	current := a.device("a", func(d *fleet.Device) { d.Grounds = grounds })
	past := a.device("b", nil)
	stale := a.device("c", func(d *fleet.Device) { d.Standing = fleet.Stale })
	for device, want := range map[string]bool{current: false, past: true, stale: false} {
		if d, err := ada.Device(t.Context(), device); err != nil || d.ReappraisalDue != want {
			t.Errorf("%s: got %v, %v, want %v", device, d.ReappraisalDue, err, want)
		}
	}
}

// boots stores the appraisal of a recorded boot.
func (a *admin) boots(device, recorded string, number int, findings ...reason.Reason) {
	a.t.Helper()
	log, err := os.ReadFile(filepath.Join("../../conformance/vectors/measured-boot", recorded, "eventlog.bin"))
	if err != nil {
		a.t.Fatal(err)
	}
	a.bootsWith(device, log, number, findings...)
	if err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{store.AddLog{Digest: digest.Of(log), Bytes: log}}}); err != nil {
		a.t.Fatal(err)
	}
}

// bootsWith stores the appraisal of a boot whose log is not at hand.
func (a *admin) bootsWith(device string, log []byte, number int, findings ...reason.Reason) {
	a.t.Helper()
	v := attestation.Verdict{Outcome: attestation.Affirmed, Release: "lamp/1"}
	for _, r := range findings {
		v.Outcome, v.Release, v.Findings = attestation.Refused, "", append(v.Findings, attestation.Finding{Reason: r})
	}
	verdict, err := v.Marshal()
	if err != nil {
		a.t.Fatal(err)
	}
	input, err := json.Marshal(attestation.Input{
		Evidence: attestation.Evidence{Version: 1, LogDigest: digest.Of(log)}, Binding: attestation.Binding{Device: device},
	}, json.Deterministic(true))
	if err != nil {
		a.t.Fatal(err)
	}
	row := store.Appraisal{
		ID: digest.Of([]byte(fmt.Sprint(device, number))), Device: device, Product: "lamp", At: a.Now().Add(time.Duration(number) * time.Second),
		Outcome: string(v.Outcome), Input: input, Verdict: verdict, Verifier: "test", Policy: digest.Of([]byte("policy")),
	}
	if err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{store.AddAppraisal{Appraisal: row}}}); err != nil {
		a.t.Fatal(err)
	}
}

// Whoever asks why a boot was refused is told what it measured otherwise than the one that was affirmed, as far as the log
// is borne out.
func TestWhyTellsWhatChangedSinceTheLastAffirmedBoot(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	oscar := a.person("oscar", api.RoleOperator)
	device, never, lied, silent, mute := a.device("a", nil), a.device("b", nil), a.device("c", nil), a.device("d", nil), a.device("e", nil)
	ask := func(device string) *api.BootChanges {
		t.Helper()
		why, err := oscar.Why(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		return why.Changes
	}
	a.boots(device, "sdboot-ab-1-v1", 1)
	if got := ask(device); got != nil {
		t.Errorf("after an affirmed boot: %+v, want nothing", got)
	}
	a.boots(device, "sdboot-ab-2-v2-after-update", 2, reason.PCRMismatch)
	got := ask(device)
	if got == nil || !got.Since.Equal(a.Now().Add(time.Second)) {
		t.Fatalf("after a refused boot: %+v", got)
	}
	described := func(c api.BootChange) bool {
		return c.PCR == 11 && strings.Contains(c.Before, "the kernel command line (sha256 ") && strings.Contains(c.After, "the kernel command line (sha256 ") && c.Before != c.After
	}
	if !slices.ContainsFunc(got.Changes, described) {
		t.Errorf("the command line is not among what changed: %+v", got.Changes)
	}
	a.boots(never, "sdboot-ab-1-v1", 1, reason.PCRMismatch)
	a.boots(lied, "sdboot-ab-1-v1", 1)
	a.boots(lied, "sdboot-ab-2-v2-after-update", 2, reason.EventlogMismatch, reason.PCRMismatch)
	a.boots(silent, "sdboot-ab-1-v1", 1)
	a.bootsWith(silent, []byte("never sent"), 2, reason.PCRMismatch, reason.EventlogMissing)
	unreadable := []byte("no log at all")
	a.boots(mute, "sdboot-ab-1-v1", 1)
	a.bootsWith(mute, unreadable, 2, reason.PCRMismatch, reason.EventlogUnexplained)
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.AddLog{Digest: digest.Of(unreadable), Bytes: unreadable}}}); err != nil {
		t.Fatal(err)
	}
	for what, device := range map[string]string{"nothing to compare with": never, "a log that lies": lied, "a log that never came": silent, "a log that cannot be read": mute} {
		if got := ask(device); got != nil {
			t.Errorf("%s: %+v, want nothing", what, got)
		}
	}
}
