package installer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SWUpdate hands verified images to SWUpdate. The image of a release is the .swu file; SWUpdate checks its own signature
// on it besides. SWUpdate does not say what runs, so executables of the device's maker do, as those of Script:
//
//	running   prints {"slot": NAME, "trial": true or false}
//	commit    makes the running slot the default
//	rollback  takes an installation back
//	select    Optional: prints what SWUpdate's option --select takes, for the slot that does not run
type SWUpdate struct {
	swupdate tool
	hooks    hooks
	spool    spool
}

// openSWUpdate makes the installer of "DIR,hooks=DIR[,conf=FILE][,program=FILE]".
func openSWUpdate(arg string) (*SWUpdate, error) {
	dir, options, err := cutOptions(arg, "hooks", "conf", "program")
	if err != nil {
		return nil, err
	}
	if options["hooks"] == "" {
		return nil, fmt.Errorf("%w: swupdate needs hooks=DIR", ErrSpec)
	}
	program := options["program"]
	if program == "" {
		program = "swupdate"
	}
	t, err := findTool(program)
	if err != nil {
		return nil, err
	}
	if conf := options["conf"]; conf != "" {
		t.args = []string{"--file", conf}
	}
	h := hooks{dir: options["hooks"]}
	for _, name := range []string{"running", "commit", "rollback"} {
		if _, err := h.find(name); err != nil {
			return nil, fmt.Errorf("cannot use hooks: %w", err)
		}
	}
	s, err := openSpool(dir)
	if err != nil {
		return nil, err
	}
	return &SWUpdate{swupdate: t, hooks: h, spool: s}, nil
}

// Name returns "swupdate".
func (s *SWUpdate) Name() string { return "swupdate" }

// Prepare opens the file of the image.
func (s *SWUpdate) Prepare(ctx context.Context, image Image) (Slot, error) {
	a, err := s.hooks.running(ctx)
	if err == nil && a.Trial {
		err = ErrBusy
	}
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	f, err := s.spool.open(image)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	return f, nil
}

// Activate lets SWUpdate install the image.
func (s *SWUpdate) Activate(ctx context.Context, image Image) error {
	if err := s.activate(ctx, image); err != nil {
		return fmt.Errorf("cannot activate image: %w", err)
	}
	return nil
}

func (s *SWUpdate) activate(ctx context.Context, image Image) error {
	a, err := s.hooks.running(ctx)
	if err != nil {
		return err
	}
	if a.Trial {
		return ErrBusy
	}
	if err := s.spool.cut(image); err != nil {
		return err
	}
	args, err := s.selection(ctx, image)
	if err != nil {
		return err
	}
	l := s.spool.read()
	if err := s.spool.write(l.begin(a.Slot, image)); err != nil {
		return err
	}
	err = s.swupdate.watch(ctx, workTimeout, swupdateSays, append(args, "--image", s.spool.bundle())...)
	return s.spool.refused(err, swupdateRefusals, l)
}

// swupdateRefusals are what SWUpdate says of an image that it will never install.
var swupdateRefusals = []string{"Authentication of all signatures failed", "Signature verification failed", "Image invalid or corrupted",
	"CPIO Format not recognized", "Checksum WRONG", "HASH mismatch", "not compatible with hardware", "Compatible SW not found"}

// selection asks the hook select, if there is one.
func (s *SWUpdate) selection(ctx context.Context, image Image) ([]string, error) {
	if _, err := os.Lstat(filepath.Join(s.hooks.dir, "select")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it is optional
	}
	b, err := s.hooks.call(ctx, "select", image)
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(b))
	if text == "" || len(text) > maxSlotName || strings.HasPrefix(text, "-") || strings.ContainsAny(text, " \n\x00") {
		return nil, fmt.Errorf("cannot use what select printed: %q", text)
	}
	return []string{"--select", text}, nil
}

var errSWUpdate = errors.New("SWUpdate refused the image")

// swupdateSays judges a line of SWUpdate's output; its exit code alone does not tell, and it stays when it is done.
func swupdateSays(line string) (done bool, err error) {
	switch {
	case strings.Contains(line, "SWUPDATE successful"):
		return true, nil
	case strings.Contains(line, "SWUPDATE failed"), strings.Contains(line, "Image invalid or corrupted"):
		return false, errSWUpdate
	}
	return false, nil
}

// Running asks the hook running.
func (s *SWUpdate) Running(ctx context.Context) (Boot, error) {
	a, err := s.hooks.running(ctx)
	if err != nil {
		return Boot{}, fmt.Errorf("cannot find running slot: %w", err)
	}
	b := s.spool.read().runs(a.Slot)
	return Boot{Slot: a.Slot, Trial: a.Trial, SHA256: b.SHA256, Length: b.Length}, nil
}

// Commit runs the hook commit and removes the image.
func (s *SWUpdate) Commit(ctx context.Context) error {
	a, err := s.hooks.running(ctx)
	if err == nil {
		err = s.hooks.do(ctx, "commit", Image{})
	}
	if err == nil {
		err = errors.Join(s.spool.write(s.spool.read().proven(a.Slot)), s.spool.drop())
	}
	if err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

// Rollback runs the hook rollback.
func (s *SWUpdate) Rollback(ctx context.Context) error {
	a, err := s.hooks.running(ctx)
	if err == nil {
		err = s.hooks.do(ctx, "rollback", Image{})
	}
	if err == nil && !a.Trial {
		err = errors.Join(s.spool.write(s.spool.read().abandoned()), s.spool.drop())
	}
	if err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	return nil
}
