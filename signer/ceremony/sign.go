package ceremony

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/keys"
)

const maxSignatureBytes = 4 << 10

// signature is one file below signatures/<document>/. Payload says over which bytes it is, so that a signature over other
// bytes is told from a wrong one.
type signature struct {
	Document  string        `json:"document"`
	Payload   digest.SHA256 `json:"payload_sha256"`
	KeyID     string        `json:"key_id"`
	Signature []byte        `json:"signature"`
}

// decodeSignature reads a signature file strictly; ErrInvalid for anything else.
func decodeSignature(b []byte) (signature, error) {
	var s signature
	if len(b) > maxSignatureBytes {
		return s, fmt.Errorf("%w: signature file is larger than %d bytes", ErrInvalid, maxSignatureBytes)
	}
	if err := json.Unmarshal(b, &s, json.RejectUnknownMembers(true)); err != nil {
		return s, fmt.Errorf("%w: signature file: %w", ErrInvalid, err)
	}
	return s, nil
}

// Sign is Review and Review.Sign without looking.
func (d *Dir) Sign(key crypto.Signer) ([]string, error) {
	r, err := d.Review()
	if err != nil {
		return nil, err
	}
	return r.Sign(key)
}

// Sign signs every document of the review that names the key, and returns their names: exactly the bytes that Text told
// of, whatever became of the directory since. ErrForeign: no document names the key.
func (r Review) Sign(key crypto.Signer) ([]string, error) {
	d, pending, current := r.dir, r.pending, r.current
	id, err := tufrepo.KeyID(key.Public())
	if err != nil {
		return nil, err
	}
	var signed []string
	for _, name := range documents {
		if pending.docs[name] == nil {
			continue
		}
		groups, err := signers(name, pending, current)
		if err != nil {
			return nil, err
		}
		if findKey(groups, id) == nil {
			continue
		}
		if err := d.signOne(name, pending.docs[name], id, key); err != nil {
			return nil, err
		}
		signed = append(signed, name)
	}
	if len(signed) == 0 {
		fingerprint, _ := keys.Fingerprint(key.Public())
		return nil, fmt.Errorf("%w: %s is no holder of anything that is pending", ErrForeign, fingerprint)
	}
	return signed, nil
}

func (d *Dir) signOne(name string, doc []byte, id string, key crypto.Signer) error {
	payload, err := tufrepo.PayloadBytes(doc)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	sig, err := key.Sign(rand.Reader, payload, crypto.Hash(0)) // holders' keys are Ed25519
	if err != nil {
		return fmt.Errorf("cannot sign %s: %w", name, err)
	}
	if _, err := tufrepo.AddSignature(doc, key.Public(), sig); err != nil {
		return fmt.Errorf("cannot sign %s: %w", name, err)
	}
	b, err := json.Marshal(signature{Document: name, Payload: digest.Of(payload), KeyID: id, Signature: sig}, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("cannot encode signature: %w", err)
	}
	return d.write("signatures/"+name+"/"+id+".json", append(b, '\n'))
}

// Group is one set of keys of which a threshold has to sign a document.
type Group struct {
	Name      string // in plain words
	Keys      []crypto.PublicKey
	Threshold int
	Signed    []crypto.PublicKey // filled by Assemble and Progress
}

// signers returns who has to sign a document: a root is signed by its own holders and by those of the root before it,
// targets by the holders that the newest root names.
func signers(name string, pending, current state) ([]Group, error) {
	if name == Targets {
		root, err := tufrepo.ParseRoot(newest(ImageRoot, pending, current))
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, ImageRoot, err)
		}
		return []Group{{Name: "holders", Keys: root.Keys[tufrepo.RoleTargets], Threshold: root.Threshold[tufrepo.RoleTargets]}}, nil
	}
	spec, err := tufrepo.ParseRoot(pending.docs[name])
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	groups := []Group{{Name: "holders", Keys: spec.Keys[tufrepo.RoleRoot], Threshold: spec.Threshold[tufrepo.RoleRoot]}}
	if current.docs[name] == nil {
		return groups, nil
	}
	old, err := tufrepo.ParseRoot(current.docs[name])
	if err != nil {
		return nil, fmt.Errorf("%w: current %s: %w", ErrInvalid, name, err)
	}
	return append(groups, Group{Name: "holders before", Keys: old.Keys[tufrepo.RoleRoot], Threshold: old.Threshold[tufrepo.RoleRoot]}), nil
}

func newest(name string, pending, current state) []byte {
	if doc := pending.docs[name]; doc != nil {
		return doc
	}
	return current.docs[name]
}

func findKey(groups []Group, id string) crypto.PublicKey {
	for _, g := range groups {
		for _, k := range g.Keys {
			if have, err := tufrepo.KeyID(k); err == nil && have == id {
				return k
			}
		}
	}
	return nil
}

// Assembled is what apply hands to the server.
type Assembled struct {
	Docs  map[string][]byte // signed, by document name
	Files map[string][]byte
}

// Request is the body of the upload. Files that the server has from before are left out only if all would be too large.
func (a Assembled) Request(current map[string][]byte) api.Ceremony {
	r := api.Ceremony{Targets: a.Docs[Targets], Files: a.Files}
	if doc := a.Docs[ImageRoot]; doc != nil {
		r.ImageRoots = [][]byte{doc}
	}
	if doc := a.Docs[DirectorRoot]; doc != nil {
		r.DirectorRoots = [][]byte{doc}
	}
	total := 0
	for _, data := range a.Files {
		total += len(data)
	}
	if total <= api.MaxCeremonyBytes/2 {
		return r
	}
	r.Files = map[string][]byte{}
	for path, data := range a.Files {
		if string(current[path]) != string(data) {
			r.Files[path] = data
		}
	}
	return r
}

// Assemble attaches the signatures to the pending documents and verifies everything as the server and the devices will.
// ErrThreshold: signatures are missing. ErrTampered: a document was changed after somebody signed it. ErrForeign: a
// signature is there that nobody asked for.
func (d *Dir) Assemble(now time.Time) (Assembled, error) {
	pending, current, err := d.both()
	if err != nil {
		return Assembled{}, err
	}
	if err := pending.check(current); err != nil {
		return Assembled{}, err
	}
	out := Assembled{Docs: map[string][]byte{}, Files: pending.files}
	var missing []error
	for _, name := range documents {
		if pending.docs[name] == nil {
			continue
		}
		doc, groups, err := d.attach(name, pending, current)
		if err != nil {
			return Assembled{}, err
		}
		for _, g := range groups {
			if len(g.Signed) < g.Threshold {
				missing = append(missing, fmt.Errorf("%w: %s has %d of %d (%s)", ErrThreshold, name, len(g.Signed), g.Threshold, g.Name))
			}
		}
		out.Docs[name] = doc
	}
	if err := errors.Join(missing...); err != nil {
		return Assembled{}, err
	}
	return out, verifyAll(out, current, now)
}

// attach verifies every signature file of a document and adds those that count.
func (d *Dir) attach(name string, pending, current state) ([]byte, []Group, error) {
	groups, err := signers(name, pending, current)
	if err != nil {
		return nil, nil, err
	}
	payload, err := tufrepo.PayloadBytes(pending.docs[name])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	sigs, err := d.signatures(name)
	if err != nil {
		return nil, nil, err
	}
	doc := pending.docs[name]
	for _, s := range sigs {
		pub := findKey(groups, s.KeyID)
		if pub == nil {
			return nil, nil, fmt.Errorf("%w: signatures/%s/%s.json", ErrForeign, name, s.KeyID)
		}
		if s.Payload != digest.Of(payload) {
			return nil, nil, fmt.Errorf("%w: %s is not what %s signed", ErrTampered, name, d.Name(pub))
		}
		if doc, err = tufrepo.AddSignature(doc, pub, s.Signature); err != nil {
			return nil, nil, fmt.Errorf("%w: signature of %s: %w", ErrTampered, d.Name(pub), err)
		}
		for i := range groups {
			if findKey(groups[i:i+1], s.KeyID) != nil {
				groups[i].Signed = append(groups[i].Signed, pub)
			}
		}
	}
	return doc, groups, nil
}

func (d *Dir) signatures(name string) ([]signature, error) {
	entries, err := os.ReadDir(d.join("signatures", name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read signatures: %w", err)
	}
	if len(entries) > maxSignatures {
		return nil, fmt.Errorf("%w: %d signatures of %s", ErrInvalid, len(entries), name)
	}
	var out []signature
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp-") {
			continue
		}
		b, err := d.read("signatures", name, e.Name())
		if err != nil {
			return nil, fmt.Errorf("cannot read signature: %w", err)
		}
		s, err := decodeSignature(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join("signatures", name, e.Name()), err)
		}
		if s.Document != name || s.KeyID+".json" != e.Name() {
			return nil, fmt.Errorf("%w: %s is a signature of key %.64q over %.40q", ErrInvalid, filepath.Join("signatures", name, e.Name()), s.KeyID, s.Document)
		}
		out = append(out, s)
	}
	return out, nil
}

func (d *Dir) dropSignatures(name string) (int, error) {
	entries, err := os.ReadDir(d.join("signatures", name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read signatures: %w", err)
	}
	if err := os.RemoveAll(d.join("signatures", name)); err != nil {
		return 0, fmt.Errorf("cannot drop old signatures: %w", err)
	}
	return len(entries), nil
}

// both loads pending and current; ErrNothing if nothing is pending.
func (d *Dir) both() (pending, current state, err error) {
	if pending, err = d.load("pending"); err != nil {
		return state{}, state{}, err
	}
	if len(pending.docs) == 0 {
		return state{}, state{}, ErrNothing
	}
	current, err = d.load("current")
	return pending, current, err
}

// check holds what must be true before anybody signs: versions follow, files are what the targets name.
func (s state) check(current state) error {
	for name := range s.docs {
		got, err := s.version(name)
		if err != nil {
			return err
		}
		have, err := current.version(name)
		if err != nil {
			return err
		}
		if got == have && samePayload(s.docs[name], current.docs[name]) {
			continue // an apply that was cut off after the server had taken it
		}
		if got != have+1 {
			return fmt.Errorf("%w: %s has version %d, version %d is next", ErrInvalid, name, got, have+1)
		}
	}
	if newest(ImageRoot, s, current) == nil {
		return fmt.Errorf("%w: there is no %s", ErrInvalid, ImageRoot)
	}
	if s.docs[Targets] == nil {
		if len(s.files) > 0 {
			return fmt.Errorf("%w: pending/files without pending/%s", ErrInvalid, Targets)
		}
		return nil
	}
	_, err := s.targets()
	return err
}

func samePayload(a, b []byte) bool {
	x, errX := tufrepo.PayloadBytes(a)
	y, errY := tufrepo.PayloadBytes(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// verifyAll runs the verifiers of the devices over the roots. The signatures of the targets were counted one by one.
func verifyAll(a Assembled, current state, now time.Time) error {
	for name, doc := range a.Docs {
		h, err := tufrepo.HeaderOf(doc)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
		}
		if !h.Expires.After(now) {
			return fmt.Errorf("%w: %s expired at %s; build it again", ErrInvalid, name, h.Expires.Format(time.RFC3339))
		}
	}
	for _, name := range []string{ImageRoot, DirectorRoot} {
		doc := a.Docs[name]
		if doc == nil {
			continue
		}
		first := current.docs[name]
		if first == nil {
			first = doc
		}
		image, err := tufrepo.NewImage(first, now)
		if err == nil {
			err = image.UpdateRoot(doc)
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
		}
	}
	return nil
}

// Applied moves the pending documents to current, with their signatures attached. Doing it again does nothing.
func (d *Dir) Applied(a Assembled) error {
	if a.Docs[Targets] != nil {
		if err := d.setFiles("current", a.Files); err != nil {
			return err
		}
	}
	for _, name := range documents {
		if a.Docs[name] == nil {
			continue
		}
		if err := d.write("current/"+name, a.Docs[name]); err != nil {
			return err
		}
	}
	for _, name := range []string{"pending", "signatures"} {
		if err := os.RemoveAll(d.join(name)); err != nil {
			return fmt.Errorf("cannot remove %s: %w", name, err)
		}
	}
	return nil
}

// CurrentFiles returns the offline files that were applied.
func (d *Dir) CurrentFiles() (map[string][]byte, error) {
	s, err := d.load("current")
	return s.files, err
}
