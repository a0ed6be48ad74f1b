// Package installer puts verified images where the boot loader finds them.
//
// An installer never decides whether an image may be installed and never boots anything: the client verifies, the
// installer writes into a slot that is not running, names that slot for one trial boot, and makes the trial permanent
// only when the client says that it is proven.
//
// Trusted for availability alone: an installer that writes other bytes than it was given, or commits another slot, is
// found by the next quote, because the firmware measures what it boots.
package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Errors that callers test for.
var (
	// ErrBusy means that a trial runs: until it is committed or rolled back, no slot is free.
	ErrBusy = errors.New("a trial is running and occupies the other slot")
	// ErrSpec is returned by Open for a text that names no installer.
	ErrSpec = errors.New("installer is not known")
)

// Image says what is to be installed.
type Image struct {
	Component string
	SHA256    digest.SHA256
	Length    int64
}

// Slot is room for one image. What was written is durable after Sync. Reads see what was written.
type Slot interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// Boot says what runs.
type Boot struct {
	Slot   string
	Trial  bool          // it runs for this boot only, until Commit
	SHA256 digest.SHA256 // of the slot's whole content, read from the slot
	Length int64
}

// Installer writes images of one kind. Its methods are not called at the same time; each may be called again after a
// crash in the middle and then ends in the same state. State survives power cuts from the moment that a method returns.
type Installer interface {
	// Name is what a release statement calls this kind: "ab", "uki", ...
	Name() string
	// Prepare opens the slot that does not run. Its content is kept, so that an interrupted download can go on. It
	// returns ErrBusy while a trial runs.
	Prepare(ctx context.Context, image Image) (Slot, error)
	// Activate cuts the slot to the image's length and names it for the next boot, once.
	Activate(ctx context.Context, image Image) error
	// Running says which slot was booted and what is in it.
	Running(ctx context.Context) (Boot, error)
	// Commit makes the running slot the one that boots by default. A slot that is the default already stays it.
	Commit(ctx context.Context) error
	// Rollback takes Activate back, so that the next boot is one of the default slot.
	Rollback(ctx context.Context) error
}

// Open makes the installer that spec names. "ab:DIR" is the one kind of this build.
func Open(spec string) (Installer, error) {
	kind, arg, ok := strings.Cut(spec, ":")
	if !ok || kind != "ab" || arg == "" {
		return nil, fmt.Errorf("%w: %q, want ab:DIR", ErrSpec, spec)
	}
	return NewAB(arg)
}

// Find returns the installer with a name.
func Find(name string, all []Installer) (Installer, bool) {
	i := slices.IndexFunc(all, func(in Installer) bool { return in.Name() == name })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}
