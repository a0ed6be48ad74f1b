package parts

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// buildInitrd packs files and their parent folders as a gzipped newc archive that depends on nothing but its content:
// sorted names, owner 0, times 0, no file name and no time in the gzip header.
func buildInitrd(files map[string][]byte) ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("cannot build initrd: %w", err)
	}
	archive, err := newc(files)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(archive); err != nil {
		return nil, fmt.Errorf("cannot build initrd: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("cannot build initrd: %w", err)
	}
	return buf.Bytes(), nil
}

// newc writes the cpio format that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
func newc(files map[string][]byte) ([]byte, error) {
	dirs := map[string]bool{}
	for name := range files {
		if name == "" || path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, "..") || strings.ContainsRune(name, 0) {
			return nil, fmt.Errorf("cannot build initrd: %q is not a clean relative path", name)
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	for dir := range dirs {
		if _, ok := files[dir]; ok {
			return nil, fmt.Errorf("cannot build initrd: %q is a file and a folder", dir)
		}
	}
	var b bytes.Buffer
	inode := 1
	add := func(name string, mode, links int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad4(&b)
		b.Write(content)
		pad4(&b)
		inode++
	}
	names := slices.Collect(maps.Keys(files))
	names = append(names, slices.Collect(maps.Keys(dirs))...)
	slices.Sort(names) // a folder sorts before what it holds
	for _, name := range names {
		if dirs[name] {
			add(name, 0o040755, 2, nil)
			continue
		}
		add(name, 0o100755, 1, files[name])
	}
	inode = 0
	add("TRAILER!!!", 0, 1, nil)
	return b.Bytes(), nil
}

func pad4(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
