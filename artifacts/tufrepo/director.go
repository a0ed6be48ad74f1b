package tufrepo

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Director verifies the director metadata of one device: all three documents, fully (Uptane 5.4.4.2). It is not safe for
// concurrent use. The order of use is that of Image: NewDirector, cached roots, Restore, new roots, Update.
type Director struct {
	chain
	device  string
	current directorView // of chain.targets
	floor   int64        // version of a restored timestamp whose documents are not there; 0 if they are
}

type directorView struct {
	counterBase uint64
	targets     []DirectorTarget
}

// DirectorTarget is one thing that the device may install now. Deadline is Unix seconds, 0 for none.
type DirectorTarget struct {
	Path     string
	Length   int64
	SHA256   digest.SHA256
	Deadline int64
}

// NewDirector starts from a root that the caller trusts, for one device.
func NewDirector(trustedRoot []byte, device string, at time.Time) (*Director, error) {
	if err := artifacts.ValidName(device); err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	c, err := newChain(trustedRoot, at)
	if err != nil {
		return nil, err
	}
	return &Director{chain: c, device: device}, nil
}

// SetTime changes the time against which expiry is judged.
func (d *Director) SetTime(at time.Time) { d.at = at }

// UpdateRoot accepts newer roots in order, as Image.UpdateRoot does.
func (d *Director) UpdateRoot(docs ...[]byte) error {
	before := d.root.md.Signed.Version
	err := d.updateRoots(docs)
	if d.targets == nil {
		d.current = directorView{}
	}
	if d.root.md.Signed.Version > before {
		d.floor = 0 // as the chain forgets what keys said that a new root may have replaced (TUF 5.3.11)
	}
	return err
}

// Restore takes documents that were accepted before. Expired ones still are floors against rollback; those that do not
// verify, or are for another device, are dropped without error. Of a set that is not complete, because a crash or somebody
// else came between its files, only the version of the timestamp remains: the three are fetched again.
func (d *Director) Restore(docs DirectorDocs) {
	next := d.chain
	next.restore(docs.Timestamp, docs.Snapshot, docs.Targets)
	if !complete(next) {
		if next.timestamp != nil && d.timestamp == nil {
			d.floor = next.timestamp.md.Signed.Version
		}
		return
	}
	view, err := d.view(&next.targets.md.Signed)
	if err != nil {
		return
	}
	d.chain, d.current, d.floor = next, view, 0
}

// Update accepts the three documents together or nothing. The documents accepted last are accepted again.
// Errors: ErrWrongDevice for another device's metadata, ErrDelegation if the director delegates, and those of Image.
func (d *Director) Update(docs DirectorDocs) error {
	err := d.update(docs)
	if errors.Is(err, ErrRollback) {
		return errors.Join(d.foreign(docs), err)
	}
	return err
}

// foreign returns ErrWrongDevice for documents that are authentic and another device's. A replay across devices keeps
// its name whatever versions the two devices have reached.
func (d *Director) foreign(docs DirectorDocs) error {
	fresh := *d
	fresh.timestamp, fresh.snapshot, fresh.targets = nil, nil, nil
	if err := fresh.update(docs); errors.Is(err, ErrWrongDevice) {
		return err
	}
	return nil
}

func (d *Director) update(docs DirectorDocs) error {
	next := d.chain
	if err := next.updateTimestamp(docs.Timestamp); err != nil {
		return fmt.Errorf("director timestamp: %w", err)
	}
	if v := next.timestamp.md.Signed.Version; v < d.floor {
		return fmt.Errorf("director timestamp: %w: version %d, %d was accepted before", ErrRollback, v, d.floor)
	}
	if err := next.updateSnapshot(docs.Snapshot); err != nil {
		return fmt.Errorf("director snapshot: %w", err)
	}
	if err := next.updateTargets(docs.Targets); err != nil {
		return fmt.Errorf("director targets: %w", err)
	}
	view, err := d.view(&next.targets.md.Signed)
	if err != nil {
		return fmt.Errorf("director targets: %w", err)
	}
	d.chain, d.current, d.floor = next, view, 0
	return nil
}

// view checks what is special about director targets.
func (d *Director) view(signed *metadata.TargetsType) (directorView, error) {
	if signed.Delegations != nil {
		return directorView{}, fmt.Errorf("%w: the director must not delegate (Uptane 5.1.2.1)", ErrDelegation)
	}
	if device, _ := signed.UnrecognizedFields[fieldDevice].(string); device != d.device {
		return directorView{}, fmt.Errorf("%w: %q", ErrWrongDevice, device)
	}
	text, _ := signed.UnrecognizedFields[fieldCounterBase].(string)
	base, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(base, 10) != text {
		return directorView{}, fmt.Errorf("%w: counter base %q", ErrMalformed, text)
	}
	view := directorView{counterBase: base}
	for path, f := range signed.Targets {
		t, err := d.target(path, f)
		if err != nil {
			return directorView{}, err
		}
		view.targets = append(view.targets, t)
	}
	slices.SortFunc(view.targets, func(a, b DirectorTarget) int { return strings.Compare(a.Path, b.Path) })
	return view, nil
}

func (d *Director) target(path string, f *metadata.TargetFiles) (DirectorTarget, error) {
	if _, ok := productPath(path); !ok {
		return DirectorTarget{}, fmt.Errorf("%w: director target %q", ErrMalformed, path)
	}
	file := fileOf(f)
	var custom directorCustomJSON
	if err := json.Unmarshal(file.Custom, &custom, json.RejectUnknownMembers(true)); err != nil {
		return DirectorTarget{}, fmt.Errorf("%w: custom of %s: %v", ErrMalformed, path, err)
	}
	if custom.Device != d.device {
		return DirectorTarget{}, fmt.Errorf("%w: target %s is for %q", ErrWrongDevice, path, custom.Device)
	}
	if custom.Deadline < 0 {
		return DirectorTarget{}, fmt.Errorf("%w: deadline of %s", ErrMalformed, path)
	}
	return DirectorTarget{Path: path, Length: file.Length, SHA256: file.SHA256, Deadline: custom.Deadline}, nil
}

// Targets returns what the device may install now, sorted by path; nothing when the metadata is missing or has expired.
func (d *Director) Targets() []DirectorTarget {
	if _, err := d.currentTargets(); err != nil {
		return nil
	}
	return slices.Clone(d.current.targets)
}

// CounterBase returns the base of the device's release counter; ok is false without current metadata.
func (d *Director) CounterBase() (base uint64, ok bool) {
	if _, err := d.currentTargets(); err != nil {
		return 0, false
	}
	return d.current.counterBase, true
}

// Versions returns the newest verified versions of root and timestamp; 0 stands for no timestamp. Where the documents of
// the newest timestamp are not there it is the version before: the director sends what is above it, and that is accepted.
func (d *Director) Versions() (root, timestamp int64) {
	switch {
	case d.floor > 0:
		timestamp = d.floor - 1
	case d.timestamp != nil:
		timestamp = d.timestamp.md.Signed.Version
	}
	return d.root.md.Signed.Version, timestamp
}

// complete reports whether snapshot and targets are those that the timestamp leads to, expired or not.
func complete(c chain) bool {
	if c.timestamp == nil || c.snapshot == nil || c.targets == nil {
		return false
	}
	return c.snapshot.sum == docOf(c.timestamp.md.Signed.Meta["snapshot.json"]).SHA256 &&
		c.targets.sum == docOf(c.snapshot.md.Signed.Meta[RoleTargets+".json"]).SHA256
}

// Cached returns what a client keeps for its next start.
func (d *Director) Cached() DirectorDocs {
	var docs DirectorDocs
	if d.timestamp != nil {
		docs.Timestamp = bytes.Clone(d.timestamp.raw)
	}
	if d.snapshot != nil {
		docs.Snapshot = bytes.Clone(d.snapshot.raw)
	}
	if d.targets != nil {
		docs.Targets = bytes.Clone(d.targets.raw)
	}
	return docs
}
