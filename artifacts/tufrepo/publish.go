package tufrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// StorePrefix stands before the name of every Image file in the store.
const StorePrefix = "image/"

// Object is an immutable file of the Image repository. Name is relative to the repository, as in "3.snapshot.json" or
// "targets/policy/<sha256>.gw.json".
type Object struct {
	Name string
	Data []byte
}

// TargetFileName is the name of a non-firmware target under consistent snapshots: targets/<dir>/<sha256>.<base>.
func TargetFileName(targetPath string, d digest.SHA256) string {
	dir, base := path.Split(targetPath)
	return "targets/" + dir + d.String() + "." + base
}

// Publish makes a new timestamp visible: it creates the objects in the given order, checks that everything the timestamp
// leads to is in the store, and moves the pointer last. It may be repeated after any failure, also after one that
// persisted. It verifies no signatures: the caller runs the documents through Image first.
//
// Errors: ErrRollback if the store has a newer timestamp, or another one of the same version; ErrMissing;
// artifacts.ErrExists if an immutable name has other bytes; artifacts.ErrRevision if somebody published in between.
func Publish(ctx context.Context, store artifacts.Names, objects []Object, timestamp []byte) error {
	p := publication{store: store}
	next, err := parse[metadata.TimestampType](timestamp, MaxTimestampBytes)
	if err != nil {
		return fmt.Errorf("cannot publish timestamp: %w", err)
	}
	now, revision, err := p.load(ctx, TimestampName)
	if err != nil && !errors.Is(err, artifacts.ErrNotFound) {
		return err
	}
	if err := p.checkNewer(now, next, timestamp); err != nil {
		return err
	}
	for _, o := range objects {
		if o.Name == TimestampName {
			return fmt.Errorf("%w: the timestamp is not an immutable file", ErrSpec)
		}
		if err := store.Create(ctx, StorePrefix+o.Name, o.Data); err != nil {
			return fmt.Errorf("cannot publish %s: %w", o.Name, err)
		}
	}
	crash.Here(crash.PublishObjects)
	if err := p.checkComplete(ctx, docOf(next.Signed.Meta["snapshot.json"])); err != nil {
		return err
	}
	if bytes.Equal(now, timestamp) {
		return nil
	}
	if _, err := store.Swap(ctx, StorePrefix+TimestampName, revision, timestamp); err != nil {
		return fmt.Errorf("cannot publish timestamp: %w", err)
	}
	crash.Here(crash.PublishVisible)
	return nil
}

type publication struct {
	store   artifacts.Names
	seen    *metadata.SnapshotType  // what is published now; nil the first time
	current *metadata.TimestampType // likewise
}

func (p *publication) load(ctx context.Context, name string) ([]byte, string, error) {
	data, revision, err := p.store.Load(ctx, StorePrefix+name)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read published %s: %w", name, err)
	}
	return data, revision, nil
}

func (p *publication) checkNewer(now []byte, next *metadata.Metadata[metadata.TimestampType], timestamp []byte) error {
	if now == nil {
		return nil
	}
	current, err := parse[metadata.TimestampType](now, MaxTimestampBytes)
	if err != nil {
		return fmt.Errorf("published timestamp: %w", err)
	}
	p.current = &current.Signed
	if next.Signed.Version < current.Signed.Version {
		return fmt.Errorf("%w: timestamp %d is published, not %d", ErrRollback, current.Signed.Version, next.Signed.Version)
	}
	if next.Signed.Version == current.Signed.Version && !bytes.Equal(now, timestamp) {
		return fmt.Errorf("%w: another timestamp %d is published", ErrRollback, next.Signed.Version)
	}
	return nil
}

// checkComplete follows the new timestamp. What the published snapshot names already is known to be there.
func (p *publication) checkComplete(ctx context.Context, want Doc) error {
	if p.current != nil {
		seen := docOf(p.current.Meta["snapshot.json"])
		md, err := p.loadSnapshot(ctx, seen)
		if err != nil {
			return err
		}
		if seen == want {
			return nil
		}
		p.seen = &md.Signed
	}
	md, err := p.loadSnapshot(ctx, want)
	if err != nil {
		return err
	}
	for name, m := range md.Signed.Meta {
		if p.seen != nil && p.seen.Meta[name] != nil && docOf(p.seen.Meta[name]) == docOf(m) {
			continue
		}
		if err := p.checkRole(ctx, name, docOf(m)); err != nil {
			return err
		}
	}
	return nil
}

func (p *publication) loadSnapshot(ctx context.Context, want Doc) (*metadata.Metadata[metadata.SnapshotType], error) {
	data, err := p.loadDoc(ctx, FileName(want.Version, RoleSnapshot), want.Length, want.SHA256)
	if err != nil {
		return nil, err
	}
	return parse[metadata.SnapshotType](data, MaxSnapshotBytes)
}

func (p *publication) checkRole(ctx context.Context, name string, want Doc) error {
	data, err := p.loadDoc(ctx, fmt.Sprintf("%d.%s", want.Version, name), want.Length, want.SHA256)
	if err != nil {
		return err
	}
	md, err := parse[metadata.TargetsType](data, MaxTargetsBytes)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for target, f := range md.Signed.Targets {
		if !offlinePath(target) || name != RoleTargets+".json" {
			continue // firmware lies behind the artifact door, as blobs
		}
		file := fileOf(f)
		if _, err := p.loadDoc(ctx, TargetFileName(target, file.SHA256), file.Length, file.SHA256); err != nil {
			return err
		}
	}
	return nil
}

func (p *publication) loadDoc(ctx context.Context, name string, length int64, want digest.SHA256) ([]byte, error) {
	data, _, err := p.load(ctx, name)
	if errors.Is(err, artifacts.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrMissing, name)
	}
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != length || digest.Of(data) != want {
		return nil, fmt.Errorf("%w: %s has other bytes than its parent names", ErrMissing, name)
	}
	return data, nil
}
