package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errInUse means that another cordond runs on the same SQLite database.
var errInUse = errors.New("another cordond uses the data directory; stop it, or use PostgreSQL for more than one replica")

// lockData keeps a second cordond away from a data directory with a SQLite database. The lock goes with the process,
// however it ends.
func (a *App) lockData(dsn string) error {
	if !strings.HasPrefix(dsn, "sqlite:") {
		return nil
	}
	path := filepath.Join(a.cfg.DataDir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the data directory: %w", err)
	}
	a.lock = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w (%s)", errInUse, a.cfg.DataDir)
		}
		return fmt.Errorf("cannot lock the data directory: %w", err)
	}
	return nil
}
