package adminapi

import (
	"context"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// TileName reads the name of a tile.
func TileName(name string) (index uint64, partial uint8, err error) { return tileName(name) }

// Uploads is uploads with its methods, for its test.
type Uploads struct{ u uploads }

// Begin is begin.
func (u *Uploads) Begin(sum digest.SHA256) func() { return u.u.begin(sum) }

// Settled is settled.
func (u *Uploads) Settled(ctx context.Context, sum digest.SHA256, limit time.Duration) {
	u.u.settled(ctx, sum, limit)
}
