package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// Files of the state directory.
const (
	fileState   = "state.json"
	filePoll    = "poll.json"        // a poll whose answer has not arrived
	fileJournal = "journal.json"     // the update that is under way
	fileBundle  = "journal.bundle"   // the publisher's signature of that update
	dirImage    = "image"            // newest verified documents of the Image repository
	dirDirector = "director"         // likewise of the Director repository
	maxState    = 1 << 20            // any of our own files
	maxDoc      = 5_000_000          // a metadata document
	maxPoll     = wire.MaxPollBytes  // a stored poll
	maxRoots    = 1 << 10            // roots that are looked for at the start
	maxFailures = 3                  // trials of one image, and installations of one that fail
	maxInstall  = 64                 // components that a device tells
	stateMode   = fs.FileMode(0o600) // of every file
	stateDir    = fs.FileMode(0o700) // of every folder
)

// state is what the client remembers. All of it is a hint: a missing or edited state costs a round trip or an answer,
// never a check.
type state struct {
	Device     string  `json:"device,omitempty"` // for whom this directory was written
	Enrolled   bool    `json:"enrolled,omitempty"`
	Lifecycle  string  `json:"lifecycle,omitempty"`
	Base       *uint64 `json:"base,omitempty"`        // of the release counter, as agreed on; see checkBase
	CounterNew bool    `json:"counter_new,omitempty"` // the counter was made anew and no base is agreed on yet
	HardwareID string  `json:"hardware_id,omitempty"`

	// Which attestation key is in use, and to which one it is being rotated; 0 for none. A wrong one is found out by the
	// server, see enrollKnown.
	AKGeneration uint32 `json:"ak_generation,omitzero"`
	AKNext       uint32 `json:"ak_next,omitzero"`

	Floor      clockFloor       `json:"floor,omitzero"`
	Proven     digest.SHA256    `json:"proven,omitzero"`      // beacon that was affirmed last
	ProvenBoot uint32           `json:"proven_boot,omitzero"` // TPM reset count then
	Verdict    string           `json:"verdict,omitempty"`
	LeaseUntil int64            `json:"lease_until,omitempty"`
	LastPoll   int64            `json:"last_poll,omitempty"` // Unix seconds of the last answer
	Refusals   []Refusal        `json:"refusals,omitempty"`  // of the last poll
	Events     []wire.Event     `json:"events,omitempty"`    // not yet reported
	Installed  []wire.Installed `json:"installed,omitempty"`
	Boot       *wire.BootReport `json:"boot,omitempty"` // what the last trial came to
	Failures   map[string]int   `json:"failures,omitempty"`
	LockedOut  bool             `json:"locked_out,omitempty"` // the TPM was in lockout at the last check
	Versions   Versions         `json:"versions,omitzero"`    // for `status` only
	Chain      [][]byte         `json:"certificate,omitempty"`

	Rejected map[string]rejection `json:"rejected,omitempty"` // images on offer that an installer did not take, by SHA-256
}

// Versions are the newest verified versions of both repositories.
type Versions struct {
	ImageRoot    int64  `json:"image_root,omitzero"`
	DirectorRoot int64  `json:"director_root,omitzero"`
	Timestamp    int64  `json:"timestamp,omitzero"`
	Snapshot     int64  `json:"snapshot,omitzero"`
	Targets      int64  `json:"targets,omitzero"`
	Director     int64  `json:"director,omitzero"`
	Beacon       string `json:"beacon,omitempty"`
}

// store is the state directory. Every write is atomic and durable.
type store struct{ dir string }

func openStore(dir string) (store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return store{}, fmt.Errorf("cannot use state directory: %w", err)
	}
	for _, d := range []string{abs, filepath.Join(abs, dirImage), filepath.Join(abs, dirDirector)} {
		if info, err := os.Lstat(d); err == nil && d != abs && !info.IsDir() { // a link would lead our writes elsewhere
			if err := os.Remove(d); err != nil {
				return store{}, fmt.Errorf("cannot use state directory: %w", err)
			}
		}
		if err := os.MkdirAll(d, stateDir); err != nil {
			return store{}, fmt.Errorf("cannot use state directory: %w", err)
		}
	}
	return store{dir: abs}, nil
}

// read returns the content of a file; nil if it is missing, too large or no regular file: none of that may stop a
// device.
func (s store) read(name string, limit int64) []byte {
	path := filepath.Join(s.dir, name)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > limit {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil || int64(len(b)) > limit {
		return nil
	}
	return b
}

func (s store) write(name string, b []byte) error {
	if err := s.replace(filepath.Join(s.dir, name), b); err != nil {
		return fmt.Errorf("%w: cannot write %s: %w", ErrState, name, err)
	}
	return nil
}

func (s store) replace(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(stateMode), f.Sync(), f.Close()); err != nil {
		return err
	}
	crash.Here(crash.AgentFileWritten)
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	crash.Here(crash.AgentFileRenamed)
	return syncDir(dir)
}

func (s store) remove(name string) error {
	path := filepath.Join(s.dir, name)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: cannot remove %s: %w", ErrState, name, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readJSON decodes one of our own files; false for anything that is not one.
func (s store) readJSON(name string, v any) bool {
	b := s.read(name, maxState)
	return b != nil && json.Unmarshal(b, v) == nil
}

func (s store) writeJSON(name string, v any) error {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", name, err)
	}
	return s.write(name, b)
}

// loadState reads what was remembered for this device; the state of another device counts as none.
func (s store) loadState(id identity.DeviceID) state {
	var st state
	if !s.readJSON(fileState, &st) || st.Device != id.String() {
		return state{Device: id.String()}
	}
	if st.AKGeneration > tpm.MaxGeneration || st.AKNext > tpm.MaxGeneration {
		st.AKGeneration, st.AKNext = 0, 0
	}
	if len(st.Events) > maxEvents {
		st.Events = st.Events[:maxEvents]
	}
	if len(st.Installed) > maxInstall {
		st.Installed = nil
	}
	return st
}

// save writes the state. What it holds is a hint, so a full disk is logged and the work goes on.
func (c *Client) save() {
	if c.trust != nil {
		c.state.Versions = c.trust.versions()
	}
	if err := c.store.writeJSON(fileState, c.state); err != nil {
		c.log.Warn("cannot save state", "error", err.Error())
	}
}
