package adminapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// maxChanges bounds how many changed measurements are told.
const maxChanges = 64

// changes compares a refused boot with the last one of the device that was affirmed, for people: a register of the firmware is
// known to a baseline by its value alone, so the verdict cannot name the measurement that changed it. A log that the quote
// does not bear out, that never came or that cannot be read tells nothing.
func (s *Server) changes(ctx context.Context, refused store.Appraisal, v attestation.Verdict) (*api.BootChanges, error) {
	if v.Outcome != attestation.Refused || !slices.Contains(v.Reasons(), reason.PCRMismatch) || slices.Contains(v.Reasons(), reason.EventlogMismatch) {
		return nil, nil
	}
	affirmed, err := s.Store.LastAffirmed(ctx, refused.Device)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before, readable, err := s.bootLog(ctx, affirmed)
	if err != nil || !readable {
		return nil, err
	}
	after, readable, err := s.bootLog(ctx, refused)
	if err != nil || !readable {
		return nil, err
	}
	out := &api.BootChanges{Since: affirmed.At, Changes: []api.BootChange{}}
	for _, c := range eventlog.Changes(before, after, maxChanges) {
		out.Changes = append(out.Changes, api.BootChange{PCR: c.PCR, Before: words(c.Before), After: words(c.After)})
	}
	return out, nil
}

func words(e *eventlog.Event) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("%s (sha256 %s)", e.Explain(), e.Digest)
}

// bootLog reads the event log of an appraisal. A device that changed a register within one boot is refused for that, whatever
// its log is, so there need not be one.
func (s *Server) bootLog(ctx context.Context, a store.Appraisal) (log eventlog.Log, readable bool, err error) {
	view, err := report.ViewAppraisal(a)
	if err != nil {
		return eventlog.Log{}, false, err
	}
	raw, err := s.Store.Log(ctx, view.Input.Evidence.LogDigest)
	if errors.Is(err, store.ErrNotFound) {
		return eventlog.Log{}, false, nil
	}
	if err != nil {
		return eventlog.Log{}, false, fmt.Errorf("cannot read the event log of appraisal %d: %w", a.Number, err)
	}
	log, err = eventlog.Parse(raw)
	return log, err == nil, nil
}
