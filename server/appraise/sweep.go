package appraise

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// SweepStore is what a Sweeper reads and writes beside the Service's store. Reads are of committed state; Lock is fenced,
// and Commit returns when the change is durable, store.ErrConflict when what it expects has moved on.
type SweepStore interface {
	DevicesOutdated(ctx context.Context, product, profile string, grounds digest.SHA256, limit int) ([]fleet.Device, error)
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
	Lock(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (fence int64, ok bool, err error)
	Unlock(ctx context.Context, name, holder string) error
	Commit(ctx context.Context, change store.Change) error
}

// Swept counts what a round came to.
type Swept struct {
	Passed      int // stand as before
	Stale       int // asked for a new quote; undecided ones among them
	Unproven    int // restricted until they show a new quote
	Quarantined int
	Elsewhere   bool // another replica was at work
}

func (s Swept) devices() int { return s.Passed + s.Stale + s.Unproven + s.Quarantined }

// Sweeper appraises stored Evidence again when its grounds have changed. A device's row says by which grounds it was
// decided last, so a round that was cut off goes on where it ended, whoever does it. Every device is one transaction that
// expects the row as it was read, and the fence of a lock that one replica holds at a time.
type Sweeper struct {
	polls  *Service
	store  SweepStore
	rules  standing.Rules
	holder string
	wake   func()      // enforcement inside this process
	done   func(Swept) // after each round
}

const (
	sweepLock    = "reappraisal"
	sweepLockFor = time.Minute
	sweepEvery   = 2 * time.Second // between two looks at the catalog
	sweepAgain   = time.Minute     // between two rounds on the same grounds: a replica that lagged may have affirmed on older ones
	sweepBatch   = 128
	sweepWorkers = 8 // their commits share a transaction
)

// NewSweeper joins the parts. holder names this process in the lock, and is made up when it is empty.
func NewSweeper(polls *Service, s SweepStore, rules standing.Rules, holder string, wake func(), done func(Swept)) *Sweeper {
	return &Sweeper{polls: polls, store: s, rules: rules, holder: cmp.Or(holder, rand.Text()), wake: wake, done: done}
}

// profile is a product's platform profile.
type profile struct{ product, name string }

func groundsOf(catalog *repository.Catalog) map[profile]digest.SHA256 {
	out := map[profile]digest.SHA256{}
	if catalog == nil {
		return out
	}
	for _, p := range catalog.Products {
		for name := range p.Baselines {
			out[profile{p.Name, name}] = p.Grounds(name)
		}
	}
	return out
}

// Run sweeps whenever the grounds have changed, and now and then, until the context ends.
func (w *Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var last map[profile]digest.SHA256
	var at time.Time
	for {
		grounds, now := groundsOf(w.polls.catalog()), w.polls.now()
		if !maps.Equal(grounds, last) || now.Sub(at) >= sweepAgain {
			swept, err := w.Round(ctx)
			switch {
			case err != nil && ctx.Err() == nil:
				w.polls.log.ErrorContext(ctx, "cannot appraise stored Evidence again", "error", err)
			case err == nil && !swept.Elsewhere:
				last, at = grounds, now
				w.done(swept)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Round brings every device to the grounds of the catalog. It ends early, without an error, when another replica does, and
// when the grounds change meanwhile: what comes after that would bring devices back to grounds that do not hold any more.
func (w *Sweeper) Round(ctx context.Context) (Swept, error) {
	var total Swept
	catalog := w.polls.catalog()
	grounds := groundsOf(catalog)
	profiles := slices.SortedFunc(maps.Keys(grounds), func(a, b profile) int {
		return cmp.Or(cmp.Compare(a.product, b.product), cmp.Compare(a.name, b.name))
	})
	var fence int64
	for _, p := range profiles {
		for {
			if !maps.Equal(groundsOf(w.polls.catalog()), grounds) {
				w.unlock(ctx, fence)
				return total, nil
			}
			devices, err := w.store.DevicesOutdated(ctx, p.product, p.name, grounds[p], sweepBatch)
			if err != nil {
				return total, fmt.Errorf("cannot list the devices: %w", err)
			}
			if len(devices) == 0 {
				break
			}
			held, ok, err := w.store.Lock(ctx, sweepLock, w.holder, sweepLockFor, w.polls.now())
			if err != nil {
				return total, err
			}
			if !ok || fence != 0 && held != fence {
				total.Elsewhere = true
				return total, nil
			}
			fence = held
			swept, err := w.batch(ctx, catalog.Products[p.product], devices, fence)
			total.add(swept)
			w.polls.log.InfoContext(ctx, "stored Evidence appraised again", "product", p.product, "profile", p.name, "passed", total.Passed,
				"stale", total.Stale, "unproven", total.Unproven, "quarantined", total.Quarantined)
			if err != nil {
				return total, err
			}
			if swept.devices() == 0 { // all of them changed in between: the next round sees them as they are
				break
			}
		}
	}
	w.unlock(ctx, fence)
	return total, nil
}

// unlock gives the lock back if it was taken. It ends by itself when that fails.
func (w *Sweeper) unlock(ctx context.Context, fence int64) {
	if fence == 0 {
		return
	}
	if err := w.store.Unlock(context.WithoutCancel(ctx), sweepLock, w.holder); err != nil {
		w.polls.log.WarnContext(ctx, "cannot give the lock of re-appraisal back; it ends by itself", "error", err)
	}
}

func (s *Swept) add(o Swept) {
	s.Passed, s.Stale, s.Unproven, s.Quarantined = s.Passed+o.Passed, s.Stale+o.Stale, s.Unproven+o.Unproven, s.Quarantined+o.Quarantined
}

// batch decides about the devices side by side. The first failure ends it; what was committed stays.
func (w *Sweeper) batch(ctx context.Context, p *repository.Product, devices []fleet.Device, fence int64) (Swept, error) {
	var (
		mu    sync.Mutex // guards total and first
		total Swept
		first error
		wg    sync.WaitGroup
		work  = make(chan fleet.Device)
	)
	for range sweepWorkers {
		wg.Go(func() {
			for d := range work {
				one, err := w.device(ctx, p, d, fence)
				mu.Lock()
				total.add(one)
				first = cmp.Or(first, err)
				mu.Unlock()
			}
		})
	}
	for _, d := range devices {
		mu.Lock()
		failed := first != nil
		mu.Unlock()
		if failed {
			break
		}
		work <- d
	}
	close(work)
	wg.Wait()
	if total.Quarantined+total.Unproven > 0 {
		w.wake()
	}
	return total, first
}

// device decides about one device and commits it. A device that changed in between is left for later.
func (w *Sweeper) device(ctx context.Context, p *repository.Product, d fleet.Device, fence int64) (Swept, error) {
	now := w.polls.now()
	q, err := store.QuarantineOf(ctx, w.store, d.ID)
	if err != nil {
		return Swept{}, err
	}
	change := store.Change{Expect: []store.Expect{{Table: store.Locks, Key: sweepLock, Version: fence}}}
	if step, changed := fleet.Expire(d, now); changed {
		standing.Take(&change, &d, &q, step, "sweeper", now)
	}
	r, writes, err := w.polls.again(ctx, p, d, now)
	if err != nil {
		return Swept{}, fmt.Errorf("device %s: %w", d.ID, err)
	}
	if r.Undecided != "" {
		w.polls.log.LogAttrs(ctx, slog.LevelWarn, "stored Evidence cannot be appraised again", slog.String("device", d.ID), slog.String("why", r.Undecided))
	}
	standing.Take(&change, &d, &q, fleet.Repeat(d, q, r), "sweeper", now)
	change.Writes = append(change.Writes, writes...)
	w.rules.Close(&change, &d, q, "sweeper", now)
	err = w.store.Commit(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		return Swept{}, nil
	}
	if err != nil {
		return Swept{}, fmt.Errorf("cannot write device %s: %w", d.ID, err)
	}
	return counted(d.Standing), nil
}

func counted(s fleet.Standing) Swept {
	switch s {
	case fleet.Affirmed:
		return Swept{Passed: 1}
	case fleet.Refused:
		return Swept{Quarantined: 1}
	case fleet.Unproven:
		return Swept{Unproven: 1}
	}
	return Swept{Stale: 1}
}
