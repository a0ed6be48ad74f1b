package tufrepo

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// RootSpec says what a root document holds. Keys and Threshold have exactly the four top-level roles.
type RootSpec struct {
	Version   int64
	Expires   time.Time
	Keys      map[string][]crypto.PublicKey
	Threshold map[string]int
}

// Delegation says who signs for a product.
type Delegation struct {
	Keys      []crypto.PublicKey
	Threshold int
}

// TargetsSpec says what the top-level targets document of the Image repository holds: files of the offline directories
// and one delegation per product.
type TargetsSpec struct {
	Version  int64
	Expires  time.Time
	Files    map[string]File
	Products map[string]Delegation
}

type roleJSON struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

type rootJSON struct {
	headerJSON         `json:",inline"`
	ConsistentSnapshot bool                `json:"consistent_snapshot"`
	Keys               map[string]keyJSON  `json:"keys"`
	Roles              map[string]roleJSON `json:"roles"`
}

type delegatedJSON struct {
	KeyIDs      []string `json:"keyids"`
	Name        string   `json:"name"`
	Paths       []string `json:"paths"`
	Terminating bool     `json:"terminating"`
	Threshold   int      `json:"threshold"`
}

type delegationsJSON struct {
	Keys  map[string]keyJSON `json:"keys"`
	Roles []delegatedJSON    `json:"roles"`
}

type targetsJSON struct {
	headerJSON  `json:",inline"`
	Delegations *delegationsJSON    `json:"delegations,omitempty"`
	Targets     map[string]fileJSON `json:"targets"`
}

// RootPayload encodes an unsigned root document for the ceremony. The same spec gives the same bytes.
func RootPayload(spec RootSpec) ([]byte, error) {
	h, err := newHeader(RoleRoot, spec.Version, spec.Expires)
	if err != nil {
		return nil, err
	}
	if len(spec.Keys) != 4 || len(spec.Threshold) != 4 {
		return nil, fmt.Errorf("%w: a root has keys and thresholds for exactly four roles", ErrSpec)
	}
	signed := rootJSON{headerJSON: h, ConsistentSnapshot: true, Keys: map[string]keyJSON{}, Roles: map[string]roleJSON{}}
	for _, role := range []string{RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp} {
		ids, err := encodeKeys(role, spec.Keys[role], spec.Threshold[role], signed.Keys)
		if err != nil {
			return nil, err
		}
		signed.Roles[role] = roleJSON{KeyIDs: ids, Threshold: spec.Threshold[role]}
	}
	return encodeUnsigned(signed, MaxRootBytes)
}

// TargetsPayload encodes an unsigned top-level targets document for the ceremony. The same spec gives the same bytes.
func TargetsPayload(spec TargetsSpec) ([]byte, error) {
	h, err := newHeader(RoleTargets, spec.Version, spec.Expires)
	if err != nil {
		return nil, err
	}
	files, err := encodeFiles(spec.Files, offlinePath)
	if err != nil {
		return nil, err
	}
	if len(spec.Products) > MaxProducts {
		return nil, fmt.Errorf("%w: %d products, at most %d", ErrTooLarge, len(spec.Products), MaxProducts)
	}
	delegations := &delegationsJSON{Keys: map[string]keyJSON{}, Roles: []delegatedJSON{}}
	for product, d := range spec.Products {
		if err := ValidProduct(product); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSpec, err)
		}
		ids, err := encodeKeys(product, d.Keys, d.Threshold, delegations.Keys)
		if err != nil {
			return nil, err
		}
		delegations.Roles = append(delegations.Roles, delegatedJSON{
			KeyIDs: ids, Name: product, Paths: []string{productGlob(product)}, Terminating: true, Threshold: d.Threshold,
		})
	}
	slices.SortFunc(delegations.Roles, func(a, b delegatedJSON) int { return strings.Compare(a.Name, b.Name) })
	return encodeUnsigned(targetsJSON{headerJSON: h, Delegations: delegations, Targets: files}, MaxTargetsBytes)
}

func productGlob(product string) string { return product + "/*/*" }

func encodeUnsigned(signed any, limit int) ([]byte, error) {
	raw, err := encodeSigned(signed)
	if err != nil {
		return nil, err
	}
	if _, err := canonical(raw); err != nil {
		return nil, err
	}
	doc, err := encodeEnvelope(envelopeJSON{Signed: raw})
	if err != nil {
		return nil, err
	}
	if len(doc) > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(doc), limit)
	}
	return doc, nil
}

// encodeKeys adds the keys of a role to all and returns their sorted ids.
func encodeKeys(role string, pubs []crypto.PublicKey, threshold int, all map[string]keyJSON) ([]string, error) {
	if threshold < 1 || threshold > len(pubs) || len(pubs) > MaxKeys {
		return nil, fmt.Errorf("%w: role %s has threshold %d and %d keys", ErrSpec, role, threshold, len(pubs))
	}
	ids := make([]string, 0, len(pubs))
	for _, pub := range pubs {
		id, k, err := encodeKey(pub)
		if err != nil {
			return nil, fmt.Errorf("role %s: %w", role, err)
		}
		if slices.Contains(ids, id) {
			return nil, fmt.Errorf("%w: role %s names key %s twice", ErrSpec, role, id)
		}
		ids = append(ids, id)
		all[id] = k
	}
	slices.Sort(ids)
	return ids, nil
}

// ParseRoot reads a root document, signed or not, into its spec. It checks form, not signatures.
func ParseRoot(doc []byte) (RootSpec, error) {
	md, err := parse[metadata.RootType](doc, MaxRootBytes)
	if err != nil {
		return RootSpec{}, err
	}
	spec := RootSpec{
		Version: md.Signed.Version, Expires: md.Signed.Expires,
		Keys: map[string][]crypto.PublicKey{}, Threshold: map[string]int{},
	}
	for _, name := range topLevel {
		role := md.Signed.Roles[name]
		spec.Keys[name], err = publicKeys(role.KeyIDs, md.Signed.Keys)
		if err != nil {
			return RootSpec{}, err
		}
		spec.Threshold[name] = role.Threshold
	}
	return spec, nil
}

// ParseTargets reads a top-level targets document, signed or not, into its spec. It checks form, not signatures.
func ParseTargets(doc []byte) (TargetsSpec, error) {
	md, err := parse[metadata.TargetsType](doc, MaxTargetsBytes)
	if err != nil {
		return TargetsSpec{}, err
	}
	if err := checkDelegations(md.Signed.Delegations); err != nil {
		return TargetsSpec{}, err
	}
	spec := TargetsSpec{
		Version: md.Signed.Version, Expires: md.Signed.Expires,
		Files: map[string]File{}, Products: map[string]Delegation{},
	}
	for path, f := range md.Signed.Targets {
		spec.Files[path] = fileOf(f)
	}
	if md.Signed.Delegations == nil {
		return spec, nil
	}
	for _, role := range md.Signed.Delegations.Roles {
		keys, err := publicKeys(role.KeyIDs, md.Signed.Delegations.Keys)
		if err != nil {
			return TargetsSpec{}, err
		}
		spec.Products[role.Name] = Delegation{Keys: keys, Threshold: role.Threshold}
	}
	return spec, nil
}

func publicKeys(ids []string, keys map[string]*metadata.Key) ([]crypto.PublicKey, error) {
	var out []crypto.PublicKey
	for _, id := range ids {
		pub, err := keys[id].ToPublicKey()
		if err != nil {
			return nil, fmt.Errorf("%w: key %s: %v", ErrMalformed, id, err)
		}
		out = append(out, pub)
	}
	return out, nil
}

// fileOf converts a target that checkFile has passed.
func fileOf(f *metadata.TargetFiles) File {
	out := File{Length: f.Length, SHA256: digest.SHA256(f.Hashes["sha256"])}
	if f.Custom != nil {
		out.Custom = jsontext.Value(*f.Custom).Clone()
	}
	return out
}
