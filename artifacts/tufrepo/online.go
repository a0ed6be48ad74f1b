package tufrepo

import (
	"crypto"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// ProductSpec says what a product's delegated role holds: current releases, each file as <product>/<version>/<name>.
type ProductSpec struct {
	Product string
	Version int64
	Expires time.Time
	Files   map[string]File
}

// DirectorSpec says what one device may install now. All three documents get the same version and expiry. An empty
// Targets still binds the metadata to the device (Uptane 5.2.3.1).
type DirectorSpec struct {
	Device      string
	CounterBase uint64
	Version     int64
	Expires     time.Time
	Targets     map[string]DirectorFile
}

// DirectorFile is one target of director metadata. Deadline is Unix seconds, 0 for none.
type DirectorFile struct {
	Length   int64
	SHA256   digest.SHA256
	Deadline int64
}

// DirectorDocs are the three documents of one device's director metadata.
type DirectorDocs struct {
	Timestamp []byte
	Snapshot  []byte
	Targets   []byte
}

type metaSetJSON struct {
	headerJSON `json:",inline"`
	Meta       map[string]metaJSON `json:"meta"`
	Nonce      string              `json:"x-cordon-nonce,omitempty"`
}

type directorJSON struct {
	headerJSON  `json:",inline"`
	Targets     map[string]fileJSON `json:"targets"`
	CounterBase string              `json:"x-cordon-counter-base"`
	Device      string              `json:"x-cordon-device"`
}

type directorCustomJSON struct {
	Deadline int64  `json:"deadline,omitempty"`
	Device   string `json:"device"`
}

// SignProduct encodes and signs a product role. It refuses paths outside <product>/*/*.
func SignProduct(spec ProductSpec, key crypto.Signer) ([]byte, error) {
	if err := ValidProduct(spec.Product); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	h, err := newHeader(RoleTargets, spec.Version, spec.Expires)
	if err != nil {
		return nil, err
	}
	files, err := encodeFiles(spec.Files, func(path string) bool {
		product, ok := productPath(path)
		return ok && product == spec.Product
	})
	if err != nil {
		return nil, err
	}
	s, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return s.sign(targetsJSON{headerJSON: h, Targets: files}, MaxTargetsBytes)
}

// SignSnapshot encodes and signs the Image snapshot. docs maps role names ("targets" and products) to their documents.
func SignSnapshot(version int64, expires time.Time, docs map[string]Doc, key crypto.Signer) ([]byte, error) {
	if _, ok := docs[RoleTargets]; !ok {
		return nil, fmt.Errorf("%w: snapshot without targets", ErrSpec)
	}
	s, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return s.snapshot(version, expires, docs)
}

// SignTimestamp encodes and signs the Image timestamp. The nonce makes its digest unpredictable: that is the beacon.
func SignTimestamp(version int64, expires time.Time, snapshot Doc, nonce [32]byte, key crypto.Signer) ([]byte, error) {
	s, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return s.timestamp(version, expires, snapshot, hex.EncodeToString(nonce[:]))
}

// SignDirector encodes and signs the director metadata of one device: three signatures, all needed because each
// document names the next by digest.
func SignDirector(spec DirectorSpec, key crypto.Signer) (DirectorDocs, error) {
	signed, err := encodeDirector(spec)
	if err != nil {
		return DirectorDocs{}, err
	}
	s, err := newSigner(key)
	if err != nil {
		return DirectorDocs{}, err
	}
	targets, err := s.sign(signed, MaxTargetsBytes)
	if err != nil {
		return DirectorDocs{}, err
	}
	snapshot, err := s.snapshot(spec.Version, spec.Expires, map[string]Doc{RoleTargets: DocOf(spec.Version, targets)})
	if err != nil {
		return DirectorDocs{}, err
	}
	timestamp, err := s.timestamp(spec.Version, spec.Expires, DocOf(spec.Version, snapshot), "")
	if err != nil {
		return DirectorDocs{}, err
	}
	return DirectorDocs{Timestamp: timestamp, Snapshot: snapshot, Targets: targets}, nil
}

func encodeDirector(spec DirectorSpec) (directorJSON, error) {
	if err := artifacts.ValidName(spec.Device); err != nil {
		return directorJSON{}, fmt.Errorf("%w: device: %w", ErrSpec, err)
	}
	h, err := newHeader(RoleTargets, spec.Version, spec.Expires)
	if err != nil {
		return directorJSON{}, err
	}
	files := make(map[string]File, len(spec.Targets))
	for path, t := range spec.Targets {
		custom, err := json.Marshal(directorCustomJSON{Deadline: t.Deadline, Device: spec.Device})
		if err != nil {
			return directorJSON{}, fmt.Errorf("%w: %v", ErrSpec, err)
		}
		files[path] = File{Length: t.Length, SHA256: t.SHA256, Custom: jsontext.Value(custom)}
	}
	targets, err := encodeFiles(files, func(path string) bool { _, ok := productPath(path); return ok })
	if err != nil {
		return directorJSON{}, err
	}
	return directorJSON{
		headerJSON: h, Targets: targets,
		CounterBase: strconv.FormatUint(spec.CounterBase, 10), Device: spec.Device,
	}, nil
}

func (s signer) snapshot(version int64, expires time.Time, docs map[string]Doc) ([]byte, error) {
	h, err := newHeader(RoleSnapshot, version, expires)
	if err != nil {
		return nil, err
	}
	meta := make(map[string]metaJSON, len(docs))
	for role, d := range docs {
		if role != RoleTargets && ValidProduct(role) != nil {
			return nil, fmt.Errorf("%w: snapshot of role %q", ErrSpec, role)
		}
		if meta[role+".json"], err = encodeDoc(d); err != nil {
			return nil, err
		}
	}
	return s.sign(metaSetJSON{headerJSON: h, Meta: meta}, MaxSnapshotBytes)
}

func (s signer) timestamp(version int64, expires time.Time, snapshot Doc, nonce string) ([]byte, error) {
	h, err := newHeader(RoleTimestamp, version, expires)
	if err != nil {
		return nil, err
	}
	m, err := encodeDoc(snapshot)
	if err != nil {
		return nil, err
	}
	signed := metaSetJSON{headerJSON: h, Meta: map[string]metaJSON{"snapshot.json": m}, Nonce: nonce}
	return s.sign(signed, MaxTimestampBytes)
}
