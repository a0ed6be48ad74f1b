package ceremony

import (
	"crypto"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/keys"
)

// HolderKey is a holder's public key and the name that people see beside its fingerprint.
type HolderKey struct {
	Name   string
	Public crypto.PublicKey
}

// LoadHolder reads a holder's public key file; the name is the file's.
func LoadHolder(path string) (HolderKey, error) {
	pub, err := keys.LoadPublic(path, keys.Holder)
	if err != nil {
		return HolderKey{}, err
	}
	name := filepath.Base(path)
	for _, suffix := range []string{".pem", ".pub"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return HolderKey{Name: name, Public: pub}, nil
}

// Init builds the first payloads of both roots and of the targets.
func (d *Dir) Init(holders []HolderKey, threshold int, expires time.Time) error {
	pubs, err := d.name(holders)
	if err != nil {
		return err
	}
	if err := d.setRoots(1, pubs, threshold, expires); err != nil {
		return err
	}
	doc, err := tufrepo.TargetsPayload(tufrepo.TargetsSpec{Version: 1, Expires: expires})
	if err != nil {
		return fmt.Errorf("cannot build targets: %w", err)
	}
	if _, err := d.setPending(Targets, doc); err != nil {
		return err
	}
	return d.saveSettings()
}

func (d *Dir) name(holders []HolderKey) ([]crypto.PublicKey, error) {
	if d.Settings.Names == nil {
		d.Settings.Names = map[digest.SHA256]string{}
	}
	var pubs []crypto.PublicKey
	for _, h := range holders {
		fingerprint, err := keys.Fingerprint(h.Public)
		if err != nil {
			return nil, err
		}
		d.Settings.Names[fingerprint] = h.Name
		pubs = append(pubs, h.Public)
	}
	return pubs, nil
}

// setRoots builds both roots: the holders are root and, in the Image repository, targets; the server's keys are the rest.
func (d *Dir) setRoots(version int64, holders []crypto.PublicKey, threshold int, expires time.Time) error {
	if threshold < 1 || threshold > len(holders) {
		return fmt.Errorf("%w: threshold %d with %d holders", ErrInvalid, threshold, len(holders))
	}
	online := map[string]crypto.PublicKey{}
	for _, use := range []string{api.KeySnapshot, api.KeyTimestamp, api.KeyDirector} {
		pub, err := d.Settings.onlineKey(use)
		if err != nil {
			return err
		}
		for _, h := range holders {
			if sameKey(h, pub) {
				return fmt.Errorf("%w: a holder's key is the server's %s key", ErrInvalid, use)
			}
		}
		online[use] = pub
	}
	image := rootSpec(version, expires, threshold, map[string][]crypto.PublicKey{
		tufrepo.RoleRoot: holders, tufrepo.RoleTargets: holders,
		tufrepo.RoleSnapshot: {online[api.KeySnapshot]}, tufrepo.RoleTimestamp: {online[api.KeyTimestamp]},
	})
	image.Threshold[tufrepo.RoleTargets] = threshold
	director := []crypto.PublicKey{online[api.KeyDirector]}
	directorSpec := rootSpec(version, expires, threshold, map[string][]crypto.PublicKey{
		tufrepo.RoleRoot: holders, tufrepo.RoleTargets: director, tufrepo.RoleSnapshot: director, tufrepo.RoleTimestamp: director,
	})
	for name, spec := range map[string]tufrepo.RootSpec{ImageRoot: image, DirectorRoot: directorSpec} {
		doc, err := tufrepo.RootPayload(spec)
		if err != nil {
			return fmt.Errorf("cannot build %s: %w", name, err)
		}
		if _, err := d.setPending(name, doc); err != nil {
			return err
		}
	}
	return nil
}

func rootSpec(version int64, expires time.Time, threshold int, roles map[string][]crypto.PublicKey) tufrepo.RootSpec {
	return tufrepo.RootSpec{
		Version: version, Expires: expires, Keys: roles,
		Threshold: map[string]int{tufrepo.RoleRoot: threshold, tufrepo.RoleTargets: 1, tufrepo.RoleSnapshot: 1, tufrepo.RoleTimestamp: 1},
	}
}

// Rotation is a change of the holders, of the threshold (0: as it is) or of the server's keys (nil: as they are). An empty
// one renews the expiry.
type Rotation struct {
	Add       []HolderKey
	Remove    []crypto.PublicKey
	Threshold int
	Online    []api.OnlineKey
	Expires   time.Time
}

// Rotate builds the next version of both roots from the current ones, and of the targets, so that the new holders vouch
// for them. The new roots need the thresholds of the old and of the new holders.
func (d *Dir) Rotate(r Rotation) error {
	current, err := d.load("current")
	if err != nil {
		return err
	}
	if current.docs[ImageRoot] == nil {
		return fmt.Errorf("%w: no root was applied yet", ErrNothing)
	}
	spec, err := tufrepo.ParseRoot(current.docs[ImageRoot])
	if err != nil {
		return fmt.Errorf("cannot read current root: %w", err)
	}
	holders := spec.Keys[tufrepo.RoleRoot]
	for _, gone := range r.Remove {
		i := slices.IndexFunc(holders, func(k crypto.PublicKey) bool { return sameKey(k, gone) })
		if i < 0 {
			return fmt.Errorf("%w: the key to remove is no holder's", ErrForeign)
		}
		holders = slices.Delete(holders, i, i+1)
	}
	added, err := d.name(r.Add)
	if err != nil {
		return err
	}
	if r.Online != nil {
		d.Settings.Keys = r.Online
	}
	threshold := r.Threshold
	if threshold == 0 {
		threshold = spec.Threshold[tufrepo.RoleRoot]
	}
	if err := d.setRoots(spec.Version+1, append(holders, added...), threshold, r.Expires); err != nil {
		return err
	}
	if _, err := d.renewTargets(r.Expires, d.delegateAgain); err != nil {
		return err
	}
	return d.saveSettings()
}

// delegateAgain gives every product the server's product key of now.
func (d *Dir) delegateAgain(spec *tufrepo.TargetsSpec, _ map[string][]byte) error {
	for product := range spec.Products {
		if err := d.delegate(spec, product); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dir) delegate(spec *tufrepo.TargetsSpec, product string) error {
	pub, err := d.Settings.onlineKey(api.KeyProduct)
	if err != nil {
		return err
	}
	spec.Products[product] = tufrepo.Delegation{Keys: []crypto.PublicKey{pub}, Threshold: 1}
	return nil
}

func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
