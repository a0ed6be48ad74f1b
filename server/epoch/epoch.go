// Package epoch tells a server that was restored from a backup from the one that was lost.
//
// A backup is older than what devices and network points have seen since it was taken, and nobody can ask the lost server
// how far it went. An epoch is the time of the restore; every number that must never go backwards starts above it: TUF
// versions, director versions and the epochs of enforcement orders. Secrets that vouch for the past are derived anew.
//
// It promises that numbers of a later restore lie above every number of an earlier one, also when both used the same
// backup, as long as the clocks of the machines that restore were right and no number grows by more than 2^20 a second. It
// refuses a restore whose clock is behind the backup. Trusted: an attacker who chooses the epoch can make devices refuse
// metadata of a later one.
package epoch

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/store"
)

// Setting is the name under which the store keeps the State.
const Setting = "epoch"

// bits of a number below the epoch. With them an epoch fits into the integers that JavaScript keeps exact until 2298.
const bits = 20

// zero is where epochs begin.
var zero = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// ErrClock is returned by Next when the clock cannot be right.
var ErrClock = errors.New("the clock is behind the backup")

// State is what the last restore left behind; the zero State means that this server was never restored.
type State struct {
	Epoch      int64         `json:"epoch"` // seconds from the beginning of 2026 to the restore
	RestoredAt time.Time     `json:"restored_at"`
	Backup     digest.SHA256 `json:"backup"`   // of the backup file
	TakenAt    time.Time     `json:"taken_at"` // of the backup
	Events     int64         `json:"events"`   // number of the newest audit event in the backup
}

// Floor is the number that everything issued since the restore lies above, and everything before at or below; 0 without a
// restore.
func (s State) Floor() int64 { return s.Epoch << bits }

// Next is the epoch of a restore that happens now, from a backup that was taken in this state at that time.
func Next(before State, taken, now time.Time) (int64, error) {
	epoch := int64(now.Sub(zero) / time.Second)
	if now.Before(taken) || epoch < 1 {
		return 0, fmt.Errorf("%w: it was taken at %s, now it is %s", ErrClock, taken.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return max(epoch, before.Epoch+1), nil
}

// Secret derives the secret of this epoch: what an earlier epoch's secret vouched for is void. Without a restore it is the
// secret itself.
func (s State) Secret(secret []byte) []byte {
	if s.Epoch == 0 {
		return secret
	}
	m := hmac.New(sha256.New, secret)
	m.Write([]byte("cordon/epoch/v1"))
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(s.Epoch)))
	return m.Sum(nil)
}

// Settings is the part of the store that Load reads; a setting that is not there is store.ErrNotFound.
type Settings interface {
	Setting(ctx context.Context, name string) (value []byte, version int64, err error)
}

// Load reads the State of a database.
func Load(ctx context.Context, s Settings) (State, error) {
	value, _, err := s.Setting(ctx, Setting)
	if errors.Is(err, store.ErrNotFound) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("cannot read the epoch: %w", err)
	}
	return Decode(value)
}

// Decode reads the stored form.
func Decode(value []byte) (State, error) {
	var out State
	if err := json.Unmarshal(value, &out); err != nil {
		return State{}, fmt.Errorf("cannot read the epoch: %w", err)
	}
	return out, nil
}

// Encode writes the stored form.
func (s State) Encode() ([]byte, error) {
	b, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot write the epoch: %w", err)
	}
	return b, nil
}
