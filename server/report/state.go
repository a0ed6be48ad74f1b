package report

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// deviceRecords adds the devices of the scope that were enrolled before the period ended, and those that the rest of the
// report names.
func (a *assembly) deviceRecords(ctx context.Context) error {
	a.devices = map[string]bool{}
	after := ""
	for {
		page, err := a.s.c.Store.ListDevices(ctx, store.DeviceFilter{Product: a.r.Product}, after, pageSize)
		if err != nil {
			return fmt.Errorf("cannot read devices: %w", err)
		}
		for _, d := range page {
			after = d.ID
			if !d.EnrolledAt.Before(a.r.To) {
				continue
			}
			if len(a.r.Devices) >= a.s.c.Limits.Devices {
				a.r.Coverage.Truncated = true
				return a.namedDevices(ctx)
			}
			if err := a.addDevice(ctx, d); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return a.namedDevices(ctx)
		}
	}
}

func (a *assembly) namedDevices(ctx context.Context) error {
	var names []string
	for _, p := range a.r.Appraisals {
		names = append(names, p.Device)
	}
	for _, q := range a.r.Quarantines {
		names = append(names, q.Device)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if a.devices[name] {
			continue
		}
		d, err := a.s.c.Store.Device(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue // the verifier sees that it is missing
		}
		if err != nil {
			return fmt.Errorf("cannot read a device: %w", err)
		}
		if err := a.addDevice(ctx, d); err != nil {
			return err
		}
	}
	slices.SortFunc(a.r.Devices, func(x, y api.DeviceRecord) int { return strings.Compare(x.Device.ID, y.Device.ID) })
	return nil
}

func (a *assembly) addDevice(ctx context.Context, d fleet.Device) error {
	view := api.Device{
		ID: d.ID, Product: d.Product, HardwareID: d.HardwareID, Profile: d.Profile, Lifecycle: string(d.Lifecycle),
		Standing: string(d.Standing), Segment: string(d.Segment), Tier: d.Tier, Proven: d.Proven, ProvenAt: optional(d.ProvenAt),
		LeaseUntil: optional(d.LeaseUntil), Offered: d.Offered, Deadline: optional(d.Deadline), SeenAt: optional(d.SeenAt),
		EnrolledAt: d.EnrolledAt.UTC(), Manufacturer: d.Manufacturer, Version: d.Version,
	}
	q, err := store.QuarantineOf(ctx, a.s.c.Store, d.ID)
	if err != nil {
		return fmt.Errorf("device %s: %w", d.ID, err)
	}
	if q != nil {
		shown, err := a.quarantineView(ctx, *q)
		if err != nil {
			return err
		}
		view.Quarantine, view.Reasons = &shown, q.Causes
	}
	a.devices[d.ID] = true
	record := api.DeviceRecord{Device: view, EKCertificate: d.EKCertificate, EKPublic: d.EKPublic, AKPublic: d.AKPublic, AdmittedBy: d.AdmittedBy}
	a.r.Devices = append(a.r.Devices, record)
	return nil
}

// image adds the signed metadata: all roots, what is current, and the offline targets that were current before.
func (a *assembly) image(ctx context.Context) error {
	repo, err := a.s.c.Store.Repo(ctx, store.RepoImage)
	if err != nil {
		return fmt.Errorf("cannot read the repository's state: %w", err)
	}
	m := &a.r.Image
	m.Timestamp, m.Products = repo.TimestampDoc, map[string][]byte{}
	for v := int64(1); v <= repo.ImageRoot; v++ {
		root, err := a.metadata(ctx, v, tufrepo.RoleRoot)
		if err != nil {
			return err
		}
		m.Roots = append(m.Roots, root)
	}
	if m.Snapshot, err = a.metadata(ctx, repo.Snapshot, tufrepo.RoleSnapshot); err != nil {
		return err
	}
	for product, v := range repo.Products {
		if v == 0 {
			continue // delegated, and nothing was published yet
		}
		if m.Products[product], err = a.metadata(ctx, v, product); err != nil {
			return err
		}
	}
	have := map[digest.SHA256]bool{}
	if m.Targets, m.Files, err = a.offline(ctx, repo.Targets, have, func(string) bool { return true }); err != nil {
		return err
	}
	return a.past(ctx, repo.Targets, have)
}

func (a *assembly) metadata(ctx context.Context, version int64, role string) ([]byte, error) {
	name := tufrepo.StorePrefix + tufrepo.FileName(version, role)
	data, err := a.s.c.Store.MetadataFile(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return data, nil
}

// offline reads a targets document and those of its files that are wanted and not among have, which it adds them to.
func (a *assembly) offline(ctx context.Context, version int64, have map[digest.SHA256]bool, wanted func(path string) bool) ([]byte, map[string][]byte, error) {
	doc, err := a.metadata(ctx, version, tufrepo.RoleTargets)
	if err != nil {
		return nil, nil, err
	}
	spec, err := tufrepo.ParseTargets(doc)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read offline targets %d: %w", version, err)
	}
	files := map[string][]byte{}
	for path, f := range spec.Files {
		if have[f.SHA256] || !wanted(path) {
			continue
		}
		data, err := a.s.c.Store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.TargetFileName(path, f.SHA256))
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read %s: %w", path, err)
		}
		files[path] = data
	}
	for _, data := range files {
		have[digest.Of(data)] = true
	}
	return doc, files, nil
}

// past adds the documents that verdicts and releases of earlier times were decided by, oldest first.
func (a *assembly) past(ctx context.Context, current int64, have map[digest.SHA256]bool) error {
	first := max(1, current-int64(a.s.c.Limits.Past))
	if first > 1 {
		a.r.Coverage.Truncated = true
	}
	for v := first; v < current; v++ {
		doc, files, err := a.offline(ctx, v, have, decides)
		if errors.Is(err, store.ErrNotFound) {
			continue // a version that was skipped in the ceremony
		}
		if err != nil {
			return err
		}
		if len(files) > 0 {
			a.r.Image.Past = append(a.r.Image.Past, api.PastTargets{Targets: doc, Files: files})
		}
	}
	return nil
}

// decides reports whether an offline file is one that verdicts or releases are held against.
func decides(path string) bool {
	return strings.HasPrefix(path, "policy/") || strings.HasPrefix(path, "baseline/") || strings.HasPrefix(path, "sigstore/")
}
