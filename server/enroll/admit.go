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
	"github.com/cordon-ota/cordon/attestation/identity"
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
func (s *Service) admit(ctx context.Context, a applicant, req wire.ActivateRequest, shown proof, consume store.ConsumeChallenge) (wire.ActivateAnswer, error) {
	before, err := s.store.Device(ctx, a.id)
	known := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return wire.ActivateAnswer{}, fmt.Errorf("cannot load the device: %w", err)
	}
	var change store.Change
	d := before
	if known {
		if change.Events, err = s.again(&d, a, req, shown); err != nil {
			return wire.ActivateAnswer{}, err
		}
	} else {
		d = s.fresh(a, req, shown.claims)
		change.Events = []store.Event{{At: s.now(), Type: audit.DeviceEnrolled, Actor: d.ID, Subject: d.ID, Data: map[string]any{
			"manufacturer": d.Manufacturer, "ek_spki": d.EKSPKI, "tls_key": d.TLSKey, "notes": a.ek.Notes,
		}}}
	}
	change.Writes = append(change.Writes, consume)
	if err := s.claim(ctx, &d, req.Enroll.Token, &change); err != nil {
		return wire.ActivateAnswer{}, err
	}
	// Any genuine TPM can send logs without end. One is kept when somebody claims the device; later polls ask for others.
	if shown.log != nil && before.Lifecycle != fleet.Active && d.Lifecycle == fleet.Active {
		change.Writes = append(change.Writes, *shown.log)
	}
	if !known && !d.Certified() && d.Lifecycle == fleet.Pending && d.AdmittedBy == "" { // a row for anybody's software key
		return wire.ActivateAnswer{}, problem.New(http.StatusForbidden, reason.EKUntrusted,
			"a TPM without an endorsement certificate needs an inventory entry or a one-time token")
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
		EKSPKI: digest.Of(a.ek.SPKI), Manufacturer: a.ek.Manufacturer, EKIssuers: a.ek.Issuers,
		AKPublic: a.ak.Raw, AKName: a.ak.Name, AKQualifiedSigner: a.qn,
		TLSPublic: a.tls.Raw, TLSKey: digest.Of(spki), EnrolledAt: s.now(),
	}
	if d.EKPublic = a.ek.SPKI; a.ek.Certificate != nil {
		d.EKCertificate, d.EKPublic = a.ek.Certificate.Raw, nil // the certificate holds the key
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
// device has to prove its boot again. An AK that differs is never taken over (V-17), unless the AK before certifies it, or
// people had that forgotten.
func (s *Service) again(d *fleet.Device, a applicant, req wire.ActivateRequest, shown proof) ([]store.Event, error) {
	if d.Lifecycle == fleet.Retired {
		return nil, problem.New(http.StatusForbidden, reason.DeviceRetired, "the device was retired")
	}
	if d.Certified() && a.ek.Certificate == nil {
		return nil, problem.New(http.StatusForbidden, reason.EKUntrusted, "this TPM is enrolled with an endorsement certificate and has to show it")
	}
	forgotten := d.KeyForgotten()
	events, err := s.rotate(d, a, req, shown)
	if err != nil {
		return nil, err
	}
	claims := shown.claims
	sameKey := bytes.Equal(d.TLSPublic, a.tls.Raw)
	if sameKey && !counterLost(*d, claims) {
		return events, nil
	}
	if ok, _, wait := s.anew.Allow(d.ID, s.now()); !ok {
		return nil, &problem.Error{Status: http.StatusTooManyRequests, Reason: reason.RateLimited, RetryAfter: wait,
			Detail: "the device was activated anew several times within the hour"}
	}
	spki, err := x509.MarshalPKIXPublicKey(a.tls.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the TLS key: %w", err)
	}
	d.TLSPublic, d.TLSKey = a.tls.Raw, digest.Of(spki)
	if claims.Counter != nil && (!forgotten || counterLost(*d, claims)) {
		// The device's own counter goes on where the fleet knows it to be: index - base = highest proven counter.
		d.CounterBase = claims.Counter.Index - min(claims.Counter.Index, d.HighCounter)
	}
	// Whoever rotated the forgotten key away may have replaced the TLS key as well. A TPM that was cleared has another TLS
	// key and a clock that began anew; any other goes on from where it was seen.
	if !forgotten || !sameKey && d.Accepted != nil && !shown.clock.After(d.Accepted.Clock) {
		d.Accepted = nil
	}
	d.LastPoll, d.LastAnswer = digest.SHA256{}, nil
	if d.LeaseUntil.After(s.now()) {
		d.LeaseUntil = s.now()
	}
	if d.Standing == fleet.Affirmed { // the grace began when the lease ended, if that was before
		d.Standing, d.StaleSince = fleet.Stale, d.LeaseUntil
	}
	return append(events, store.Event{At: s.now(), Type: audit.DeviceReactivated, Actor: d.ID, Subject: d.ID, Data: map[string]any{
		"tls_key": d.TLSKey, "new_tls_key": !sameKey, "counter_base": d.CounterBase,
	}}), nil
}

// rotate replaces the attestation key by one that it certified over this enrollment's transcript: the TPM of the EK opened
// the credential for the new key, and the old key vouches that both live in one TPM. Everything that was proven about the
// device stays, its TPM's clock above all, and the old key speaks for nobody from this commit on. The event holds what
// an auditor needs to check the succession without the server.
func (s *Service) rotate(d *fleet.Device, a applicant, req wire.ActivateRequest, shown proof) ([]store.Event, error) {
	if d.KeyForgotten() {
		return s.register(d, a), nil
	}
	if bytes.Equal(d.AKPublic, a.ak.Raw) {
		return nil, nil
	}
	if len(req.AKCertify) == 0 {
		return nil, &problem.Error{Status: http.StatusForbidden, Reason: reason.AKNotBound, AKName: d.AKName,
			Detail: "this TPM is enrolled with another attestation key"}
	}
	old, err := identity.ParsePublic(d.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("cannot read the registered attestation key: %w", err)
	}
	if problems := identity.VerifySuccessor(old, d.AKQualifiedSigner, req.AKCertify, req.AKCertifySignature, shown.transcript[:], a.ak); len(problems) > 0 {
		return nil, refuse(problems)
	}
	if ok, _, wait := s.rotations.Allow(d.ID, s.now()); !ok {
		return nil, &problem.Error{Status: http.StatusTooManyRequests, Reason: reason.RateLimited, RetryAfter: wait,
			Detail: "the attestation key was rotated several times within hours"}
	}
	event := store.Event{At: s.now(), Type: audit.DeviceAKRotated, Actor: d.ID, Subject: d.ID, Data: map[string]any{
		"before": d.AKPublic, "after": a.ak.Raw, "certify": req.AKCertify, "certify_signature": req.AKCertifySignature,
		"transcript": shown.transcript,
	}}
	d.AKPublic, d.AKName, d.AKQualifiedSigner = a.ak.Raw, a.ak.Name, a.qn
	d.ForgetKey = nil                               // that was about the key before
	d.LastPoll, d.LastAnswer = digest.SHA256{}, nil // what the old key asked is not answered again
	return []store.Event{event}, nil
}

// register takes the attestation key after one that people had forgotten: as at the first enrollment, opening the
// credential has shown that it lives in the TPM of the EK, and nothing else could. What is known of the device stays.
func (s *Service) register(d *fleet.Device, a applicant) []store.Event {
	d.AKPublic, d.AKName, d.AKQualifiedSigner = a.ak.Raw, a.ak.Name, a.qn
	return []store.Event{{At: s.now(), Type: audit.DeviceAKRegistered, Actor: d.ID, Subject: d.ID, Data: map[string]any{"after": a.ak.Raw}}}
}

// counterLost: the TPM's counter is not where the fleet last saw it, so it was made anew. A device raises it to what it
// has proven, a recovery release included.
func counterLost(d fleet.Device, claims wire.Claims) bool {
	if claims.Counter == nil {
		return false
	}
	return claims.Counter.Index < d.CounterBase || claims.Counter.Index-d.CounterBase > max(d.HighCounter, d.ProvenCounter)
}

// claim takes a pending device into the fleet by inventory or one-time token. A device without an EK certificate stays
// pending with a token: a person has to approve it as well (V-20).
func (s *Service) claim(ctx context.Context, d *fleet.Device, token string, change *store.Change) error {
	if d.Lifecycle != fleet.Pending {
		return nil
	}
	entry, err := s.store.Inventory(ctx, d.ID)
	switch {
	case err == nil:
		s.take(d, change, fleet.Claim(*d, fleet.Admission{
			Product: entry.Product, HardwareID: entry.HardwareID, Profile: entry.Profile, By: fleet.ByInventory, Tier: fleet.TierOf(*d, fleet.ByInventory),
		}))
		return nil
	case !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("cannot read the inventory: %w", err)
	case token == "" || d.AdmittedBy == fleet.ByToken: // a repeated enrollment shows its token again
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
	admission := fleet.Admission{
		Product: t.Product, HardwareID: t.HardwareID, Profile: t.Profile, By: fleet.ByToken, Tier: fleet.TierOf(*d, fleet.ByToken),
	}
	if !d.Certified() {
		s.take(d, change, fleet.Vouch(*d, admission))
		return nil
	}
	s.take(d, change, fleet.Claim(*d, admission))
	return nil
}

func (s *Service) take(d *fleet.Device, change *store.Change, step fleet.Step) {
	var none *fleet.Quarantine // nobody is put into quarantine by a claim
	standing.Take(change, d, &none, step, "server", s.now())
}
