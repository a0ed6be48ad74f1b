package backup

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
)

const (
	manifestName = "manifest.json"
	sealName     = "manifest.sha256" // the last entry: 64 hex digits
	keyPrefix    = "keys/"
	tablePrefix  = "tables/"

	maxEntry    = 64 << 20 // of one entry, and of the manifest
	maxEntries  = 1 << 20
	chunkBytes  = 4 << 20 // a table's entry is closed when it is as long
	maxKeyBytes = 1 << 20
)

// entryName is what an archive may hold beside manifest and seal.
var entryName = regexp.MustCompile(`^(keys/[a-z0-9][a-z0-9.-]{0,63}|tables/[a-z][a-z0-9_]{0,62}/[0-9]{8})$`)

// writer writes an archive and remembers what it wrote.
type writer struct {
	tar      *tar.Writer
	at       time.Time
	manifest Manifest
}

func newWriter(w io.Writer, m Manifest) *writer {
	return &writer{tar: tar.NewWriter(w), at: m.TakenAt, manifest: m}
}

func (w *writer) add(name string, data []byte) error {
	if len(data) > maxEntry || len(w.manifest.Entries) >= maxEntries {
		return fmt.Errorf("cannot back up %s: %d bytes are more than a backup can hold", name, len(data))
	}
	if err := w.put(name, data); err != nil {
		return err
	}
	w.manifest.Entries = append(w.manifest.Entries, Entry{Name: name, Length: int64(len(data)), SHA256: digest.Of(data)})
	return nil
}

func (w *writer) put(name string, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: w.at.Truncate(time.Second), Format: tar.FormatUSTAR}
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	if _, err := w.tar.Write(data); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	return nil
}

// close writes manifest and seal: only with them a file is a backup.
func (w *writer) close() error {
	b, err := json.Marshal(w.manifest, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("cannot write the manifest: %w", err)
	}
	if len(b) > maxEntry {
		return fmt.Errorf("cannot write the manifest: it has %d bytes", len(b))
	}
	if err := errors.Join(w.put(manifestName, b), w.put(sealName, []byte(digest.Of(b).String())), w.tar.Close()); err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	return nil
}

// Read reads an archive to its end and returns its manifest and the SHA-256 of the whole file. visit, which may be nil, is
// called with every entry before it is known whether the archive is whole: what it does must be undone when Read fails.
// Every error of the archive itself is ErrDamaged or ErrNewer.
func Read(r io.Reader, visit func(name string, data []byte) error) (Manifest, digest.SHA256, error) {
	whole := sha256.New()
	a := &reader{tar: tar.NewReader(io.TeeReader(r, whole)), visit: visit}
	m, err := a.read()
	if err != nil {
		return Manifest{}, digest.SHA256{}, err
	}
	// Behind the archive there is nothing but its own padding.
	if err := onlyZeros(io.TeeReader(r, whole)); err != nil {
		return Manifest{}, digest.SHA256{}, err
	}
	return m, digest.SHA256(whole.Sum(nil)), nil
}

type reader struct {
	tar     *tar.Reader
	visit   func(string, []byte) error
	entries []Entry
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

func (a *reader) read() (Manifest, error) {
	for {
		name, data, err := a.next()
		if err != nil {
			return Manifest{}, err
		}
		if name == manifestName {
			return a.end(data)
		}
		if !entryName.MatchString(name) {
			return Manifest{}, damaged("it holds %.100q", name)
		}
		if len(a.entries) >= maxEntries {
			return Manifest{}, damaged("it holds more than %d entries", maxEntries)
		}
		a.entries = append(a.entries, Entry{Name: name, Length: int64(len(data)), SHA256: digest.Of(data)})
		if a.visit == nil {
			continue
		}
		if err := a.visit(name, data); err != nil {
			return Manifest{}, err
		}
	}
}

func (a *reader) next() (string, []byte, error) {
	h, err := a.tar.Next()
	if errors.Is(err, io.EOF) {
		return "", nil, damaged("it ends before its manifest")
	}
	if err != nil {
		return "", nil, damaged("%w", err)
	}
	if h.Typeflag != tar.TypeReg || h.Size < 0 || h.Size > maxEntry {
		return "", nil, damaged("%.100q is no file of at most %d bytes", h.Name, maxEntry)
	}
	data, err := readExactly(a.tar, h.Size)
	if err != nil {
		return "", nil, damaged("%.100q: %w", h.Name, err)
	}
	return h.Name, data, nil
}

// readExactly grows with what is there, so that a header alone cannot ask for memory.
func readExactly(r io.Reader, size int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, size))
	if err == nil && int64(len(data)) != size {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

// end holds what was read against manifest and seal.
func (a *reader) end(data []byte) (Manifest, error) {
	name, seal, err := a.next()
	if err != nil {
		return Manifest{}, err
	}
	if name != sealName || string(seal) != digest.Of(data).String() {
		return Manifest{}, damaged("its manifest is not the one that was sealed")
	}
	if _, err := a.tar.Next(); !errors.Is(err, io.EOF) {
		return Manifest{}, damaged("it goes on after its seal")
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Manifest{}, damaged("manifest: %w", err)
	}
	if version.Version != Version {
		return Manifest{}, fmt.Errorf("%w: its format is %d, this build reads %d", ErrNewer, version.Version, Version)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m, json.RejectUnknownMembers(true)); err != nil {
		return Manifest{}, damaged("manifest: %w", err)
	}
	if !slices.Equal(m.Entries, a.entries) {
		return Manifest{}, damaged("it holds other bytes than its manifest names")
	}
	if !m.Keys && slices.ContainsFunc(m.Entries, func(e Entry) bool { return strings.HasPrefix(e.Name, keyPrefix) }) {
		return Manifest{}, damaged("it holds keys that its manifest denies") // they would take the place of those that are there
	}
	return m, nil
}

func onlyZeros(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			return damaged("there are bytes behind its end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged("%w", err)
		}
	}
}
