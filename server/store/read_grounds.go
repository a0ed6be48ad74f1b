package store

import (
	"context"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
)

const outdated = `WHERE lifecycle = 'active' AND (standing = 'affirmed' OR standing = 'stale' AND segment = 'production')
	AND product = $1 AND profile = $2 AND `

// DevicesOutdated returns active devices of a product and platform profile that stand, or are within their grace, on other
// grounds than these. Which come first is not said: each one that is written down with these grounds is gone from the list.
func (s *Store) DevicesOutdated(ctx context.Context, product, profile string, grounds digest.SHA256, limit int) ([]fleet.Device, error) {
	var out []fleet.Device
	most := int(limitOf(limit))
	for _, where := range []string{`grounds < $3`, `grounds > $3`} { // as two ranges of the index
		found, err := readAll(ctx, s, "outdated devices", scanDevice, selectDevice+outdated+where+` ORDER BY grounds LIMIT $4`,
			product, profile, grounds[:], int64(most-len(out)))
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); len(out) == most {
			return out, nil
		}
	}
	found, err := readAll(ctx, s, "outdated devices", scanDevice, selectDevice+outdated+`grounds IS NULL LIMIT $3`,
		product, profile, int64(most-len(out)))
	return append(out, found...), err
}

// LastAffirmed returns the appraisal of the newest Evidence that the device was affirmed by, or ErrNotFound. Repetitions
// are not counted.
func (s *Store) LastAffirmed(ctx context.Context, device string) (Appraisal, error) {
	return readOne(ctx, s, "last affirmed appraisal", scanAppraisal, selectAppraisal+`WHERE device = $1 AND outcome = 'affirmed'
		AND repeats IS NULL ORDER BY number DESC LIMIT 1`, device)
}

// AppraisalNumber returns an appraisal by its number, or ErrNotFound.
func (s *Store) AppraisalNumber(ctx context.Context, number int64) (Appraisal, error) {
	return readOne(ctx, s, "appraisal", scanAppraisal, selectAppraisal+`WHERE number = $1`, number)
}

// AppraisalsOf returns the appraisals of a device with a number below before, the newest first. before 0 means all.
func (s *Store) AppraisalsOf(ctx context.Context, device string, before int64, limit int) ([]Appraisal, error) {
	return readAll(ctx, s, "appraisals of a device", scanAppraisal, selectAppraisal+`WHERE device = $1 AND ($2 = 0 OR number < $2)
		ORDER BY number DESC LIMIT $3`, device, before, limitOf(limit))
}
