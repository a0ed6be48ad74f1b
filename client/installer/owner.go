package installer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errOwner is returned for a hook that others could replace, or a folder where they could.
var errOwner = errors.New("others may write it")

// maxLinks bounds how many links one path leads through.
const maxLinks = 40

// reach follows an absolute path as the system does, link by link, to the file that it leads to. It refuses a path that anybody
// but root and the user self could make lead elsewhere.
func reach(path string, self int) (file string, err error) {
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		if err := passable(at, self); err != nil {
			return "", err
		}
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		to, err := os.Readlink(next)
		if errors.Is(err, unix.EINVAL) { // it is no link
			at = next
			continue
		}
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q: %w", path, unix.ELOOP)
		}
		if err := passable(next, self); err != nil {
			return "", err
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at, nil
}

// passable refuses a folder or link on the way to a file that others could replace, or replace things in. In a folder with the
// sticky bit, such as /tmp, only the owner of a thing can: that is judged by itself.
func passable(path string, self int) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Mode&unix.S_ISVTX != 0 {
		return ownedBy(path, st, self)
	}
	return owned(path, self)
}

// owned refuses a file or folder that anybody but root and the user self may write.
func owned(path string, self int) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if err := ownedBy(path, st, self); err != nil {
		return err
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%q has mode %#o: %w; run 'chmod go-w' on it", path, st.Mode&0o7777, errOwner)
	}
	return nil
}

func ownedBy(path string, st unix.Stat_t, self int) error {
	if int64(st.Uid) != 0 && int64(st.Uid) != int64(self) {
		return fmt.Errorf("%q belongs to user %d: %w; run 'chown root' on it", path, st.Uid, errOwner)
	}
	return nil
}
