package appraise

import (
	"context"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// What a device shows of a platform that no baseline describes is kept, so that people can learn a baseline from several
// devices that agree. It changes nothing for the device: it stays refused until a baseline is signed.

// observe keeps what Evidence proves that cannot be appraised for want of a baseline. Evidence that is not authentic, or
// whose log or release is wrong, is not kept.
func (t *turn) observe(ctx context.Context, in attestation.Input) error {
	var err error
	if in.Log, err = t.eventLog(ctx, in.Evidence); err != nil {
		return err
	}
	seen, err := attestation.Observe(in)
	if err != nil {
		return fmt.Errorf("cannot observe the Evidence: %w", err)
	}
	if len(seen.Findings) == 1 && seen.Findings[0].Reason == reason.EventlogMissing {
		t.want(wire.WantLog)
		return nil
	}
	t.keep(in, seen)
	return nil
}

// observeDifference keeps what a refused device shows whose platform alone is not that of the baseline: after an update of
// the vendor's firmware, the next baseline is learned from such devices.
func (t *turn) observeDifference(in attestation.Input, verdict attestation.Verdict) error {
	if verdict.Outcome == attestation.Affirmed || !slices.Contains(verdict.Reasons(), reason.PCRMismatch) {
		return nil
	}
	seen, err := attestation.Observe(in)
	if err != nil {
		return fmt.Errorf("cannot observe the Evidence: %w", err)
	}
	t.keep(in, seen)
	return nil
}

// keep counts against what a device may have kept without proving anything: its TPM signs without end. Nothing is learned
// from a TPM that is on the deny list, by the firmware that this very quote shows neither.
func (t *turn) keep(in attestation.Input, seen attestation.Observation) {
	if !seen.Sound() {
		return
	}
	_, before := fleet.Denied(t.d, t.denials)
	if _, now := fleet.DeniedEK(t.d.EK(), seen.Firmware, t.denials); before || now {
		return
	}
	t.told = true
	t.change.Writes = append(t.change.Writes, store.PutObservation{Observation: store.Observation{
		Device: t.d.ID, Product: t.d.Product, Profile: t.d.Profile, At: t.now, Release: seen.Release,
		Evidence: seen.Evidence, LogDigest: in.Evidence.LogDigest, PCRs: in.Evidence.PCRs,
	}})
	if len(t.sentLog) > 0 && digest.Of(t.sentLog) == in.Evidence.LogDigest {
		t.change.Writes = append(t.change.Writes, store.AddLog{Digest: in.Evidence.LogDigest, Bytes: t.sentLog})
	}
}
