package repository

import (
	"context"
	"fmt"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
)

// check runs a signed draft through the same verifier that clients use, from the first root on. Nothing is committed
// that a device would refuse.
func (s *Service) check(ctx context.Context, d *draft) error {
	roots, err := s.draftRoots(ctx, d)
	if err != nil {
		return err
	}
	image, err := tufrepo.NewImage(roots[0], s.now())
	if err != nil {
		return err
	}
	if err := image.UpdateRoot(roots[1:]...); err != nil {
		return err
	}
	if err := image.Timestamp(d.repo.TimestampDoc); err != nil {
		return err
	}
	for _, product := range append([]string{""}, sortedKeys(d.policies)...) {
		for {
			want, err := image.Next(product)
			if err != nil {
				return err
			}
			if want == nil {
				break
			}
			doc, err := s.draftFile(ctx, d, want.Name)
			if err != nil {
				return err
			}
			if err := image.Accept(want, doc); err != nil {
				return fmt.Errorf("%s: %w", want.Name, err)
			}
		}
	}
	return nil
}

func (s *Service) draftRoots(ctx context.Context, d *draft) ([][]byte, error) {
	var out [][]byte
	for v := int64(1); v <= d.repo.ImageRoot; v++ {
		data, err := s.draftFile(ctx, d, tufrepo.FileName(v, tufrepo.RoleRoot))
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is no Image root", tufrepo.ErrIncomplete)
	}
	return out, nil
}

// draftFile takes a file from the draft, or the current one.
func (s *Service) draftFile(ctx context.Context, d *draft, name string) ([]byte, error) {
	for _, o := range d.objects {
		if o.Name == name {
			return o.Data, nil
		}
	}
	data, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return data, nil
}
