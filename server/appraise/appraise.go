// Package appraise runs one poll: load, appraise, decide, commit, answer.
//
// No rule lives here. attestation.Appraise judges the Evidence, fleet decides what it means for the device, rollout what
// the device may have, director writes it down. Everything that a poll changes is committed in one transaction before
// the answer leaves, and the same bytes sent again get the same answer.
package appraise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/deviceca"
	"github.com/cordon-ota/cordon/server/director"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/limit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/rollout"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what a poll reads and writes. Every read is of committed state; Commit returns when the change is durable,
// store.ErrConflict when a version it expects has moved on. A missing row is store.ErrNotFound.
type Store interface {
	DeviceByTLSKey(ctx context.Context, key digest.SHA256) (fleet.Device, error)
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
	Director(ctx context.Context, device string) (store.Director, error)
	DenialsInForce(ctx context.Context) ([]fleet.Denial, error)
	Evidence
	Commit(ctx context.Context, change store.Change) error
}

// Evidence reads what judging a quote needs beside the device. Missing rows are store.ErrNotFound.
type Evidence interface {
	Beacon(ctx context.Context, d digest.SHA256) (store.Beacon, error)
	Log(ctx context.Context, d digest.SHA256) ([]byte, error)
	Inventory(ctx context.Context, device string) (store.Inventory, error)
	LastAffirmed(ctx context.Context, device string) (store.Appraisal, error)
}

// Settings are the times of the protocol; config documents and checks them.
type Settings struct {
	Terms          fleet.Terms
	Poll           time.Duration // between two polls, before jitter
	Jitter         float64       // 0.2 = +-20 %
	BeaconWindow   time.Duration
	UpdateDeadline time.Duration // from the offer to the proof
	Points         []string      // the network enforcement points
	Build          string        // of this verifier, recorded with each appraisal
	// Cache knows what was affirmed before. Optional: without one every quote is appraised in full.
	Cache *attestation.Cache
	// After a restore from a backup, at RestoredAt, beacons up to version Floor do not count, and a device that has not
	// proven anything since may run what the server does not know any more.
	Floor      int64
	RestoredAt time.Time
}

// Service answers polls. It is safe for concurrent use.
type Service struct {
	store      Store
	catalog    func() *repository.Catalog
	challenges *Challenges
	director   *director.Service
	ca         *deviceca.CA
	set        Settings
	now        func() time.Time
	log        *slog.Logger
	costly     *limit.Limiter
	standards  standards
}

// What a device makes the server keep for good without proving anything has a limit: costBurst polls at once, and
// costPerPoll in a poll interval after that. Beyond it the device is told to come back, so nothing it says is lost.
const (
	costBurst   = 128
	costPerPoll = 8
	costKeys    = 4096
)

// New joins the parts. now is the server's clock.
func New(s Store, catalog func() *repository.Catalog, challenges *Challenges, d *director.Service, ca *deviceca.CA, set Settings, now func() time.Time, log *slog.Logger) *Service {
	return &Service{store: s, catalog: catalog, challenges: challenges, director: d, ca: ca, set: set, now: now, log: log,
		costly: limit.New(costBurst, set.Poll/costPerPoll, costKeys)}
}

// Answer is what goes back to the device. A nil Body is 204.
type Answer struct {
	Body     []byte
	NextPoll time.Duration
	Time     time.Time
	Device   string        // who polled: the connection's key has proven it
	Changed  *fleet.Device // the device after the poll, when it changed: enforcement inside this process listens

	costs string // the device that this poll makes rows for that prove nothing; empty if it does not
}

// maxAttempts bounds how often a poll is decided again because the state changed in between.
const maxAttempts = 5

// Poll answers one poll. tlsKey is SHA-256 of the SPKI that the connection authenticated with, exporter its keying
// material (attestation.ExporterLabel), body the request as received. Errors are *problem.Error where the device may
// know; anything else means that nothing was decided. Whatever a poll changes is in its one Commit.
func (s *Service) Poll(ctx context.Context, tlsKey digest.SHA256, exporter, body []byte) (Answer, error) {
	catalog := s.catalog()
	if !catalog.Initialised() {
		return Answer{}, problem.New(http.StatusServiceUnavailable, reason.ServerUninitialised, "the server has no signed root yet")
	}
	for attempt := range maxAttempts {
		answer, change, err := s.decide(ctx, catalog, tlsKey, exporter, body)
		if err != nil {
			return Answer{}, err
		}
		if len(change.Writes) == 0 && len(change.Events) == 0 {
			return answer, nil
		}
		if err := s.afford(answer.costs, attempt); err != nil {
			return Answer{}, err
		}
		crash.Here(crash.PollDecided)
		err = s.store.Commit(ctx, change)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return Answer{}, fmt.Errorf("cannot commit the poll: %w", err)
		}
		crash.Here(crash.PollCommitted)
		return answer, nil
	}
	return Answer{}, problem.Busy(fmt.Errorf("device state kept changing: %w", store.ErrConflict), time.Second)
}

// afford refuses a poll that would write more than its device may without proving anything.
func (s *Service) afford(device string, attempt int) error {
	if device == "" || attempt > 0 {
		return nil
	}
	if ok, _, wait := s.costly.Allow(device, s.now()); !ok {
		return &problem.Error{Status: http.StatusTooManyRequests, Reason: reason.RateLimited, RetryAfter: wait,
			Detail: "the device reports more than the server keeps"}
	}
	return nil
}

func (s *Service) decide(ctx context.Context, catalog *repository.Catalog, tlsKey digest.SHA256, exporter, body []byte) (Answer, store.Change, error) {
	now := s.now()
	d, err := s.store.DeviceByTLSKey(ctx, tlsKey)
	if errors.Is(err, store.ErrNotFound) {
		return Answer{}, store.Change{}, problem.New(http.StatusUnauthorized, reason.DeviceUnknown, "no device is enrolled with this key")
	}
	if err != nil {
		return Answer{}, store.Change{}, fmt.Errorf("cannot load the device: %w", err)
	}
	if d.Lifecycle == fleet.Retired {
		return Answer{}, store.Change{}, problem.New(http.StatusForbidden, reason.DeviceRetired, "the device was retired")
	}
	if d.KeyForgotten() {
		return Answer{}, store.Change{}, problem.New(http.StatusForbidden, reason.AKUnknown, "the attestation key of the device was forgotten; enroll again")
	}
	denials, err := s.store.DenialsInForce(ctx)
	if err != nil {
		return Answer{}, store.Change{}, fmt.Errorf("cannot read the deny list: %w", err)
	}
	_, denied := fleet.Denied(d, denials)
	digestOfBody := digest.Of(body)
	if d.LastPoll == digestOfBody && !denied && !offerEnded(catalog, d, now) && !catalog.Outdated(d) {
		// The last accepted poll, byte for byte, by the same key: its answer was lost. Recognised before the channel
		// check, because it was bound to the old connection; it renews nothing. No stored bytes stand for a 204.
		return Answer{Device: d.ID, Body: d.LastAnswer, NextPoll: s.nextPoll(), Time: now}, store.Change{}, nil
	}
	t, err := s.newTurn(ctx, catalog, d, exporter, body, now)
	if err != nil {
		return Answer{}, store.Change{}, err
	}
	t.denials = denials
	if err := t.run(ctx); err != nil {
		return Answer{}, store.Change{}, err
	}
	return t.finish(digestOfBody)
}

// offerEnded says that the device's open offer would not be made any more, so a stored answer that makes it is void: the
// release is held or withdrawn, or the lease has ended.
func offerEnded(catalog *repository.Catalog, d fleet.Device, now time.Time) bool {
	if d.Offered == "" {
		return false
	}
	product := catalog.Products[d.Product]
	if product == nil || d.Standing != fleet.Affirmed || !now.Before(d.LeaseUntil) {
		return true
	}
	r, ok := product.Release(d.Offered)
	return !ok || rollout.Fits(d, product.Policy, rollout.Candidate{Name: r.Name, Release: r.Statement.Predicate, Hold: r.Hold}) != ""
}

// nextPoll spreads devices: +-Jitter around the interval.
func (s *Service) nextPoll() time.Duration {
	spread := 1 + s.set.Jitter*(2*rand.Float64()-1)
	return time.Duration(float64(s.set.Poll) * spread).Round(time.Second)
}

func refusals(rs []reason.Reason) []wire.Refusal {
	var out []wire.Refusal
	for _, r := range rs {
		row, _ := reason.Lookup(r)
		refusal := wire.Refusal{Reason: r, Remedy: row.Remedy}
		if !slices.Contains(out, refusal) {
			out = append(out, refusal)
		}
	}
	return out
}
