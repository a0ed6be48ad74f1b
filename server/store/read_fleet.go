package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
)

func scanDevice(d *fleet.Device) []any { return append([]any{&d.Version}, dests(deviceRow(d))...) }

func scanQuarantine(q *fleet.Quarantine) []any {
	return append([]any{&q.Version}, dests(quarantineRow(q))...)
}

func scanAppraisal(a *Appraisal) []any { return append([]any{&a.Number}, dests(appraisalRow(a))...) }

func scanApproval(a *fleet.Approval) []any { return dests(approvalRow(a)) }
func scanUpdate(u *Update) []any           { return dests(updateRow(u)) }
func scanInventory(e *Inventory) []any     { return dests(inventoryRow(e)) }
func scanOrder(o *Order) []any             { return dests(orderRow(o)) }

// Device returns a device by its id, or ErrNotFound.
func (s *Store) Device(ctx context.Context, id string) (fleet.Device, error) {
	return readOne(ctx, s, "device", scanDevice, selectDevice+`WHERE id = $1`, id)
}

// DeviceByTLSKey returns the device that is registered with the TLS key, or ErrNotFound. Nobody has the zero digest.
func (s *Store) DeviceByTLSKey(ctx context.Context, key digest.SHA256) (fleet.Device, error) {
	return readOne(ctx, s, "device by TLS key", scanDevice, selectDevice+`WHERE tls_key = $1`, digestArg(key))
}

// DeviceFilter selects devices; an empty field selects all.
type DeviceFilter struct {
	Product   string
	Lifecycle fleet.Lifecycle
	Standing  fleet.Standing
}

// ListDevices returns devices in the order of their ids, from the first id that is greater than after.
func (s *Store) ListDevices(ctx context.Context, f DeviceFilter, after string, limit int) ([]fleet.Device, error) {
	return readAll(ctx, s, "devices", scanDevice, selectDevice+`WHERE id > $1 AND ($2 = '' OR product = $2)
		AND ($3 = '' OR lifecycle = $3) AND ($4 = '' OR standing = $4) ORDER BY id LIMIT $5`,
		after, f.Product, string(f.Lifecycle), string(f.Standing), limitOf(limit))
}

// DevicesDue returns active devices that the sweeper has to look at: affirmed ones whose lease ends at or before the
// time, then those with an open deadline that has passed, then stale ones that are still in production, the longest
// stale first. How long the grace lasts is not for the store to know.
func (s *Store) DevicesDue(ctx context.Context, leaseBefore time.Time, limit int) ([]fleet.Device, error) {
	var out []fleet.Device
	seen := map[string]bool{}
	most := int(limitOf(limit))
	for _, where := range []string{
		`WHERE standing = 'affirmed' AND lifecycle = 'active' AND lease_until <= $1 ORDER BY lease_until LIMIT $2`,
		`WHERE deadline > 0 AND lifecycle = 'active' AND deadline <= $1 ORDER BY deadline LIMIT $2`,
		`WHERE standing = 'stale' AND lifecycle = 'active' AND segment = 'production' AND stale_since <= $1
			ORDER BY stale_since LIMIT $2`,
	} {
		found, err := readAll(ctx, s, "due devices", scanDevice, selectDevice+where, micros(leaseBefore), int64(most))
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			if len(out) < most && !seen[d.ID] {
				seen[d.ID] = true
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// Quarantine returns a quarantine by its id, or ErrNotFound.
func (s *Store) Quarantine(ctx context.Context, id string) (fleet.Quarantine, error) {
	return readOne(ctx, s, "quarantine", scanQuarantine, selectQuarantine+`WHERE id = $1`, id)
}

// OpenQuarantine returns the quarantine that the device is in, or ErrNotFound.
func (s *Store) OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error) {
	return readOne(ctx, s, "open quarantine", scanQuarantine, selectQuarantine+`WHERE device = $1 AND ended_at = 0`, device)
}

// QuarantineReader is the part of a Store that QuarantineOf asks.
type QuarantineReader interface {
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
}

// QuarantineOf returns the quarantine that the device is in, nil if it is in none. Any error means that nobody knows.
func QuarantineOf(ctx context.Context, r QuarantineReader, device string) (*fleet.Quarantine, error) {
	q, err := r.OpenQuarantine(ctx, device)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load the quarantine: %w", err)
	}
	return &q, nil
}

// ListQuarantines returns the quarantines that were open at some time in [from, to), of the product's devices. A zero
// to means no end, an empty product means all.
func (s *Store) ListQuarantines(ctx context.Context, from, to time.Time, product string) ([]fleet.Quarantine, error) {
	return readAll(ctx, s, "quarantines", scanQuarantine, selectQuarantine+`WHERE since < $2
		AND (ended_at = 0 OR ended_at >= $1)
		AND ($3 = '' OR EXISTS (SELECT 1 FROM devices WHERE devices.id = quarantines.device AND devices.product = $3))
		ORDER BY since, id`, micros(from), microsEnd(to), product)
}

func scanDenial(n *fleet.Denial) []any { return append([]any{&n.Version}, dests(denialRow(n))...) }

// DenialsInForce returns the deny list of endorsement keys without what was lifted, the oldest first.
func (s *Store) DenialsInForce(ctx context.Context) ([]fleet.Denial, error) {
	return readAll(ctx, s, "denials", scanDenial, selectDenial+`WHERE lifted_at = 0 ORDER BY at, id`)
}

// ListDenials returns every denial that ever was, the newest first, those after the one with the id after if that is not
// empty.
func (s *Store) ListDenials(ctx context.Context, after string, limit int) ([]fleet.Denial, error) {
	return readAll(ctx, s, "denials", scanDenial, selectDenial+`WHERE $1 = '' OR (at, id) < (SELECT at, id FROM ek_denials WHERE id = $1)
		ORDER BY at DESC, id DESC LIMIT $2`, after, limitOf(limit))
}

// Denial returns a denial by its id, or ErrNotFound.
func (s *Store) Denial(ctx context.Context, id string) (fleet.Denial, error) {
	return readOne(ctx, s, "denial", scanDenial, selectDenial+`WHERE id = $1`, id)
}

// Approvals returns who approved the subject, the earliest first.
func (s *Store) Approvals(ctx context.Context, subject string) ([]fleet.Approval, error) {
	return readAll(ctx, s, "approvals", scanApproval, selectApproval+`WHERE subject = $1 ORDER BY at, person`, subject)
}

// Appraisals returns the appraisals of [from, to) with a number above after, rising. A zero to means no end, an empty
// product means all.
func (s *Store) Appraisals(ctx context.Context, from, to time.Time, product string, after int64, limit int) ([]Appraisal, error) {
	return readAll(ctx, s, "appraisals", scanAppraisal, selectAppraisal+`WHERE number > $1 AND at >= $2 AND at < $3
		AND ($4 = '' OR product = $4) ORDER BY number LIMIT $5`, after, micros(from), microsEnd(to), product, limitOf(limit))
}

// Appraisal returns an appraisal by its id, or ErrNotFound.
func (s *Store) Appraisal(ctx context.Context, id digest.SHA256) (Appraisal, error) {
	return readOne(ctx, s, "appraisal", scanAppraisal, selectAppraisal+`WHERE id = $1`, digestArg(id))
}

// LastAppraisal returns the newest appraisal of the device, or ErrNotFound.
func (s *Store) LastAppraisal(ctx context.Context, device string) (Appraisal, error) {
	return readOne(ctx, s, "last appraisal", scanAppraisal, selectAppraisal+`WHERE device = $1 ORDER BY number DESC LIMIT 1`, device)
}

// Log returns the event log with the digest, or ErrNotFound.
func (s *Store) Log(ctx context.Context, d digest.SHA256) ([]byte, error) {
	return readOne(ctx, s, "event log", func(b *[]byte) []any { return []any{b} }, `SELECT bytes FROM logs WHERE digest = $1`, d[:])
}

// Updates returns the update records that were offered in [from, to), the earliest first. A zero to means no end, an
// empty product means all.
func (s *Store) Updates(ctx context.Context, from, to time.Time, product string, limit int) ([]Update, error) {
	return readAll(ctx, s, "updates", scanUpdate, selectUpdate+`WHERE offered_at >= $1 AND offered_at < $2
		AND ($3 = '' OR product = $3) ORDER BY offered_at, number LIMIT $4`, micros(from), microsEnd(to), product, limitOf(limit))
}

// Orders returns the newest enforcement orders of a device, the newest first.
func (s *Store) Orders(ctx context.Context, device string, limit int) ([]Order, error) {
	return readAll(ctx, s, "orders", scanOrder, selectOrder+`WHERE device = $1 ORDER BY id DESC LIMIT $2`, device, limitOf(limit))
}
