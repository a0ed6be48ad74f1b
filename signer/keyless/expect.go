package keyless

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Errors about what the offline role has signed, or has not.
var (
	ErrRepository    = errors.New("the server's repository does not verify")
	ErrNoPolicy      = errors.New("the offline targets role has signed no policy for the product")
	ErrNoSigners     = errors.New("the product's policy names no baseline signers")
	ErrKeysOnly      = errors.New("the product's policy has nobody who signs without a key")
	ErrNoTrustedRoot = errors.New("the offline targets role has signed no " + artifacts.TrustedRootPath)
	ErrOwnRoot       = errors.New("trusted root file cannot be used")
)

// Expectations are what server and devices hold a bundle against.
type Expectations struct {
	Policy      artifacts.Policy
	TrustedRoot []byte // the target sigstore/trusted_root.json
	// Own is Optional: a trusted root that the pipeline brings. A bundle has to verify with it as well.
	Own []byte
	// Baseline says that it is a platform baseline: Policy.Publishers are then the baseline signers.
	Baseline bool
}

// Repository serves the files of the Image repository; *api.Client is one. Nothing that it says is believed: the files
// prove each other, beginning with the first root.
type Repository interface {
	ImageRoot(ctx context.Context, version int64) ([]byte, error)
	RepoFile(ctx context.Context, name string) ([]byte, error)
}

// Fetch reads the expectations for a product from the server that will judge the release. They serve to find a mistake
// before anything is logged or uploaded; what counts is what server and devices verify for themselves, so the root that
// the server shows here is believed. newest is the server's version of the root.
func Fetch(ctx context.Context, repo Repository, newest int64, product string, now time.Time) (Expectations, error) {
	return fetch(ctx, repo, newest, product, now, func(*Expectations) error { return nil })
}

// FetchBaseline is Fetch for the signer of a platform baseline. It returns ErrNoSigners where the policy names none.
func FetchBaseline(ctx context.Context, repo Repository, newest int64, product string, now time.Time) (Expectations, error) {
	return fetch(ctx, repo, newest, product, now, func(e *Expectations) error {
		if e.Policy.Baselines == nil {
			return fmt.Errorf("%w: %q", ErrNoSigners, product)
		}
		e.Baseline, e.Policy.Publishers, e.Policy.Threshold = true, e.Policy.Baselines.Signers, e.Policy.Baselines.Threshold
		return nil
	})
}

// fetch reads policy and trusted root; choose may take other signers of the policy than its publishers.
func fetch(ctx context.Context, repo Repository, newest int64, product string, now time.Time, choose func(*Expectations) error) (Expectations, error) {
	image, err := current(ctx, repo, newest, now)
	if err != nil {
		return Expectations{}, err
	}
	raw, ok, err := target(ctx, repo, image, artifacts.PolicyPath(product), artifacts.MaxPolicyBytes)
	if err != nil {
		return Expectations{}, err
	}
	if !ok {
		return Expectations{}, fmt.Errorf("%w %q", ErrNoPolicy, product)
	}
	e := Expectations{}
	if e.Policy, err = artifacts.DecodePolicy(raw); err != nil {
		return Expectations{}, fmt.Errorf("%w: %w", ErrRepository, err)
	}
	if err := choose(&e); err != nil {
		return Expectations{}, err
	}
	if !slices.ContainsFunc(e.Policy.Publishers, func(p artifacts.Publisher) bool { return p.KeyPEM == "" }) {
		return Expectations{}, fmt.Errorf("%w: that of %q names %ss with keys only", ErrKeysOnly, product, e.who())
	}
	if e.TrustedRoot, ok, err = target(ctx, repo, image, artifacts.TrustedRootPath, provenance.MaxTrustedRootBytes); err != nil {
		return Expectations{}, err
	}
	if !ok {
		return Expectations{}, ErrNoTrustedRoot
	}
	return e, nil
}

// WithOwn adds a trusted root that the pipeline brings; it returns ErrOwnRoot if it is none.
func (e Expectations) WithOwn(own []byte) (Expectations, error) {
	if _, err := provenance.VerifyAll(nil, e.Policy, provenance.Options{TrustedRootJSON: own}); err != nil {
		return Expectations{}, fmt.Errorf("%w: %w", ErrOwnRoot, err)
	}
	e.Own = own
	return e, nil
}

// current follows roots and timestamp down to the offline targets.
func current(ctx context.Context, repo Repository, newest int64, now time.Time) (*tufrepo.Image, error) {
	first, err := repo.ImageRoot(ctx, 1)
	if err != nil {
		return nil, err
	}
	image, err := tufrepo.NewImage(first, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRepository, err)
	}
	for v := int64(2); v <= newest; v++ {
		doc, err := repo.ImageRoot(ctx, v)
		if err != nil {
			return nil, err
		}
		if err := image.UpdateRoot(doc); err != nil {
			return nil, fmt.Errorf("%w: root %d: %w", ErrRepository, v, err)
		}
	}
	timestamp, err := repo.RepoFile(ctx, tufrepo.TimestampName)
	if err != nil {
		return nil, err
	}
	if err := image.Timestamp(timestamp); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRepository, err)
	}
	for {
		want, err := image.Next("")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRepository, err)
		}
		if want == nil {
			return image, nil
		}
		doc, err := repo.RepoFile(ctx, want.Name)
		if err != nil {
			return nil, err
		}
		if err := image.Accept(want, doc); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRepository, err)
		}
	}
}

// target reads a file that the offline role has signed; ok is false when there is none of that name.
func target(ctx context.Context, repo Repository, image *tufrepo.Image, path string, limit int64) (b []byte, ok bool, err error) {
	t, _, ok := image.Target(path)
	if !ok {
		return nil, false, nil
	}
	if t.Length > limit {
		return nil, false, fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrRepository, path, t.Length, limit)
	}
	b, err = repo.RepoFile(ctx, tufrepo.TargetFileName(path, t.SHA256))
	if err != nil {
		return nil, false, err
	}
	if int64(len(b)) != t.Length || digest.Of(b) != t.SHA256 {
		return nil, false, fmt.Errorf("%w: %s is not the signed one", ErrRepository, path)
	}
	return b, true, nil
}
