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
	// ErrRefused means that the image itself was refused: another try would get the same answer.
	ErrRefused = errors.New("the image was refused")
	// ErrFailed means that an installation went wrong and nothing says that the cause passes by itself.
	ErrFailed = errors.New("the installation failed")
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
	SHA256 digest.SHA256 // of the slot's whole content, or of the bundle that filled it; zero where that is not known
	Length int64
}

// Installer writes images of one kind. Its methods are not called at the same time; each may be called again after a
// crash in the middle and then ends in the same state. State survives power cuts from the moment that a method returns.
//
// Prepare and Activate return ErrRefused for an image that they will never take, and Activate ErrFailed where a few tries
// should be the last ones. Any other error is taken for one that passes, such as a full disk.
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

// Tries is what a boot loader's counter says about an image on trial.
type Tries struct {
	Name string // what the boot loader calls the image
	Used int
	Of   int
}

// Counter is what an Installer has besides whose boot loader counts the boots of a trial by itself and goes back when none
// is left.
type Counter interface {
	// Tries says how often an image that was activated was tried. ok is false when nothing is known about it.
	Tries(ctx context.Context, image Image) (tries Tries, ok bool, err error)
}

// Keeper is what an Installer has besides whose boot loader counts every boot, those of the default slot too, and goes to
// the other slot when none is left.
type Keeper interface {
	// Keep tells the boot loader that this boot was a good one. Call it when the running slot is no trial: of a trial,
	// Commit says so.
	Keep(ctx context.Context) error
}

// Kinds is what Open takes, for the help of a command line.
const Kinds = "ab:DIR, uki:ESP[,efivars=DIR], rauc:DIR[,conf=FILE], swupdate:DIR,hooks=DIR[,conf=FILE], script:DIR"

// Open makes the installer that spec names: one of Kinds.
func Open(spec string) (Installer, error) {
	kind, arg, ok := strings.Cut(spec, ":")
	if !ok || arg == "" {
		return nil, fmt.Errorf("%w: %q, want one of %s", ErrSpec, spec, Kinds)
	}
	switch kind {
	case "ab":
		return NewAB(arg)
	case "uki":
		return openUKI(arg)
	case "rauc":
		return openRAUC(arg)
	case "swupdate":
		return openSWUpdate(arg)
	case "script":
		return NewScript(arg)
	}
	return nil, fmt.Errorf("%w: %q, want one of %s", ErrSpec, spec, Kinds)
}

// cutOptions splits "PATH,name=value,..." and refuses names that are not known. A path with a comma cannot be written.
func cutOptions(arg string, known ...string) (path string, options map[string]string, err error) {
	parts := strings.Split(arg, ",")
	options = map[string]string{}
	for _, part := range parts[1:] {
		name, value, ok := strings.Cut(part, "=")
		if !ok || value == "" || !slices.Contains(known, name) || options[name] != "" {
			return "", nil, fmt.Errorf("%w: option %q, want each of %q once at most", ErrSpec, part, known)
		}
		options[name] = value
	}
	if parts[0] == "" {
		return "", nil, fmt.Errorf("%w: %q names no path", ErrSpec, arg)
	}
	return parts[0], options, nil
}

// Doctor is what an Installer has besides that can say whether it could install, without doing it.
type Doctor interface {
	// Check tries what Prepare, Activate and Commit need. note is what an operator may want to know.
	Check(ctx context.Context) (note string, err error)
}

// Find returns the installer with a name.
func Find(name string, all []Installer) (Installer, bool) {
	i := slices.IndexFunc(all, func(in Installer) bool { return in.Name() == name })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}
