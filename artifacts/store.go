package artifacts

import (
	"context"
	"errors"
	"io"
	"time"

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
	ErrRetained       = errors.New("store keeps the blob until its lock ends")
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
	// Remove deletes a blob or an unfinished upload; removing what is not there is no error. A blob that a lock of the
	// store keeps is ErrRetained.
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

// Found is a blob, or an unfinished upload, as Walker lists it.
type Found struct {
	SHA256   digest.SHA256
	Size     int64     // of a blob; 0 for an upload
	Modified time.Time // of the last write, by the store's clock
}

// Kind is what Walk lists.
type Kind int

// The kinds.
const (
	CompleteBlobs Kind = iota
	UnfinishedUploads
)

// Walker finds what lies in a store, so that what nobody needs any more can be removed. Both stores are one.
//
// Consistency: what is there from before the call until after it is listed; what comes or goes meanwhile may or may not
// be. Concurrency and retries as for Blobs.
type Walker interface {
	// Walk lists up to limit of the kind in byte order of the digests, after the given one (the zero digest: from the
	// start). Fewer than limit means that the end was reached.
	Walk(ctx context.Context, kind Kind, after digest.SHA256, limit int) ([]Found, error)
	// RemoveUpload throws away what is left of an upload when nothing of it was written since before. It never touches a
	// complete blob, nor an upload that somebody continues meanwhile. Nothing to remove is no error.
	RemoveUpload(ctx context.Context, d digest.SHA256, before time.Time) (removed bool, err error)
}

// Retainer is a store that can keep blobs from being removed, by anybody with the store's own credentials too: S3 object
// lock. A store where that is off keeps nothing and reports the zero time. Concurrency and retries as for Blobs; a blob
// that is not there is ErrNotFound.
type Retainer interface {
	// Retain keeps a complete blob for as long as the store is configured to; Remove is ErrRetained until then. A lock is
	// only ever made longer.
	Retain(ctx context.Context, d digest.SHA256) error
	// Retained says until when the blob is kept, the zero time for not at all.
	Retained(ctx context.Context, d digest.SHA256) (until time.Time, err error)
}
