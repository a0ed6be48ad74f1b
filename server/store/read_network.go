package store

import (
	"context"
	"fmt"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
)

func scanAddress(a *Address) []any { return dests(addressRow(a)) }

// Inventory returns the entry that claims the device, with its addresses, or ErrNotFound.
func (s *Store) Inventory(ctx context.Context, device string) (Inventory, error) {
	entry, err := readOne(ctx, s, "inventory entry", scanInventory, selectInventory+`WHERE device = $1`, device)
	if err != nil {
		return Inventory{}, err
	}
	addresses, err := readAll(ctx, s, "addresses", scanAddress, selectAddress+`WHERE device = $1 AND source = $2 ORDER BY address`, device, SourceInventory)
	for _, a := range addresses {
		entry.add(a)
	}
	return entry, err
}

// ListInventory returns every inventory entry in the order of the device ids.
func (s *Store) ListInventory(ctx context.Context) ([]Inventory, error) {
	entries, err := readAll(ctx, s, "inventory", scanInventory, selectInventory+`ORDER BY device`)
	if err != nil {
		return nil, err
	}
	addresses, err := readAll(ctx, s, "addresses", scanAddress, selectAddress+`WHERE source = $1 ORDER BY device, address`, SourceInventory)
	if err != nil {
		return nil, err
	}
	byDevice := make(map[string]*Inventory, len(entries))
	for i := range entries {
		byDevice[entries[i].Device] = &entries[i]
	}
	for _, a := range addresses {
		if e := byDevice[a.Device]; e != nil {
			e.add(a)
		}
	}
	return entries, nil
}

func (e *Inventory) add(a Address) {
	if a.Kind == KindMAC {
		e.MACs = append(e.MACs, a.Address)
		return
	}
	e.Addresses = append(e.Addresses, a.Address)
}

// Addresses returns where the device is in the network, by kind and address.
func (s *Store) Addresses(ctx context.Context, device string) ([]Address, error) {
	return readAll(ctx, s, "addresses", scanAddress, selectAddress+`WHERE device = $1 ORDER BY kind, address, source`, device)
}

// SharedAddresses returns the entries of other devices, not retired ones, that name an address of the device as well.
func (s *Store) SharedAddresses(ctx context.Context, device string) ([]Address, error) {
	return readAll(ctx, s, "shared addresses", scanAddress, selectAddress+`WHERE device <> $1
		AND EXISTS (SELECT 1 FROM addresses own WHERE own.device = $1 AND own.kind = addresses.kind AND own.address = addresses.address)
		AND NOT EXISTS (SELECT 1 FROM devices WHERE devices.id = addresses.device AND devices.lifecycle = 'retired')
		ORDER BY kind, address, device, source`, device)
}

// DevicesAt returns the ids of other devices that the address belongs to.
func (s *Store) DevicesAt(ctx context.Context, address, other string, limit int) ([]string, error) {
	return readAll(ctx, s, "devices at an address", func(id *string) []any { return []any{id} },
		`SELECT DISTINCT device FROM addresses WHERE address = $1 AND device <> $2 ORDER BY device LIMIT $3`, address, other, limitOf(limit))
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// PendingOrders returns the enforcement point's orders that are neither verified nor superseded by a newer one for the
// same device, the oldest first.
func (s *Store) PendingOrders(ctx context.Context, point string, limit int) ([]Order, error) {
	return s.PendingOrdersAfter(ctx, point, 0, limit)
}

// PendingOrdersAfter is PendingOrders from behind an order's id on.
func (s *Store) PendingOrdersAfter(ctx context.Context, point string, after int64, limit int) ([]Order, error) {
	return readAll(ctx, s, "pending orders", scanOrder, selectOrder+`WHERE point = $1 AND id > $2 AND verified_at = 0 AND NOT superseded
		ORDER BY id LIMIT $3`, point, after, limitOf(limit))
}

// VerifiedOrders returns the point's orders that are verified and in force, from behind an order's id on.
func (s *Store) VerifiedOrders(ctx context.Context, point string, after int64, limit int) ([]Order, error) {
	return readAll(ctx, s, "verified orders", scanOrder, selectOrder+`WHERE point = $1 AND id > $2 AND verified_at > 0 AND NOT superseded
		ORDER BY id LIMIT $3`, point, after, limitOf(limit))
}

// CurrentOrders returns the orders in force of the devices, at every point; at most 500 devices at a time.
func (s *Store) CurrentOrders(ctx context.Context, devices []string) ([]Order, error) {
	if len(devices) == 0 {
		return nil, nil
	}
	if len(devices) > maxList {
		return nil, fmt.Errorf("cannot read the orders of %d devices at once", len(devices))
	}
	return readAll(ctx, s, "current orders", scanOrder, selectOrder+`WHERE device IN (`+placeholders(len(devices))+`)
		AND NOT superseded ORDER BY device, point, id`, anys(devices)...)
}

// OrderCount is how many open orders of a point are in one state.
type OrderCount struct {
	Waiting Waiting
	Acked   bool
	Orders  int64
}

// OrderCounts counts the point's pending orders.
func (s *Store) OrderCounts(ctx context.Context, point string) ([]OrderCount, error) {
	return readAll(ctx, s, "order counts", func(c *OrderCount) []any { return []any{&c.Waiting, &c.Acked, &c.Orders} },
		`SELECT waiting, acked_at > 0, count(*) FROM orders WHERE point = $1 AND verified_at = 0 AND NOT superseded
			GROUP BY waiting, acked_at > 0 ORDER BY waiting, acked_at > 0`, point)
}

// UnorderedDevices returns the active devices from behind an id on that have no order of their present epoch at the
// point: it is new, or the epochs were raised.
func (s *Store) UnorderedDevices(ctx context.Context, point, after string, limit int) ([]fleet.Device, error) {
	return readAll(ctx, s, "devices without orders", scanDevice, selectDevice+`WHERE id > $1 AND lifecycle = 'active'
		AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.device = devices.id AND orders.point = $2
			AND orders.epoch >= devices.epoch AND orders.epoch > 0)
		ORDER BY id LIMIT $3`, after, point, limitOf(limit))
}

// Tightened counts the product's devices that orders after the time have taken out of production, those that were retired
// among them, and its active devices.
func (s *Store) Tightened(ctx context.Context, product string, after time.Time) (restricted, active int64, err error) {
	type row struct{ restricted, active int64 }
	r, err := readOne(ctx, s, "tightened devices", func(r *row) []any { return []any{&r.restricted, &r.active} },
		`SELECT (SELECT count(DISTINCT orders.device) FROM orders JOIN devices ON devices.id = orders.device
				WHERE orders.tightens AND NOT orders.superseded AND orders.at > $2 AND devices.product = $1),
			(SELECT count(*) FROM devices WHERE product = $1 AND lifecycle = 'active')`, product, micros(after))
	return r.restricted, r.active, err
}
