// Package mirror reads a whole audit log from a server that nobody has to believe, computes its Merkle tree again from the
// leaves, and holds the outcome against the checkpoint, the tiles, older checkpoints that the auditor kept, and the copy of
// the last run.
//
// It promises that a check without findings means: these leaves, in this order, are what the checkpoint commits to; the
// tiles that others read say the same; every older checkpoint is of the beginning of this very history. It refuses to
// replace a copy by one that contradicts it, because the copy is the proof. Memory does not grow with the log.
//
// Trusted: an attacker who controls this code can make a rewritten log look whole to its reader.
package mirror

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// ErrOld is returned for an older checkpoint that is not one of this log.
var ErrOld = errors.New("older checkpoint is not one of this log")

// ErrCopy is returned for a mirror directory that is damaged.
var ErrCopy = errors.New("mirror directory cannot be used")

// Source is where the log comes from. What is not there is fs.ErrNotExist; answers may be any bytes.
type Source interface {
	Checkpoint(ctx context.Context) ([]byte, error)
	File(ctx context.Context, path string) ([]byte, error) // tile/...
}

// Old is a checkpoint that the auditor kept, or got from a witness.
type Old struct {
	Name string // as people call it
	Raw  []byte
}

// Options of Check.
type Options struct {
	Policy   tlog.Policy
	Old      []Old
	Dir      string                  // Optional: where the copy of the last run lies, and the next one goes
	Progress func(done, size uint64) // Optional
}

// Result of Check.
type Result struct {
	Size      uint64        `json:"size"`
	Root      digest.SHA256 `json:"root"` // as the checkpoint says
	Witnesses []string      `json:"witnesses"`
	Quorum    int           `json:"quorum"`
	Extends   []string      `json:"extends,omitempty"` // older checkpoints that were proven to be of the same history
	Findings  []Finding     `json:"findings,omitempty"`
	// Unwitnessed says that the quorum of witnesses is missing: then nobody but the server vouches for the checkpoint.
	Unwitnessed string `json:"unwitnessed,omitempty"`
	Raw         []byte `json:"-"` // the checkpoint
}

// Finding is one thing that is wrong with the log.
type Finding struct {
	Leaf *uint64 `json:"leaf,omitempty"` // the first leaf that it is about; event number Leaf+1
	Text string  `json:"text"`
}

// Whole reports whether nothing is wrong.
func (r Result) Whole() bool { return len(r.Findings) == 0 }

// maxFindings bounds what is told: the first ones say what happened.
const maxFindings = 50

// Check reads the log. What is wrong with the log is a Finding; an error means that it could not be checked: the source
// did not answer, the checkpoint is not signed by the policy's log key (tlog.ErrCheckpoint), ErrOld, ErrCopy.
func Check(ctx context.Context, source Source, o Options) (Result, error) {
	raw, err := source.Checkpoint(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("cannot read the checkpoint: %w", err)
	}
	head, err := tlog.OpenCheckpoint(raw, o.Policy)
	unwitnessed := errors.Is(err, tlog.ErrUnwitnessed)
	if err != nil && !unwitnessed {
		return Result{}, err
	}
	c := &check{ctx: ctx, source: source, o: o, head: head}
	c.r = Result{Size: head.Size, Root: head.Root, Quorum: o.Policy.Quorum, Witnesses: []string{}, Raw: head.Raw}
	for _, w := range head.Witnesses {
		c.r.Witnesses = append(c.r.Witnesses, w.Name)
	}
	if unwitnessed {
		c.r.Unwitnessed = err.Error()
	}
	if err := c.open(); err != nil {
		return Result{}, err
	}
	if err := c.run(); err != nil {
		return Result{}, err
	}
	return c.r, c.keep()
}

// check is one run. It is for one goroutine.
type check struct {
	ctx    context.Context
	source Source
	o      Options
	head   tlog.Checkpoint
	olds   []older // by size
	copied uint64  // leaves of the copy that the last run vouched for
	tree   tree
	good   uint64 // size of the largest older checkpoint that holds
	r      Result
}

type older struct {
	name string
	tlog.Checkpoint
}

func (c *check) find(leaf *uint64, format string, args ...any) {
	if len(c.r.Findings) < maxFindings {
		c.r.Findings = append(c.r.Findings, Finding{leaf, fmt.Sprintf(format, args...)})
	}
}

// open reads the older checkpoints, that of the copy included.
func (c *check) open() error {
	olds := slices.Clone(c.o.Old)
	if c.o.Dir != "" {
		raw, err := os.ReadFile(filepath.Join(c.o.Dir, "checkpoint"))
		switch {
		case err == nil:
			olds = append(olds, Old{"the mirror's checkpoint", raw})
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %w", ErrCopy, err)
		}
	}
	for i, old := range olds {
		cp, err := tlog.OpenLogCheckpoint(old.Raw, c.o.Policy.LogKey)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrOld, old.Name, err)
		}
		if i == len(c.o.Old) {
			c.copied = cp.Size
		}
		if cp.Size > c.head.Size {
			c.find(nil, "%s has %d leaves and the log signed it, the server shows %d: history was rolled back", old.Name, cp.Size, c.head.Size)
			continue
		}
		c.olds = append(c.olds, older{old.Name, cp})
	}
	slices.SortStableFunc(c.olds, func(a, b older) int { return cmp.Compare(a.Size, b.Size) })
	return nil
}

// run reads the leaves, bundle by bundle.
func (c *check) run() error {
	c.compareOlds()
	for index := uint64(0); index*tlog.TileWidth < c.head.Size; index++ {
		leaves, err := c.bundle(index)
		if err != nil || leaves == nil {
			return err
		}
		if err := c.level0(index, leaves); err != nil {
			return err
		}
		for _, leaf := range leaves {
			if err := c.tree.add(tlog.LeafHash(leaf), c.tile); err != nil {
				return err
			}
			c.compareOlds()
		}
		if c.o.Progress != nil {
			c.o.Progress(c.tree.size, c.head.Size)
		}
	}
	if err := c.tree.rest(c.tile); err != nil {
		return err
	}
	if c.tree.root() != c.head.Root {
		c.find(nil, "the leaves make another tree than the checkpoint of size %d commits to: one of the leaves from %d on was changed, left out or put in", c.head.Size, c.good)
	}
	return nil
}

// compareOlds holds the older checkpoints of the size that was reached against the tree so far.
func (c *check) compareOlds() {
	for len(c.olds) > 0 && c.olds[0].Size == c.tree.size {
		old := c.olds[0]
		c.olds = c.olds[1:]
		if c.tree.root() != old.Root {
			first := c.good
			c.find(&first, "%s is not of this history: the log signed another tree of its first %d leaves; the first change is at leaf %d or behind", old.name, old.Size, first)
			continue
		}
		c.good = old.Size
		c.r.Extends = append(c.r.Extends, old.name)
	}
}

// fetch reads a tile or a bundle of width places, also when only the full one is left.
func (c *check) fetch(path func(partial uint8) string, partial uint8) (data []byte, full bool, err error) {
	data, err = c.source.File(c.ctx, path(partial))
	if partial == 0 || !errors.Is(err, fs.ErrNotExist) {
		return data, partial == 0, err
	}
	data, err = c.source.File(c.ctx, path(0))
	return data, true, err
}

// bundle reads the leaves of an entry bundle, and compares them with the copy. It returns nil when the bundle is none:
// then nothing behind it can be checked.
func (c *check) bundle(index uint64) ([][]byte, error) {
	partial := tlog.PartialOf(0, index, c.head.Size)
	width := widthOf(partial)
	first := index * tlog.TileWidth
	name := tlog.EntriesPath(index, partial)
	data, full, err := c.fetch(func(p uint8) string { return tlog.EntriesPath(index, p) }, partial)
	if errors.Is(err, fs.ErrNotExist) {
		c.find(&first, "%s is not there", name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	have := width
	if full {
		have = tlog.TileWidth
	}
	leaves, err := tlog.ParseEntries(data, have)
	if err != nil {
		c.find(&first, "%s: %v", name, err)
		return nil, nil
	}
	leaves = leaves[:width]
	if err := c.compareCopy(index, leaves); err != nil {
		return nil, err
	}
	return leaves, c.write(name, data[:lengthOf(leaves)])
}

func widthOf(partial uint8) int {
	if partial == 0 {
		return tlog.TileWidth
	}
	return int(partial)
}

func lengthOf(leaves [][]byte) int {
	n := 0
	for _, leaf := range leaves {
		n += 2 + len(leaf)
	}
	return n
}

// level0 finds the first leaf that the tile of leaf hashes does not have.
func (c *check) level0(index uint64, leaves [][]byte) error {
	hashes, err := c.hashes(0, index, len(leaves))
	if err != nil || hashes == nil {
		return err
	}
	for i, leaf := range leaves {
		if tlog.LeafHash(leaf) != hashes[i] {
			at := index*tlog.TileWidth + uint64(i)
			c.find(&at, "leaf %d and its hash in the tree do not belong together: one of them was changed", at)
			return nil
		}
	}
	return nil
}

// hashes reads a tile; nil if it is none.
func (c *check) hashes(level, index uint64, width int) ([]digest.SHA256, error) {
	partial := uint8(width % tlog.TileWidth)
	name := tlog.TilePath(level, index, partial)
	first := index * tlog.TileWidth << (8 * level)
	data, full, err := c.fetch(func(p uint8) string { return tlog.TilePath(level, index, p) }, partial)
	if errors.Is(err, fs.ErrNotExist) {
		c.find(&first, "%s is not there", name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	have := width
	if full {
		have = tlog.TileWidth
	}
	hashes, err := tlog.ParseHashes(data, have)
	if err != nil {
		c.find(&first, "%s: %v", name, err)
		return nil, nil
	}
	return hashes[:width], nil
}

// tile compares a tile above the leaves with what the leaves make. It is called with every tile of the tree.
func (c *check) tile(level, index uint64, want []digest.SHA256) error {
	if level > 0 { // level0 has compared the lowest one leaf by leaf
		got, err := c.hashes(level, index, len(want))
		if err != nil {
			return err
		}
		if got != nil && !slices.Equal(got, want) {
			first := index * tlog.TileWidth << (8 * level)
			c.find(&first, "%s is not what the leaves make", tlog.TilePath(level, index, uint8(len(want)%tlog.TileWidth)))
		}
	}
	flat := make([]byte, 0, len(want)*digest.Size)
	for _, h := range want {
		flat = append(flat, h[:]...)
	}
	return c.write(tlog.TilePath(level, index, uint8(len(want)%tlog.TileWidth)), flat)
}

// compareCopy finds the first leaf that the last run saw otherwise.
func (c *check) compareCopy(index uint64, leaves [][]byte) error {
	first := index * tlog.TileWidth
	if first >= c.copied {
		return nil
	}
	partial := tlog.PartialOf(0, index, c.copied)
	name := tlog.EntriesPath(index, partial)
	data, err := os.ReadFile(filepath.Join(c.o.Dir, filepath.FromSlash(name)))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCopy, err)
	}
	kept, err := tlog.ParseEntries(data, widthOf(partial))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCopy, name, err)
	}
	for i, leaf := range kept[:min(len(kept), len(leaves))] {
		if !bytes.Equal(leaf, leaves[i]) {
			at := first + uint64(i)
			c.find(&at, "leaf %d is not what it was when the mirror was made: %.300q then, %.300q now", at, leaf, leaves[i])
			return nil
		}
	}
	return nil
}
