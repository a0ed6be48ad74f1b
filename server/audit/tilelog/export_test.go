package tilelog

import (
	"context"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Tree is the tree of tiles alone.
type Tree struct{ t *tree }

func OpenTree(dir string) (*Tree, error) {
	t, err := openTree(dir)
	return &Tree{t}, err
}

func (t *Tree) Append(leaf []byte) error { return t.t.append(leaf) }
func (t *Tree) Flush() error             { return t.t.flush() }
func (t *Tree) Root() digest.SHA256      { return t.t.root() }
func (t *Tree) RootAt(ctx context.Context, size uint64) (digest.SHA256, error) {
	return t.t.rootAt(ctx, size)
}

// BeforeWrite is called with the name of each file that the log is about to write.
func (l *Log) BeforeWrite(hook func(name string) error) {
	l.beforeWrite = hook
	if l.tree != nil {
		l.tree.beforeWrite = hook
	}
}

// Sign signs a tree as an extension of one checkpoint.
func (k *Key) Sign(size uint64, root digest.SHA256, last []byte, proof []digest.SHA256) ([]byte, error) {
	if last == nil {
		return k.sign(size, root)
	}
	return k.sign(size, root, extension{of: tlog.Checkpoint{Raw: last}, proof: proof})
}

// ID is the log's name in the database.
func (k *Key) ID() string { return k.id() }

const (
	SignedRow  = signedRow
	WitnessRow = witnessRow
	LeaseTime  = leaseTime
	ScrubEvery = scrubEvery
	Recosign   = recosign
)

var (
	DecodeState = decodeState
	Cosignature = cosignature
	ParseSize   = parseSize
	ErrDamaged  = errDamaged
)
