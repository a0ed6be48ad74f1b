// Package director writes the Director repository's metadata for one device: what it may install now.
//
// It chooses nothing itself (rollout does) and signs only when something changed. Trusted: with the online director key
// an attacker chooses among releases that publishers signed, at or above the device's counter.
package director

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/rollout"
	"github.com/cordon-ota/cordon/server/store"
)

// Service signs director metadata.
type Service struct {
	key   crypto.Signer
	life  time.Duration
	above int64
}

// New takes the online director key and how long metadata lives.
func New(key crypto.Signer, life time.Duration) *Service { return &Service{key: key, life: life} }

// Above returns a Service whose versions all lie above that one: a server before a restore may have issued any up to it.
func (s *Service) Above(version int64) *Service {
	out := *s
	out.above = version
	return &out
}

// Next returns the device's director documents for the release (nil: nothing to install). It signs only if the content
// changed, a quarter of the life is left, the stored version is from before a restore, or the device is ahead of it;
// otherwise it returns prev and false. accepted is the director version that the authenticated device last verified: the
// new version is above both.
func (s *Service) Next(d fleet.Device, release *artifacts.Release, prev *store.Director, accepted int64, now time.Time) (store.Director, bool, error) {
	targets := targetsOf(d, release)
	content, err := s.contentOf(d, targets)
	if err != nil {
		return store.Director{}, false, err
	}
	if prev != nil && prev.Content == content && prev.Number >= accepted && prev.Number > s.above && prev.Expires.Sub(now) > s.life/4 {
		return *prev, false, nil
	}
	out := store.Director{Device: d.ID, Content: content, Expires: now.Add(s.life).Truncate(time.Second)}
	if prev != nil {
		out.Number = prev.Number
	}
	out.Number = max(out.Number, accepted, s.above) + 1
	docs, err := tufrepo.SignDirector(tufrepo.DirectorSpec{
		Device: d.ID, CounterBase: d.CounterBase, Version: out.Number, Expires: out.Expires, Targets: targets,
	}, s.key)
	if err != nil {
		return store.Director{}, false, fmt.Errorf("cannot sign director metadata: %w", err)
	}
	out.Timestamp, out.Snapshot, out.Targets = docs.Timestamp, docs.Snapshot, docs.Targets
	return out, true, nil
}

func targetsOf(d fleet.Device, release *artifacts.Release) map[string]tufrepo.DirectorFile {
	targets := map[string]tufrepo.DirectorFile{}
	if release == nil {
		return targets
	}
	for _, c := range rollout.Components(d, *release) {
		file := tufrepo.DirectorFile{Length: c.Length, SHA256: c.SHA256}
		if d.Offered == artifacts.ReleaseName(release.Product, release.Version) {
			file.Deadline = d.Deadline.Unix()
		}
		targets[artifacts.TargetPath(release.Product, release.Version, c.Name)] = file
	}
	return targets
}

// contentOf is equal for two sets that need not be signed again. It names the key: after a rotation everything is signed
// anew, since devices drop what the old key signed.
func (s *Service) contentOf(d fleet.Device, targets map[string]tufrepo.DirectorFile) (digest.SHA256, error) {
	public, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("cannot name the director key: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%d\n", digest.Of(public), d.ID, d.CounterBase)
	paths := make([]string, 0, len(targets))
	for p := range targets {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		fmt.Fprintf(&b, "%s %s %d %d\n", p, targets[p].SHA256, targets[p].Length, targets[p].Deadline)
	}
	return digest.Of([]byte(b.String())), nil
}
