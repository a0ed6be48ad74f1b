package repository

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Apply takes in what the holders signed: roots, offline targets and their files. It checks everything that a client
// would check and publishes it, or changes nothing. Applying what is current already changes nothing.
func (s *Service) Apply(ctx context.Context, actor string, c api.Ceremony) (api.CeremonyResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out api.CeremonyResult
	err := s.retry(ctx, func() (err error) {
		out, err = s.apply(ctx, actor, c)
		return err
	})
	return out, err
}

func (s *Service) apply(ctx context.Context, actor string, c api.Ceremony) (api.CeremonyResult, error) {
	d, err := s.begin(ctx)
	if err != nil {
		return api.CeremonyResult{}, err
	}
	before := d.repo
	change := store.Change{}
	a := application{s: s, d: d, change: &change}
	if err := a.directorRoots(ctx, c.DirectorRoots); err != nil {
		return api.CeremonyResult{}, err
	}
	if err := a.imageRoots(ctx, c.ImageRoots); err != nil {
		return api.CeremonyResult{}, err
	}
	if err := a.targets(ctx, c); err != nil {
		return api.CeremonyResult{}, err
	}
	result := api.CeremonyResult{ImageRoot: d.repo.ImageRoot, DirectorRoot: d.repo.DirectorRoot, Targets: d.repo.Targets, Products: sortedKeys(d.policies)}
	if d.repo.ImageRoot == before.ImageRoot && d.repo.DirectorRoot == before.DirectorRoot && d.repo.Targets == before.Targets {
		return result, nil
	}
	if d.repo.ImageRoot == 0 || d.repo.DirectorRoot == 0 || d.repo.Targets == 0 {
		return api.CeremonyResult{}, problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "the first ceremony needs an Image root, a Director root and targets")
	}
	if err := s.sign(d, &change); err != nil {
		return api.CeremonyResult{}, err
	}
	kind := audit.CeremonyApplied
	if before.ImageRoot == 0 {
		kind = audit.ServerInitialised
	}
	change.Events = append(change.Events, store.Event{At: s.now(), Type: kind, Actor: actor, Subject: store.RepoImage, Data: map[string]any{
		"image_root": d.repo.ImageRoot, "director_root": d.repo.DirectorRoot, "targets": d.repo.Targets, "products": result.Products,
	}})
	if err := s.check(ctx, d); err != nil {
		return api.CeremonyResult{}, invalid(err)
	}
	if err := s.publish(ctx, d, change); err != nil {
		return api.CeremonyResult{}, err
	}
	result.Changed = true
	return result, nil
}

// application is one ceremony being checked.
type application struct {
	s      *Service
	d      *draft
	change *store.Change
	image  *tufrepo.Image
}

// invalid turns what the verifier says about metadata into a refusal; a store that cannot be asked stays an error.
func invalid(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) || errors.Is(err, context.Canceled) {
		return err
	}
	return problem.New(http.StatusUnprocessableEntity, tufrepo.ReasonOf(err), "%v", err)
}

func (a *application) directorRoots(ctx context.Context, roots [][]byte) error {
	current, err := a.s.roots(ctx, DirectorPrefix, a.d.repo.DirectorRoot)
	if err != nil {
		return err
	}
	roots = unknown(roots, current)
	if len(roots) == 0 {
		return nil
	}
	all := append(current, roots...)
	if err := inOrder(all); err != nil {
		return err
	}
	director, err := tufrepo.NewDirector(all[0], "ceremony", a.s.now())
	if err != nil {
		return invalid(err)
	}
	if err := director.UpdateRoot(all[1:]...); err != nil {
		return invalid(err)
	}
	spec, err := tufrepo.ParseRoot(all[len(all)-1])
	if err != nil {
		return invalid(err)
	}
	if !spec.Expires.After(a.s.now()) { // devices would refuse everything that the director says
		return problem.New(http.StatusUnprocessableEntity, reason.MetadataExpired, "the Director root expired at %s", spec.Expires.UTC().Format(time.RFC3339))
	}
	for _, role := range []string{tufrepo.RoleTargets, tufrepo.RoleSnapshot, tufrepo.RoleTimestamp} {
		if err := onlyKey(spec, role, a.s.keys.Director, "director"); err != nil {
			return err
		}
	}
	for i, r := range roots { // not among the draft's objects: those are files of the Image repository
		name := DirectorPrefix + tufrepo.FileName(a.d.repo.DirectorRoot+int64(i)+1, tufrepo.RoleRoot)
		a.change.Writes = append(a.change.Writes, store.AddMetadata{Metadata: store.Metadata{Name: name, Bytes: r}})
	}
	a.d.repo.DirectorRoot = int64(len(all))
	return nil
}

func (a *application) imageRoots(ctx context.Context, roots [][]byte) error {
	current, err := a.s.roots(ctx, tufrepo.StorePrefix, a.d.repo.ImageRoot)
	if err != nil {
		return err
	}
	roots = unknown(roots, current)
	all := append(current, roots...)
	if len(all) == 0 {
		return nil
	}
	if err := inOrder(all); err != nil {
		return err
	}
	if a.image, err = tufrepo.NewImage(all[0], a.s.now()); err != nil {
		return invalid(err)
	}
	if err := a.image.UpdateRoot(all[1:]...); err != nil {
		return invalid(err)
	}
	if len(roots) == 0 {
		return nil
	}
	spec, err := tufrepo.ParseRoot(all[len(all)-1])
	if err != nil {
		return invalid(err)
	}
	if err := onlyKey(spec, tufrepo.RoleSnapshot, a.s.keys.Snapshot, "snapshot"); err != nil {
		return err
	}
	if err := onlyKey(spec, tufrepo.RoleTimestamp, a.s.keys.Timestamp, "timestamp"); err != nil {
		return err
	}
	for i, r := range roots {
		a.d.objects = append(a.d.objects, tufrepo.Object{Name: tufrepo.FileName(a.d.repo.ImageRoot+int64(i)+1, tufrepo.RoleRoot), Data: r})
	}
	a.d.repo.ImageRoot = int64(len(all))
	return nil
}

// inOrder checks that root n has version n: clients ask for roots by number.
func inOrder(roots [][]byte) error {
	for i, doc := range roots {
		header, err := tufrepo.HeaderOf(doc)
		if err != nil {
			return invalid(err)
		}
		if header.Version != int64(i)+1 {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "root version %d stands where version %d is expected; send the roots that are missing, in order", header.Version, i+1)
		}
	}
	return nil
}

// unknown drops roots that are current already.
func unknown(roots, current [][]byte) [][]byte {
	var out [][]byte
	for _, r := range roots {
		known := false
		for _, c := range current {
			known = known || bytes.Equal(r, c)
		}
		if !known {
			out = append(out, r)
		}
	}
	return out
}

// onlyKey checks that the root gives the role to this server's key and to nobody else.
func onlyKey(spec tufrepo.RootSpec, role string, key crypto.Signer, use string) error {
	want, err := tufrepo.KeyID(key.Public())
	if err != nil {
		return fmt.Errorf("cannot name the online key: %w", err)
	}
	for _, k := range spec.Keys[role] {
		if id, err := tufrepo.KeyID(k); err == nil && id == want && len(spec.Keys[role]) == 1 {
			return nil
		}
	}
	return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "the root gives role %q to another key than this server's online %s key: start again with 'cordon-sign root init'", role, use)
}

// targets checks the offline targets with all their files, and gives every new product an empty role.
func (a *application) targets(ctx context.Context, c api.Ceremony) error {
	if len(c.Targets) == 0 {
		return nil
	}
	header, err := tufrepo.HeaderOf(c.Targets)
	if err != nil {
		return invalid(err)
	}
	if header.Version <= a.d.repo.Targets {
		return a.sameTargets(ctx, header.Version, c.Targets)
	}
	if a.image == nil {
		return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "targets need an Image root")
	}
	spec, err := tufrepo.ParseTargets(c.Targets)
	if err != nil {
		return invalid(err)
	}
	if err := a.files(ctx, spec, c.Files); err != nil {
		return err
	}
	a.d.objects = append(a.d.objects, tufrepo.Object{Name: tufrepo.FileName(header.Version, tufrepo.RoleTargets), Data: c.Targets})
	a.d.docs[tufrepo.RoleTargets] = tufrepo.DocOf(header.Version, c.Targets)
	a.d.repo.Targets = header.Version
	return a.products(ctx, spec)
}

func (a *application) sameTargets(ctx context.Context, version int64, doc []byte) error {
	current, err := a.s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.FileName(version, tufrepo.RoleTargets))
	if errors.Is(err, store.ErrNotFound) || err == nil && !bytes.Equal(current, doc) {
		return problem.New(http.StatusConflict, reason.MetadataExpired, "targets version %d or a newer one is current with other content; build the change on the current one", version)
	}
	if err != nil {
		return fmt.Errorf("cannot read the current targets: %w", err)
	}
	return nil
}

// files checks that every offline target is there with its bytes, and that each can be used.
func (a *application) files(ctx context.Context, spec tufrepo.TargetsSpec, sent map[string][]byte) error {
	read := map[string][]byte{}
	for _, path := range sortedKeys(spec.Files) {
		file := spec.Files[path]
		data, ok := sent[path]
		if !ok {
			stored, err := a.s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.TargetFileName(path, file.SHA256))
			if errors.Is(err, store.ErrNotFound) {
				return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "the file %s was not sent", path)
			}
			if err != nil {
				return fmt.Errorf("cannot read %s: %w", path, err)
			}
			data = stored
		}
		if int64(len(data)) != file.Length || digest.Of(data) != file.SHA256 {
			return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "the file %s is not the one that was signed", path)
		}
		if len(data) > artifacts.MaxNamedBytes { // no store would take it, and once committed it could not be left out again
			return problem.New(http.StatusUnprocessableEntity, reason.RequestTooLarge, "the file %s has %d bytes, at most %d are allowed", path, len(data), artifacts.MaxNamedBytes)
		}
		if err := usable(path, data); err != nil {
			return err
		}
		read[path] = data
		a.d.objects = append(a.d.objects, tufrepo.Object{Name: tufrepo.TargetFileName(path, file.SHA256), Data: data})
	}
	return a.policies(spec, read)
}

// policies checks that every delegated product has a policy that bundles can be held against.
func (a *application) policies(spec tufrepo.TargetsSpec, files map[string][]byte) error {
	a.d.policies = map[string]artifacts.Policy{}
	for _, product := range sortedKeys(spec.Products) {
		if err := tufrepo.ValidProduct(product); err != nil {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "%v", err)
		}
		data, ok := files[artifacts.PolicyPath(product)]
		if !ok {
			return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "product %s is delegated but has no policy", product)
		}
		policy, err := artifacts.DecodePolicy(data)
		if err != nil {
			return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "%s: %v", product, err)
		}
		if _, err := provenance.VerifyAll(nil, policy, provenance.Options{TrustedRootJSON: files[artifacts.TrustedRootPath]}); err != nil {
			return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "no bundle could be held against the policy of %s: %v", product, err)
		}
		a.d.policies[product] = policy
	}
	return nil
}

// usable parses the kinds of offline targets that the server acts on.
func usable(path string, data []byte) error {
	kind, product, profile := splitOffline(path)
	switch kind {
	case "policy":
		policy, err := artifacts.DecodePolicy(data)
		if err != nil {
			return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "%s: %v", path, err)
		}
		if policy.Product != product {
			return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "%s is the policy of product %q", path, policy.Product)
		}
	case "baseline":
		baseline, err := reference.DecodeBaseline(data)
		if err != nil {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "%s: %v", path, err)
		}
		if baseline.Profile != profile {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "%s is the baseline of profile %q", path, baseline.Profile)
		}
	case "witness":
		if path != tlog.PolicyPath {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "%s is nothing that this server reads; the log policy is %s", path, tlog.PolicyPath)
		}
		if _, err := tlog.DecodePolicy(data); err != nil {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "%s: %v", path, err)
		}
	}
	return nil
}

// products gives each newly delegated product a role. The role of a product that is gone stays in the snapshot.
func (a *application) products(ctx context.Context, spec tufrepo.TargetsSpec) error {
	want, err := tufrepo.KeyID(a.s.keys.Product.Public())
	if err != nil {
		return fmt.Errorf("cannot name the online key: %w", err)
	}
	for _, product := range sortedKeys(spec.Products) {
		delegation := spec.Products[product]
		if len(delegation.Keys) != 1 || delegation.Threshold != 1 {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "product %s must be delegated to this server's product key alone", product)
		}
		if id, err := tufrepo.KeyID(delegation.Keys[0]); err != nil || id != want {
			return problem.New(http.StatusUnprocessableEntity, reason.MetadataInvalid, "product %s is delegated to another key than this server's product key", product)
		}
		if err := a.product(ctx, product); err != nil {
			return err
		}
	}
	return nil
}

// product signs the role of a product that is new or back, or whose withdrawn images are others now.
func (a *application) product(ctx context.Context, product string) error {
	before := a.s.Catalog().Products[product]
	if before != nil && slices.Equal(before.Policy.Withdrawn, a.d.policies[product].Withdrawn) {
		return nil
	}
	rows, err := a.s.store.ListReleases(ctx, product)
	if err != nil {
		return fmt.Errorf("cannot list releases: %w", err)
	}
	return a.s.signProduct(ctx, a.d, product, rows)
}
