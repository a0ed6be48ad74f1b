package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check finds out what runs, writes and removes a file, counts the free bytes, and sets and removes the EFI variable for
// one boot. It refuses a partition that could not hold a second image of the running one's size.
func (u *UKI) Check(ctx context.Context) (string, error) {
	b, err := u.Running(ctx)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(u.dir, "cordon-doctor-*.part")
	if err != nil {
		return "", fmt.Errorf("the EFI system partition cannot be written: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Remove(f.Name())); err != nil {
		return "", fmt.Errorf("the EFI system partition cannot be written: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(u.dir, &st); err != nil {
		return "", err
	}
	free := int64(st.Bavail) * st.Bsize
	room, err := u.reclaimable()
	if err != nil {
		return "", err
	}
	if free+room < b.Length+spareBytes {
		return "", fmt.Errorf("%w: %d bytes are free and %d can be reclaimed in %q, an image has %d", unix.ENOSPC, free, room, u.dir, b.Length)
	}
	note := fmt.Sprintf("%s runs, %d MiB free", b.Slot, free>>20)
	if err := u.vars.writable(); err != nil { // an update to a newer version works without
		note += "; EFI variables are read-only, so no older version can be installed"
	}
	return note, nil
}

// reclaimable counts the bytes that the next Prepare may use again.
func (u *UKI) reclaimable() (int64, error) {
	running, all, err := u.booted()
	if err != nil {
		return 0, err
	}
	var n int64
	part := entry{file: partFile, own: true}
	for _, e := range append(all, part) {
		info, err := os.Lstat(filepath.Join(u.dir, e.file))
		if err == nil && e.own && e.file != running.file {
			n += info.Size()
		}
	}
	return n, nil
}

// writable tries to name an image for one boot, unless one is named already.
func (v variables) writable() error {
	if _, err := os.Lstat(v.path(oneShot)); err == nil {
		return nil
	}
	if err := v.setOneShot("none" + imageExt); err != nil {
		return err
	}
	return v.clearOneShot()
}
