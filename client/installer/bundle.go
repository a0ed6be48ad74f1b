package installer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// spool is a folder that holds a bundle until another program has installed it, and remembers which bundle went where:
// such programs know what is in a slot, but not which bundle brought it. What it says is a hint, like the state of the
// client: a wrong one costs an update that is made again or reported as failed.
type spool struct {
	dir string
}

const (
	bundleFile  = "cordon-next.bundle"
	ledgerFile  = "cordon-slots.json"
	maxLedger   = 64 << 10
	maxSlots    = 16
	maxSlotName = 255
)

// brought is a bundle that was installed.
type brought struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Length int64         `json:"length"`
}

// ledger remembers bundles.
type ledger struct {
	Slots map[string]brought `json:"slots,omitempty"` // proven ones, by slot
	From  string             `json:"from,omitempty"`  // the slot that ran at the last installation that was not proven
	Next  *brought           `json:"next,omitempty"`
}

func openSpool(dir string) (spool, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return spool{}, fmt.Errorf("cannot use folder for bundles: %w", err)
	}
	dir, err = filepath.Abs(dir)
	return spool{dir: dir}, err
}

func (s spool) bundle() string { return filepath.Join(s.dir, bundleFile) }

// open opens the bundle's file and replaces whatever else has its name.
func (s spool) open(image Image) (*os.File, error) {
	before, err := os.Lstat(s.bundle())
	if err == nil && !soleName(before) {
		err = os.RemoveAll(s.bundle())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(s.bundle(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := room(f, image.Length); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// room refuses what the file system of f cannot hold.
func room(f *os.File, length int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	free := int64(st.Bavail) * st.Bsize
	if need := length - info.Size() + spareBytes; length > info.Size() && free < need {
		return fmt.Errorf("%w: the image needs %d more bytes beside %q, %d are free", unix.ENOSPC, need, f.Name(), free)
	}
	return nil
}

func (s spool) cut(image Image) error {
	f, err := s.open(image)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(image.Length), f.Sync(), f.Close())
}

// drop removes the bundle.
func (s spool) drop() error {
	if err := os.RemoveAll(s.bundle()); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// read returns the ledger; a missing or spoilt one is empty.
func (s spool) read() ledger {
	f, err := openRegular(filepath.Join(s.dir, ledgerFile))
	if err != nil {
		return ledger{}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLedger+1))
	if err != nil {
		return ledger{}
	}
	return decodeLedger(b)
}

func decodeLedger(b []byte) ledger {
	var l ledger
	if len(b) > maxLedger || json.Unmarshal(b, &l, json.RejectUnknownMembers(true)) != nil || len(l.Slots) > maxSlots {
		return ledger{}
	}
	return l
}

func (s spool) write(l ledger) error {
	b, err := json.Marshal(l, json.Deterministic(true))
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, "."+ledgerFile+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(s.dir, ledgerFile)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// runs is what is known about the bundle in a running slot; zero when nothing is.
func (l ledger) runs(slot string) brought {
	if l.trial(slot) {
		return *l.Next
	}
	return l.Slots[slot]
}

// trial reports whether slot runs what was installed from another one and is not proven yet.
func (l ledger) trial(slot string) bool { return l.Next != nil && slot != l.From }

// unproven reports whether slot runs what was begun from another one and never proven: a trial, or an installation that was
// given up and took place all the same.
func (l ledger) unproven(slot string) bool {
	_, proven := l.Slots[slot]
	return l.trial(slot) || l.From != "" && slot != l.From && !proven
}

// begin notes a bundle before it is installed.
func (l ledger) begin(slot string, image Image) ledger {
	kept := map[string]brought{}
	if b, ok := l.Slots[slot]; ok {
		kept[slot] = b
	}
	return ledger{Slots: kept, From: slot, Next: &brought{image.SHA256, image.Length}}
}

// proven notes that the bundle in slot stays.
func (l ledger) proven(slot string) ledger {
	if !l.trial(slot) {
		return l
	}
	slots := map[string]brought{slot: *l.Next}
	if b, ok := l.Slots[l.From]; ok {
		slots[l.From] = b
	}
	return ledger{Slots: slots}
}

// refused forgets a bundle that the program refused by itself, and judges err: what the other slot holds is not known then,
// and if that slot boots one day, nobody must say that it runs the bundle. A program that was killed says nothing about it:
// a service may go on with its work. One that is at work already does so with what was begun before.
func (s spool) refused(err error, refusals []string, before ledger) error {
	if !ended(err) {
		return err
	}
	after := s.read().abandoned()
	if says(err, []string{atWork}) {
		after = before
	}
	return errors.Join(judge(err, refusals), s.write(after))
}

// abandoned notes that nothing is under way. From stays: what another slot has was not proven.
func (l ledger) abandoned() ledger { return ledger{Slots: l.Slots, From: l.From} }
