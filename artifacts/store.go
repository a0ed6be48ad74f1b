package artifacts

import (
	"context"
	"errors"
	"io"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Errors of Blobs and Names that a caller tests for.
var (
	ErrNotFound       = errors.New("not in the store")
	ErrDigestMismatch = errors.New("bytes do not have the announced digest")
	ErrLengthMismatch = errors.New("bytes do not have the announced length")
	ErrOffset         = errors.New("write does not continue where the upload stands")
	ErrExists         = errors.New("name exists with other bytes")
	ErrRevision       = errors.New("name was changed in between")
	ErrUnavailable    = errors.New("store cannot be reached")
)

// Blobs keeps immutable bytes by their SHA-256.
//
// Consistency: a blob is readable from the moment Write returns complete, by every process that shares the store, and
// never before its digest was checked. Durability: when Write returns an offset, the bytes before it survive a power
// cut; a torn upload is never readable. Concurrency: all methods may be called at once, also for the same blob; two
// uploads of one blob end in the same bytes, one of them perhaps with ErrOffset. Retries: the caller's; every method is
// idempotent. A blob that is not there is ErrNotFound; a store that cannot be reached wraps ErrUnavailable.
//
// A blob has 1 to MaxImageBytes bytes: a smaller size is ErrLengthMismatch (at size 0 nobody could tell "complete" from
// "nothing is there"), a larger one ErrTooLarge. A complete blob announced with another size is ErrLengthMismatch and
// stays. storetest holds every sentence here.
type Blobs interface {
	// Uploaded says how far an upload of this blob has come: size when it is complete, 0 when nothing is there.
	Uploaded(ctx context.Context, d digest.SHA256, size int64) (offset int64, err error)
	// Write continues the upload at offset with the bytes of r and returns the new offset, which it also returns beside
	// an error. At size it checks the digest: ErrDigestMismatch or ErrLengthMismatch throw the whole upload away.
	// Writing a blob that is complete reads nothing from r and returns size.
	Write(ctx context.Context, d digest.SHA256, size, offset int64, r io.Reader) (int64, error)
	// Stat returns the length of a complete blob.
	Stat(ctx context.Context, d digest.SHA256) (size int64, err error)
	// Open reads a complete blob from offset; length -1 reads to the end. The reader ends with the context. An offset
	// below 0 or beyond the end, or a length below -1, is ErrOffset; a length beyond the end is cut there.
	Open(ctx context.Context, d digest.SHA256, offset, length int64) (io.ReadCloser, error)
	// Remove deletes a blob or an unfinished upload; removing what is not there is no error.
	Remove(ctx context.Context, d digest.SHA256) error
}

// Names keeps small documents (at most MaxNamedBytes) by name: immutable ones that Create writes, and pointers that
// Swap moves. Consistency, durability and concurrency as for Blobs: a reader sees the old or the new bytes, never a mix.
//
// A name outside ValidStoredName is ErrStoredName, a name that is not there ErrNotFound, more bytes ErrTooLarge.
type Names interface {
	// Load returns the bytes and an opaque revision for Swap.
	Load(ctx context.Context, name string) (data []byte, revision string, err error)
	// Create writes an immutable document. The same bytes again are no error; other bytes are ErrExists.
	Create(ctx context.Context, name string, data []byte) error
	// Swap replaces a pointer if its revision is still the given one ("" = it must not exist), else ErrRevision.
	Swap(ctx context.Context, name, revision string, data []byte) (newRevision string, err error)
	// List returns up to limit names with the prefix, sorted, after the given name.
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// MaxNamedBytes bounds a named document.
const MaxNamedBytes = 8 << 20

// Store is both halves.
type Store interface {
	Blobs
	Names
}
