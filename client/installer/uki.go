package installer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// UKI keeps unified kernel images on an EFI system partition, for systemd-boot with boot counting:
//
//	EFI/Linux/cordon-next.part                  an image that is being written; nothing boots it
//	EFI/Linux/cordon-NUMBER-DIGEST+3.efi        an image on trial, with three tries left
//	EFI/Linux/cordon-NUMBER-DIGEST+2-1.efi      the same after its first boot: systemd-boot counts
//	EFI/Linux/cordon-NUMBER-DIGEST.efi          a proven image
//	EFI/Linux/NAME-old+0.efi                    an image that boots only when no other does
//
// NUMBER grows with every image, and DIGEST begins its SHA-256. Images of other names belong to somebody else: they are
// never written or removed, and renamed only where they would boot in place of a proven image. systemd-boot prefers the
// higher version in .osrel; where that is not the new image, as with a recovery release, it is named for one boot by an
// EFI variable.
//
// A power cut anywhere leaves an image that boots: the running one keeps name and content until another one is proven
// and durable under its own name. FAT does not rename in one step: a cut may leave both names or none of the image that
// was renamed, which is never the last good one. A check of the file system before each mount (fsck.vfat -a) frees what
// a cut left behind.
type UKI struct {
	dir  string // EFI/Linux
	vars variables

	// Tests cut the power before a change of the disk, and then do without the slow part of making it durable.
	step   func(op, path string) error
	syncFS func(fd int) error
}

// trialTries is how often systemd-boot starts an image that nobody has proven.
const trialTries = 3

// spareBytes is the room that must be left on the partition beside an image.
const spareBytes = 1 << 20

// partFile is the image that is being written.
const partFile = "cordon-next.part"

// openUKI makes the installer of "ESP[,efivars=DIR]".
func openUKI(arg string) (*UKI, error) {
	path, options, err := cutOptions(arg, "efivars")
	if err != nil {
		return nil, err
	}
	vars := options["efivars"]
	if vars == "" {
		vars = defaultVariables
	}
	return NewUKI(path, vars)
}

// NewUKI uses the EFI system partition that is mounted at esp, and the EFI variables in the folder vars.
func NewUKI(esp, vars string) (*UKI, error) {
	u := &UKI{dir: filepath.Join(esp, "EFI", "Linux"), vars: variables{dir: vars}, step: func(string, string) error { return nil }, syncFS: unix.Syncfs}
	info, err := os.Stat(u.dir)
	if err == nil && !info.IsDir() {
		err = errNoFolder
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use EFI system partition %q: %w", esp, err)
	}
	return u, nil
}

var errNoFolder = errors.New("EFI/Linux is no folder")

// Name returns "uki".
func (u *UKI) Name() string { return "uki" }

// Prepare makes room and opens the file for the next image. What was named for a trial before cannot boot any more.
func (u *UKI) Prepare(ctx context.Context, image Image) (Slot, error) {
	f, err := u.prepare(image)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	return f, nil
}

func (u *UKI) prepare(image Image) (*os.File, error) {
	running, all, err := u.booted()
	if err != nil {
		return nil, err
	}
	if running.trial() {
		return nil, ErrBusy
	}
	if err := u.vars.clearOneShot(); err != nil {
		return nil, err
	}
	if err := u.reclaim(running, all, image); err != nil {
		return nil, err
	}
	f, err := u.openPart()
	if err != nil {
		return nil, err
	}
	if err := room(f, image.Length); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// reclaim takes the name from an image that was activated before, so that its bytes can be checked or written again,
// and removes every other image of this installer but the running one.
func (u *UKI) reclaim(running entry, all []entry, image Image) error {
	part, changed := filepath.Join(u.dir, partFile), false
	for _, e := range all {
		if !e.own || e.file == running.file {
			continue
		}
		changed = true
		path := filepath.Join(u.dir, e.file)
		_, err := os.Lstat(part)
		if e.holds(image) && errors.Is(err, fs.ErrNotExist) {
			err = u.rename(path, part)
		} else {
			err = u.remove(path)
		}
		if err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	return u.sync()
}

// openPart opens the part file, and replaces whatever else has its name.
func (u *UKI) openPart() (*os.File, error) {
	path := filepath.Join(u.dir, partFile)
	before, err := os.Lstat(path)
	if err == nil && !soleName(before) {
		err = u.remove(path)
		before = nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if before == nil {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
		return nil, errors.Join(errSwapped, err, f.Close())
	}
	return f, nil
}

// soleName reports whether info is a regular file with no second name.
func soleName(info fs.FileInfo) bool {
	if !info.Mode().IsRegular() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Nlink == 1
}

// Activate cuts the part file to the image's length and gives it the name of an image on trial.
func (u *UKI) Activate(ctx context.Context, image Image) error {
	if err := u.activate(image); err != nil {
		return fmt.Errorf("cannot activate image: %w", err)
	}
	return nil
}

func (u *UKI) activate(image Image) error {
	running, all, err := u.booted()
	if err != nil {
		return err
	}
	if running.trial() {
		return ErrBusy
	}
	part := filepath.Join(u.dir, partFile)
	if _, err := os.Lstat(part); errors.Is(err, fs.ErrNotExist) && slices.ContainsFunc(all, func(e entry) bool { return e.holds(image) && e.trial() }) {
		return u.sync()
	}
	if err := u.cutPart(image.Length); err != nil {
		return err
	}
	next := nextName(all, image)
	if err := u.willBoot(part, next, all); err != nil {
		return err
	}
	if err := u.rename(part, filepath.Join(u.dir, next.file)); err != nil {
		return err
	}
	return u.sync()
}

func (u *UKI) cutPart(length int64) error {
	f, err := u.openPart()
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(length), f.Sync(), f.Close())
}

// willBoot makes sure that the next boot is one of the new image: systemd-boot prefers it, or an EFI variable names it.
// A variable alone is not enough to rely on, and the order alone not where loader.conf names a default.
func (u *UKI) willBoot(part string, next entry, all []entry) error {
	next.readRelease(part)
	if !next.listed {
		return fmt.Errorf("%w: %w", ErrFailed, errNotListed)
	}
	first := u.first(next, all)
	if err := u.change("variable", oneShot); err != nil {
		return err
	}
	if err := u.vars.setOneShot(next.file); err != nil && !first {
		return fmt.Errorf("systemd-boot prefers another image by its version, and the EFI variables cannot be written: %w", err)
	}
	return nil
}

// first reports whether systemd-boot prefers e to all others.
func (u *UKI) first(e entry, all []entry) bool {
	return !slices.ContainsFunc(all, func(o entry) bool {
		if o.file == e.file {
			return false
		}
		o.readRelease(filepath.Join(u.dir, o.file))
		return o.listed && o.before(e)
	})
}

// errNotListed is returned for an image without a release description: systemd-boot shows only those with one.
var errNotListed = errors.New("systemd-boot would not list the image: it has no .osrel section with a NAME")

// Running says which image was booted, by the EFI variables of this boot, and hashes its file.
func (u *UKI) Running(ctx context.Context) (Boot, error) {
	running, _, err := u.booted()
	if err != nil {
		return Boot{}, fmt.Errorf("cannot find running image: %w", err)
	}
	b := Boot{Slot: running.stem, Trial: running.trial()}
	if b.SHA256, b.Length, err = contentOf(filepath.Join(u.dir, running.file)); err != nil {
		return Boot{}, fmt.Errorf("cannot read running image: %w", err)
	}
	return b, ctx.Err()
}

// Commit gives the running image its name without a counter. Then it removes the images that are older than the one
// before, and puts those that systemd-boot would still prefer behind the running one.
func (u *UKI) Commit(ctx context.Context) error {
	if err := u.commit(); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

func (u *UKI) commit() error {
	running, all, err := u.booted()
	if err != nil {
		return err
	}
	if running.trial() {
		proven := running.plain()
		if err := u.makeWay(proven.file); err != nil {
			return err
		}
		if err := u.rename(filepath.Join(u.dir, running.file), filepath.Join(u.dir, proven.file)); err != nil {
			return err
		}
		if err := u.sync(); err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(e entry) bool { return e.file == running.file })
		running = proven
	}
	return u.settle(running, all)
}

// settle leaves the running image, the one before it, and what belongs to others.
func (u *UKI) settle(running entry, all []entry) error {
	running.readRelease(filepath.Join(u.dir, running.file))
	kept, changed := false, false
	slices.SortFunc(all, func(a, b entry) int { return byNumber(b, a) })
	for _, e := range all {
		if e.file == running.file || e.trial() {
			continue
		}
		var err error
		path := filepath.Join(u.dir, e.file)
		e.readRelease(path)
		switch {
		case e.own && kept:
			err = u.remove(path)
		case e.listed && running.listed && e.before(running):
			err = u.retire(e)
		default:
			kept = kept || e.own
			continue
		}
		kept, changed = kept || e.own, true
		if err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	return u.sync()
}

// retire puts an image behind all others. Where a cut left both names of an earlier attempt, the first one goes, if it is
// this installer's. An image of somebody else is kept whatever there is under its new name: it gets another one.
func (u *UKI) retire(e entry) error {
	from := filepath.Join(u.dir, e.file)
	for range maxRetired {
		to := filepath.Join(u.dir, e.retired())
		info, err := os.Lstat(to)
		if errors.Is(err, fs.ErrNotExist) {
			return u.rename(from, to)
		}
		if err != nil {
			return err
		}
		if e.own && info.Mode().IsRegular() {
			return u.remove(from)
		}
		e.stem += oldSuffix
	}
	return fmt.Errorf("cannot put %q behind the running image: %w", e.file, fs.ErrExist)
}

// maxRetired bounds how often an image of one name is put behind the others.
const maxRetired = 16

// makeWay removes what has the name of a proven image and is no image.
func (u *UKI) makeWay(file string) error {
	path := filepath.Join(u.dir, file)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Mode().IsRegular()) {
		return nil
	}
	if err != nil {
		return err
	}
	return u.remove(path)
}

// Rollback removes the images on trial that do not run. The running one, if it is on trial, loses its tries: the next
// boot is one of the image before.
func (u *UKI) Rollback(ctx context.Context) error {
	if err := u.rollback(); err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	return nil
}

func (u *UKI) rollback() error {
	running, all, err := u.booted()
	if err != nil {
		return err
	}
	if err := u.vars.clearOneShot(); err != nil {
		return err
	}
	if running.trial() && running.left > 0 {
		if err := u.rename(filepath.Join(u.dir, running.file), filepath.Join(u.dir, running.exhausted())); err != nil {
			return err
		}
	}
	for _, e := range all {
		if !e.own || !e.trial() || e.file == running.file {
			continue
		}
		if err := u.remove(filepath.Join(u.dir, e.file)); err != nil {
			return err
		}
	}
	return u.sync()
}

// Tries finds the image on the partition and reads its counter.
func (u *UKI) Tries(ctx context.Context, image Image) (Tries, bool, error) {
	all, err := u.list()
	if err != nil {
		return Tries{}, false, fmt.Errorf("cannot count the tries of an image: %w", err)
	}
	i := slices.IndexFunc(all, func(e entry) bool { return e.holds(image) && e.trial() })
	if i < 0 {
		return Tries{}, false, nil
	}
	return Tries{Name: all[i].file, Used: all[i].done, Of: all[i].left + all[i].done}, true, nil
}

// change says what is about to be done.
func (u *UKI) change(op, path string) error { return u.step(op, path) }

func (u *UKI) rename(from, to string) error {
	if err := u.change("rename", from+" "+to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (u *UKI) remove(path string) error {
	if err := u.change("remove", path); err != nil {
		return err
	}
	return os.RemoveAll(path) // a folder of that name must not stop an update
}

// sync makes what was done to names durable, with the tables of the file system.
func (u *UKI) sync() error {
	if err := u.change("sync", u.dir); err != nil {
		return err
	}
	d, err := os.Open(u.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), u.syncFS(int(d.Fd())), d.Close())
}
