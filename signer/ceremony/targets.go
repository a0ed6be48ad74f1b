package ceremony

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// ErrNoPolicy is returned for a product that no policy was set for.
var ErrNoPolicy = errors.New("product has no policy")

// Change is what became of a change of the targets.
type Change struct {
	Version int64 // of the pending targets
	Dropped int   // signatures over the payload before
	Changed bool  // false: it was so already, and nothing was written
}

// SetPolicy makes p the policy of its product, with the delegation to the server's product key. Withdrawn and recovery
// digests are kept from before, and the minimum counter never goes down: neither can be lost by an edited file.
func (d *Dir) SetPolicy(p artifacts.Policy, expires time.Time) (Change, error) {
	return d.changeTargets(expires, func(spec *tufrepo.TargetsSpec, files map[string][]byte) error {
		if err := tufrepo.ValidProduct(p.Product); err != nil {
			return err
		}
		old, err := policyIn(files, p.Product)
		switch {
		case err == nil:
			p.Withdrawn, p.Recovery = old.Withdrawn, old.Recovery
			if p.MinimumCounter < old.MinimumCounter {
				return fmt.Errorf("%w: minimum_counter would go from %d down to %d", artifacts.ErrPolicy, old.MinimumCounter, p.MinimumCounter)
			}
		case !errors.Is(err, ErrNoPolicy):
			return err
		}
		if err := d.delegate(spec, p.Product); err != nil {
			return err
		}
		return putPolicy(files, p)
	})
}

// EditPolicy changes the policy that a product has.
func (d *Dir) EditPolicy(product string, expires time.Time, edit func(*artifacts.Policy) error) (Change, error) {
	return d.changeTargets(expires, func(_ *tufrepo.TargetsSpec, files map[string][]byte) error {
		p, err := policyIn(files, product)
		if err != nil {
			return err
		}
		if err := edit(&p); err != nil {
			return err
		}
		return putPolicy(files, p)
	})
}

// Withdraw lists an image that nobody may install or boot, for good.
func (d *Dir) Withdraw(product string, image digest.SHA256, expires time.Time) (Change, error) {
	return d.EditPolicy(product, expires, func(p *artifacts.Policy) error {
		if slices.Contains(p.Recovery, image) {
			return fmt.Errorf("%w: %s is a recovery image; end that first", artifacts.ErrPolicy, image)
		}
		p.Withdrawn = with(p.Withdrawn, image)
		return nil
	})
}

// AllowRecovery lists an image that a quarantined device may install.
func (d *Dir) AllowRecovery(product string, image digest.SHA256, expires time.Time) (Change, error) {
	return d.EditPolicy(product, expires, func(p *artifacts.Policy) error {
		if slices.Contains(p.Withdrawn, image) {
			return fmt.Errorf("%w: %s is withdrawn", artifacts.ErrPolicy, image)
		}
		p.Recovery = with(p.Recovery, image)
		return nil
	})
}

// EndRecovery takes an image from the recovery list.
func (d *Dir) EndRecovery(product string, image digest.SHA256, expires time.Time) (Change, error) {
	return d.EditPolicy(product, expires, func(p *artifacts.Policy) error {
		p.Recovery = slices.DeleteFunc(p.Recovery, func(have digest.SHA256) bool { return have == image })
		return nil
	})
}

// SetBaseline signs the values of the PCRs that a platform's firmware fills.
func (d *Dir) SetBaseline(product string, b reference.Baseline, expires time.Time) (Change, error) {
	return d.changeTargets(expires, func(_ *tufrepo.TargetsSpec, files map[string][]byte) error {
		if _, err := policyIn(files, product); err != nil {
			return err
		}
		if err := artifacts.ValidName(b.Profile); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		doc, err := b.Encode()
		if err != nil {
			return fmt.Errorf("cannot encode baseline: %w", err)
		}
		files[artifacts.BaselinePath(product, b.Profile)] = doc
		return nil
	})
}

// RemoveBaseline takes a platform's values away: then those count that baseline signers sign, if the policy names any.
func (d *Dir) RemoveBaseline(product, profile string, expires time.Time) (Change, error) {
	return d.changeTargets(expires, func(_ *tufrepo.TargetsSpec, files map[string][]byte) error {
		if _, err := policyIn(files, product); err != nil {
			return err
		}
		if err := artifacts.ValidName(profile); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		delete(files, artifacts.BaselinePath(product, profile))
		return nil
	})
}

// SetTrustedRoot signs the Sigstore trusted root that keyless publishers are held against.
func (d *Dir) SetTrustedRoot(doc []byte, expires time.Time) (Change, error) {
	return d.changeTargets(expires, func(_ *tufrepo.TargetsSpec, files map[string][]byte) error {
		if err := checkTrustedRoot(doc); err != nil {
			return err
		}
		files[artifacts.TrustedRootPath] = doc
		return nil
	})
}

// HasTrustedRoot reports whether keyless publishers can be verified.
func (d *Dir) HasTrustedRoot() (bool, error) {
	_, files, err := d.base()
	return files[artifacts.TrustedRootPath] != nil, err
}

// Policy returns a product's policy as it is pending, or current.
func (d *Dir) Policy(product string) (artifacts.Policy, error) {
	_, files, err := d.base()
	if err != nil {
		return artifacts.Policy{}, err
	}
	return policyIn(files, product)
}

// Products returns the products that have a policy, sorted.
func (d *Dir) Products() ([]string, error) {
	_, files, err := d.base()
	if err != nil {
		return nil, err
	}
	var out []string
	for path := range files {
		if name, ok := strings.CutPrefix(path, "policy/"); ok {
			out = append(out, strings.TrimSuffix(name, ".json"))
		}
	}
	slices.Sort(out)
	return out, nil
}

func with(list []digest.SHA256, d digest.SHA256) []digest.SHA256 {
	if slices.Contains(list, d) {
		return list
	}
	return append(slices.Clone(list), d)
}

func policyIn(files map[string][]byte, product string) (artifacts.Policy, error) {
	b, ok := files[artifacts.PolicyPath(product)]
	if !ok {
		return artifacts.Policy{}, fmt.Errorf("%w: %q", ErrNoPolicy, product)
	}
	return artifacts.DecodePolicy(b)
}

func putPolicy(files map[string][]byte, p artifacts.Policy) error {
	p.Version = artifacts.PolicyVersion
	doc, err := p.Encode()
	if err != nil {
		return err
	}
	files[artifacts.PolicyPath(p.Product)] = doc
	return nil
}

func checkTrustedRoot(doc []byte) error {
	if _, err := root.NewTrustedRootFromJSON(doc); err != nil {
		return fmt.Errorf("%w: trusted root: %w", ErrInvalid, err)
	}
	return nil
}

// base is what a change starts from: the pending targets if there are any, else the current ones.
func (d *Dir) base() (tufrepo.TargetsSpec, map[string][]byte, error) {
	for _, which := range []string{"pending", "current"} {
		s, err := d.load(which)
		if err != nil {
			return tufrepo.TargetsSpec{}, nil, err
		}
		if s.docs[Targets] == nil {
			continue
		}
		spec, err := s.targets()
		return spec, s.files, err
	}
	return tufrepo.TargetsSpec{}, nil, fmt.Errorf("%w: no targets yet", ErrNothing)
}

type targetsChange func(*tufrepo.TargetsSpec, map[string][]byte) error

// changeTargets builds the pending targets, unless the change changes nothing: then signatures that are there stay good.
func (d *Dir) changeTargets(expires time.Time, change targetsChange) (Change, error) {
	spec, files, err := d.base()
	if err != nil {
		return Change{}, err
	}
	products, before := maps.Clone(spec.Products), maps.Clone(files)
	if err := change(&spec, files); err != nil {
		return Change{}, err
	}
	if maps.EqualFunc(before, files, slices.Equal) && maps.EqualFunc(products, spec.Products, sameDelegation) {
		return Change{Version: spec.Version}, nil
	}
	return d.setTargets(spec, files, expires)
}

// renewTargets builds the pending targets also when only the expiry is new.
func (d *Dir) renewTargets(expires time.Time, change targetsChange) (Change, error) {
	spec, files, err := d.base()
	if err != nil {
		return Change{}, err
	}
	if err := change(&spec, files); err != nil {
		return Change{}, err
	}
	return d.setTargets(spec, files, expires)
}

// setTargets makes spec and files pending, one version above the current one.
func (d *Dir) setTargets(spec tufrepo.TargetsSpec, files map[string][]byte, expires time.Time) (Change, error) {
	current, err := d.load("current")
	if err != nil {
		return Change{}, err
	}
	version, err := current.version(Targets)
	if err != nil {
		return Change{}, err
	}
	spec.Version, spec.Expires = version+1, expires
	spec.Files = map[string]tufrepo.File{}
	for path, data := range files {
		spec.Files[path] = tufrepo.File{Length: int64(len(data)), SHA256: digest.Of(data)}
	}
	doc, err := tufrepo.TargetsPayload(spec)
	if err != nil {
		return Change{}, fmt.Errorf("cannot build targets: %w", err)
	}
	if err := d.setFiles("pending", files); err != nil {
		return Change{}, err
	}
	dropped, err := d.setPending(Targets, doc)
	return Change{Version: spec.Version, Dropped: dropped, Changed: true}, err
}

func sameDelegation(a, b tufrepo.Delegation) bool {
	return a.Threshold == b.Threshold && slices.EqualFunc(a.Keys, b.Keys, sameKey)
}

// targets parses the targets and checks that the files are exactly those that it names, and that their readers take them.
func (s state) targets() (tufrepo.TargetsSpec, error) {
	spec, err := tufrepo.ParseTargets(s.docs[Targets])
	if err != nil {
		return tufrepo.TargetsSpec{}, fmt.Errorf("%w: %s: %w", ErrInvalid, Targets, err)
	}
	for path := range s.files {
		if _, ok := spec.Files[path]; !ok {
			return tufrepo.TargetsSpec{}, fmt.Errorf("%w: files/%s is not in %s", ErrInvalid, path, Targets)
		}
	}
	for path, f := range spec.Files {
		data, ok := s.files[path]
		if !ok || int64(len(data)) != f.Length || digest.Of(data) != f.SHA256 {
			return tufrepo.TargetsSpec{}, fmt.Errorf("%w: files/%s is not what %s names", ErrInvalid, path, Targets)
		}
		if err := checkFile(path, data, spec); err != nil {
			return tufrepo.TargetsSpec{}, fmt.Errorf("%w: files/%s: %w", ErrInvalid, path, err)
		}
	}
	return spec, nil
}

func checkFile(path string, data []byte, spec tufrepo.TargetsSpec) error {
	kind, rest, _ := strings.Cut(path, "/")
	switch kind {
	case "policy":
		p, err := artifacts.DecodePolicy(data)
		if err != nil {
			return err
		}
		if artifacts.PolicyPath(p.Product) != path {
			return fmt.Errorf("it is the policy of %q", p.Product)
		}
		if _, ok := spec.Products[p.Product]; !ok {
			return fmt.Errorf("product %q is not delegated", p.Product)
		}
	case "baseline":
		b, err := reference.DecodeBaseline(data)
		if err != nil {
			return err
		}
		product, _, _ := strings.Cut(rest, "/")
		if artifacts.BaselinePath(product, b.Profile) != path {
			return fmt.Errorf("it is the baseline of profile %q", b.Profile)
		}
	case "sigstore":
		return checkTrustedRoot(data)
	case "witness":
		return checkLog(path, data)
	}
	return nil
}

// version of a document; 0 if it is not there.
func (s state) version(name string) (int64, error) {
	doc := s.docs[name]
	if doc == nil {
		return 0, nil
	}
	h, err := tufrepo.HeaderOf(doc)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	return h.Version, nil
}
