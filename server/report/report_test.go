package report_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// system is a server's state in its own database and store, with the day of a verifytest.World in it.
type system struct {
	w     *verifytest.World
	store *store.Store
	cfg   report.Config
}

func newSystem(t *testing.T) *system {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "cordon.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	blobs, err := dirstore.Open(filepath.Join(dir, "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	w := verifytest.New()
	s := &system{w: w, store: db}
	catalog := &repository.Catalog{
		Timestamp: w.Timestamp, ImageRoots: [][]byte{w.Metadata["1.root.json"]}, DirectorRoots: [][]byte{w.Metadata["1.root.json"]},
		Products: map[string]*repository.Product{verifytest.Product: {Name: verifytest.Product}},
	}
	s.cfg = report.Config{
		Store: db, Catalog: func() *repository.Catalog { return catalog }, Blobs: blobs, Key: w.ReportKey, Certificate: w.Certificate,
		Server: verifytest.Server, TrustDomain: verifytest.TrustDomain, Build: "test",
		Now: func() time.Time { return verifytest.Noon.Add(25 * time.Hour) },
	}
	s.cfg.Log = witnessed{s}
	s.metadata(t)
	s.releases(t, blobs)
	s.devices(t)
	s.proofs(t)
	return s
}

func (s *system) commit(t *testing.T, c store.Change) {
	t.Helper()
	if err := s.store.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func (s *system) write(t *testing.T, writes ...store.Write) {
	t.Helper()
	s.commit(t, store.Change{Writes: writes})
}

func (s *system) event(t *testing.T, at time.Time, kind, subject string, data any) {
	t.Helper()
	s.commit(t, store.Change{Events: []store.Event{{At: at, Type: kind, Actor: "server", Subject: subject, Data: data}}})
}

func (s *system) metadata(t *testing.T) {
	for name, data := range s.w.Metadata {
		s.write(t, store.AddMetadata{Metadata: store.Metadata{Name: tufrepo.StorePrefix + name, Bytes: data}})
	}
	s.write(t, store.PutRepo{Repo: store.Repo{
		Name: store.RepoImage, ImageRoot: 2, DirectorRoot: 1, Targets: 2, Products: map[string]int64{verifytest.Product: 1, "empty": 0},
		Snapshot: 1, Timestamp: 2, TimestampDoc: s.w.Timestamp, IssuedAt: verifytest.Noon.Add(time.Hour),
	}})
	for i, doc := range [][]byte{s.w.Beacon, s.w.Timestamp} {
		s.write(t, store.AddBeacon{Beacon: store.Beacon{Digest: digest.Of(doc), Version: int64(i + 1), IssuedAt: verifytest.Noon.Add(time.Duration(i) * time.Hour), Doc: doc}})
	}
}

func (s *system) releases(t *testing.T, blobs artifacts.Blobs) {
	for _, r := range s.w.Releases {
		name := artifacts.ReleaseName(r.Release.Product, r.Release.Version)
		row := store.Release{
			Name: name, Product: r.Release.Product, Counter: r.Release.Counter, State: api.ReleasePublished, Statement: s.w.Statements[name],
			Bundles: r.Bundles, Publishers: []string{"ci"}, Reference: map[string]digest.SHA256{}, CreatedBy: r.CreatedBy,
			CreatedAt: r.PublishedAt, PublishedAt: r.PublishedAt,
		}
		for component, doc := range r.Reference {
			row.Reference[component] = digest.Of(doc)
			if _, err := blobs.Write(t.Context(), digest.Of(doc), int64(len(doc)), 0, bytes.NewReader(doc)); err != nil {
				t.Fatal(err)
			}
		}
		s.write(t, store.PutRelease{Release: row})
	}
	staged := store.Release{Name: "thermostat/2.0.0", Product: verifytest.Product, Counter: 3, State: api.ReleaseStaged, CreatedAt: verifytest.Noon}
	s.write(t, store.PutRelease{Release: staged})
}

func (s *system) devices(t *testing.T) {
	for i, d := range s.w.Devices {
		v := d.Record.Device
		row := fleet.Device{
			ID: v.ID, Product: v.Product, HardwareID: v.HardwareID, Profile: v.Profile, Lifecycle: fleet.Active, Standing: fleet.Unproven,
			AdmittedBy: "inventory", EKCertificate: d.Record.EKCertificate, EKSPKI: digest.Of(d.EK.SPKI), AKPublic: d.Record.AKPublic,
			TLSKey: digest.Of([]byte{byte(i)}), EnrolledAt: v.EnrolledAt, Proven: v.Proven, Segment: fleet.Restricted,
		}
		if v.ProvenAt != nil {
			row.ProvenAt = *v.ProvenAt
		}
		s.write(t, store.PutDevice{Device: row})
	}
	s.write(t, store.PutDevice{Device: fleet.Device{
		ID: "late", Product: verifytest.Product, Lifecycle: fleet.Active, Standing: fleet.Unproven, EKSPKI: digest.Of([]byte("late")),
		TLSKey: digest.Of([]byte("late")), EnrolledAt: verifytest.Noon.Add(24*time.Hour + time.Minute), Segment: fleet.Restricted,
	}})
}

func (s *system) proofs(t *testing.T) {
	first, second := s.w.Devices[0].Record.Device.ID, s.w.Devices[1].Record.Device.ID
	s.event(t, verifytest.Noon.Add(-time.Minute), audit.DeviceEnrolled, first, nil)
	s.write(t, store.AddUpdate{Update: store.Update{
		Device: first, Product: verifytest.Product, From: "thermostat/1.0.0", To: "thermostat/1.1.0", OfferedAt: verifytest.Noon.Add(time.Hour), Result: "open",
	}})
	for _, p := range s.w.Appraisals {
		input, err := json.Marshal(p.Input, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		var v attestation.Verdict
		if err := json.Unmarshal(p.Verdict, &v); err != nil {
			t.Fatal(err)
		}
		c := store.Change{Writes: []store.Write{
			store.AddAppraisal{Appraisal: store.Appraisal{
				ID: verifytest.AppraisalID(p), Device: p.Device, Product: verifytest.Product, At: p.At, Outcome: string(v.Outcome), Release: v.Release,
				Input: input, Verdict: p.Verdict, Verifier: p.Verifier, Policy: p.PolicySHA256, Baseline: p.BaselineSHA256,
			}},
			store.AddLog{Digest: p.Input.Evidence.LogDigest, Bytes: s.w.Logs[p.Input.Evidence.LogDigest.String()]},
		}, Events: []store.Event{{At: p.At, Type: "verdict." + string(v.Outcome), Actor: "verifier", Subject: p.Device}}}
		if v.Outcome == attestation.Refused {
			c.Writes = append(c.Writes, store.PutQuarantine{Quarantine: fleet.Quarantine{
				ID: "q-1", Device: second, Since: p.At, Causes: []reason.Reason{reason.PCRMismatch}, Detail: "something else", By: "verifier", Evidence: verifytest.AppraisalID(p),
			}})
		}
		s.commit(t, c)
	}
	proof := s.w.Appraisals[2]
	s.write(t, store.CloseUpdate{Device: first, Result: "proven", At: proof.At, Evidence: verifytest.AppraisalID(proof)})
	s.event(t, verifytest.Noon.Add(26*time.Hour), audit.ServerStarted, "server", nil)
}

func (s *system) make(t *testing.T, from, to time.Time, product string) []byte {
	t.Helper()
	service, err := report.New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := service.Make(t.Context(), "ann", from, to, product)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func (s *system) verify(doc []byte) verify.Result {
	return verify.Report(doc, s.w.Trust, verify.Options{EKRoots: s.w.EKRoots})
}

func wantOutcome(t *testing.T, got verify.Result, want verify.Outcome) {
	t.Helper()
	if got.Outcome == want {
		return
	}
	t.Errorf("got %s, want %s; undecided: %q", got.Outcome, want, got.Undecided)
	for _, s := range got.Steps {
		if !s.OK {
			t.Errorf("%s (done %t): %s", s.Name, s.Done, strings.Join(s.Findings, "\n"))
		}
	}
}

func TestReportVerifiesOffline(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for _, product := range []string{"", verifytest.Product} {
		got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), product))
		wantOutcome(t, got, verify.Verified)
		if diff := cmp.Diff(api.Coverage{InScope: 2, Proven: 1, Never: 1}, got.Coverage); diff != "" {
			t.Errorf("coverage of %q (-want +got):\n%s", product, diff)
		}
		r := got.Report
		if r == nil {
			t.Fatal("no report")
		}
		sizes := []int{len(r.Appraisals), len(r.Events), len(r.Updates), len(r.Releases), len(r.Quarantines), len(r.Devices), len(r.Beacons), len(r.Image.Past)}
		if diff := cmp.Diff([]int{4, 4, 1, 2, 1, 2, 1, 1}, sizes); diff != "" {
			t.Errorf("lists of %q (-want +got):\n%s", product, diff)
		}
	}
}

func TestReportIsRecordedBeforeItIsReturned(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	doc := s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), "")
	events, err := s.store.LastEvents(t.Context(), digest.Of(doc).String(), 2)
	if err != nil || len(events) != 1 || events[0].Type != audit.ReportMade || events[0].Actor != "ann" {
		t.Errorf("got %+v, %v; want one report.made by ann", events, err)
	}
	s.cfg.Store = refusing{s.store}
	service, err := report.New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := service.Make(t.Context(), "ann", verifytest.Noon, verifytest.Noon.Add(time.Hour), ""); !errors.Is(err, store.ErrUnavailable) || doc != nil {
		t.Errorf("with a database that cannot write: got %d bytes, %v", len(doc), err)
	}
}

// refusing is a database that cannot write.
type refusing struct{ *store.Store }

func (refusing) Commit(context.Context, store.Change) error { return store.ErrUnavailable }

// TestCitedAppraisalsComeAlong: a quarantine of yesterday is shown with the verdict that it stands on.
func TestCitedAppraisalsComeAlong(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	got := s.verify(s.make(t, verifytest.Noon.Add(10*time.Hour), verifytest.Noon.Add(24*time.Hour), ""))
	wantOutcome(t, got, verify.Verified)
	if n := len(got.Report.Appraisals); n != 1 {
		t.Errorf("got %d appraisals, want the cited one", n)
	}
	if diff := cmp.Diff(api.Coverage{InScope: 2, Stale: 1, Never: 1}, got.Coverage); diff != "" {
		t.Errorf("coverage (-want +got):\n%s", diff)
	}
}

func TestLimitsCutAndSaySo(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for name, change := range map[string]func(*report.Limits){
		"appraisals":  func(l *report.Limits) { l.Appraisals = 2 },
		"events":      func(l *report.Limits) { l.Events = 1 },
		"updates":     func(l *report.Limits) { l.Updates = 0 },
		"devices":     func(l *report.Limits) { l.Devices = 1 },
		"quarantines": func(l *report.Limits) { l.Quarantines = 0 },
		"bytes":       func(l *report.Limits) { l.Bytes = 30_000 },
	} {
		cut := *s
		cut.cfg.Limits = report.DefaultLimits
		change(&cut.cfg.Limits)
		got := cut.verify(cut.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
		if !got.Coverage.Truncated {
			t.Errorf("%s: the report does not say that it was cut", name)
		}
		wantOutcome(t, got, verify.Undecided)
	}
}

func TestRefusesRequests(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	service, err := report.New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		from, to time.Time
		product  string
		want     reason.Reason
	}{
		"empty":           {verifytest.Noon, verifytest.Noon, "", reason.RequestMalformed},
		"in the future":   {verifytest.Noon.Add(30 * time.Hour), verifytest.Noon.Add(31 * time.Hour), "", reason.RequestMalformed},
		"unknown product": {verifytest.Noon, verifytest.Noon.Add(time.Hour), "other", reason.NotFound},
	} {
		_, err := service.Make(t.Context(), "ann", r.from, r.to, r.product)
		var p *problem.Error
		if !errors.As(err, &p) || p.Reason != r.want {
			t.Errorf("%s: got %v, want %s", name, err, r.want)
		}
	}
	s.cfg.Catalog = func() *repository.Catalog { return &repository.Catalog{} }
	if service, err = report.New(s.cfg); err != nil {
		t.Fatal(err)
	}
	var p *problem.Error
	if _, err := service.Make(t.Context(), "ann", verifytest.Noon, verifytest.Noon.Add(time.Hour), ""); !errors.As(err, &p) || p.Reason != reason.ServerUninitialised {
		t.Errorf("uninitialised: got %v", err)
	}
}

func TestRefusesCertificatesForOtherThings(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*report.Config){
		"another key": func(c *report.Config) { c.Key = key },
		"another URI": func(c *report.Config) {
			c.Key, c.Certificate = key, s.w.Leaf("spiffe://fleet.example/server", key.Public())
		},
		"other domain": func(c *report.Config) { c.TrustDomain = "other.example" },
		"no DER":       func(c *report.Config) { c.Certificate = nil },
	} {
		cfg := s.cfg
		change(&cfg)
		if _, err := report.New(cfg); err == nil {
			t.Errorf("%s: New accepted it", name)
		}
	}
}
