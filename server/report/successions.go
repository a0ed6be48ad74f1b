package report

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// chunk is how many devices one query names.
const chunk = 500

// successions adds the ends of the devices' attestation keys, by rotation or by people: appraisals from before are under older
// keys. A chain with a gap proves nothing, so when they do not all fit the report goes without the rest of them, and without
// what only they could show.
func (a *assembly) successions(ctx context.Context) error {
	left := a.s.c.Limits.Successions
	for devices := range slices.Chunk(a.r.Devices, chunk) {
		found, err := a.successionsOf(ctx, devices, &left)
		if err != nil {
			return err
		}
		if found == nil {
			a.withoutSuccessions()
			return nil
		}
		for i := range devices {
			devices[i].Successions = found[devices[i].Device.ID]
		}
	}
	return nil
}

// successionsOf reads those of some devices; nil when they do not fit.
func (a *assembly) successionsOf(ctx context.Context, devices []api.DeviceRecord, left *int) (map[string][]api.Succession, error) {
	f := store.EventFilter{Types: []string{audit.DeviceAKRotated, audit.DeviceAKForgotten}}
	for _, d := range devices {
		f.Subjects = append(f.Subjects, d.Device.ID)
	}
	out := map[string][]api.Succession{}
	for after := int64(0); ; {
		page, err := a.s.c.Store.Events(ctx, f, after, pageSize)
		if err != nil {
			return nil, fmt.Errorf("cannot read the ends of attestation keys: %w", err)
		}
		for _, e := range page {
			after = e.Number
			if *left--; *left < 0 || !a.fits(len(e.Leaf)) {
				return nil, nil
			}
			data, err := audit.DataOf(e.Leaf)
			if err != nil {
				return nil, fmt.Errorf("event %d: %w", e.Number, err)
			}
			var s api.Succession
			if err := json.Unmarshal(data, &s); err != nil {
				return nil, fmt.Errorf("event %d: cannot read a rotation: %w", e.Number, err)
			}
			out[e.Subject] = append(out[e.Subject], s)
		}
		if len(page) < pageSize {
			return out, nil
		}
	}
}

// withoutSuccessions leaves out the appraisals under keys that the report does not know, and the devices without any key.
func (a *assembly) withoutSuccessions() {
	a.r.Coverage.Truncated = true
	a.r.Devices = slices.DeleteFunc(a.r.Devices, func(d api.DeviceRecord) bool { return len(d.AKPublic) == 0 && len(d.Successions) == 0 })
	keys := map[string][][]byte{}
	for _, d := range a.r.Devices {
		keys[d.Device.ID] = [][]byte{d.AKPublic}
		for _, s := range d.Successions {
			keys[d.Device.ID] = append(keys[d.Device.ID], s.Before)
		}
	}
	a.r.Appraisals = slices.DeleteFunc(a.r.Appraisals, func(p api.Appraisal) bool {
		return !slices.ContainsFunc(keys[p.Device], func(key []byte) bool { return bytes.Equal(p.Input.AK.Public, key) })
	})
}
