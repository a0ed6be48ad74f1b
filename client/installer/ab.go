package installer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// AB keeps two images as files, for boot loaders that read files, and for the soft machine of the conformance tests:
//
//	a.img, b.img  an image each
//	active        the slot that boots by default: "a" or "b"; Commit replaces it
//	next          a slot to try once; the boot loader renames it to tried before it starts the slot
//	tried         the last slot that was tried
//	running       the slot that was booted, which the boot loader or the system's start writes at every boot. Without
//	              it no trial was ever made, and the default slot runs
type AB struct {
	dir string
}

// NewAB uses the slots in dir, or in its folder slots if it has one. dir must exist and hold the file active.
func NewAB(dir string) (*AB, error) {
	if info, err := os.Stat(filepath.Join(dir, "slots")); err == nil && info.IsDir() {
		dir = filepath.Join(dir, "slots")
	}
	ab := &AB{dir: dir}
	if _, err := ab.read("active"); err != nil {
		return nil, fmt.Errorf("cannot use slots in %q: %w", dir, err)
	}
	return ab, nil
}

// Name returns "ab".
func (ab *AB) Name() string { return "ab" }

// Prepare opens the file of the slot that does not run.
func (ab *AB) Prepare(ctx context.Context, image Image) (Slot, error) {
	slot, err := ab.free()
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	// A trial that was named before must not boot while its slot is being overwritten.
	if err := ab.remove("next"); err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	f, err := ab.open(slot)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	return f, nil
}

// Activate names the slot that does not run for the next boot.
func (ab *AB) Activate(ctx context.Context, image Image) error {
	slot, err := ab.free()
	if err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	if err := ab.cut(slot, image.Length); err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	if err := ab.remove("tried"); err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	if err := ab.write("next", slot); err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	return nil
}

func (ab *AB) cut(slot string, length int64) error {
	f, err := ab.open(slot)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(length), f.Sync(), f.Close())
}

// open opens the file of a slot for writing, and makes it when it is missing. What is there instead of a file of its own
// (a link to another file, the other slot under a second name, a pipe) is removed first: nothing but this slot may change.
func (ab *AB) open(slot string) (*os.File, error) {
	path := ab.image(slot)
	before, err := os.Lstat(path)
	if err == nil && !ab.own(slot, before) {
		err = os.RemoveAll(path)
		before = nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if before == nil {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
		return nil, errors.Join(errSwapped, err, f.Close())
	}
	return f, nil
}

// errSwapped is returned when somebody replaces a slot's file while it is opened.
var errSwapped = errors.New("the file of the slot was replaced while it was opened")

// own reports whether info is a file that belongs to this slot alone.
func (ab *AB) own(slot string, info fs.FileInfo) bool {
	if !info.Mode().IsRegular() {
		return false
	}
	running, err := os.Stat(ab.image(other(slot)))
	return err != nil || !os.SameFile(info, running)
}

// openRegular opens a file for reading. A pipe would make the reader wait for ever.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q: %w", path, errNoFile)
	}
	return os.Open(path)
}

// contentOf hashes and measures a file.
func contentOf(path string) (sum digest.SHA256, length int64, err error) {
	f, err := openRegular(path)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	length, err = io.Copy(h, f)
	return digest.SHA256(h.Sum(nil)), length, err
}

// errNoFile is returned for a folder, pipe or device where a file should be.
var errNoFile = errors.New("it is no regular file")

// Running says which slot was booted and hashes its file.
func (ab *AB) Running(ctx context.Context) (Boot, error) {
	slot, trial, err := ab.running()
	if err != nil {
		return Boot{}, fmt.Errorf("cannot find running slot: %w", err)
	}
	b := Boot{Slot: slot, Trial: trial}
	if b.SHA256, b.Length, err = contentOf(ab.image(slot)); err != nil {
		return Boot{}, fmt.Errorf("cannot read running slot: %w", err)
	}
	return b, ctx.Err()
}

// Commit makes the running slot the default one.
func (ab *AB) Commit(ctx context.Context) error {
	slot, trial, err := ab.running()
	if err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	if !trial {
		return nil
	}
	if err := ab.write("active", slot); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	crash.Here(crash.SlotActiveMoved)
	if err := ab.remove("tried"); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

// Rollback forgets the trial. While a trial runs, only the next boot leaves it.
func (ab *AB) Rollback(ctx context.Context) error {
	if err := ab.remove("next"); err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	return nil
}

// free is the slot that may be written.
func (ab *AB) free() (string, error) {
	slot, trial, err := ab.running()
	if err != nil {
		return "", err
	}
	if trial {
		return "", ErrBusy
	}
	return other(slot), nil
}

// running is the slot that was booted. "tried" alone cannot tell it: the boot after a failed trial leaves it there.
func (ab *AB) running() (slot string, trial bool, err error) {
	active, err := ab.read("active")
	if err != nil {
		return "", false, err
	}
	slot, err = ab.read("running")
	if err == nil {
		return slot, slot != active, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	if _, err := os.Stat(filepath.Join(ab.dir, "tried")); err == nil {
		return "", false, errNotTold
	}
	return active, false, nil
}

// errNotTold is returned after a trial when nobody wrote which slot was booted.
var errNotTold = errors.New("a trial was made, but the file running does not say which slot was booted")

func (ab *AB) image(slot string) string { return filepath.Join(ab.dir, slot+".img") }

// errSlot is returned for a file that names no slot.
var errSlot = errors.New("it names neither slot a nor slot b")

func (ab *AB) read(name string) (string, error) {
	f, err := openRegular(filepath.Join(ab.dir, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 16))
	if err != nil {
		return "", err
	}
	slot := strings.TrimSpace(string(b))
	if slot != "a" && slot != "b" {
		return "", fmt.Errorf("%s: %w", name, errSlot)
	}
	return slot, nil
}

// write replaces a file so that a power cut leaves the old or the new content.
func (ab *AB) write(name, slot string) error {
	path := filepath.Join(ab.dir, name)
	f, err := os.CreateTemp(ab.dir, "."+name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(slot + "\n")
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	crash.Here(crash.SlotNameWritten)
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	crash.Here(crash.SlotNameRenamed)
	return syncDir(ab.dir)
}

func (ab *AB) remove(name string) error {
	path := filepath.Join(ab.dir, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(path); err != nil { // a folder of that name must not stop an update
		return err
	}
	return syncDir(ab.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func other(slot string) string {
	if slot == "a" {
		return "b"
	}
	return "a"
}
