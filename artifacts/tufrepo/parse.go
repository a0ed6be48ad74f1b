package tufrepo

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/attestation/digest"
)

var topLevel = [...]string{RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp}

// parse reads a document of role type T and checks everything that needs no key: size, duplicate members, header, and
// the profile of cordon's repositories. It runs under recover because go-tuf panics on null members.
func parse[T metadata.Roles](doc []byte, limit int) (md *metadata.Metadata[T], err error) {
	defer func() {
		if r := recover(); r != nil {
			md, err = nil, fmt.Errorf("%w: %v", ErrMalformed, r)
		}
	}()
	if len(doc) > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(doc), limit)
	}
	if _, err := openEnvelope(doc); err != nil {
		return nil, err
	}
	md, err = new(metadata.Metadata[T]).FromBytes(doc)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if err := checkSigned(any(md)); err != nil {
		return nil, err
	}
	return md, nil
}

// verify checks that delegator's keys for role have signed md.
func verify[D, T metadata.Roles](delegator *metadata.Metadata[D], role string, md *metadata.Metadata[T]) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrMalformed, role, r)
		}
	}()
	if err := delegator.VerifyDelegate(role, md); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrSignature, role, err)
	}
	return nil
}

func checkSigned(md any) error {
	switch m := md.(type) {
	case *metadata.Metadata[metadata.RootType]:
		if err := checkHeader(RoleRoot, m.Signed.Type, m.Signed.SpecVersion, m.Signed.Version); err != nil {
			return err
		}
		return checkRoot(&m.Signed)
	case *metadata.Metadata[metadata.TimestampType]:
		if err := checkHeader(RoleTimestamp, m.Signed.Type, m.Signed.SpecVersion, m.Signed.Version); err != nil {
			return err
		}
		if len(m.Signed.Meta) != 1 || m.Signed.Meta["snapshot.json"] == nil {
			return fmt.Errorf("%w: timestamp does not name exactly the snapshot", ErrMalformed)
		}
		return checkMeta(m.Signed.Meta)
	case *metadata.Metadata[metadata.SnapshotType]:
		if err := checkHeader(RoleSnapshot, m.Signed.Type, m.Signed.SpecVersion, m.Signed.Version); err != nil {
			return err
		}
		if m.Signed.Meta["targets.json"] == nil {
			return fmt.Errorf("%w: snapshot does not name targets", ErrMalformed)
		}
		return checkMeta(m.Signed.Meta)
	case *metadata.Metadata[metadata.TargetsType]:
		if err := checkHeader(RoleTargets, m.Signed.Type, m.Signed.SpecVersion, m.Signed.Version); err != nil {
			return err
		}
		return checkFiles(m.Signed.Targets)
	}
	return fmt.Errorf("%w: unknown role type", ErrMalformed)
}

func checkHeader(want, got, spec string, version int64) error {
	if got != want {
		return fmt.Errorf("%w: type %q, want %q", ErrMalformed, got, want)
	}
	if !strings.HasPrefix(spec, "1.") {
		return fmt.Errorf("%w: specification version %q", ErrMalformed, spec)
	}
	if version < 1 {
		return fmt.Errorf("%w: version %d", ErrMalformed, version)
	}
	return nil
}

func checkRoot(root *metadata.RootType) error {
	if !root.ConsistentSnapshot {
		return fmt.Errorf("%w: root without consistent snapshots", ErrMalformed)
	}
	if err := checkKeys(root.Keys, len(topLevel)*MaxKeys); err != nil {
		return err
	}
	for _, name := range topLevel {
		role := root.Roles[name]
		if role == nil {
			return fmt.Errorf("%w: root without role %s", ErrMalformed, name)
		}
		if err := checkRole(name, role.KeyIDs, role.Threshold, root.Keys); err != nil {
			return err
		}
	}
	return nil
}

func checkRole(name string, ids []string, threshold int, keys map[string]*metadata.Key) error {
	if len(ids) > MaxKeys || threshold < 1 || threshold > len(ids) {
		return fmt.Errorf("%w: role %s has threshold %d and %d keys", ErrMalformed, name, threshold, len(ids))
	}
	for i, id := range ids {
		if keys[id] == nil {
			return fmt.Errorf("%w: role %s names unknown key %q", ErrMalformed, name, id)
		}
		if slices.Contains(ids[:i], id) {
			return fmt.Errorf("%w: role %s names key %s twice", ErrMalformed, name, id)
		}
	}
	return nil
}

// checkKeys refuses keys outside the allow-list, and ids that are not the key's own: an id chosen freely could make two
// documents mean different keys.
func checkKeys(keys map[string]*metadata.Key, limit int) error {
	if len(keys) > limit {
		return fmt.Errorf("%w: %d keys", ErrTooLarge, len(keys))
	}
	ids := make(map[digest.SHA256]string, len(keys)) // by public key
	for id, k := range keys {
		if k == nil {
			return fmt.Errorf("%w: key %q is null", ErrMalformed, id)
		}
		pub, err := k.ToPublicKey()
		if err != nil {
			return fmt.Errorf("%w: key %s: %v", ErrMalformed, id, err)
		}
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return fmt.Errorf("%w: key %s: %v", ErrMalformed, id, err)
		}
		if twin, twice := ids[digest.Of(der)]; twice { // its holder would count twice towards a threshold
			return fmt.Errorf("%w: keys %s and %s are one key", ErrMalformed, twin, id)
		}
		ids[digest.Of(der)] = id
		if err := checkScheme(k.Scheme, pub); err != nil {
			return err
		}
		own, err := k.ID()
		if err != nil || own != id {
			return fmt.Errorf("%w: key id %q is not the id of its key", ErrMalformed, id)
		}
	}
	return nil
}

func checkScheme(scheme string, pub crypto.PublicKey) error {
	if scheme != metadata.KeySchemeEd25519 && scheme != metadata.KeySchemeECDSA_SHA2_P256 {
		return fmt.Errorf("%w: key scheme %q", ErrMalformed, scheme)
	}
	if err := checkPublic(pub); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return nil
}

func checkMeta(meta map[string]*metadata.MetaFiles) error {
	if len(meta) > MaxProducts+1 {
		return fmt.Errorf("%w: %d documents", ErrTooLarge, len(meta))
	}
	for name, m := range meta {
		role, ok := strings.CutSuffix(name, ".json")
		if !ok || role != RoleTargets && role != RoleSnapshot && ValidProduct(role) != nil {
			return fmt.Errorf("%w: document name %q", ErrMalformed, name)
		}
		if m == nil || m.Version < 1 || m.Length < 1 {
			return fmt.Errorf("%w: %s without version or length", ErrMalformed, name)
		}
		if err := checkHashes(name, m.Hashes); err != nil {
			return err
		}
	}
	return nil
}

func checkFiles(files map[string]*metadata.TargetFiles) error {
	if len(files) > MaxTargets {
		return fmt.Errorf("%w: %d targets, at most %d", ErrTooLarge, len(files), MaxTargets)
	}
	for path, f := range files {
		if err := ValidPath(path); err != nil {
			return fmt.Errorf("%w: %v", ErrMalformed, err)
		}
		if f == nil || f.Length < 0 {
			return fmt.Errorf("%w: target %s without length", ErrMalformed, path)
		}
		if err := checkHashes(path, f.Hashes); err != nil {
			return err
		}
	}
	return nil
}

// checkHashes wants exactly SHA-256: with two algorithms, clients disagree about the file name.
func checkHashes(name string, h metadata.Hashes) error {
	if len(h) != 1 || len(h["sha256"]) != digest.Size {
		return fmt.Errorf("%w: %s has not exactly one sha256 digest", ErrMalformed, name)
	}
	return nil
}

// checkDelegations holds the delegations of the targets role to one shape: a role per product, for exactly its paths.
func checkDelegations(d *metadata.Delegations) error {
	if d == nil {
		return nil
	}
	if d.SuccinctRoles != nil {
		return fmt.Errorf("%w: succinct roles", ErrDelegation)
	}
	if len(d.Roles) > MaxProducts {
		return fmt.Errorf("%w: %d delegations", ErrTooLarge, len(d.Roles))
	}
	if err := checkKeys(d.Keys, MaxProducts*2); err != nil {
		return err
	}
	seen := make(map[string]bool, len(d.Roles))
	for _, role := range d.Roles {
		if err := ValidProduct(role.Name); err != nil {
			return fmt.Errorf("%w: %v", ErrDelegation, err)
		}
		if seen[role.Name] {
			return fmt.Errorf("%w: role %s twice", ErrDelegation, role.Name)
		}
		seen[role.Name] = true
		if len(role.PathHashPrefixes) > 0 || len(role.Paths) != 1 || role.Paths[0] != productGlob(role.Name) {
			return fmt.Errorf("%w: role %s is not for exactly %s", ErrDelegation, role.Name, productGlob(role.Name))
		}
		if err := checkRole(role.Name, role.KeyIDs, role.Threshold, d.Keys); err != nil {
			return err
		}
	}
	return nil
}

// docOf converts an entry that checkMeta has passed.
func docOf(m *metadata.MetaFiles) Doc {
	return Doc{Version: m.Version, Length: m.Length, SHA256: digest.SHA256(m.Hashes["sha256"])}
}

// checkTime is the freeze check: metadata must expire after now (TUF 5.3.10, 5.4.4, 5.5.6, 5.6.5).
func checkTime(role string, now, expires time.Time) error {
	if !now.Before(expires) {
		return fmt.Errorf("%w: %s expired at %s", ErrExpired, role, expires.UTC().Format(time.RFC3339))
	}
	return nil
}
