package enroll

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// admit commits the device: new, again, or activated anew after its TPM was cleared.
func (s *Service) admit(ctx context.Context, a applicant, req wire.ActivateRequest, claims wire.Claims, log *store.AddLog, consume store.ConsumeChallenge) (wire.ActivateAnswer, error) {
	before, err := s.store.Device(ctx, a.id)
	known := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return wire.ActivateAnswer{}, fmt.Errorf("cannot load the device: %w", err)
	}
	var change store.Change
	d := before
	if known {
		if change.Events, err = s.again(&d, a, claims); err != nil {
			return wire.ActivateAnswer{}, err
		}
	} else {
		d = s.fresh(a, req, claims)
		change.Events = []store.Event{{At: s.now(), Type: audit.DeviceEnrolled, Actor: d.ID, Subject: d.ID, Data: map[string]any{
			"manufacturer": d.Manufacturer, "ek_spki": d.EKSPKI, "tls_key": d.TLSKey, "notes": a.ek.Notes,
		}}}
	}
	change.Writes = append(change.Writes, consume)
	if err := s.claim(ctx, &d, req.Enroll.Token, &change); err != nil {
		return wire.ActivateAnswer{}, err
	}
	// Any genuine TPM can send logs without end. One is kept when somebody claims the device; later polls ask for others.
	if log != nil && before.Lifecycle != fleet.Active && d.Lifecycle == fleet.Active {
		change.Writes = append(change.Writes, *log)
	}
	q, err := store.QuarantineOf(ctx, s.store, d.ID)
	if err != nil {
		return wire.ActivateAnswer{}, err
	}
	s.rules.Close(&change, &d, q, "server", s.now())
	crash.Here(crash.EnrollDecided)
	switch err := s.store.Commit(ctx, change); {
	case errors.Is(err, store.ErrConflict):
		return wire.ActivateAnswer{}, problem.New(http.StatusConflict, reason.Conflict, "the challenge was used already, or the TPM or its keys belong to another device; start again")
	case err != nil:
		return wire.ActivateAnswer{}, fmt.Errorf("cannot commit the enrollment: %w", err)
	}
	crash.Here(crash.EnrollCommitted)
	return answer(d), nil
}

func answer(d fleet.Device) wire.ActivateAnswer {
	out := wire.ActivateAnswer{Device: d.ID, Lifecycle: string(d.Lifecycle), CounterBase: d.CounterBase}
	if d.Lifecycle == fleet.Active {
		out.HardwareID = d.HardwareID
	}
	if d.Lifecycle == fleet.Pending {
		row, _ := reason.Lookup(reason.DevicePending)
		out.Refusal = []wire.Refusal{{Reason: row.Reason, Remedy: row.Remedy}}
	}
	return out
}

func (s *Service) fresh(a applicant, req wire.ActivateRequest, claims wire.Claims) fleet.Device {
	spki, _ := x509.MarshalPKIXPublicKey(a.tls.Key) // check has marshalled the same key
	d := fleet.Device{
		ID: a.id, Lifecycle: fleet.Pending, Standing: fleet.Unproven, Segment: fleet.Restricted, HardwareID: req.Enroll.HardwareID,
		EKCertificate: a.ek.Certificate.Raw, EKSPKI: digest.Of(a.ek.SPKI), Manufacturer: a.ek.Manufacturer,
		AKPublic: a.ak.Raw, AKName: a.ak.Name, AKQualifiedSigner: a.qn,
		TLSPublic: a.tls.Raw, TLSKey: digest.Of(spki), EnrolledAt: s.now(),
	}
	if claims.Counter != nil {
		// A counter that has counted already comes from a server that forgot the device, in a restore for example. The device
		// keeps the base that it agreed on then, and whoever claims too much only refuses itself more releases.
		d.HighCounter = min(claims.Counter.Value, claims.Counter.Index)
		d.CounterBase = claims.Counter.Index - d.HighCounter
	}
	return d
}

// again handles a device that is known. The same TPM with the same keys changes nothing (a lost answer). A new TLS key or
// a counter that started over means that the TPM was cleared: continuity and the counter are anchored anew, and the
// device has to prove its boot again. An AK that differs is never taken over (V-17).
func (s *Service) again(d *fleet.Device, a applicant, claims wire.Claims) ([]store.Event, error) {
	if d.Lifecycle == fleet.Retired {
		return nil, problem.New(http.StatusForbidden, reason.DeviceRetired, "the device was retired")
	}
	if !bytes.Equal(d.AKPublic, a.ak.Raw) {
		return nil, problem.New(http.StatusForbidden, reason.AKNotBound, "this TPM is enrolled with another attestation key")
	}
	sameKey := bytes.Equal(d.TLSPublic, a.tls.Raw)
	if sameKey && !counterLost(*d, claims) {
		return nil, nil
	}
	spki, err := x509.MarshalPKIXPublicKey(a.tls.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the TLS key: %w", err)
	}
	d.TLSPublic, d.TLSKey = a.tls.Raw, digest.Of(spki)
	if claims.Counter != nil {
		// The device's own counter goes on where the fleet knows it to be: index - base = highest proven counter.
		d.CounterBase = claims.Counter.Index - min(claims.Counter.Index, d.HighCounter)
	}
	d.Accepted, d.LastPoll, d.LastAnswer = nil, digest.SHA256{}, nil
	if d.LeaseUntil.After(s.now()) {
		d.LeaseUntil = s.now()
	}
	if d.Standing == fleet.Affirmed { // the grace began when the lease ended, if that was before
		d.Standing, d.StaleSince = fleet.Stale, d.LeaseUntil
	}
	return []store.Event{{At: s.now(), Type: audit.DeviceReactivated, Actor: d.ID, Subject: d.ID, Data: map[string]any{
		"tls_key": d.TLSKey, "new_tls_key": !sameKey, "counter_base": d.CounterBase,
	}}}, nil
}

// counterLost: the TPM's counter is not where the fleet last saw it, so it was made anew. A device raises it to what it
// has proven, a recovery release included.
func counterLost(d fleet.Device, claims wire.Claims) bool {
	if claims.Counter == nil {
		return false
	}
	return claims.Counter.Index < d.CounterBase || claims.Counter.Index-d.CounterBase > max(d.HighCounter, d.ProvenCounter)
}

// claim takes a pending device into the fleet by inventory or one-time token.
func (s *Service) claim(ctx context.Context, d *fleet.Device, token string, change *store.Change) error {
	if d.Lifecycle != fleet.Pending {
		return nil
	}
	entry, err := s.store.Inventory(ctx, d.ID)
	switch {
	case err == nil:
		s.take(d, change, fleet.Admission{
			Product: entry.Product, HardwareID: entry.HardwareID, Profile: entry.Profile, By: "inventory", Tier: fleet.TierInventory,
		})
		return nil
	case !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("cannot read the inventory: %w", err)
	case token == "":
		return nil
	}
	hash := authn.Hash(token)
	t, err := s.store.EnrollToken(ctx, hash)
	if errors.Is(err, store.ErrNotFound) || err == nil && !s.now().Before(t.Expires) {
		return problem.New(http.StatusForbidden, reason.EnrollTokenRefused, "the enrollment token is unknown, used or expired")
	}
	if err != nil {
		return fmt.Errorf("cannot read the enrollment token: %w", err)
	}
	change.Writes = append(change.Writes, store.UseEnrollToken{Hash: hash, Device: d.ID, At: s.now()})
	s.take(d, change, fleet.Admission{
		Product: t.Product, HardwareID: t.HardwareID, Profile: t.Profile, By: "token", Tier: fleet.TierClaimed,
	})
	return nil
}

func (s *Service) take(d *fleet.Device, change *store.Change, a fleet.Admission) {
	var none *fleet.Quarantine // nobody is put into quarantine by a claim
	standing.Take(change, d, &none, fleet.Claim(*d, a), "server", s.now())
}
