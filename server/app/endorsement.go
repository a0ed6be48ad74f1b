package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/identity/manufacturer"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// admission reads which TPMs may enroll: those of the manufacturers that the configuration names and of ek_roots_file.
func (a *App) admission() (enroll.Admission, error) {
	e := a.cfg.Endorsement
	roots, err := manufacturer.RootsOf(e.Manufacturers...)
	if err != nil {
		return enroll.Admission{}, fmt.Errorf("cannot use endorsement.manufacturers: %w", err)
	}
	if a.cfg.EKRootsFile != "" {
		b, err := os.ReadFile(a.cfg.EKRootsFile)
		if err != nil {
			return enroll.Admission{}, fmt.Errorf("cannot read ek_roots_file: %w", err)
		}
		own, err := identity.ParseRoots(b)
		if err != nil {
			return enroll.Admission{}, fmt.Errorf("cannot use ek_roots_file %s: %w", a.cfg.EKRootsFile, err)
		}
		roots = roots.With(own)
	}
	if roots.Len() == 0 && !e.WithoutCertificate {
		a.opt.Log.Warn("no TPM can enroll: neither ek_roots_file nor endorsement.manufacturers is set")
	}
	return enroll.Admission{
		Policy: identity.EKPolicy{Roots: roots, Manufacturers: e.Allow, RefuseUnbound: e.BoundOnly, RefuseExpired: e.RefuseExpired},
		Bare:   e.WithoutCertificate,
	}, nil
}

// sweepDenied puts every device that the deny list names into quarantine, also those that never poll again. It is about
// speed alone: polls, enrollment and the door ask the list themselves. A round that was cut short begins anew, after a
// crash as well, and finds nothing to do where it has been; one that went through is repeated when the list changes.
func (a *App) sweepDenied(ctx context.Context) error {
	denials, err := a.store.DenialsInForce(ctx)
	if err != nil {
		return err
	}
	var ids strings.Builder
	for _, n := range denials {
		ids.WriteString(n.ID + "\n")
	}
	if ids.String() == a.denied {
		return nil
	}
	complete := true
	for after := ""; len(denials) > 0; {
		page, err := a.store.ListDevices(ctx, store.DeviceFilter{Lifecycle: fleet.Active}, after, sweepBatch)
		if err != nil {
			return err
		}
		for _, d := range page {
			after = d.ID
			err := a.denyDevice(ctx, d, denials)
			complete = complete && !errors.Is(err, store.ErrConflict) // it polled in between, and was held against the list
			if err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
		if len(page) < sweepBatch {
			break
		}
	}
	if complete {
		a.denied = ids.String()
	}
	return nil
}

func (a *App) denyDevice(ctx context.Context, d fleet.Device, denials []fleet.Denial) error {
	denial, named := fleet.Denied(d, denials)
	if !named {
		return nil
	}
	open, err := store.QuarantineOf(ctx, a.store, d.ID)
	if err != nil {
		return err
	}
	now := a.opt.Now()
	step, changed := fleet.Deny(d, open, denial, now)
	if !changed {
		return nil
	}
	return a.sweepStep(ctx, d, open, step, a.rules(), now)
}
