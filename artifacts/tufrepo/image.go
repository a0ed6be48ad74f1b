package tufrepo

import (
	"bytes"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Image verifies the Image repository. Every method that takes a document changes the state only if the document passes
// every check. An Image is not safe for concurrent use. The order of use: NewImage, UpdateRoot with cached and then with
// new roots, Restore (before the new roots, so that rotated keys drop what they must), then Next and Accept until Next
// returns nothing, or Timestamp, Snapshot, Targets and Product by name.
type Image struct {
	chain
	products map[string]*productRole
}

type productRole struct {
	*trusted[metadata.TargetsType]
	delegator digest.SHA256 // of the targets document whose keys verified it
}

// Target is what verified metadata says about one target.
type Target struct {
	Path   string
	Length int64
	SHA256 digest.SHA256
	Custom []byte // JSON object as signed; nil if there is none
}

// Cached are accepted documents, to be kept by a client and given to Restore at its next start.
type Cached struct {
	Timestamp []byte
	Snapshot  []byte
	Targets   []byte
	Products  map[string][]byte
}

// ImageState are the newest verified versions; 0 stands for a role that is not there.
type ImageState struct {
	Root      int64
	Timestamp int64
	Snapshot  int64
	Targets   int64
	Products  map[string]int64
	Beacon    digest.SHA256 // of the timestamp's bytes; zero without one
}

// Wanted names the next document that a client needs.
type Wanted struct {
	Role   string // "snapshot", "targets" or a product
	Name   string // file name in the repository, as in "3.snapshot.json"
	Length int64
	SHA256 digest.SHA256
}

// NewImage starts from a root that the caller trusts. at is the time against which expiry is judged.
func NewImage(trustedRoot []byte, at time.Time) (*Image, error) {
	c, err := newChain(trustedRoot, at)
	if err != nil {
		return nil, err
	}
	return &Image{chain: c, products: map[string]*productRole{}}, nil
}

// SetTime changes the time against which expiry is judged.
func (im *Image) SetTime(at time.Time) { im.at = at }

// UpdateRoot accepts newer roots in order, at most MaxRootRotations of them, each signed by its predecessor and itself.
// Roots before a refused one stay accepted. An expired root is no error here: a newer one may follow.
func (im *Image) UpdateRoot(docs ...[]byte) error {
	err := im.updateRoots(docs)
	if im.targets == nil {
		clear(im.products)
	}
	return err
}

// Restore takes documents that were accepted before, as floors against rollback and, as far as they are still current,
// as metadata. It verifies them again; expired ones are fine, and those that do not verify are dropped without error.
func (im *Image) Restore(c Cached) {
	im.restore(c.Timestamp, c.Snapshot, c.Targets)
	if im.targets == nil {
		return
	}
	for role, doc := range c.Products {
		if md := restoreRole(im.snapshot, role, doc); md != nil && im.checkProduct(im.targets, role, md) == nil {
			im.products[role] = &productRole{newTrusted(md, doc), im.targets.sum}
		}
	}
}

// Timestamp accepts timestamp.json. ErrRollback also means that it changed under the version seen before.
func (im *Image) Timestamp(doc []byte) error { return im.updateTimestamp(doc) }

// Snapshot accepts the snapshot that the current timestamp names.
func (im *Image) Snapshot(doc []byte) error { return im.updateSnapshot(doc) }

// Targets accepts the top-level targets document that the current snapshot names. Product roles that its delegations no
// longer vouch for are forgotten.
func (im *Image) Targets(doc []byte) error {
	if err := im.updateTargets(doc); err != nil {
		return err
	}
	for role, p := range im.products {
		if im.checkProduct(im.targets, role, p.md) != nil {
			delete(im.products, role)
			continue
		}
		im.products[role] = &productRole{p.trusted, im.targets.sum}
	}
	return nil
}

// Product accepts a product role's document. ErrDelegation means that the role is not delegated or not in the snapshot.
func (im *Image) Product(role string, doc []byte) error {
	targets, err := im.currentTargets()
	if err != nil {
		return err
	}
	if !delegates(targets, role) {
		return fmt.Errorf("%w: role %q is not delegated", ErrDelegation, role)
	}
	want, err := im.wantRole(role)
	if err != nil {
		return err
	}
	md, err := parseRole(role, want, doc)
	if err != nil {
		return err
	}
	if err := im.checkProduct(targets, role, md); err != nil {
		return err
	}
	if err := checkTime(role, im.at, md.Signed.Expires); err != nil {
		return err
	}
	im.products[role] = &productRole{newTrusted(md, doc), targets.sum}
	return nil
}

func (im *Image) checkProduct(targets *trusted[metadata.TargetsType], role string, md *metadata.Metadata[metadata.TargetsType]) error {
	if !delegates(targets, role) {
		return fmt.Errorf("%w: role %q is not delegated", ErrDelegation, role)
	}
	if err := verify(targets.md, role, md); err != nil {
		return err
	}
	if md.Signed.Delegations != nil {
		return fmt.Errorf("%w: role %s delegates further", ErrDelegation, role)
	}
	return nil
}

func delegates(targets *trusted[metadata.TargetsType], role string) bool {
	d := targets.md.Signed.Delegations
	if d == nil {
		return false
	}
	for i := range d.Roles {
		if d.Roles[i].Name == role {
			return true
		}
	}
	return false
}

// currentProduct returns a product's document if it is current and was verified by the current targets document.
func (im *Image) currentProduct(role string) (*metadata.TargetsType, error) {
	targets, err := im.currentTargets()
	if err != nil {
		return nil, err
	}
	if !delegates(targets, role) {
		return nil, fmt.Errorf("%w: role %q is not delegated", ErrDelegation, role)
	}
	want, err := im.wantRole(role)
	if err != nil {
		return nil, err
	}
	p := im.products[role]
	if p == nil || p.sum != want.SHA256 || p.delegator != targets.sum {
		return nil, fmt.Errorf("%w: no %s %d", ErrIncomplete, role, want.Version)
	}
	if err := checkTime(role, im.at, p.md.Signed.Expires); err != nil {
		return nil, err
	}
	return &p.md.Signed, nil
}

// Target looks a path up: paths of the offline directories in the targets role, <product>/*/* in that product's role
// and nowhere else. It answers only from current metadata. role names the role that vouches for the target.
func (im *Image) Target(path string) (t Target, role string, ok bool) {
	if offlinePath(path) {
		targets, err := im.currentTargets()
		if err != nil {
			return Target{}, "", false
		}
		t, ok := targetOf(path, targets.md.Signed.Targets[path])
		return t, RoleTargets, ok
	}
	product, ok := productPath(path)
	if !ok {
		return Target{}, "", false
	}
	signed, err := im.currentProduct(product)
	if err != nil {
		return Target{}, "", false
	}
	t, ok = targetOf(path, signed.Targets[path])
	return t, product, ok
}

func targetOf(path string, f *metadata.TargetFiles) (Target, bool) {
	if f == nil {
		return Target{}, false
	}
	file := fileOf(f)
	return Target{Path: path, Length: file.Length, SHA256: file.SHA256, Custom: file.Custom}, true
}

// Paths returns the paths that Target can answer for a product, in no order; RoleTargets gives the offline ones.
func (im *Image) Paths(role string) []string {
	files := map[string]*metadata.TargetFiles{}
	if role == RoleTargets {
		if targets, err := im.currentTargets(); err == nil {
			files = targets.md.Signed.Targets
		}
	} else if signed, err := im.currentProduct(role); err == nil {
		files = signed.Targets
	}
	var out []string
	for path := range files {
		if product, ok := productPath(path); ok && product == role || role == RoleTargets && offlinePath(path) {
			out = append(out, path)
		}
	}
	return out
}

// Next returns the next document that is needed for product ("" for the offline targets alone), nil when all of it is
// current. An expired document that its parent still names is ErrExpired: the repository is not being re-signed.
func (im *Image) Next(product string) (*Wanted, error) {
	want, err := im.wantSnapshot()
	if err != nil {
		return nil, err
	}
	if im.snapshot == nil || im.snapshot.sum != want.SHA256 {
		return wanted(RoleSnapshot, want), nil
	}
	if want, err = im.wantRole(RoleTargets); err != nil {
		return nil, err
	}
	if im.targets == nil || im.targets.sum != want.SHA256 {
		return wanted(RoleTargets, want), nil
	}
	targets, err := im.currentTargets()
	if err != nil || product == "" {
		return nil, err
	}
	if !delegates(targets, product) {
		return nil, fmt.Errorf("%w: role %q is not delegated", ErrDelegation, product)
	}
	if want, err = im.wantRole(product); err != nil {
		return nil, err
	}
	if p := im.products[product]; p == nil || p.sum != want.SHA256 || p.delegator != targets.sum {
		return wanted(product, want), nil
	}
	_, err = im.currentProduct(product)
	return nil, err
}

func wanted(role string, d Doc) *Wanted {
	return &Wanted{Role: role, Name: FileName(d.Version, role), Length: d.Length, SHA256: d.SHA256}
}

// Accept takes the document that Next asked for.
func (im *Image) Accept(w *Wanted, doc []byte) error {
	switch w.Role {
	case RoleSnapshot:
		return im.Snapshot(doc)
	case RoleTargets:
		return im.Targets(doc)
	}
	return im.Product(w.Role, doc)
}

// State returns the newest verified versions.
func (im *Image) State() ImageState {
	s := ImageState{Root: im.root.md.Signed.Version, Products: map[string]int64{}}
	if im.timestamp != nil {
		s.Timestamp, s.Beacon = im.timestamp.md.Signed.Version, im.timestamp.sum
	}
	if im.snapshot != nil {
		s.Snapshot = im.snapshot.md.Signed.Version
	}
	if im.targets != nil {
		s.Targets = im.targets.md.Signed.Version
	}
	for role, p := range im.products {
		s.Products[role] = p.md.Signed.Version
	}
	return s
}

// Cached returns what a client keeps for its next start.
func (im *Image) Cached() Cached {
	c := Cached{Products: map[string][]byte{}}
	if im.timestamp != nil {
		c.Timestamp = bytes.Clone(im.timestamp.raw)
	}
	if im.snapshot != nil {
		c.Snapshot = bytes.Clone(im.snapshot.raw)
	}
	if im.targets != nil {
		c.Targets = bytes.Clone(im.targets.raw)
	}
	for role, p := range im.products {
		c.Products[role] = bytes.Clone(p.raw)
	}
	return c
}

// Root returns the newest verified root document.
func (im *Image) Root() []byte { return bytes.Clone(im.root.raw) }

// Beacon returns the digest of timestamp.json's bytes.
func Beacon(timestampDoc []byte) digest.SHA256 { return digest.Of(timestampDoc) }
