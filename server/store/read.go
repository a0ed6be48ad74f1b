package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// defaultLimit is what a list returns when its caller names no limit.
const defaultLimit = 1000

func limitOf(limit int) int64 {
	if limit <= 0 {
		return defaultLimit
	}
	return int64(limit)
}

// readOne reads the one row of a query; ErrNotFound when there is none.
func readOne[T any](ctx context.Context, s *Store, what string, row func(*T) []any, text string, args ...any) (T, error) {
	var v T
	err := s.read.QueryRowContext(ctx, text, args...).Scan(row(&v)...)
	if errors.Is(err, sql.ErrNoRows) {
		return *new(T), fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if err != nil {
		return *new(T), s.readError(ctx, what, err)
	}
	return v, nil
}

// readAll reads every row of a query.
func readAll[T any](ctx context.Context, s *Store, what string, row func(*T) []any, text string, args ...any) ([]T, error) {
	rows, err := s.read.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, s.readError(ctx, what, err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		var v T
		if err := rows.Scan(row(&v)...); err != nil {
			return nil, s.readError(ctx, what, err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, s.readError(ctx, what, err)
	}
	return out, nil
}

// readError says ErrUnavailable for what is the database's or the network's fault, and the context's error for what is
// the caller's.
func (s *Store) readError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot read %s: %w", what, ctx.Err())
	}
	if f := s.engine.fault(err); f == faultRetry || f == faultUnavailable {
		return fmt.Errorf("cannot read %s: %w: %w", what, ErrUnavailable, err)
	}
	return fmt.Errorf("cannot read %s: %w", what, err)
}

// The SELECT of every table; a versioned one reads the version first.
const (
	selectDevice      = `SELECT version, ` + deviceColumns + ` FROM devices `
	selectQuarantine  = `SELECT version, ` + quarantineColumns + ` FROM quarantines `
	selectApproval    = `SELECT ` + approvalColumns + ` FROM approvals `
	selectDenial      = `SELECT version, ` + denialColumns + ` FROM ek_denials `
	selectRelease     = `SELECT version, ` + releaseColumns + ` FROM releases `
	selectRepo        = `SELECT version, ` + repoColumns + ` FROM repos `
	selectBeacon      = `SELECT ` + beaconColumns + ` FROM beacons `
	selectDirector    = `SELECT version, ` + directorColumns + ` FROM directors `
	selectAppraisal   = `SELECT number, ` + appraisalColumns + ` FROM appraisals `
	selectUpdate      = `SELECT ` + updateColumns + ` FROM updates `
	selectInventory   = `SELECT ` + inventoryColumns + ` FROM inventory `
	selectAddress     = `SELECT ` + addressColumns + ` FROM addresses `
	selectEnrollToken = `SELECT ` + enrollTokenColumns + ` FROM enroll_tokens `
	selectPerson      = `SELECT version, ` + personColumns + ` FROM people `
	selectToken       = `SELECT ` + tokenColumns + ` FROM tokens `
	selectOrder       = `SELECT ` + orderColumns + ` FROM orders `
	selectEvent       = `SELECT ` + eventColumns + ` FROM events `
	selectCheckpoint  = `SELECT version, ` + checkpointColumns + ` FROM checkpoints `
)
