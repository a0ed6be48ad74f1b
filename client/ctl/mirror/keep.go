package mirror

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// write puts a file of the log into the copy, in the layout of C2SP tlog-tiles. Files that the last run vouched for are
// never replaced by other bytes: once something is wrong, nothing is written any more.
func (c *check) write(name string, data []byte) error {
	if c.o.Dir == "" || !c.r.Whole() {
		return nil
	}
	path := filepath.Join(c.o.Dir, filepath.FromSlash(name))
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(data)) {
		if kept, err := os.ReadFile(path); err == nil && string(kept) == string(data) {
			return nil
		}
	}
	if err := writeFile(path, data); err != nil {
		return fmt.Errorf("%w: %w", ErrCopy, err)
	}
	return nil
}

// keep makes the new checkpoint the one of the copy, last of all.
func (c *check) keep() error {
	return c.write("checkpoint", c.r.Raw)
}

// writeFile replaces a file so that after a crash it has the old content or the new one.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
