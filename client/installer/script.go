package installer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Script lets executables of the device's maker install, for any boot system:
//
//	prepare   prints {"path": P}: the file or block device that does not run and takes the image
//	activate  names it for the next boot, once; its content is durable
//	running   prints {"slot": NAME, "trial": true or false, "path": P, "length": N}: what was booted, where its image
//	          lies and how many bytes of it count (0: all of a file)
//	commit    makes the running slot the default; it may be so already
//	rollback  takes activate back; nothing may be activated
//
// Each gets {"component", "sha256", "length"} of the image on standard input ({} where there is none), no arguments, and
// a minute (two hours for activate). It exits 0 when it is done, 75 when a trial runs and no slot is free, 65 (prepare and
// activate) when it will never take this image, and otherwise with its reason on standard error. Each may be called again
// after a power cut and then ends in the same state.
type Script struct {
	hooks hooks
}

// scriptNames are the executables that a folder of them must hold.
var scriptNames = [...]string{"prepare", "activate", "running", "commit", "rollback"}

// NewScript uses the executables in dir.
func NewScript(dir string) (*Script, error) {
	s := &Script{hooks: hooks{dir: dir}}
	for _, name := range scriptNames {
		if _, err := s.hooks.find(name); err != nil {
			return nil, fmt.Errorf("cannot use scripts in %q: %w", dir, err)
		}
	}
	return s, nil
}

// Name returns "script".
func (s *Script) Name() string { return "script" }

// Prepare opens what the hook prepare names.
func (s *Script) Prepare(ctx context.Context, image Image) (Slot, error) {
	f, err := s.open(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	return f, nil
}

func (s *Script) open(ctx context.Context, image Image) (*os.File, error) {
	var a struct {
		Path string `json:"path"`
	}
	if err := s.hooks.answer(ctx, "prepare", image, &a); err != nil {
		return nil, err
	}
	if err := imageFile(a.Path); err != nil {
		return nil, err
	}
	return os.OpenFile(a.Path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// imageFile accepts the absolute path of a file or block device.
func imageFile(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q: %w", path, errRelative)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode(); !mode.IsRegular() && (mode&fs.ModeDevice == 0 || mode&fs.ModeCharDevice != 0) {
		return fmt.Errorf("%q: %w", path, errNoImageFile)
	}
	return nil
}

var (
	errRelative    = errors.New("it is no absolute path")
	errNoImageFile = errors.New("it is neither a file nor a block device")
)

// Activate cuts the file to the image's length and runs the hook activate.
func (s *Script) Activate(ctx context.Context, image Image) error {
	f, err := s.open(ctx, image)
	if err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	if info, statErr := f.Stat(); statErr == nil && info.Mode().IsRegular() {
		err = f.Truncate(image.Length)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	if err := s.hooks.do(ctx, "activate", image); err != nil {
		return fmt.Errorf("cannot activate slot: %w", err)
	}
	return nil
}

// Running runs the hook running and hashes what it names.
func (s *Script) Running(ctx context.Context) (Boot, error) {
	a, err := s.hooks.running(ctx)
	if err != nil {
		return Boot{}, fmt.Errorf("cannot find running slot: %w", err)
	}
	b := Boot{Slot: a.Slot, Trial: a.Trial}
	if b.SHA256, b.Length, err = hashFile(a.Path, a.Length); err != nil {
		return Boot{}, fmt.Errorf("cannot read running slot: %w", err)
	}
	return b, ctx.Err()
}

// hashFile hashes the first n bytes of a file or block device, all of them for 0.
func hashFile(path string, n int64) (digest.SHA256, int64, error) {
	if err := imageFile(path); err != nil {
		return digest.SHA256{}, 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return digest.SHA256{}, 0, err
	}
	defer f.Close()
	if n == 0 {
		n = math.MaxInt64
	}
	h := sha256.New()
	length, err := io.Copy(h, io.LimitReader(f, n))
	return digest.SHA256(h.Sum(nil)), length, err
}

// Commit runs the hook commit.
func (s *Script) Commit(ctx context.Context) error {
	if err := s.hooks.do(ctx, "commit", Image{}); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

// Rollback runs the hook rollback.
func (s *Script) Rollback(ctx context.Context) error {
	if err := s.hooks.do(ctx, "rollback", Image{}); err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	return nil
}

// hooks is a folder of executables.
type hooks struct {
	dir string
}

// bootAnswer is what the hook running prints.
type bootAnswer struct {
	Slot   string `json:"slot"`
	Trial  bool   `json:"trial"`
	Path   string `json:"path,omitempty"`
	Length int64  `json:"length,omitempty"`
}

// errHook is returned for what cannot be run.
var errHook = errors.New("it must be an executable file")

// find returns a hook that nobody but root and the agent's own user can replace, nor make the way to it lead elsewhere: it runs
// with the agent's rights. No sticky bit excuses the folder of the hook, or that of the file behind a link.
func (h hooks) find(name string) (tool, error) {
	path, err := filepath.Abs(filepath.Join(h.dir, name))
	if err != nil {
		return tool{}, err
	}
	file, err := reach(path, os.Geteuid())
	if err != nil {
		return tool{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return tool{}, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o111 == 0 {
		return tool{}, fmt.Errorf("%q: %w", path, errHook)
	}
	for _, at := range []string{filepath.Dir(path), filepath.Dir(file), file} {
		if err := owned(at, os.Geteuid()); err != nil {
			return tool{}, err
		}
	}
	return tool{path: path}, nil
}

// call runs a hook with an image on its standard input.
func (h hooks) call(ctx context.Context, name string, image Image) ([]byte, error) {
	t, err := h.find(name)
	if err != nil {
		return nil, err
	}
	limit, stdin := askTimeout, []byte("{}")
	if name == "activate" {
		limit = workTimeout
	}
	if image != (Image{}) {
		if stdin, err = json.Marshal(struct {
			Component string        `json:"component"`
			SHA256    digest.SHA256 `json:"sha256"`
			Length    int64         `json:"length"`
		}{image.Component, image.SHA256, image.Length}); err != nil {
			return nil, err
		}
	}
	b, err := t.ask(ctx, limit, stdin)
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case failed && exit.ExitCode() == exitRefused && (name == "prepare" || name == "activate"):
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	case name == "activate":
		err = judge(err, nil)
	}
	return b, err
}

func (h hooks) do(ctx context.Context, name string, image Image) error {
	_, err := h.call(ctx, name, image)
	return err
}

func (h hooks) answer(ctx context.Context, name string, image Image, to any) error {
	b, err := h.call(ctx, name, image)
	if err != nil {
		return err
	}
	return decodeAnswer(name, b, to)
}

// decodeAnswer reads what a hook printed: one JSON object with the members that are known, and nothing else.
func decodeAnswer(name string, b []byte, to any) error {
	if err := json.Unmarshal(b, to, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("cannot read what %s printed: %w", name, err)
	}
	return nil
}

var errNoSlot = errors.New("the answer names no slot, or a length below 0")

func (h hooks) running(ctx context.Context) (bootAnswer, error) {
	b, err := h.call(ctx, "running", Image{})
	if err != nil {
		return bootAnswer{}, err
	}
	return decodeRunning(b)
}

func decodeRunning(b []byte) (bootAnswer, error) {
	var a bootAnswer
	if err := decodeAnswer("running", b, &a); err != nil {
		return bootAnswer{}, err
	}
	if a.Slot == "" || a.Length < 0 {
		return bootAnswer{}, fmt.Errorf("cannot read what running printed: %w", errNoSlot)
	}
	return a, nil
}
