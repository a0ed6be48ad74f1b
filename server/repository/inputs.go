package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Inputs returns what the Reference Values of a release were predicted from besides its images: boot loaders and boot
// chains. It reads the values from blobs. A pruned release needs none of them any more: its values stay. The error is
// artifacts.ErrNotFound when values are not there.
func Inputs(ctx context.Context, blobs artifacts.Blobs, row store.Release) ([]reference.Input, error) {
	return inputs(row, func(component string, sum digest.SHA256) (reference.Values, error) {
		data, err := readBlob(ctx, blobs, sum, reference.MaxBytes)
		if err != nil {
			return reference.Values{}, err
		}
		return reference.Decode(data)
	})
}

// Inputs is like the function Inputs. It takes the values of published releases from the catalog.
func (s *Service) Inputs(ctx context.Context, row store.Release) ([]reference.Input, error) {
	return inputs(row, func(component string, sum digest.SHA256) (reference.Values, error) {
		if values, ok := s.known(row, component, sum); ok {
			return values, nil
		}
		data, err := s.readBlob(ctx, sum, reference.MaxBytes)
		if err != nil {
			return reference.Values{}, err
		}
		return reference.Decode(data)
	})
}

func inputs(row store.Release, read func(component string, sum digest.SHA256) (reference.Values, error)) ([]reference.Input, error) {
	if !row.PrunedAt.IsZero() {
		return nil, nil
	}
	var out []reference.Input
	for _, component := range sortedKeys(row.Reference) {
		values, err := read(component, row.Reference[component])
		if err != nil {
			return nil, fmt.Errorf("values of %s of %s: %w", component, row.Name, err)
		}
		out = append(out, values.Inputs...)
	}
	return out, nil
}

// claimed reads the Reference Values that a publisher states, and sees to it that everything they name lies in the store.
func (s *Service) claimed(ctx context.Context, component string, stated []byte, dryRun bool) (v reference.Values, complete bool, err error) {
	v, err = reference.Decode(stated)
	if err != nil {
		return v, false, problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "the Reference Values of %s cannot be read: %v", component, err)
	}
	complete = true
	for _, in := range v.Inputs {
		size, err := s.artifacts.Stat(ctx, in.SHA256)
		absent := errors.Is(err, artifacts.ErrNotFound)
		if absent && !dryRun || err == nil && size != in.Length {
			return v, false, problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload the boot %s of %s (%s, %d bytes) first", in.Kind, component, in.SHA256, in.Length)
		}
		if err != nil && !absent {
			return v, false, problem.Busy(err, retryStore)
		}
		complete = complete && !absent
	}
	return v, complete, nil
}

// input reads a boot loader or a boot chain whole, and checks its digest.
func (s *Service) input(ctx context.Context) func(reference.Input) (reference.Source, error) {
	return func(in reference.Input) (reference.Source, error) {
		data, err := readBlob(ctx, s.artifacts, in.SHA256, in.Length)
		if err != nil {
			return reference.Source{}, err
		}
		return reference.SourceOf(data), nil
	}
}

// readBlob reads a small blob whole.
func readBlob(ctx context.Context, blobs artifacts.Blobs, sum digest.SHA256, limit int64) ([]byte, error) {
	size, err := blobs.Stat(ctx, sum)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("blob %s has %d bytes, at most %d are allowed here", sum, size, limit)
	}
	r, err := blobs.Open(ctx, sum, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if digest.Of(data) != sum {
		return nil, fmt.Errorf("blob %s: %w", sum, artifacts.ErrDigestMismatch)
	}
	return data, nil
}
