// Package ceremony builds, shows, signs and assembles the offline metadata: both roots, and the Image repository's targets
// with the policies and baselines that it signs. Its state is a directory that holders can carry around.
//
// It promises that what is shown is what is signed, that nothing is assembled without the thresholds of both the old and
// the new root, and that a signature over other bytes than the pending ones never counts. It refuses keys that the
// metadata does not name, offline files that their readers would refuse, and versions that do not follow the current one.
//
// Trusted: holders trust this package and the copy of the directory that they look at; the directory itself is untrusted
// until it has been shown.
package ceremony

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/keys"
)

// The documents of a ceremony.
const (
	ImageRoot    = "image.root.json"
	DirectorRoot = "director.root.json"
	Targets      = "targets.json"
)

// documents in the order in which they are shown and signed.
var documents = [...]string{ImageRoot, DirectorRoot, Targets}

const (
	settingsFile    = "ceremony.json"
	settingsVersion = 1
	maxFileBytes    = tufrepo.MaxTargetsBytes
	maxSignatures   = 2 * tufrepo.MaxKeys
)

// Errors that a caller tests for.
var (
	ErrNoCeremony = errors.New("directory holds no ceremony")
	ErrExists     = errors.New("directory holds a ceremony already")
	ErrNothing    = errors.New("nothing is pending")
	ErrThreshold  = errors.New("not enough holders have signed")
	ErrForeign    = errors.New("key is not one that the metadata names")
	ErrTampered   = errors.New("pending files were changed after they were signed")
	ErrInvalid    = errors.New("ceremony is not valid")
)

// Settings are ceremony.json: for which server this is, and whose keys are whose.
type Settings struct {
	Version  int                      `json:"version"`
	Server   string                   `json:"server"`
	CASHA256 digest.SHA256            `json:"ca_sha256"`
	Keys     []api.OnlineKey          `json:"keys"`  // the server's online keys as shown at the last init or rotate
	Names    map[digest.SHA256]string `json:"names"` // for people only: fingerprint -> file name of a holder's key
}

// Dir is a ceremony directory. It is used by one process at a time.
type Dir struct {
	path     string
	Settings Settings
}

// Create makes a ceremony directory; ErrExists if there is one.
func Create(path string, s Settings) (*Dir, error) {
	d := &Dir{path: path, Settings: s}
	d.Settings.Version = settingsVersion
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make ceremony directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(path, settingsFile)); err == nil {
		return nil, fmt.Errorf("%w: %q", ErrExists, path)
	}
	return d, d.saveSettings()
}

// Open reads a ceremony directory; ErrNoCeremony if there is none.
func Open(path string) (*Dir, error) {
	d := &Dir{path: path}
	b, err := d.read(settingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNoCeremony, path)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &d.Settings, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, settingsFile, err)
	}
	if d.Settings.Version != settingsVersion {
		return nil, fmt.Errorf("%w: %s has version %d, this build reads %d", ErrInvalid, settingsFile, d.Settings.Version, settingsVersion)
	}
	return d, nil
}

func (d *Dir) saveSettings() error {
	b, err := json.Marshal(d.Settings, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", settingsFile, err)
	}
	return d.write(settingsFile, append(b, '\n'))
}

// Name is what people call a key: its file's name, or "unnamed".
func (d *Dir) Name(pub crypto.PublicKey) string {
	fingerprint, err := keys.Fingerprint(pub)
	if err != nil {
		return "unnamed"
	}
	for _, k := range d.Settings.Keys {
		if k.Fingerprint == fingerprint {
			return "server, " + plain(k.Use)
		}
	}
	if name := d.Settings.Names[fingerprint]; name != "" {
		return plain(name)
	}
	return "unnamed"
}

// plain keeps a name from the directory from writing to the terminal what it likes.
func plain(name string) string { return strings.Trim(strconv.QuoteToASCII(name), `"`) }

// onlineKey returns the server's public key for a use.
func (s Settings) onlineKey(use string) (crypto.PublicKey, error) {
	var found crypto.PublicKey
	for _, k := range s.Keys {
		if k.Use != use {
			continue
		}
		pub, err := keys.ParsePublic([]byte(k.PublicPEM))
		if err != nil {
			return nil, fmt.Errorf("%w: the server's %s key: %w", ErrInvalid, use, err)
		}
		fingerprint, err := keys.Fingerprint(pub)
		if err != nil || fingerprint != k.Fingerprint {
			return nil, fmt.Errorf("%w: the server's %s key does not have the fingerprint it is announced with", ErrInvalid, use)
		}
		if found != nil {
			return nil, fmt.Errorf("%w: the server has two %s keys", ErrInvalid, use)
		}
		found = pub
	}
	if found == nil {
		return nil, fmt.Errorf("%w: the server has no %s key", ErrInvalid, use)
	}
	return found, nil
}

func (d *Dir) read(elem ...string) ([]byte, error) {
	f, err := os.Open(d.join(elem...))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("%w: %q is larger than %d bytes", ErrInvalid, d.join(elem...), maxFileBytes)
	}
	return b, nil
}

// readOptional returns nil for a file that is not there.
func (d *Dir) readOptional(elem ...string) ([]byte, error) {
	b, err := d.read(elem...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read ceremony: %w", err)
	}
	return b, nil
}

func (d *Dir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// write replaces a file atomically and durably.
func (d *Dir) write(name string, data []byte) error {
	target := d.join(filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("cannot write ceremony: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".tmp-*")
	if err != nil {
		return fmt.Errorf("cannot write ceremony: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		crash.Here(crash.CeremonyWritten)
		err = os.Rename(f.Name(), target)
	}
	crash.Here(crash.CeremonyRenamed)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot write ceremony: %w", err), os.Remove(f.Name()))
	}
	parent, err := os.Open(filepath.Dir(target))
	if err != nil {
		return fmt.Errorf("cannot write ceremony: %w", err)
	}
	defer parent.Close()
	if err := parent.Sync(); err != nil {
		return fmt.Errorf("cannot write ceremony: %w", err)
	}
	return nil
}

// state is what lies below pending/ or current/.
type state struct {
	docs  map[string][]byte // by document name; absent ones are not there
	files map[string][]byte // offline targets by path
}

func (d *Dir) load(which string) (state, error) {
	s := state{docs: map[string][]byte{}, files: map[string][]byte{}}
	for _, name := range documents {
		b, err := d.readOptional(which, name)
		if err != nil {
			return state{}, err
		}
		if b != nil {
			s.docs[name] = b
		}
	}
	base := d.join(which, "files")
	err := filepath.WalkDir(base, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == base {
			return fs.SkipAll
		}
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".tmp-") {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%w: %q is no regular file", ErrInvalid, path)
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		b, err := d.read(which, "files", rel)
		if err != nil {
			return err
		}
		s.files[filepath.ToSlash(rel)] = b
		return nil
	})
	if err != nil {
		return state{}, fmt.Errorf("cannot read ceremony: %w", err)
	}
	return s, nil
}

// setPending writes a new pending document. Signatures over an older payload of it are dropped; their number is returned.
func (d *Dir) setPending(name string, doc []byte) (dropped int, err error) {
	old, err := d.readOptional("pending", name)
	if err != nil {
		return 0, err
	}
	if slices.Equal(old, doc) {
		return 0, nil
	}
	dropped, err = d.dropSignatures(name)
	if err != nil {
		return 0, err
	}
	return dropped, d.write("pending/"+name, doc)
}

// setFiles makes pending/files hold exactly files.
func (d *Dir) setFiles(which string, files map[string][]byte) error {
	old, err := d.load(which)
	if err != nil {
		return err
	}
	for path, data := range files {
		if have, ok := old.files[path]; ok && slices.Equal(have, data) {
			continue
		}
		if err := d.write(which+"/files/"+path, data); err != nil {
			return err
		}
	}
	for path := range old.files {
		if _, ok := files[path]; ok {
			continue
		}
		if err := os.Remove(d.join(which, "files", filepath.FromSlash(path))); err != nil {
			return fmt.Errorf("cannot remove %q: %w", path, err)
		}
	}
	return nil
}
