package platform

import (
	"context"
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// claimed reads the statement of a baseline that was verified when the catalog was made.
func claimed(row store.Baseline) (artifacts.BaselineStatement, error) {
	if len(row.Bundles) == 0 {
		return artifacts.BaselineStatement{}, errors.New("a stored baseline has no bundle")
	}
	return provenance.ClaimedBaseline(row.Bundles[0])
}

// DryRun predicts what the active devices of a release's product measure when they boot it: one page of devices after an
// id, or the one device alone. Errors that the caller may see are *problem.Error.
func (s *Service) DryRun(ctx context.Context, release, device, after string, limit int) (api.DryRun, error) {
	r, err := s.releases.Look(ctx, release)
	if err != nil {
		return api.DryRun{}, err
	}
	out := api.DryRun{Release: r.Name, Devices: []api.DryRunDevice{}}
	devices, err := s.page(ctx, r.Statement.Predicate.Product, device, after, limit)
	if err != nil {
		return api.DryRun{}, err
	}
	for _, d := range devices {
		if err := ctx.Err(); err != nil {
			return api.DryRun{}, err
		}
		view, err := s.predict(ctx, r, d)
		if err != nil {
			return api.DryRun{}, err
		}
		if view.Predictable {
			out.Predictable++
		}
		out.Devices = append(out.Devices, view)
	}
	if device == "" && len(devices) == limit {
		out.Next = devices[len(devices)-1].ID
	}
	return out, nil
}

func (s *Service) page(ctx context.Context, product, device, after string, limit int) ([]fleet.Device, error) {
	if device == "" {
		out, err := s.store.ListDevices(ctx, store.DeviceFilter{Product: product, Lifecycle: fleet.Active}, after, limit)
		if err != nil {
			return nil, fmt.Errorf("cannot list devices: %w", err)
		}
		return out, nil
	}
	d, err := s.store.Device(ctx, device)
	if errors.Is(err, store.ErrNotFound) || err == nil && (d.Product != product || d.Lifecycle != fleet.Active) {
		return nil, problem.NotFound("active device " + device + " of product " + product)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the device: %w", err)
	}
	return []fleet.Device{d}, nil
}

// predict puts the release into the device's last proven boot.
func (s *Service) predict(ctx context.Context, r *repository.Release, d fleet.Device) (api.DryRunDevice, error) {
	out := api.DryRunDevice{Device: d.ID, HardwareID: d.HardwareID, Profile: d.Profile, Runs: d.Proven}
	to, ok := r.Expectation(d.HardwareID)
	if !ok {
		out.Problems = append(out.Problems, reference.Problem{Kind: reference.OtherHardware,
			Detail: fmt.Sprintf("the release has no measured component for hardware %s", d.HardwareID)})
		return out, nil
	}
	measured, _ := r.Measured(d.HardwareID) // there is one: it has an Expectation
	out.Component = measured.Name
	boot, why, err := s.lastBoot(ctx, d)
	if err != nil {
		return api.DryRunDevice{}, err
	}
	if why != nil {
		out.Problems = append(out.Problems, *why)
		return out, nil
	}
	p := reference.DryRun(boot, to.Values)
	out.PCRs, out.Problems = p.PCRs, p.Problems
	out.Predictable = len(out.Problems) == 0
	return out, nil
}

// lastBoot collects what the device proved last; why says what is missing.
func (s *Service) lastBoot(ctx context.Context, d fleet.Device) (boot reference.LastBoot, why *reference.Problem, err error) {
	if d.Accepted == nil || d.LogDigest.IsZero() {
		return boot, &reference.Problem{Kind: reference.NoLog, Detail: "no boot of it is stored: it has passed no appraisal since it was enrolled or activated"}, nil
	}
	log, err := s.log(ctx, d.LogDigest)
	if err != nil {
		return boot, nil, err
	}
	if log == nil {
		return boot, &reference.Problem{Kind: reference.NoLog, Detail: "its last event log is not stored any more"}, nil
	}
	product := s.releases.Catalog().Products[d.Product]
	if product == nil {
		return boot, nil, problem.NotFound("product " + d.Product)
	}
	running, ok := product.Release(d.Proven)
	if !ok {
		return boot, &reference.Problem{Kind: reference.NothingProven, Detail: fmt.Sprintf("what it runs, %q, is no published release", d.Proven)}, nil
	}
	from, ok := running.Expectation(d.HardwareID)
	if !ok {
		return boot, &reference.Problem{Kind: reference.NothingProven, Detail: fmt.Sprintf("%s has no measured component for hardware %s", d.Proven, d.HardwareID)}, nil
	}
	boot = reference.LastBoot{Log: *log, Quoted: quotedOf(d.Accepted.PCRs), Release: d.Proven, Values: from.Values}
	if b, signed := product.Baselines[d.Profile]; signed {
		boot.Baseline = &b.Value
	}
	return boot, nil, nil
}
