// Package backup writes a running server into one file and makes a new server out of such a file.
//
// A backup file is a tar archive that describes itself: the rows of every table, from one moment; the keys, unless they
// were left out; and at its end a manifest with the SHA-256 of everything before it. The bytes of images lie beside it, one
// file per digest, shared by all backups of a folder. Rows are written the same by SQLite and PostgreSQL, so either can be
// restored into the other.
//
// It promises that a file which was cut off or changed is refused before anything else happens, that a restore changes
// nothing unless all of it can be done, and that nothing which is there is ever overwritten. It refuses to encrypt: a
// backup holds the keys of the server, and belongs where those belong.
//
// Trusted: checksums find damage, not malice. Whoever can write a backup decides what the restored server believes.
package backup

import (
	"errors"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/epoch"
	"github.com/cordon-ota/cordon/server/store"
)

// Errors that a caller tests for.
var (
	// ErrDamaged: the file is not a whole backup, as it was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNewer: a newer build wrote it.
	ErrNewer = errors.New("a newer build wrote the backup")
	// ErrNotEmpty: the place to restore into is in use.
	ErrNotEmpty = errors.New("the place to restore into is not empty")
	// ErrMissing: bytes that a release needs are neither in the backup nor in the artifact store.
	ErrMissing = errors.New("bytes that a release needs are missing")
	// ErrNoKeys: the backup holds no keys, and there are none to use with it.
	ErrNoKeys = errors.New("the backup holds no keys")
)

// Version is the version of the format that this build writes; it reads this one.
const Version = 1

// Manifest says what a backup holds.
type Manifest struct {
	Version int         `json:"version"`
	TakenAt time.Time   `json:"taken_at"` // the rows are of this moment or a little later
	Build   string      `json:"build"`
	Engine  string      `json:"engine"` // that the rows came from
	Schema  int64       `json:"schema"` // number of the last migration
	Epoch   epoch.State `json:"epoch"`  // of the server that was backed up
	Events  int64       `json:"events"` // number of the newest audit event
	Tables  []Table     `json:"tables"`
	Keys    bool        `json:"keys"`
	Entries []Entry     `json:"entries"` // all of the archive before the manifest, in order
	Blobs   []Blob      `json:"blobs"`   // what the releases need of the artifact store
}

// Table is a table with the number of its rows.
type Table struct {
	store.TableShape
	Rows int64 `json:"rows"`
}

// Entry is a file of the archive.
type Entry struct {
	Name   string        `json:"name"`
	Length int64         `json:"length"`
	SHA256 digest.SHA256 `json:"sha256"`
}

// Blob is something that a release needs of the artifact store.
type Blob struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Length int64         `json:"length"`
	// Kept says that the bytes lie beside the backup. Otherwise they were left to the artifact store.
	Kept bool `json:"kept"`
}

// Progress tells how far something is: what is being done, and how much of how much; total is 0 where nobody knows.
type Progress func(what string, done, total int64)
