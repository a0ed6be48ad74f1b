package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// MaxPresign is the longest life of a presigned URL.
const MaxPresign = time.Minute

// errPresign: a URL was asked for that would open more than one range for a minute.
var errPresign = errors.New("a presigned URL needs a range and a life of 1 s to 60 s")

// Presign makes a URL with which anybody can GET one range of one blob until it expires: rangeHeader is part of what is
// signed and must be sent as it is. Nothing can take the URL back. It asks the server nothing, so the blob may be missing.
func (s *Store) Presign(ctx context.Context, d digest.SHA256, rangeHeader string, life time.Duration) (string, error) {
	if rangeHeader == "" || life < time.Second || life > MaxPresign {
		return "", fmt.Errorf("%w: range %q, life %s", errPresign, rangeHeader, life)
	}
	u, err := s.public.PresignHeader(ctx, http.MethodGet, s.bucket, s.blobKey(d), life, nil, http.Header{"Range": {rangeHeader}})
	if err != nil {
		return "", fmt.Errorf("cannot presign %s: %w", d, err)
	}
	return u.String(), nil
}
