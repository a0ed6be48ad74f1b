package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
)

func scanRelease(r *Release) []any { return append([]any{&r.Version}, dests(releaseRow(r))...) }
func scanRepo(r *Repo) []any       { return append([]any{&r.Version}, dests(repoRow(r))...) }
func scanDirector(d *Director) []any {
	return append([]any{&d.Version}, dests(directorRow(d))...)
}
func scanPerson(p *Person) []any { return append([]any{&p.Version}, dests(personRow(p))...) }
func scanCheckpoint(c *Checkpoint) []any {
	return append([]any{&c.Version}, dests(checkpointRow(c))...)
}
func scanBeacon(b *Beacon) []any           { return dests(beaconRow(b)) }
func scanEnrollToken(t *EnrollToken) []any { return dests(enrollTokenRow(t)) }
func scanToken(t *Token) []any             { return dests(tokenRow(t)) }
func scanEvent(e *StoredEvent) []any       { return dests(eventRow(e)) }

// maxList bounds how many values one query may name; longer lists are refused.
const maxList = 500

// Release returns a release by its name, or ErrNotFound.
func (s *Store) Release(ctx context.Context, name string) (Release, error) {
	return readOne(ctx, s, "release", scanRelease, selectRelease+`WHERE name = $1`, name)
}

// ListReleases returns the product's releases by rising counter; an empty product means all, product by product.
func (s *Store) ListReleases(ctx context.Context, product string) ([]Release, error) {
	out, err := readAll(ctx, s, "releases", scanRelease, selectRelease+`WHERE ($1 = '' OR product = $1)`, product)
	// Here, because the database sorts counters as signed numbers.
	slices.SortFunc(out, func(a, b Release) int {
		return cmp.Or(cmp.Compare(a.Product, b.Product), cmp.Compare(a.Counter, b.Counter), cmp.Compare(a.Name, b.Name))
	})
	return out, err
}

func scanBlob(b *Blob) []any { return dests(blobRow(b)) }

const selectBlob = `SELECT ` + blobColumns + ` FROM blobs `

// BlobsOf returns what is known of those of the digests that anything is known of, at most 500 at a time.
func (s *Store) BlobsOf(ctx context.Context, digests []digest.SHA256) ([]Blob, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	if len(digests) > maxList {
		return nil, fmt.Errorf("cannot read %d blobs at once", len(digests))
	}
	list := make([]any, len(digests))
	for i := range digests {
		list[i] = digests[i][:]
	}
	return readAll(ctx, s, "blobs", scanBlob, selectBlob+`WHERE sha256 IN (`+placeholders(len(list))+`) ORDER BY sha256`, list...)
}

// CondemnedBlobs returns the blobs whose removal has begun, the earliest first.
func (s *Store) CondemnedBlobs(ctx context.Context, limit int) ([]Blob, error) {
	return readAll(ctx, s, "condemned blobs", scanBlob, selectBlob+`WHERE condemned_at > 0 ORDER BY condemned_at, sha256 LIMIT $1`, limitOf(limit))
}

// Repo returns the state of a repository, or ErrNotFound.
func (s *Store) Repo(ctx context.Context, name string) (Repo, error) {
	return readOne(ctx, s, "repository", scanRepo, selectRepo+`WHERE name = $1`, name)
}

// MetadataFile returns the bytes of a metadata file, or ErrNotFound.
func (s *Store) MetadataFile(ctx context.Context, name string) ([]byte, error) {
	return readOne(ctx, s, "metadata file", func(b *[]byte) []any { return []any{b} }, `SELECT bytes FROM metadata WHERE name = $1`, name)
}

// Beacon returns the issued timestamp with the digest, or ErrNotFound.
func (s *Store) Beacon(ctx context.Context, d digest.SHA256) (Beacon, error) {
	return readOne(ctx, s, "beacon", scanBeacon, selectBeacon+`WHERE digest = $1`, digestArg(d))
}

// Beacons returns those of the digests that were issued, at most 500 at a time, the earliest first.
func (s *Store) Beacons(ctx context.Context, digests []digest.SHA256) ([]Beacon, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	if len(digests) > maxList {
		return nil, fmt.Errorf("cannot read %d beacons at once", len(digests))
	}
	list := make([]any, len(digests))
	for i := range digests {
		list[i] = digests[i][:]
	}
	return readAll(ctx, s, "beacons", scanBeacon,
		selectBeacon+`WHERE digest IN (`+placeholders(len(list))+`) ORDER BY issued_at, number`, list...)
}

// Director returns what the director last signed for the device, or ErrNotFound.
func (s *Store) Director(ctx context.Context, device string) (Director, error) {
	return readOne(ctx, s, "director documents", scanDirector, selectDirector+`WHERE device = $1`, device)
}

// EnrollToken returns an unused enrollment token, or ErrNotFound. Whether it has expired is for the caller to say.
func (s *Store) EnrollToken(ctx context.Context, hash digest.SHA256) (EnrollToken, error) {
	return readOne(ctx, s, "enrollment token", scanEnrollToken, selectEnrollToken+`WHERE hash = $1 AND used_at = 0`, digestArg(hash))
}

// Person returns a person by name, or ErrNotFound.
func (s *Store) Person(ctx context.Context, name string) (Person, error) {
	return readOne(ctx, s, "person", scanPerson, selectPerson+`WHERE name = $1`, name)
}

// ListPeople returns every person in the order of the names.
func (s *Store) ListPeople(ctx context.Context) ([]Person, error) {
	return readAll(ctx, s, "people", scanPerson, selectPerson+`ORDER BY name`)
}

// Token returns an access token by its hash, or ErrNotFound. It may have expired or be revoked.
func (s *Store) Token(ctx context.Context, hash digest.SHA256) (Token, error) {
	return readOne(ctx, s, "token", scanToken, selectToken+`WHERE hash = $1`, digestArg(hash))
}

// TokensOf returns a person's tokens, the newest first.
func (s *Store) TokensOf(ctx context.Context, person string) ([]Token, error) {
	return readAll(ctx, s, "tokens", scanToken, selectToken+`WHERE person = $1 ORDER BY at DESC, hash`, person)
}

// Setting returns a setting's value and row version, or ErrNotFound.
func (s *Store) Setting(ctx context.Context, name string) (value []byte, version int64, err error) {
	type row struct {
		value   []byte
		version int64
	}
	r, err := readOne(ctx, s, "setting", func(r *row) []any { return []any{&r.value, &r.version} },
		`SELECT value, version FROM settings WHERE name = $1`, name)
	return r.value, r.version, err
}

// EventFilter selects audit events; a zero field selects all.
type EventFilter struct {
	From    time.Time // inclusive
	To      time.Time // exclusive
	Subject string
	Types   []string

	Subjects []string // any of these, at most 500
}

// Events returns the audit events with a number above after, rising.
func (s *Store) Events(ctx context.Context, f EventFilter, after int64, limit int) ([]StoredEvent, error) {
	if len(f.Types) > maxList || len(f.Subjects) > maxList {
		return nil, fmt.Errorf("cannot read events of %d types and %d subjects at once", len(f.Types), len(f.Subjects))
	}
	text := selectEvent + `WHERE number > $1 AND at >= $2 AND at < $3`
	list := []any{after, micros(f.From), microsEnd(f.To)}
	if f.Subject != "" {
		text += fmt.Sprintf(` AND subject = $%d`, len(list)+1)
		list = append(list, f.Subject)
	}
	for _, in := range []struct {
		column string
		values []string
	}{{"subject", f.Subjects}, {"type", f.Types}} {
		if len(in.values) == 0 {
			continue
		}
		text += ` AND ` + in.column + ` IN (` + placeholdersFrom(len(list)+1, len(in.values)) + `)`
		for _, v := range in.values {
			list = append(list, v)
		}
	}
	text += fmt.Sprintf(` ORDER BY number LIMIT $%d`, len(list)+1)
	return readAll(ctx, s, "events", scanEvent, text, append(list, limitOf(limit))...)
}

// LastEvents returns the newest audit events of a subject, the newest first; an empty subject means all.
func (s *Store) LastEvents(ctx context.Context, subject string, limit int) ([]StoredEvent, error) {
	if subject == "" {
		return readAll(ctx, s, "last events", scanEvent, selectEvent+`ORDER BY number DESC LIMIT $1`, limitOf(limit))
	}
	return readAll(ctx, s, "last events", scanEvent, selectEvent+`WHERE subject = $1 ORDER BY number DESC LIMIT $2`, subject, limitOf(limit))
}

// Feed returns the number of the newest audit event. Nothing that was announced as an event has changed since the last
// call when it is the same; ask Events for what lies between.
func (s *Store) Feed(ctx context.Context) (int64, error) {
	return readOne(ctx, s, "feed", func(n *int64) []any { return []any{n} }, `SELECT number FROM audit_head WHERE one = 1`)
}

// Checkpoint returns a checkpoint of the audit log by its name, or ErrNotFound.
func (s *Store) Checkpoint(ctx context.Context, name string) (Checkpoint, error) {
	return readOne(ctx, s, "checkpoint", scanCheckpoint, selectCheckpoint+`WHERE name = $1`, name)
}

// Ping reports whether the database answers; the error is ErrUnavailable.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.Feed(ctx)
	return err
}
