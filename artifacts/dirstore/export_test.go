package dirstore

import (
	"context"
	"os"
)

// SetWriteAt lets a test break the disk.
func (s *Store) SetWriteAt(f func(f *os.File, b []byte, offset int64) (int, error)) { s.writeAt = f }

// LockPart reports whether an opened upload may be written: not if its path means another file by now.
func LockPart(ctx context.Context, f *os.File, path string) (bool, error) {
	p, err := lockPart(ctx, f, path)
	return p != nil, err
}

// Reserve is what uploads leave of the disk.
const Reserve = reserve

// SetFree lets a test say how much room there is.
func (s *Store) SetFree(f func(dir string) (uint64, error)) { s.free = f }
