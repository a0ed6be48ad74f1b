package client

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/wire"
)

// trust is the verified metadata of both repositories.
type trust struct {
	store    store
	image    *tufrepo.Image
	director *tufrepo.Director
	offline  offlineFloor
}

// offlineFloor is the newest offline targets document that was verified. TUF's recovery from fast-forwarded versions
// forgets it when timestamp or snapshot keys are rotated (5.3.11); offline keys are not rotated then, and whoever controls
// the new online keys must not bring an offline policy back that was replaced.
type offlineFloor struct {
	version int64
	doc     []byte
}

// noteOffline raises the floor to what the image repository's verifier has accepted.
func (t *trust) noteOffline() {
	if v := t.image.State().Targets; v > t.offline.version {
		t.offline = offlineFloor{v, t.image.Cached().Targets}
	}
}

// checkOffline refuses targets below the floor, as long as the root still vouches for the document that made it.
func (t *trust) checkOffline() error {
	v := t.image.State().Targets
	if v == 0 || v >= t.offline.version {
		t.noteOffline()
		return nil
	}
	if _, err := tufrepo.VerifyTargets(t.image.Root(), t.offline.doc); err != nil {
		t.offline = offlineFloor{}
		t.noteOffline()
		return nil
	}
	return fmt.Errorf("%w: offline targets %d after %d", tufrepo.ErrRollback, v, t.offline.version)
}

// loadTrust starts from the roots of the trust bundle and takes from the state directory what verifies from there. The
// bundle's roots must be usable; everything cached may be missing or broken.
func loadTrust(s store, bundle wire.Trust, id identity.DeviceID, at time.Time) (*trust, error) {
	image, err := tufrepo.NewImage(bundle.ImageRoot, at)
	if err != nil {
		return nil, fmt.Errorf("cannot use the trust bundle's image root: %w", err)
	}
	director, err := tufrepo.NewDirector(bundle.DirectorRoot, id.String(), at)
	if err != nil {
		return nil, fmt.Errorf("cannot use the trust bundle's director root: %w", err)
	}
	t := &trust{store: s, image: image, director: director}
	t.cachedRoots(dirImage, func() int64 { return image.State().Root }, func(b []byte) error { return image.UpdateRoot(b) })
	t.cachedRoots(dirDirector, t.directorRoot, func(b []byte) error { return director.UpdateRoot(b) })
	cached := tufrepo.Cached{
		Timestamp: s.read(dirImage+"/timestamp.json", maxDoc),
		Snapshot:  s.read(dirImage+"/snapshot.json", maxDoc),
		Targets:   s.read(dirImage+"/targets.json", maxDoc),
		Products:  map[string][]byte{},
	}
	names, _ := filepath.Glob(filepath.Join(s.dir, dirImage, "product-*.json")) // the pattern is well formed
	for _, path := range names {
		name := filepath.Base(path)
		product := strings.TrimSuffix(strings.TrimPrefix(name, "product-"), ".json")
		if tufrepo.ValidProduct(product) == nil && len(cached.Products) < maxInstall {
			cached.Products[product] = s.read(dirImage+"/"+name, maxDoc)
		}
	}
	image.Restore(cached)
	if spec, err := tufrepo.VerifyTargets(image.Root(), cached.Targets); err == nil {
		t.offline = offlineFloor{spec.Version, cached.Targets}
	}
	director.Restore(tufrepo.DirectorDocs{
		Timestamp: s.read(dirDirector+"/timestamp.json", maxDoc),
		Snapshot:  s.read(dirDirector+"/snapshot.json", maxDoc),
		Targets:   s.read(dirDirector+"/targets.json", maxDoc),
	})
	return t, nil
}

func (t *trust) directorRoot() int64 {
	root, _ := t.director.Versions()
	return root
}

// cachedRoots walks up from the trusted root as long as each next root is there and verifies.
func (t *trust) cachedRoots(dir string, version func() int64, update func([]byte) error) {
	for range maxRoots {
		b := t.store.read(dir+"/"+tufrepo.FileName(version()+1, tufrepo.RoleRoot), wire.MaxRootBytes)
		if b == nil || update(b) != nil {
			return
		}
	}
}

// addRoots verifies newer roots and keeps those that were accepted.
func (t *trust) addRoots(answer wire.PollAnswer) error {
	if len(answer.Roots) > wire.MaxRoots || len(answer.DirectorRoots) > wire.MaxRoots {
		return fmt.Errorf("%w: more than %d roots in one answer", tufrepo.ErrTooLarge, wire.MaxRoots)
	}
	for _, doc := range answer.Roots {
		if err := t.image.UpdateRoot(doc); err != nil {
			return fmt.Errorf("image root: %w", err)
		}
		if err := t.store.write(dirImage+"/"+tufrepo.FileName(t.image.State().Root, tufrepo.RoleRoot), doc); err != nil {
			return err
		}
	}
	for _, doc := range answer.DirectorRoots {
		if err := t.director.UpdateRoot(doc); err != nil {
			return fmt.Errorf("director root: %w", err)
		}
		if err := t.store.write(dirDirector+"/"+tufrepo.FileName(t.directorRoot(), tufrepo.RoleRoot), doc); err != nil {
			return err
		}
	}
	return nil
}

// setTime changes the time that expiry is judged against.
func (t *trust) setTime(at time.Time) {
	t.image.SetTime(at)
	t.director.SetTime(at)
}

// keepImage writes the verified documents of the Image repository.
func (t *trust) keepImage() error {
	cached := t.image.Cached()
	files := []document{{"targets.json", cached.Targets}, {"snapshot.json", cached.Snapshot}, {"timestamp.json", cached.Timestamp}}
	for _, product := range slices.Sorted(maps.Keys(cached.Products)) {
		files = slices.Insert(files, 0, document{"product-" + product + ".json", cached.Products[product]})
	}
	return t.keep(dirImage, files)
}

func (t *trust) keepDirector() error {
	docs := t.director.Cached()
	return t.keep(dirDirector, []document{{"targets.json", docs.Targets}, {"snapshot.json", docs.Snapshot}, {"timestamp.json", docs.Timestamp}})
}

type document struct {
	name  string
	bytes []byte
}

// keep writes the documents in their order: the timestamp comes last, so that it never stands beside documents that are
// older than what it leads to.
func (t *trust) keep(dir string, files []document) error {
	for _, f := range files {
		if f.bytes == nil || string(t.store.read(dir+"/"+f.name, maxDoc)) == string(f.bytes) {
			continue
		}
		if err := t.store.write(dir+"/"+f.name, f.bytes); err != nil {
			return err
		}
	}
	return nil
}

// timestampEnd is when the newest verified image timestamp expires; the zero time without one.
func (t *trust) timestampEnd() time.Time {
	h, err := tufrepo.HeaderOf(t.image.Cached().Timestamp)
	if err != nil {
		return time.Time{}
	}
	return h.Expires
}

func (t *trust) versions() Versions {
	s := t.image.State()
	v := Versions{ImageRoot: s.Root, Timestamp: s.Timestamp, Snapshot: s.Snapshot, Targets: s.Targets}
	v.DirectorRoot, v.Director = t.director.Versions()
	if !s.Beacon.IsZero() {
		v.Beacon = s.Beacon.String()
	}
	return v
}
