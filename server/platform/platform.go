// Package platform finds out what the firmware of a platform measures, and what a release will make of it: it learns
// baselines from devices, and predicts the registers of a fleet before a rollout opens.
//
// It promises to change nothing and to hold no more than one page of devices at a time. It refuses to learn from devices
// that are not active in the product and profile, from TPMs that are on the deny list, and from fewer than were asked for;
// whether what they agree about is right is for the people who sign it. The rules are in attestation/reference.
//
// Trusted: an attacker who controls it can show people a baseline that no device has; the devices are named in what they
// sign, and a wrong baseline lets nobody pass who booted something else than a signed release.
package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what the service reads: committed state; a missing row is store.ErrNotFound.
type Store interface {
	Device(ctx context.Context, id string) (fleet.Device, error)
	DenialsInForce(ctx context.Context) ([]fleet.Denial, error)
	ListDevices(ctx context.Context, f store.DeviceFilter, after string, limit int) ([]fleet.Device, error)
	Observations(ctx context.Context, product, profile string, limit int) ([]store.Observation, error)
	Baselines(ctx context.Context, product, profile string, limit int) ([]store.Baseline, error)
	Log(ctx context.Context, d digest.SHA256) ([]byte, error)
}

// Releases is what the service asks of the repository. Look returns a *problem.Error for a release that is not there.
type Releases interface {
	Catalog() *repository.Catalog
	Look(ctx context.Context, name string) (*repository.Release, error)
}

// Service learns and predicts. It is safe for concurrent use.
type Service struct {
	store    Store
	releases Releases
	busy     chan struct{} // full while something is learned: that reads and replays hundreds of event logs
}

// New joins the parts.
func New(s Store, r Releases) *Service {
	return &Service{store: s, releases: r, busy: make(chan struct{}, 1)}
}

// retryBusy is when to ask again while something else is learned.
const retryBusy = 5 * time.Second

// DefaultDevices is how many devices must agree when nobody says otherwise.
const DefaultDevices = 3

// Query says what is to be learned.
type Query struct {
	Product, Profile string
	Devices          int      // how many must agree; at least 1
	Exclude          []string // devices that do not count
	Name             string   // of the new set; empty: by its generation
	Drop             []string // sets of the baseline in force that the new one leaves out
}

// Learn asks what the devices of a platform agree about and makes the statement that a baseline signer may sign. What
// stands against it is in Refusals, and then there is no Statement. One is made at a time: another gets rate_limited. Errors
// that the caller may see are *problem.Error.
func (s *Service) Learn(ctx context.Context, q Query) (api.Learning, error) {
	current, err := s.check(q)
	if err != nil {
		return api.Learning{}, err
	}
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return api.Learning{}, &problem.Error{Status: http.StatusTooManyRequests, Reason: reason.RateLimited, RetryAfter: retryBusy,
			Detail: "another baseline is being learned"}
	}
	out := api.Learning{Product: q.Product, Profile: q.Profile, Need: q.Devices, Devices: []api.LearningDevice{}}
	seen, err := s.observations(ctx, q, &out)
	if err != nil {
		return api.Learning{}, err
	}
	var observations []reference.Observation
	for _, o := range seen {
		observations = append(observations, o.Observation)
	}
	out.Learned = reference.Learn(observations, q.Devices)
	out.Refusals = append(out.Refusals, out.Learned.Refusals...)
	if len(out.Refusals) > 0 {
		return out, nil
	}
	newest, err := s.newest(ctx, q.Product, q.Profile)
	if err != nil {
		return api.Learning{}, err
	}
	return out, s.state(ctx, q, &out, seen, current, newest)
}

// check finds the policy and the baseline in force.
func (s *Service) check(q Query) (repository.Baseline, error) {
	for _, name := range []string{q.Product, q.Profile} {
		if err := artifacts.ValidName(name); err != nil {
			return repository.Baseline{}, problem.Malformed("%v", err)
		}
	}
	if q.Devices < 1 || q.Devices > artifacts.MaxBaselineDevices {
		return repository.Baseline{}, problem.Malformed("devices must be 1 to %d", artifacts.MaxBaselineDevices)
	}
	if q.Name != "" && artifacts.ValidName(q.Name) != nil {
		return repository.Baseline{}, problem.Malformed("the name of a set must be 1 to 63 of a-z 0-9 . _ -")
	}
	product := s.releases.Catalog().Products[q.Product]
	if product == nil || product.PolicyDigest.IsZero() {
		return repository.Baseline{}, problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "the offline targets role has signed no policy for product %q", q.Product)
	}
	if product.Policy.Baselines == nil {
		return repository.Baseline{}, problem.New(http.StatusUnprocessableEntity, reason.BaselineRefused, "the offline policy of product %q names no baseline signers, so nobody could sign what is learned: the holders name them with 'cordon-sign product set'", q.Product)
	}
	b, known := product.Baselines[q.Profile]
	if known && b.Generation == 0 {
		return repository.Baseline{}, problem.New(http.StatusUnprocessableEntity, reason.BaselineRefused, "the offline targets role signs the baseline of profile %s itself; that one goes first", q.Profile)
	}
	return b, nil
}

// observed is one device that counts.
type observed struct {
	reference.Observation
	row store.Observation
}

// observations loads what the active devices of the platform proved, and says of each device whether it counts.
func (s *Service) observations(ctx context.Context, q Query, out *api.Learning) ([]observed, error) {
	rows, err := s.store.Observations(ctx, q.Product, q.Profile, artifacts.MaxBaselineDevices+1)
	if err != nil {
		return nil, fmt.Errorf("cannot read observations: %w", err)
	}
	if len(rows) > artifacts.MaxBaselineDevices {
		rows, out.More = rows[:artifacts.MaxBaselineDevices], true
	}
	denials, err := s.store.DenialsInForce(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the deny list: %w", err)
	}
	unknown := slices.Clone(q.Exclude)
	var counted []observed
	for _, row := range rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		unknown = slices.DeleteFunc(unknown, func(id string) bool { return id == row.Device })
		view := api.LearningDevice{Device: row.Device, At: row.At.UTC(), Release: row.Release}
		device, err := s.store.Device(ctx, row.Device)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("cannot read a device: %w", err)
		}
		view.Standing = string(device.Standing)
		o := observed{row: row}
		_, denied := fleet.Denied(device, denials)
		switch {
		case slices.Contains(q.Exclude, row.Device):
			view.LeftOut = "left out by name"
		case device.Lifecycle != fleet.Active || device.Product != q.Product || device.Profile != q.Profile:
			view.LeftOut = "it is no active device of the platform any more"
		case denied: // whoever has its keys can make it show anything
			view.LeftOut = "its TPM is on the deny list"
		default:
			if o.Observation, view.LeftOut, err = s.read(ctx, row); err != nil {
				return nil, err
			}
		}
		out.Devices = append(out.Devices, view)
		if view.LeftOut == "" {
			counted = append(counted, o)
		}
	}
	for _, id := range unknown {
		out.Refusals = append(out.Refusals, fmt.Sprintf("device %.80s is to be left out, and nothing was observed of it", id))
	}
	return counted, nil
}

// read loads the log of an observation. It was checked when it was observed; what the database says now is checked again.
func (s *Service) read(ctx context.Context, row store.Observation) (o reference.Observation, why string, err error) {
	log, err := s.log(ctx, row.LogDigest)
	if err != nil {
		return reference.Observation{}, "", err
	}
	if log == nil {
		return reference.Observation{}, "its event log is not stored any more", nil
	}
	quoted := quotedOf(row.PCRs)
	replayed := log.Replay()
	for _, pcr := range reference.PlatformPCRs() {
		if replayed[pcr] != quoted[pcr] {
			return reference.Observation{}, fmt.Sprintf("its event log does not lead to the value of PCR %d", pcr), nil
		}
	}
	return reference.Observation{Device: row.Device, Quoted: quoted, Log: *log}, "", nil
}

// log returns nil for a log that is not stored, or that cannot be read.
func (s *Service) log(ctx context.Context, d digest.SHA256) (*eventlog.Log, error) {
	data, err := s.store.Log(ctx, d)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load an event log: %w", err)
	}
	log, err := eventlog.Parse(data)
	if err != nil || digest.Of(data) != d {
		return nil, nil
	}
	return &log, nil
}

func quotedOf(pcrs []attestation.PCR) map[int]digest.SHA256 {
	out := map[int]digest.SHA256{}
	for _, p := range pcrs {
		out[p.Index] = p.Value
	}
	return out
}

// newest is the newest generation, whether it verifies or not; 0 when there is none.
func (s *Service) newest(ctx context.Context, product, profile string) (uint64, error) {
	rows, err := s.store.Baselines(ctx, product, profile, 1)
	if err != nil {
		return 0, fmt.Errorf("cannot read baselines: %w", err)
	}
	if len(rows) == 0 {
		return 0, nil
	}
	return rows[0].Generation, nil
}

// state writes the statement: what was learned goes first, the states of the baseline in force stay behind it, so that
// devices whose firmware is not updated yet pass as before.
func (s *Service) state(ctx context.Context, q Query, out *api.Learning, seen []observed, current repository.Baseline, newest uint64) error {
	b := artifacts.PlatformBaseline{Product: q.Product, Profile: q.Profile, Generation: newest + 1}
	set := artifacts.BaselineSet{Name: q.Name, Source: artifacts.BaselineLearned, PCRs: out.Learned.Values}
	if set.Name == "" {
		set.Name = fmt.Sprintf("g%d", b.Generation)
	}
	for _, o := range seen {
		set.Devices = append(set.Devices, artifacts.BaselineDevice{Device: o.Device, Evidence: o.row.Evidence, Log: o.row.LogDigest})
	}
	b.Sets = append(b.Sets, set)
	kept, err := s.kept(ctx, q, current)
	if err != nil {
		return err
	}
	b.Sets = append(b.Sets, kept...)
	statement, err := artifacts.NewBaselineStatement(b)
	if err == nil {
		out.Statement, err = statement.Encode()
	}
	if err != nil { // such as more states than a platform may have, or one that is there already
		out.Refusals = append(out.Refusals, strings.ReplaceAll(err.Error(), "\n", "; ")+"; a state that is not needed any more can be dropped by name")
	}
	return nil
}

// kept are the sets of the baseline in force that stay.
func (s *Service) kept(ctx context.Context, q Query, current repository.Baseline) ([]artifacts.BaselineSet, error) {
	if current.Generation == 0 {
		return nil, nil
	}
	rows, err := s.store.Baselines(ctx, q.Product, q.Profile, 1)
	if err != nil {
		return nil, fmt.Errorf("cannot read baselines: %w", err)
	}
	if len(rows) == 0 || rows[0].Digest != current.Digest {
		return nil, nil // another one was handed in meanwhile: its upload will be refused as older
	}
	statement, err := claimed(rows[0])
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(statement.Predicate.Sets, func(set artifacts.BaselineSet) bool { return slices.Contains(q.Drop, set.Name) }), nil
}
