package installer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Limits on what is read from an EFI system partition, which other systems write to as well.
const (
	maxEntries   = 1 << 14
	maxFileName  = 255
	maxRelease   = 64 << 10 // bytes of .osrel
	maxSections  = 96       // of an image, as for systemd-boot
	maxNumber    = 9_999_999_999
	digestDigits = 16
)

const (
	ownPrefix  = "cordon-"
	oldSuffix  = "-old" // of the stem of an image that is to boot only when no other does
	imageExt   = ".efi"
	hiddenName = "auto-" // systemd-boot lists no file of such a name
)

// entry is a file that systemd-boot may boot: STEM[+LEFT[-DONE]].efi.
type entry struct {
	file       string
	stem       string
	counted    bool
	left, done int

	own    bool // this installer wrote it
	number uint64
	digest string // first digits of the image's SHA-256

	// listed, sortKey and version are known after readRelease.
	listed           bool
	sortKey, version string
}

// parseEntry takes a file name apart. ok is false for a name that systemd-boot does not list.
func parseEntry(file string) (e entry, ok bool) {
	if len(file) > maxFileName || len(file) <= len(imageExt) || !strings.EqualFold(file[len(file)-len(imageExt):], imageExt) {
		return entry{}, false
	}
	if len(file) >= len(hiddenName) && strings.EqualFold(file[:len(hiddenName)], hiddenName) {
		return entry{}, false
	}
	e = entry{file: file, stem: file[:len(file)-len(imageExt)]}
	if i := strings.LastIndexByte(e.stem, '+'); i > 0 {
		if left, done, ok := parseCounter(e.stem[i+1:]); ok {
			e.stem, e.counted, e.left, e.done = e.stem[:i], true, left, done
		}
	}
	e.parseOwn()
	return e, true
}

// parseCounter reads LEFT or LEFT-DONE.
func parseCounter(s string) (left, done int, ok bool) {
	l, d, both := strings.Cut(s, "-")
	left, ok = smallNumber(l)
	if ok && both {
		done, ok = smallNumber(d)
	}
	return left, done, ok
}

func smallNumber(s string) (int, bool) {
	if len(s) > 4 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// parseOwn recognises cordon-NUMBER-DIGEST, of an image that this installer wrote.
func (e *entry) parseOwn() {
	rest, ok := strings.CutPrefix(strings.TrimSuffix(e.stem, oldSuffix), ownPrefix)
	number, sum, cut := strings.Cut(rest, "-")
	if !ok || !cut || len(number) != 10 || len(sum) != digestDigits || strings.Trim(sum, "0123456789abcdef") != "" {
		return
	}
	n, err := strconv.ParseUint(number, 10, 64)
	e.own, e.number, e.digest = err == nil, n, sum
}

// nextName is the name under which an image goes on trial: it sorts behind all names before it.
func nextName(all []entry, image Image) entry {
	number := uint64(0)
	for _, e := range all {
		number = max(number, e.number)
	}
	e, _ := parseEntry(fmt.Sprintf("%s%010d-%s+%d%s", ownPrefix, min(number+1, maxNumber), image.SHA256.String()[:digestDigits], trialTries, imageExt))
	return e
}

// trial reports whether the image boots only until its tries are used up.
func (e entry) trial() bool { return e.counted && !strings.HasSuffix(e.stem, oldSuffix) }

// holds reports whether the name says that the file holds an image.
func (e entry) holds(image Image) bool {
	return e.own && e.digest == image.SHA256.String()[:digestDigits]
}

// plain is the entry without its counter.
func (e entry) plain() entry {
	e.counted, e.left, e.done, e.file = false, 0, 0, e.stem+imageExt
	return e
}

// exhausted is the name of the file when no try is left.
func (e entry) exhausted() string { return fmt.Sprintf("%s+0-%d%s", e.stem, max(e.done, 1), imageExt) }

// retired is the name under which systemd-boot prefers every other image.
func (e entry) retired() string { return e.stem + oldSuffix + "+0" + imageExt }

// list reads the names of the regular files that systemd-boot may boot.
func (u *UKI) list() ([]entry, error) {
	d, err := os.Open(u.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out []entry
	for seen := 0; ; {
		files, err := d.ReadDir(512)
		if seen += len(files); seen > maxEntries {
			return nil, fmt.Errorf("%q: %w", u.dir, errCrowded)
		}
		for _, f := range files {
			if e, ok := parseEntry(f.Name()); ok && f.Type().IsRegular() {
				out = append(out, e)
			}
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

var errCrowded = fmt.Errorf("it holds more than %d files", maxEntries)

// booted finds the file of the running image among all.
func (u *UKI) booted() (running entry, all []entry, err error) {
	name, err := u.vars.booted()
	if err != nil {
		return entry{}, nil, err
	}
	want, ok := parseEntry(name)
	if !ok {
		return entry{}, nil, fmt.Errorf("%w: %q", errElsewhere, name)
	}
	if all, err = u.list(); err != nil {
		return entry{}, nil, err
	}
	var same []entry
	for _, e := range all {
		if strings.EqualFold(e.file, want.file) {
			return e, all, nil
		}
		if strings.EqualFold(e.stem, want.stem) || strings.EqualFold(e.stem, want.stem+oldSuffix) {
			same = append(same, e)
		}
	}
	if len(same) != 1 { // the counter is counted down by the boot and goes with the commit
		return entry{}, nil, fmt.Errorf("%w: %q, and %d files have that name with another counter", errGone, name, len(same))
	}
	return same[0], all, nil
}

// errGone is returned when the booted image cannot be told among the files; errElsewhere when it was started by
// something else than systemd-boot.
var (
	errGone      = errors.New("the image that was booted is not in EFI/Linux any more")
	errElsewhere = errors.New("the image that was booted is none of EFI/Linux")
)

// readRelease finds out how systemd-boot sorts the image at path, as its config_entry_add_unified does.
func (e *entry) readRelease(path string) {
	e.listed, e.sortKey, e.version = false, "", ""
	f, err := openRegular(path)
	if err != nil {
		return
	}
	defer f.Close()
	text, err := releaseSection(f)
	if err != nil {
		return
	}
	fields := releaseFields(text)
	first := func(names ...string) string {
		for _, n := range names {
			if fields[n] != "" {
				return fields[n]
			}
		}
		return ""
	}
	e.listed = first("PRETTY_NAME", "IMAGE_ID", "NAME", "ID") != ""
	e.sortKey = first("IMAGE_ID", "ID")
	e.version = first("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
}

// Sizes of a PE file's headers.
const (
	dosHeader     = 64
	coffHeader    = 4 + 20 // with the signature before it
	sectionHeader = 40
)

// releaseSection returns the .osrel section of a PE file. Nothing else of the file is read: whatever lies on the partition
// is looked at, and the relocations and symbols of a hostile file can be made to take all memory.
func releaseSection(r io.ReaderAt) ([]byte, error) {
	dos := make([]byte, dosHeader)
	if _, err := r.ReadAt(dos, 0); err != nil {
		return nil, err
	}
	at := int64(binary.LittleEndian.Uint32(dos[0x3c:]))
	coff := make([]byte, coffHeader)
	if _, err := r.ReadAt(coff, at); err != nil {
		return nil, err
	}
	count := binary.LittleEndian.Uint16(coff[6:])
	if string(dos[:2]) != "MZ" || string(coff[:4]) != "PE\x00\x00" || count > maxSections {
		return nil, errNotListed
	}
	at += coffHeader + int64(binary.LittleEndian.Uint16(coff[20:]))
	sections := make([]byte, int(count)*sectionHeader)
	if _, err := r.ReadAt(sections, at); err != nil {
		return nil, err
	}
	for ; len(sections) > 0; sections = sections[sectionHeader:] {
		if string(bytes.TrimRight(sections[:8], "\x00")) != ".osrel" {
			continue
		}
		n := min(binary.LittleEndian.Uint32(sections[8:]), binary.LittleEndian.Uint32(sections[16:]))
		if n == 0 || n > maxRelease {
			return nil, errNotListed
		}
		b := make([]byte, n)
		_, err := r.ReadAt(b, int64(binary.LittleEndian.Uint32(sections[20:])))
		return b, err
	}
	return nil, errNotListed
}

// releaseFields reads NAME=value lines. Of a name that stands there twice the last counts, as for systemd-boot.
func releaseFields(b []byte) map[string]string {
	b, _, _ = bytes.Cut(b, []byte{0})
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		out[name] = value
	}
	return out
}

// before reports whether systemd-boot prefers e to o (config_entry_compare of systemd 252).
func (e entry) before(o entry) bool {
	spent := func(e entry) int {
		if e.counted && e.left == 0 {
			return 1
		}
		return 0
	}
	keyless := func(e entry) int {
		if e.sortKey == "" {
			return 1
		}
		return 0
	}
	order := cmp.Or(cmp.Compare(spent(e), spent(o)), cmp.Compare(keyless(e), keyless(o)))
	if order == 0 && e.sortKey != "" {
		order = cmp.Or(strings.Compare(e.sortKey, o.sortKey), -compareVersions(e.version, o.version))
	}
	if order == 0 {
		order = cmp.Or(-compareVersions(strings.ToLower(e.file), strings.ToLower(o.file)), cmp.Compare(o.left, e.left), cmp.Compare(e.done, o.done))
	}
	return order < 0
}

// byNumber sorts images by age, the oldest first.
func byNumber(a, b entry) int { return cmp.Compare(a.number, b.number) }
