// Package report assembles the signed report that an auditor takes home and checks offline.
//
// A report carries raw Evidence with everything that its verdicts depended on, so that cordonctl verify reaches them
// again, the audit events of the period with their exact leaf bytes, and the signed metadata that ties policies,
// baselines and releases to the trust bundle's root. Evidence ids follow the catalogue of the report page in the
// documentation: E1 appraisals, E2 decisions, E3 enforcement and E6 approvals among the events, E4 updates, E5 releases,
// E11 coverage.
//
// Lists are bounded; what a limit cut is said in Coverage.Truncated, never silently. The service refuses to leave anything
// else out. Trusted: whoever holds its key can sign a report with events left out or Evidence withheld, never a verdict
// that appraisal would not reach again.
package report

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// Fleet is what a report reads about devices. Reads are of committed state; a missing row is store.ErrNotFound.
type Fleet interface {
	Device(ctx context.Context, id string) (fleet.Device, error)
	ListDevices(ctx context.Context, f store.DeviceFilter, after string, limit int) ([]fleet.Device, error)
	ListQuarantines(ctx context.Context, from, to time.Time, product string) ([]fleet.Quarantine, error)
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
	Updates(ctx context.Context, from, to time.Time, product string, limit int) ([]store.Update, error)
	Approvals(ctx context.Context, subject string) ([]fleet.Approval, error)
}

// Proofs is what a report reads about verdicts. Contract as for Fleet.
type Proofs interface {
	Appraisals(ctx context.Context, from, to time.Time, product string, after int64, limit int) ([]store.Appraisal, error)
	Appraisal(ctx context.Context, id digest.SHA256) (store.Appraisal, error)
	Log(ctx context.Context, d digest.SHA256) ([]byte, error)
	Baselines(ctx context.Context, product, profile string, limit int) ([]store.Baseline, error)
	Beacons(ctx context.Context, digests []digest.SHA256) ([]store.Beacon, error)
}

// History is what a report reads about releases, metadata and events, and where it records itself. Commit returns when
// the change is durable.
type History interface {
	ListReleases(ctx context.Context, product string) ([]store.Release, error)
	Repo(ctx context.Context, name string) (store.Repo, error)
	MetadataFile(ctx context.Context, name string) ([]byte, error)
	Events(ctx context.Context, f store.EventFilter, after int64, limit int) ([]store.StoredEvent, error)
	Commit(ctx context.Context, change store.Change) error
}

// Store is all of it; *store.Store has it.
type Store interface {
	Fleet
	Proofs
	History
}

// Log proves events of a report; *tilelog.Log has it. It waits a short time for the log to cover the leaves, which rise,
// and says honestly which ones it does not.
type Log interface {
	Prove(ctx context.Context, leaves []tlog.Leaf) (*api.ReportLog, error)
}

// Limits bound a report. What goes beyond is left out and Coverage.Truncated is set.
type Limits struct {
	Appraisals  int // the earliest of the period are kept
	Events      int
	Updates     int
	Devices     int
	Successions int // ends of attestation keys
	Quarantines int
	Baselines   int
	Past        int // offline targets documents that were replaced; the newest are kept
	Bytes       int // of Evidence, verdicts, logs and events together, before base64
}

// DefaultLimits are the limits of a Config that names none.
var DefaultLimits = Limits{Appraisals: 50_000, Events: 200_000, Updates: 100_000, Devices: 100_000, Successions: 100_000, Quarantines: 50_000, Baselines: 10_000, Past: 64, Bytes: 256 << 20}

// Config joins the parts of a Service. All but Limits and Log are needed; without a Log the report has no proofs.
type Config struct {
	Log         Log
	Store       Store
	Catalog     func() *repository.Catalog
	Blobs       artifacts.Blobs
	Key         crypto.Signer // ECDSA P-256
	Certificate []byte        // DER of its leaf: URI SAN URI(TrustDomain), digitalSignature, issued by the server CA
	Server      string        // URL of the device listener
	TrustDomain string
	Build       string // of this server, for the audit event
	Now         func() time.Time
	Limits      Limits
}

// Service makes reports. It is safe for concurrent use.
type Service struct {
	c    Config
	busy chan struct{} // full while a report is made: one holds a lot of memory
}

// URI is the URI SAN of the certificate that signs reports: nothing else that the server CA issues has it.
func URI(trustDomain string) string { return "spiffe://" + trustDomain + "/report" }

// New checks that key and certificate belong together and are for reports.
func New(c Config) (*Service, error) {
	cert, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return nil, fmt.Errorf("cannot read the report certificate: %w", err)
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || public.Curve != elliptic.P256():
		return nil, errors.New("the report certificate is not for an ECDSA P-256 key")
	case !public.Equal(c.Key.Public()):
		return nil, errors.New("report certificate and key do not belong together")
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errors.New("the report certificate is not for signatures")
	case len(cert.URIs) != 1 || cert.URIs[0].String() != URI(c.TrustDomain):
		return nil, fmt.Errorf("the report certificate does not have exactly the URI %s", URI(c.TrustDomain))
	}
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits
	}
	return &Service{c: c, busy: make(chan struct{}, 1)}, nil
}

// retryBusy is when to ask again while another report is made.
const retryBusy = 10 * time.Second

// Make assembles and signs the report of [from, to), of one product or of all, for actor, and records that it did before
// it returns. The result is an api.SignedReport; it must be kept byte for byte. A period that lies in the future is cut
// at now. Errors that the caller may see are *problem.Error.
func (s *Service) Make(ctx context.Context, actor string, from, to time.Time, product string) ([]byte, error) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return nil, &problem.Error{Status: http.StatusTooManyRequests, Reason: reason.RateLimited, RetryAfter: retryBusy,
			Detail: "another report is being made"}
	}
	now := micros(s.c.Now())
	if to.IsZero() || to.After(now) {
		to = now
	}
	from, to = micros(from), micros(to)
	if !from.Before(to) {
		return nil, problem.Malformed("the period is empty: it must begin before it ends, and in the past")
	}
	catalog := s.c.Catalog()
	if !catalog.Initialised() {
		return nil, problem.New(http.StatusServiceUnavailable, reason.ServerUninitialised, "there is no signed root yet, so nothing could be verified")
	}
	if product != "" && catalog.Products[product] == nil {
		return nil, problem.NotFound("product " + product)
	}
	a := &assembly{s: s, r: api.Report{
		Version: api.ReportVersion, Server: s.c.Server, TrustDomain: s.c.TrustDomain, From: from, To: to, Product: product,
		CreatedAt: now, Logs: map[string][]byte{}, Beacons: map[string][]byte{},
	}}
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	doc, err := s.sign(a.r)
	if err != nil {
		return nil, err
	}
	crash.Here(crash.ReportSigned)
	err = s.c.Store.Commit(ctx, store.Change{Events: []store.Event{{
		At: s.c.Now(), Type: audit.ReportMade, Actor: actor, Subject: digest.Of(doc).String(), Data: map[string]any{
			"from": from, "to": to, "product": product, "bytes": len(doc), "appraisals": len(a.r.Appraisals),
			"events": len(a.r.Events), "truncated": a.r.Coverage.Truncated, "build": s.c.Build,
		},
	}}})
	if err != nil {
		return nil, fmt.Errorf("cannot record the report: %w", err)
	}
	crash.Here(crash.ReportRecorded)
	return doc, nil
}

// sign writes the SignedReport. The report's bytes go into it as they were signed, so it is joined and not encoded again.
func (s *Service) sign(r api.Report) ([]byte, error) {
	body, err := json.Marshal(r, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot encode the report: %w", err)
	}
	sum := sha256.Sum256(append([]byte(api.ReportContext), body...))
	sig, err := s.c.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the report: %w", err)
	}
	signature, err := json.Marshal(api.ReportSignature{Certificate: s.c.Certificate, Signature: sig}, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot encode the report's signature: %w", err)
	}
	doc := bytes.Join([][]byte{[]byte(`{"report":`), body, []byte(`,"signature":`), signature, []byte(`}`)}, nil)
	if len(doc) > api.MaxReportBytes {
		return nil, problem.New(http.StatusUnprocessableEntity, reason.RequestTooLarge, "the report has %d bytes: choose a shorter period, or one product", len(doc))
	}
	return doc, nil
}

// micros is the precision of the store: what the report says and what appraisal ids were made from must agree.
func micros(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
