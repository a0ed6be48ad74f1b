package tufrepo

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// trusted is a document whose signatures verified. It is never changed, so that copies of a chain may share it.
type trusted[T metadata.Roles] struct {
	md  *metadata.Metadata[T]
	raw []byte
	sum digest.SHA256
}

func newTrusted[T metadata.Roles](md *metadata.Metadata[T], doc []byte) *trusted[T] {
	return &trusted[T]{md: md, raw: bytes.Clone(doc), sum: digest.Of(doc)}
}

// chain is what both repositories share: root, timestamp, snapshot, top-level targets. Apart from root a document serves
// two purposes: as a floor against rollback (always), and as current metadata, only while its parent names exactly its
// bytes and it has not expired. So an expired or superseded document never stops a newer one from being accepted.
type chain struct {
	at        time.Time
	root      *trusted[metadata.RootType]
	timestamp *trusted[metadata.TimestampType]
	snapshot  *trusted[metadata.SnapshotType]
	targets   *trusted[metadata.TargetsType]
}

func newChain(root []byte, at time.Time) (chain, error) {
	if at.IsZero() {
		return chain{}, fmt.Errorf("%w: no reference time", ErrExpired)
	}
	md, err := parse[metadata.RootType](root, MaxRootBytes)
	if err != nil {
		return chain{}, fmt.Errorf("trusted root: %w", err)
	}
	if err := verify(md, RoleRoot, md); err != nil {
		return chain{}, fmt.Errorf("trusted root: %w", err)
	}
	return chain{at: at, root: newTrusted(md, root)}, nil
}

// updateRoots accepts newer roots in order. What was accepted before a failing one stays accepted (TUF 5.3).
func (c *chain) updateRoots(docs [][]byte) error {
	if len(docs) > MaxRootRotations {
		return fmt.Errorf("%w: %d roots in one call, at most %d", ErrTooLarge, len(docs), MaxRootRotations)
	}
	for _, doc := range docs {
		if bytes.Equal(doc, c.root.raw) {
			continue
		}
		if err := c.updateRoot(doc); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) updateRoot(doc []byte) error {
	md, err := parse[metadata.RootType](doc, MaxRootBytes)
	if err != nil {
		return err
	}
	old := c.root.md
	if err := verify(old, RoleRoot, md); err != nil {
		return fmt.Errorf("by the trusted root: %w", err)
	}
	if err := verify(md, RoleRoot, md); err != nil {
		return fmt.Errorf("by itself: %w", err)
	}
	if md.Signed.Version != old.Signed.Version+1 {
		return fmt.Errorf("%w: root version %d after %d", ErrRollback, md.Signed.Version, old.Signed.Version)
	}
	c.root = newTrusted(md, doc)
	c.dropUnsigned(&old.Signed)
	return nil
}

// dropUnsigned forgets what the new root no longer vouches for. When keys of timestamp or snapshot were rotated, both go
// even if they still verify: their versions may be the attacker's (fast-forward recovery, TUF 5.3.11).
func (c *chain) dropUnsigned(old *metadata.RootType) {
	root := c.root.md
	if rotated(old, &root.Signed, RoleTimestamp) || rotated(old, &root.Signed, RoleSnapshot) {
		c.timestamp, c.snapshot, c.targets = nil, nil, nil
		return
	}
	if c.timestamp != nil && verify(root, RoleTimestamp, c.timestamp.md) != nil {
		c.timestamp = nil
	}
	if c.snapshot != nil && verify(root, RoleSnapshot, c.snapshot.md) != nil {
		c.snapshot = nil
	}
	if c.targets != nil && verify(root, RoleTargets, c.targets.md) != nil {
		c.targets = nil
	}
}

func rotated(old, now *metadata.RootType, role string) bool {
	a, b := slices.Clone(old.Roles[role].KeyIDs), slices.Clone(now.Roles[role].KeyIDs)
	slices.Sort(a)
	slices.Sort(b)
	return !slices.Equal(a, b)
}

func (c *chain) checkRootTime() error { return checkTime(RoleRoot, c.at, c.root.md.Signed.Expires) }

func (c *chain) updateTimestamp(doc []byte) error {
	if err := c.checkRootTime(); err != nil {
		return err
	}
	if len(doc) > MaxTimestampBytes {
		return fmt.Errorf("%w: timestamp of %d bytes", ErrTooLarge, len(doc))
	}
	if c.timestamp != nil && bytes.Equal(doc, c.timestamp.raw) {
		return checkTime(RoleTimestamp, c.at, c.timestamp.md.Signed.Expires)
	}
	md, err := parse[metadata.TimestampType](doc, MaxTimestampBytes)
	if err != nil {
		return err
	}
	if err := verify(c.root.md, RoleTimestamp, md); err != nil {
		return err
	}
	if err := c.checkTimestampFloor(&md.Signed); err != nil {
		return err
	}
	if err := checkTime(RoleTimestamp, c.at, md.Signed.Expires); err != nil {
		return err
	}
	c.timestamp = newTrusted(md, doc)
	return nil
}

func (c *chain) checkTimestampFloor(signed *metadata.TimestampType) error {
	snapshot := docOf(signed.Meta["snapshot.json"])
	if c.snapshot != nil && snapshot.Version < c.snapshot.md.Signed.Version {
		return fmt.Errorf("%w: timestamp names snapshot %d, %d was seen", ErrRollback, snapshot.Version, c.snapshot.md.Signed.Version)
	}
	if c.timestamp == nil {
		return nil
	}
	seen := &c.timestamp.md.Signed
	if signed.Version < seen.Version {
		return fmt.Errorf("%w: timestamp %d after %d", ErrRollback, signed.Version, seen.Version)
	}
	if signed.Version == seen.Version {
		return fmt.Errorf("%w: timestamp %d changed under the same version", ErrRollback, signed.Version)
	}
	return checkDocFloor("snapshot.json", docOf(seen.Meta["snapshot.json"]), snapshot)
}

func checkDocFloor(name string, seen, got Doc) error {
	if got.Version < seen.Version {
		return fmt.Errorf("%w: %s version %d after %d", ErrRollback, name, got.Version, seen.Version)
	}
	if got.Version == seen.Version && got != seen {
		return fmt.Errorf("%w: %s changed under version %d", ErrRollback, name, got.Version)
	}
	return nil
}

// wantSnapshot returns what the current timestamp names.
func (c *chain) wantSnapshot() (Doc, error) {
	if err := c.checkRootTime(); err != nil {
		return Doc{}, err
	}
	if c.timestamp == nil {
		return Doc{}, fmt.Errorf("%w: no timestamp", ErrIncomplete)
	}
	if err := checkTime(RoleTimestamp, c.at, c.timestamp.md.Signed.Expires); err != nil {
		return Doc{}, err
	}
	return docOf(c.timestamp.md.Signed.Meta["snapshot.json"]), nil
}

func (c *chain) updateSnapshot(doc []byte) error {
	want, err := c.wantSnapshot()
	if err != nil {
		return err
	}
	if err := checkChild(RoleSnapshot, want, doc, MaxSnapshotBytes); err != nil {
		return err
	}
	md, err := parse[metadata.SnapshotType](doc, MaxSnapshotBytes)
	if err != nil {
		return err
	}
	if err := verify(c.root.md, RoleSnapshot, md); err != nil {
		return err
	}
	if err := c.checkSnapshotFloor(want, &md.Signed); err != nil {
		return err
	}
	if err := checkTime(RoleSnapshot, c.at, md.Signed.Expires); err != nil {
		return err
	}
	c.snapshot = newTrusted(md, doc)
	return nil
}

func (c *chain) checkSnapshotFloor(want Doc, signed *metadata.SnapshotType) error {
	if signed.Version != want.Version {
		return fmt.Errorf("%w: snapshot %d, the timestamp names %d", ErrMixAndMatch, signed.Version, want.Version)
	}
	if c.snapshot == nil {
		return nil
	}
	if signed.Version < c.snapshot.md.Signed.Version {
		return fmt.Errorf("%w: snapshot %d after %d", ErrRollback, signed.Version, c.snapshot.md.Signed.Version)
	}
	for name, seen := range c.snapshot.md.Signed.Meta {
		got := signed.Meta[name]
		if got == nil {
			return fmt.Errorf("%w: snapshot no longer names %s", ErrRollback, name)
		}
		if err := checkDocFloor(name, docOf(seen), docOf(got)); err != nil {
			return err
		}
	}
	return nil
}

// currentSnapshot returns the snapshot if it is the one that the current timestamp names.
func (c *chain) currentSnapshot() (*metadata.SnapshotType, error) {
	want, err := c.wantSnapshot()
	if err != nil {
		return nil, err
	}
	if c.snapshot == nil || c.snapshot.sum != want.SHA256 {
		return nil, fmt.Errorf("%w: no snapshot %d", ErrIncomplete, want.Version)
	}
	if err := checkTime(RoleSnapshot, c.at, c.snapshot.md.Signed.Expires); err != nil {
		return nil, err
	}
	return &c.snapshot.md.Signed, nil
}

// wantRole returns what the current snapshot names for a role.
func (c *chain) wantRole(role string) (Doc, error) {
	snapshot, err := c.currentSnapshot()
	if err != nil {
		return Doc{}, err
	}
	m := snapshot.Meta[role+".json"]
	if m == nil {
		return Doc{}, fmt.Errorf("%w: role %s is not in the snapshot", ErrDelegation, role)
	}
	return docOf(m), nil
}

func (c *chain) updateTargets(doc []byte) error {
	want, err := c.wantRole(RoleTargets)
	if err != nil {
		return err
	}
	md, err := parseRole(RoleTargets, want, doc)
	if err != nil {
		return err
	}
	if err := verify(c.root.md, RoleTargets, md); err != nil {
		return err
	}
	if err := checkDelegations(md.Signed.Delegations); err != nil {
		return err
	}
	if err := checkTime(RoleTargets, c.at, md.Signed.Expires); err != nil {
		return err
	}
	c.targets = newTrusted(md, doc)
	return nil
}

// parseRole parses a targets document after its bytes were found to be those that the snapshot names.
func parseRole(role string, want Doc, doc []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	if err := checkChild(role, want, doc, MaxTargetsBytes); err != nil {
		return nil, err
	}
	md, err := parse[metadata.TargetsType](doc, MaxTargetsBytes)
	if err != nil {
		return nil, err
	}
	if md.Signed.Version != want.Version {
		return nil, fmt.Errorf("%w: %s version %d, the snapshot names %d", ErrMixAndMatch, role, md.Signed.Version, want.Version)
	}
	return md, nil
}

func (c *chain) currentTargets() (*trusted[metadata.TargetsType], error) {
	want, err := c.wantRole(RoleTargets)
	if err != nil {
		return nil, err
	}
	if c.targets == nil || c.targets.sum != want.SHA256 {
		return nil, fmt.Errorf("%w: no targets %d", ErrIncomplete, want.Version)
	}
	if err := checkTime(RoleTargets, c.at, c.targets.md.Signed.Expires); err != nil {
		return nil, err
	}
	return c.targets, nil
}

// checkChild compares length and digest before anything is parsed.
func checkChild(role string, want Doc, doc []byte, limit int) error {
	if len(doc) > limit {
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, role, len(doc), limit)
	}
	if !want.names(doc) {
		return fmt.Errorf("%w: %s has not the length and digest of version %d", ErrMixAndMatch, role, want.Version)
	}
	return nil
}

// restore takes cached documents as floors. Each is verified again with the current root; expired ones count, and one
// that does not verify is dropped: a damaged cache must not stop the device.
func (c *chain) restore(timestamp, snapshot, targets []byte) {
	if md, err := parse[metadata.TimestampType](timestamp, MaxTimestampBytes); err == nil && verify(c.root.md, RoleTimestamp, md) == nil {
		c.timestamp = newTrusted(md, timestamp)
	}
	md, err := parse[metadata.SnapshotType](snapshot, MaxSnapshotBytes)
	if err != nil || verify(c.root.md, RoleSnapshot, md) != nil {
		return
	}
	c.snapshot = newTrusted(md, snapshot)
	if t := restoreRole(c.snapshot, RoleTargets, targets); t != nil && verify(c.root.md, RoleTargets, t) == nil && checkDelegations(t.Signed.Delegations) == nil {
		c.targets = newTrusted(t, targets)
	}
}

// restoreRole parses a cached targets document if the cached snapshot names exactly its bytes.
func restoreRole(snapshot *trusted[metadata.SnapshotType], role string, doc []byte) *metadata.Metadata[metadata.TargetsType] {
	m := snapshot.md.Signed.Meta[role+".json"]
	if m == nil {
		return nil
	}
	md, err := parseRole(role, docOf(m), doc)
	if err != nil {
		return nil
	}
	return md
}
