package verify

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// state is what earlier steps proved and later ones rely on.
type state struct {
	image     *tufrepo.Image
	roots     [][]byte                           // the trust bundle's root and its accepted successors, newest last
	policies  map[digest.SHA256]signedPolicy     // by digest of the document
	baselines map[digest.SHA256][]signedBaseline // products on one platform may sign the same bytes
	logPolicy *tlog.Policy                       // of the current targets; nil: they name no log
	sigstore  [][]byte                           // Sigstore trusted roots, the current one first
	order     []digest.SHA256
	proven    map[string]provenRelease
	records   map[string]api.DeviceRecord
	aks       map[string][][]byte // by device: its attestation key and those before it
	beacons   map[digest.SHA256]error
	verdicts  map[int64]decided
	ids       map[digest.SHA256]int64 // appraisal id -> number
}

type signedPolicy struct {
	artifacts.Policy
	past        bool
	first, last int64 // the oldest and the newest offline targets of the report that name it
}

type signedBaseline struct {
	reference.Baseline
	product, profile string
	generation       uint64 // 0: the offline role signed it
}

// provenRelease is a release whose publishers, metadata and Reference Values verified.
type provenRelease struct {
	record    api.ReleaseRecord
	values    map[string]reference.Values // by component
	withdrawn bool
}

// metadata follows the chain from the trust bundle's root and takes what the offline roles signed.
func (v *verification) metadata() {
	v.begin(StepMetadata)
	v.policies, v.baselines = map[digest.SHA256]signedPolicy{}, map[digest.SHA256][]signedBaseline{}
	if !v.rootChain() {
		return
	}
	m := v.r.Image
	for _, part := range []struct {
		name string
		take func([]byte) error
		doc  []byte
	}{{"timestamp", v.image.Timestamp, m.Timestamp}, {"snapshot", v.image.Snapshot, m.Snapshot}, {"targets", v.image.Targets, m.Targets}} {
		v.count()
		if err := part.take(part.doc); err != nil {
			v.fail("%s of the Image repository: %v", part.name, err)
			return
		}
	}
	v.believe("offline targets %d as the newest: the server signs which ones are current; ask a holder for the number if it matters", v.image.State().Targets)
	for _, product := range slices.Sorted(maps.Keys(m.Products)) {
		v.count()
		if err := v.image.Product(product, m.Products[product]); err != nil {
			v.fail("product role %s: %v", product, err)
		}
	}
	v.offlineFiles()
	for i := len(m.Past) - 1; i >= 0; i-- { // the newest first, so that later decisions are tried first
		v.past(m.Past[i])
	}
	v.signedBaselines()
}

func (v *verification) rootChain() bool {
	var err error
	if v.image, err = tufrepo.NewImage(v.trust.ImageRoot, v.r.CreatedAt); err != nil {
		v.fail("the Image root of the trust bundle: %v", err)
		return false
	}
	v.count()
	v.roots = [][]byte{v.trust.ImageRoot}
	start := v.image.State().Root
	for _, doc := range v.r.Image.Roots {
		h, err := tufrepo.HeaderOf(doc)
		if err != nil {
			v.fail("a root of the report: %v", err)
			return false
		}
		v.count()
		switch {
		case h.Version < start:
			continue // the trust bundle begins later
		case h.Version == start:
			if !bytes.Equal(doc, v.trust.ImageRoot) {
				v.fail("root %d of the report is not the one of the trust bundle", start)
				return false
			}
			continue
		}
		if err := v.image.UpdateRoot(doc); err != nil {
			v.fail("root %d: %v", h.Version, err)
			return false
		}
		v.roots = append(v.roots, doc)
	}
	if got, want := int64(len(v.r.Image.Roots)), v.image.State().Root; got < want {
		v.fail("the trust bundle's root is version %d and the report was made with %d: use a trust bundle from before the report", want, got)
		return false
	}
	return true
}

func (v *verification) offlineFiles() {
	files := v.r.Image.Files
	for _, path := range slices.Sorted(maps.Keys(files)) {
		v.count()
		t, role, ok := v.image.Target(path)
		if !ok || role != tufrepo.RoleTargets {
			v.fail("%s is not a target that the offline role signed", path)
			continue
		}
		if data := files[path]; digest.Of(data) != t.SHA256 || int64(len(data)) != t.Length {
			v.fail("%s is not the file that the offline role signed", path)
			continue
		}
		if err := v.take(path, files[path], v.image.State().Targets, false); err != nil {
			v.fail("%s: %v", path, err)
		}
	}
	for _, path := range v.image.Paths(tufrepo.RoleTargets) {
		if _, ok := files[path]; !ok {
			v.fail("%s was signed by the offline role and is not in the report", path)
		}
	}
}

// take keeps a file that the offline role signed.
func (v *verification) take(path string, data []byte, version int64, past bool) error {
	sum := digest.Of(data)
	dir, rest, _ := strings.Cut(path, "/")
	rest = strings.TrimSuffix(rest, ".json")
	switch {
	case path == artifacts.TrustedRootPath:
		v.sigstore = append(v.sigstore, data)
	case path == tlog.PolicyPath:
		p, err := tlog.DecodePolicy(data)
		if err != nil {
			return err
		}
		if !past {
			v.logPolicy = &p
		}
	case dir == "policy":
		p, err := artifacts.DecodePolicy(data)
		if err != nil {
			return err
		}
		if p.Product != rest {
			return fmt.Errorf("it is a policy for product %q", p.Product)
		}
		if _, known := v.policies[sum]; !known {
			v.policies[sum] = signedPolicy{p, past, version, version}
			v.order = append(v.order, sum)
		}
	case dir == "baseline":
		b, err := reference.DecodeBaseline(data)
		if err != nil {
			return err
		}
		product, profile, _ := strings.Cut(rest, "/")
		v.baselines[sum] = append(v.baselines[sum], signedBaseline{Baseline: b, product: product, profile: profile})
	}
	return nil
}

// past takes an offline targets document that was replaced. Any root of the chain may have named its keys.
func (v *verification) past(p api.PastTargets) {
	v.count()
	var spec tufrepo.TargetsSpec
	err := tufrepo.ErrSignature
	for i := len(v.roots) - 1; i >= 0 && err != nil; i-- {
		spec, err = tufrepo.VerifyTargets(v.roots[i], p.Targets)
	}
	if err != nil {
		v.fail("a replaced targets document: %v", err)
		return
	}
	if current := v.image.State().Targets; spec.Version >= current {
		v.fail("targets %d is given as replaced, and %d is the current one", spec.Version, current)
		return
	}
	v.believe("offline targets %d, which were replaced: they were signed with keys of the root chain, and whether they were current when they were used is the server's word", spec.Version)
	for _, path := range slices.Sorted(maps.Keys(p.Files)) {
		f, ok := spec.Files[path]
		if data := p.Files[path]; !ok || digest.Of(data) != f.SHA256 || int64(len(data)) != f.Length {
			v.fail("%s is not the file that targets %d names", path, spec.Version)
			continue
		}
		if err := v.take(path, p.Files[path], spec.Version, true); err != nil {
			v.fail("%s of targets %d: %v", path, spec.Version, err)
		}
	}
	for _, f := range spec.Files { // also of policies that newer targets still name
		if known, ok := v.policies[f.SHA256]; ok {
			known.first, known.last = min(known.first, spec.Version), max(known.last, spec.Version)
			v.policies[f.SHA256] = known
		}
	}
}

// releases checks who built each release, that the signed metadata has it or a signed policy withdraws it, and its
// Reference Values.
func (v *verification) releases() {
	v.begin(StepReleases)
	v.proven = map[string]provenRelease{}
	for _, record := range v.r.Releases {
		v.count()
		name := artifacts.ReleaseName(record.Release.Product, record.Release.Version)
		if _, twice := v.proven[name]; twice {
			v.fail("%s is there twice", name)
			continue
		}
		if err := v.publishers(name, record); err != nil {
			v.fail("%s: %v", name, err)
			continue
		}
		gone := v.gone(record.Release)
		values, err := v.components(record, gone)
		if err != nil {
			v.fail("%s: %v", name, err)
			continue
		}
		if gone {
			v.believe("%s, which the offline role withdrew, was published before: the signed metadata has lost it, as it should, so when it had it is the server's word", name)
		}
		v.proven[name] = provenRelease{record, values, gone || v.withdrawnNow(record.Release)}
	}
}

// publishers finds a policy under which the release may have been published: the current one, or one that was replaced.
func (v *verification) publishers(name string, record api.ReleaseRecord) error {
	err := fmt.Errorf("there is no signed policy for product %q", record.Release.Product)
	first := true
	for _, sum := range v.order {
		policy := v.policies[sum]
		if policy.Product != record.Release.Product {
			continue
		}
		again := v.allowedBy(policy.Policy, record)
		if again == nil {
			if policy.past {
				v.believe("%s was published under a policy that has been replaced since", name)
			}
			return nil
		}
		if first {
			err, first = again, false // the current policy explains best
		}
	}
	return err
}

func (v *verification) allowedBy(policy artifacts.Policy, record api.ReleaseRecord) error {
	roots := v.sigstore
	if len(roots) == 0 {
		roots = [][]byte{nil}
	}
	var err error
	for _, root := range roots {
		if err = signedBy(policy, root, record); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	people := map[string]bool{}
	for _, a := range record.Approvals {
		if a.Person != record.CreatedBy {
			people[a.Person] = true
		}
	}
	if len(people) < policy.Approvals {
		return fmt.Errorf("%d people approved, the policy asks for %d besides the publisher", len(people), policy.Approvals)
	}
	return nil
}

func signedBy(policy artifacts.Policy, trustedRoot []byte, record api.ReleaseRecord) error {
	result, err := provenance.VerifyAll(record.Bundles, policy, provenance.Options{TrustedRootJSON: trustedRoot})
	if err != nil {
		return err
	}
	if len(result.Refusals) > 0 {
		return fmt.Errorf("%s", result.Refusals[0].Detail)
	}
	got, err := result.Statement.Encode()
	if err != nil {
		return err
	}
	claimed, err := artifacts.NewStatement(record.Release)
	if err != nil {
		return err
	}
	shown, err := claimed.Encode()
	if err != nil {
		return err
	}
	if !bytes.Equal(got, shown) {
		return fmt.Errorf("the report shows another release than the publishers signed")
	}
	return nil
}

// components holds the product role's targets, unless the release is gone from them, and the Reference Values against the
// statement.
func (v *verification) components(record api.ReleaseRecord, gone bool) (map[string]reference.Values, error) {
	statement, err := artifacts.NewStatement(record.Release)
	if err != nil {
		return nil, err
	}
	values := map[string]reference.Values{}
	for _, c := range record.Release.Components {
		if !gone {
			if err := v.listed(statement, c.Name); err != nil {
				return nil, fmt.Errorf("component %s %w", c.Name, err)
			}
		}
		if c.ReferenceValues.IsZero() {
			continue
		}
		doc := record.Reference[c.Name]
		if digest.Of(doc) != c.ReferenceValues || int64(len(doc)) != c.ReferenceLength {
			return nil, fmt.Errorf("the Reference Values of %s are not those that the publishers signed", c.Name)
		}
		if values[c.Name], err = reference.Decode(doc); err != nil {
			return nil, fmt.Errorf("the Reference Values of %s: %w", c.Name, err)
		}
	}
	for component := range record.Reference {
		if _, ok := values[component]; !ok {
			return nil, fmt.Errorf("there are Reference Values for %q, which is no measured component", component)
		}
	}
	return values, nil
}

// listed holds what the product role says of a component against the statement.
func (v *verification) listed(statement artifacts.Statement, component string) error {
	r := statement.Predicate
	target, _, ok := v.image.Target(artifacts.TargetPath(r.Product, r.Version, component))
	if !ok {
		return errors.New("is not in the signed metadata of the product, and no signed policy withdraws the release")
	}
	custom, err := artifacts.DecodeCustom(target.Custom)
	if err != nil {
		return fmt.Errorf("in the signed metadata: %w", err)
	}
	refusals := append(artifacts.CheckImage(statement, component, target.Length, target.SHA256), artifacts.CheckCustom(statement, component, custom)...)
	if len(refusals) > 0 {
		return fmt.Errorf("in the signed metadata: %s", refusals[0].Detail)
	}
	return nil
}
