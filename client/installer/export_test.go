package installer

import (
	"bytes"
	"context"
	"path/filepath"
	"time"
)

// Cut lets a test stop the installer before a change of the disk.
func (u *UKI) Cut(step func(op, path string) error) {
	u.step, u.syncFS = step, func(int) error { return nil }
}

// For the tests of their own.
var (
	CompareVersions = compareVersions
	DecodeVariable  = decodeVariable
	DecodeRAUC      = decodeRAUC
	SWUpdateSays    = swupdateSays
	ErrSWUpdate     = errSWUpdate
	ErrNoService    = errNoService
	ErrUntold       = errUntold
)

// MaxAnswer bounds what a program may answer.
const MaxAnswer = maxAnswer

// DecodeRunning returns what a hook says about the running slot.
func DecodeRunning(b []byte) (slot, path string, length int64, err error) {
	a, err := decodeRunning(b)
	return a.Slot, a.Path, a.Length, err
}

// DecodeLedger returns how many slots a ledger knows, and whether slot runs a trial.
func DecodeLedger(b []byte, slot string) (slots int, trial bool) {
	l := decodeLedger(b)
	return len(l.Slots), l.trial(slot)
}

// ReadRelease returns how systemd-boot sorts an image.
func ReadRelease(b []byte) (sortKey, version string, err error) {
	text, err := releaseSection(bytes.NewReader(b))
	if err != nil {
		return "", "", err
	}
	fields := releaseFields(text)
	return fields["IMAGE_ID"], fields["IMAGE_VERSION"], nil
}

// Ask runs a program as installers do.
func Ask(ctx context.Context, limit time.Duration, stdin []byte, path string, args ...string) ([]byte, error) {
	return tool{path: path}.ask(ctx, limit, stdin, args...)
}

// Watch runs a program that may stay when it is done.
func Watch(ctx context.Context, limit time.Duration, path string, args ...string) error {
	return tool{path: path}.watch(ctx, limit, swupdateSays, args...)
}

// EntryText takes a file name apart and puts it together again.
func EntryText(file string) (stem string, left, done int, trial, own, ok bool) {
	e, ok := parseEntry(file)
	return e.stem, e.left, e.done, e.trial(), e.own, ok
}

// Prefers reports whether systemd-boot would start the image at a rather than the one at b.
func Prefers(a, b string) bool {
	x, _ := parseEntry(filepath.Base(a))
	y, _ := parseEntry(filepath.Base(b))
	x.readRelease(a)
	y.readRelease(b)
	return x.listed && y.listed && x.before(y)
}

// Owned refuses what others than root and the user self may write.
func Owned(path string, self int) error { return owned(path, self) }

// ErrOwner is its refusal.
var ErrOwner = errOwner
