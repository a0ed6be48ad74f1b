package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cordon-ota/cordon/server/backup"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// errUnfinished means that a restore was cut off.
var errUnfinished = errors.New("a restore into the data directory has not ended")

// checkRestored refuses to serve what is half restored.
func (a *App) checkRestored() error {
	_, err := os.Lstat(filepath.Join(a.cfg.DataDir, backup.Unfinished))
	if err == nil {
		return fmt.Errorf("%w (%s)", errUnfinished, a.cfg.DataDir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot look at the data directory: %w", err)
	}
	return nil
}

// orderAgain tells the network points of every device that must be restricted, once after a restore: they may hold an order
// that the server has forgotten, and a device that keeps silent would never cause another. It ends with the context.
func (a *App) orderAgain(ctx context.Context) error {
	for a.epoch.Epoch > 0 && len(a.pointNames()) > 0 {
		err := a.orderAll(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		a.opt.Log.ErrorContext(ctx, "cannot order segments again after the restore", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(sweepEvery):
		}
	}
	<-ctx.Done()
	return nil
}

func (a *App) orderAll(ctx context.Context) error {
	rules := a.rules()
	after := ""
	for {
		page, err := a.store.ListDevices(ctx, store.DeviceFilter{}, after, sweepBatch)
		if err != nil {
			return err
		}
		for _, d := range page {
			after = d.ID
			if err := a.orderOne(ctx, rules, d); err != nil && !errors.Is(err, store.ErrConflict) {
				return err // after a conflict the one who was faster has ordered
			}
		}
		if len(page) < sweepBatch {
			a.enforcer.Wake()
			return nil
		}
	}
}

func (a *App) orderOne(ctx context.Context, rules standing.Rules, d fleet.Device) error {
	if d.Epoch > rules.Terms.Epoch {
		return nil
	}
	q, err := store.QuarantineOf(ctx, a.store, d.ID)
	if err != nil {
		return err
	}
	now := a.opt.Now()
	if !rules.Moves(d, q, now) {
		return nil
	}
	var change store.Change
	rules.Close(&change, &d, q, "server", now)
	return a.store.Commit(ctx, change)
}
