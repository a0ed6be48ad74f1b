package segment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/limit"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// Movers reads who has to be ordered anew when a device is somewhere else; contract as in package store.
type Movers interface {
	Device(ctx context.Context, id string) (fleet.Device, error)
	DevicesAt(ctx context.Context, address, other string, limit int) ([]string, error)
}

// Relocate adds to a change that moves a device between addresses what the network points have to be told: the device's
// orders again, and those of a device that the address was or becomes shared with. Where more than two share one nothing
// changes for the others. The order of a device that is not enrolled comes with its enrollment.
func Relocate(ctx context.Context, s Movers, rules standing.Rules, change *store.Change, device string, addresses []string, now time.Time) error {
	ids := []string{device}
	for _, a := range addresses {
		others, err := s.DevicesAt(ctx, a, device, 2)
		if err != nil {
			return err
		}
		if len(others) == 1 && !slices.Contains(ids, others[0]) {
			ids = append(ids, others[0])
		}
	}
	for _, id := range ids {
		d, err := s.Device(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot load the device: %w", err)
		}
		rules.Reorder(change, d, now)
	}
	return nil
}

// Sightings reads and writes where devices were seen; contract as in package store.
type Sightings interface {
	Movers
	Addresses(ctx context.Context, device string) ([]store.Address, error)
	Commit(ctx context.Context, change store.Change) error
}

// Learner keeps the address that a device's last authenticated poll came from. It is opt-in: what a device shows depends
// on where it polls from, and a NAT shows one address for many (Locate refuses that as a target).
type Learner struct {
	store   Sightings
	rules   standing.Rules
	now     func() time.Time
	log     *slog.Logger
	changes *limit.Limiter
	wake    func()

	mu   sync.Mutex
	last map[string]netip.Addr // by device; guarded by mu
}

// A device may move this often: learnBurst times at once, then once in learnEvery. Beyond that its last address stays, and
// the log says so: rows and network orders must not be a device's to make.
const (
	learnBurst = 16
	learnEvery = 5 * time.Minute
	learnKeys  = 65536
)

// NewLearner joins the parts; wake is called when orders were written.
func NewLearner(s Sightings, rules standing.Rules, now func() time.Time, log *slog.Logger, wake func()) *Learner {
	return &Learner{store: s, rules: rules, now: now, log: log, wake: wake, last: map[string]netip.Addr{},
		changes: limit.New(learnBurst, learnEvery, learnKeys)}
}

// Seen takes the peer address ("192.0.2.1:1234") of a poll that the device has authenticated. A poll never fails for it.
func (l *Learner) Seen(ctx context.Context, device, peer string) {
	port, err := netip.ParseAddrPort(peer)
	if err != nil {
		return
	}
	address, err := ParseAddress(port.Addr().WithZone("").String())
	if err != nil {
		return // loopback and the like are nobody's address
	}
	l.mu.Lock()
	known := l.last[device] == address
	l.mu.Unlock()
	if known {
		return
	}
	err = l.learn(ctx, device, address)
	if errors.Is(err, errUnclaimed) {
		return
	}
	if err != nil {
		l.log.WarnContext(ctx, "cannot keep the address of a device", "device", device, "error", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) >= learnKeys {
		clear(l.last) // only a memory of what the database holds
	}
	l.last[device] = address
}

// errUnclaimed: anybody with a TPM may be a pending device, and must not say what belongs to whom in the network.
var errUnclaimed = errors.New("the device is not active")

func (l *Learner) learn(ctx context.Context, device string, address netip.Addr) error {
	rows, err := l.store.Addresses(ctx, device)
	if err != nil {
		return err
	}
	var old []string
	for _, a := range rows {
		if a.Source == store.SourcePoll {
			old = append(old, a.Address)
		}
	}
	if slices.Equal(old, []string{address.String()}) {
		return nil
	}
	d, err := l.store.Device(ctx, device)
	if err != nil {
		return fmt.Errorf("cannot load the device: %w", err)
	}
	if d.Lifecycle != fleet.Active {
		return errUnclaimed
	}
	now := l.now()
	if ok, _, _ := l.changes.Allow(device, now); !ok {
		return errors.New("it moves too often: its last address stays")
	}
	change := store.Change{
		Writes: []store.Write{store.PutAddresses{Device: device, Source: store.SourcePoll, Addresses: []string{address.String()}, At: now}},
		Events: []store.Event{{At: now, Type: audit.AddressLearned, Actor: device, Subject: device, Data: map[string]any{
			"address": address.String(), "before": old,
		}}},
	}
	if err := Relocate(ctx, l.store, l.rules, &change, device, append(old, address.String()), now); err != nil {
		return err
	}
	if err := l.store.Commit(ctx, change); err != nil {
		return fmt.Errorf("cannot write the address: %w", err)
	}
	l.wake()
	return nil
}
