// Package segment enforces where a device may be. The artifact door is the enforcement point that always holds: it
// refuses what a device may not have and cuts open streams when that changes. Network points (the packages below) each
// have a Driver, which brings them to where the orders in the database say and believes only what the network shows. A
// Breaker holds mass quarantines back in the network, and never at the door.
//
// Trusted for availability and for the network segment; it cannot make a device install anything.
package segment

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/rollout"
)

// Grant lets one device read one artifact until something changes.
type Grant struct {
	Device   string
	Release  string
	Recovery bool
	Length   int64
}

// Allow decides whether the device may read the artifact now. Every range is authorised anew against device, lease,
// standing, offer and hold. The refusal is a *problem.Error with status 403.
func Allow(d fleet.Device, q *fleet.Quarantine, p *repository.Product, d256 digest.SHA256, now time.Time) (Grant, error) {
	switch {
	case d.Lifecycle == fleet.Pending:
		return Grant{}, denied(reason.DevicePending)
	case d.Lifecycle != fleet.Active:
		return Grant{}, denied(reason.DeviceRetired)
	case p == nil:
		return Grant{}, denied(reason.PolicyMissing)
	}
	found := reason.ReleaseUnknown
	for _, r := range p.Releases {
		for _, c := range rollout.Components(d, r.Statement.Predicate) {
			if c.SHA256 != d256 {
				continue
			}
			why := refused(d, q, p, r, now)
			if why == "" {
				return Grant{Device: d.ID, Release: r.Name, Recovery: r.Statement.Predicate.Recovery, Length: c.Length}, nil
			}
			found = why
		}
	}
	if q != nil {
		found = reason.DeviceQuarantined
	}
	return Grant{}, denied(found)
}

// refused returns why the device may not read the release now, "" if it may.
func refused(d fleet.Device, q *fleet.Quarantine, p *repository.Product, r *repository.Release, now time.Time) reason.Reason {
	if r.Pruned {
		return reason.ReleaseUnknown
	}
	candidate := rollout.Candidate{Name: r.Name, Release: r.Statement.Predicate, Hold: r.Hold}
	if r.Statement.Predicate.Recovery {
		return rollout.FitsRecovery(d, p.Policy, candidate) // stale, expired or quarantined: recovery stays open
	}
	switch {
	case q != nil:
		return reason.DeviceQuarantined
	case d.Standing != fleet.Affirmed || !now.Before(d.LeaseUntil):
		return reason.DeviceUnproven
	case r.Hold:
		return reason.ReleaseOnHold
	case r.Name != d.Offered && r.Name != d.Proven:
		return reason.ReleaseNotOffered
	}
	if why := rollout.Fits(d, p.Policy, candidate); why != "" {
		return why
	}
	if d.Grounds != p.Grounds(d.Profile) { // affirmed before policy or baseline changed: appraised again first
		return reason.DeviceUnproven
	}
	return ""
}

func denied(r reason.Reason) error {
	return problem.New(http.StatusForbidden, r, "this artifact is not open to the device now")
}

// Door knows the open streams, so that it can cut them. It is safe for concurrent use.
type Door struct {
	mu      sync.Mutex
	streams map[*stream]struct{} // guarded by mu
}

type stream struct {
	grant  Grant
	cancel context.CancelCauseFunc
}

// NewDoor makes a door without streams.
func NewDoor() *Door { return &Door{streams: map[*stream]struct{}{}} }

// ErrCut is the cause of a context that the door cancelled.
var ErrCut = problem.New(http.StatusForbidden, reason.DeviceQuarantined, "the stream was cut")

// Open registers a stream; its context ends when the door cuts it. done must be called at the end.
func (d *Door) Open(ctx context.Context, g Grant) (streamCtx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{grant: g, cancel: cancel}
	d.mu.Lock()
	d.streams[s] = struct{}{}
	d.mu.Unlock()
	return ctx, func() {
		d.mu.Lock()
		delete(d.streams, s)
		d.mu.Unlock()
		cancel(nil)
	}
}

// Cut ends every open stream for which stays is false and returns how many.
func (d *Door) Cut(stays func(Grant) bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for s := range d.streams {
		if !stays(s.grant) {
			s.cancel(ErrCut)
			delete(d.streams, s)
			n++
		}
	}
	return n
}

// Streams returns the grants of the open streams.
func (d *Door) Streams() []Grant {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Grant, 0, len(d.streams))
	for s := range d.streams {
		out = append(out, s.grant)
	}
	return out
}
