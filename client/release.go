package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
)

// part is one component of a release that this device is to install.
type part struct {
	path      string // target path
	component artifacts.Component
}

// image is what an installer is told.
func (p part) image() installer.Image {
	return installer.Image{Component: p.component.Name, SHA256: p.component.SHA256, Length: p.component.Length}
}

// conclude turns the director's targets into an Update, if there is something to install and nothing speaks against it.
func (t *conversation) conclude(ctx context.Context) error {
	c := t.client
	if t.refusedHere() {
		return nil
	}
	if c.unsure {
		return nil // no slot is free, and nothing is taken back, while nobody can tell what runs
	}
	targets := c.trust.director.Targets()
	if c.proven != nil || c.checkDirectorBase() != nil {
		return nil
	}
	c.forgetRejected(targets)
	if err := t.withdrawUnoffered(ctx, targets); err != nil {
		return err
	}
	if len(targets) == 0 {
		return nil
	}
	if c.hardwareID() == "" && c.state.Lifecycle == "pending" {
		t.result.Reenroll = true // it was claimed after it had enrolled: enrolling again tells what hardware it is
		return nil
	}
	if c.inTrial() {
		return t.adoptTrial(ctx, targets)
	}
	if c.runsAll(targets) {
		return nil
	}
	for _, target := range targets {
		if c.state.Failures[target.SHA256.String()] >= maxFailures {
			t.refuse(reason.UpdateOverdue, "%s failed to boot %d times on this device and is not tried again", target.Path, maxFailures)
			return nil
		}
		if r := c.state.Rejected[target.SHA256.String()]; r.Tries >= maxFailures {
			t.refuse(reason.UpdateOverdue, "%s", r.text(target.Path))
			if j, ok := c.waiting(); ok { // it could not be taken back before
				return c.withdraw(ctx, j, "an installer does not take it")
			}
			return nil
		}
	}
	u, err := t.verifyRelease(ctx, targets)
	if err != nil {
		return err
	}
	if j, ok := c.waiting(); u == nil && ok && t.refusedHere() {
		return c.withdraw(ctx, j, "the device refuses it now")
	}
	t.result.Update = u
	return nil
}

// refusedHere reports whether the device itself refused something.
func (t *conversation) refusedHere() bool {
	return slices.ContainsFunc(t.result.Refusals, func(r Refusal) bool { return r.Local })
}

// withdrawUnoffered takes back what was staged when the director's current metadata names something else, or nothing: a
// recovery release whose quarantine has ended, for example, must not boot at the next restart.
func (t *conversation) withdrawUnoffered(ctx context.Context, targets []tufrepo.DirectorTarget) error {
	c := t.client
	j, ok := c.waiting()
	if _, current := c.trust.director.CounterBase(); !ok || !current || c.inTrial() || j.offered(targets) {
		return nil
	}
	return c.withdraw(ctx, j, "it is not offered any more")
}

// adoptTrial writes the journal of a running trial again when it was lost: what runs is what the director offers, and
// it is verified like any update. The next Check proves it.
func (t *conversation) adoptTrial(ctx context.Context, targets []tufrepo.DirectorTarget) error {
	c := t.client
	if !c.runsAll(targets) {
		return t.leaveTrial(ctx, targets)
	}
	if j, ok := c.loadJournal(); ok && c.runs(j) {
		return nil
	}
	u, err := t.verifyRelease(ctx, targets)
	if err != nil || u == nil {
		return err
	}
	clock, err := c.cfg.TPM.Clock()
	if err != nil {
		return err
	}
	if err := c.store.write(fileBundle, u.bundle); err != nil {
		return err
	}
	j := u.journal()
	j.Step, j.Resets = stepStaged, clock.ResetCount
	return c.store.writeJSON(fileJournal, j)
}

// leaveTrial ends a trial that the server refuses while it offers something else, a recovery release for example: no slot is
// free for it until the machine restarts into the image before. What is offered is verified first.
func (t *conversation) leaveTrial(ctx context.Context, targets []tufrepo.DirectorTarget) error {
	c := t.client
	if t.result.Verdict != string(attestation.Refused) {
		return nil
	}
	if u, err := t.verifyRelease(ctx, targets); err != nil || u == nil {
		return err
	}
	if !c.leaving {
		for _, r := range c.running {
			if !r.boot.Trial {
				continue
			}
			if err := r.installer.Rollback(ctx); err != nil {
				return fmt.Errorf("cannot end the trial: %w", err)
			}
		}
		c.leaving = true
		c.countLeft()
		c.event(reason.Reason(""), "the trial was refused and ends with the next restart, to make room for what is offered instead")
		c.log.Warn("the trial was refused and ends with the next restart")
	}
	if c.cfg.Reboot == nil || c.state.Failures[leftTrial] > maxFailures {
		return nil // a boot loader that starts the trial again all the same must not make the machine restart for ever
	}
	c.save()
	return c.restart(ctx, "out of the trial")
}

// leftTrial counts, among the failures of images, the restarts out of refused trials since the last commit.
const leftTrial = "left trials"

func (c *Client) countLeft() {
	if c.state.Failures == nil {
		c.state.Failures = map[string]int{}
	}
	c.state.Failures[leftTrial]++
}

// runsAll reports whether every target is an image that runs already.
func (c *Client) runsAll(targets []tufrepo.DirectorTarget) bool {
	return !slices.ContainsFunc(targets, func(d tufrepo.DirectorTarget) bool {
		return !slices.ContainsFunc(c.running, func(r bootState) bool {
			return r.boot.SHA256 == d.SHA256 && r.boot.Length == d.Length
		})
	})
}

// verifyRelease holds what the director offers against everything that must agree with it. It returns nil after a
// refusal. Nothing of the release's images has been fetched yet.
func (t *conversation) verifyRelease(ctx context.Context, targets []tufrepo.DirectorTarget) (*Update, error) {
	c := t.client
	product, version, ok := t.oneRelease(targets)
	if !ok {
		return nil, nil
	}
	if ok, err := t.fetch(ctx, product); err != nil || !ok {
		return nil, err
	}
	if err := c.trust.keepImage(); err != nil {
		return nil, err
	}
	policy, root, ok, err := t.policy(ctx, product)
	if err != nil || !ok {
		return nil, err
	}
	u := &Update{client: c, Product: product, Version: version}
	var signed []byte
	for _, target := range targets {
		statement, bundle, ok, err := t.verifyTarget(ctx, target, policy, root)
		if err != nil || !ok {
			return nil, err
		}
		payload, err := statement.Encode()
		if err != nil {
			return nil, fmt.Errorf("cannot compare the statements of %s: %w", target.Path, err)
		}
		if u.parts == nil {
			u.release, u.bundle, signed = statement.Predicate, bundle, payload
		}
		if !bytes.Equal(payload, signed) { // two builds of one version: what is checked of one would not hold for the other
			t.refuse(reason.StatementMismatch, "%s and %s carry different statements of one release", u.parts[0].path, target.Path)
			return nil, nil
		}
		if artifacts.ReleaseName(statement.Predicate.Product, statement.Predicate.Version) != artifacts.ReleaseName(product, version) {
			t.refuse(reason.StatementMismatch, "%s is signed as another release", target.Path)
			return nil, nil
		}
		component, _ := statement.Predicate.Component(componentOf(target.Path)) // verifyTarget found it
		u.parts = append(u.parts, part{path: target.Path, component: component})
	}
	if !t.allowed(policy, u) {
		return nil, nil
	}
	return u, nil
}

func componentOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// oneRelease checks that all targets belong to one release: <product>/<version>/<component>.
func (t *conversation) oneRelease(targets []tufrepo.DirectorTarget) (product, version string, ok bool) {
	for i, target := range targets {
		s := strings.Split(target.Path, "/")
		if len(s) != 3 || (i > 0 && (s[0] != product || s[1] != version)) {
			t.refuse(reason.MetadataInvalid, "the director offers %s beside another release", target.Path)
			return "", "", false
		}
		product, version = s[0], s[1]
	}
	if len(targets) > artifacts.MaxComponents {
		t.refuse(reason.MetadataInvalid, "the director offers %d components", len(targets))
		return "", "", false
	}
	return product, version, true
}

// policy brings the offline policy of a product and the Sigstore trusted root, both signed by the offline targets role.
func (t *conversation) policy(ctx context.Context, product string) (artifacts.Policy, []byte, bool, error) {
	if err := t.client.trust.checkOffline(); err != nil {
		t.refuseMetadata(err)
		return artifacts.Policy{}, nil, false, nil
	}
	path := artifacts.PolicyPath(product)
	b, ok, err := t.target(ctx, path, artifacts.MaxPolicyBytes, reason.PolicyMissing)
	if err != nil || !ok {
		return artifacts.Policy{}, nil, false, err
	}
	policy, err := artifacts.DecodePolicy(b)
	if err != nil {
		t.refuse(reason.PolicyMissing, "%s: %v", path, err)
		return artifacts.Policy{}, nil, false, nil
	}
	if _, _, listed := t.client.trust.image.Target(artifacts.TrustedRootPath); !listed {
		return policy, nil, true, nil // only publishers with a key can be verified
	}
	root, ok, err := t.target(ctx, artifacts.TrustedRootPath, provenance.MaxTrustedRootBytes, reason.MetadataInvalid)
	return policy, root, ok, err
}

// target brings a non-firmware target and checks it against verified metadata. missing is the reason when the metadata
// does not name it.
func (t *conversation) target(ctx context.Context, path string, limit int64, missing reason.Reason) ([]byte, bool, error) {
	target, _, ok := t.client.trust.image.Target(path)
	if !ok {
		t.refuse(missing, "the image repository does not name %s", path)
		return nil, false, nil
	}
	if target.Length > limit {
		t.refuse(reason.MetadataInvalid, "%s has %d bytes, at most %d are allowed", path, target.Length, limit)
		return nil, false, nil
	}
	b, refused, err := t.get(ctx, tufrepo.TargetFileName(path, target.SHA256), target.Length)
	if err != nil {
		return nil, false, err
	}
	if refused != nil {
		t.result.Refusals = append(t.result.Refusals, refused...)
		return nil, false, nil
	}
	if int64(len(b)) != target.Length || digestOf(b) != target.SHA256 {
		t.refuse(reason.ArtifactMismatch, "%s does not have the signed length and digest", path)
		return nil, false, nil
	}
	return b, true, nil
}

// verifyTarget holds one offered target against the Image repository, the publisher's signature and the statement.
func (t *conversation) verifyTarget(ctx context.Context, offered tufrepo.DirectorTarget, policy artifacts.Policy, root []byte) (s artifacts.Statement, bundle []byte, ok bool, err error) {
	image, _, listed := t.client.trust.image.Target(offered.Path)
	if !listed {
		t.refuse(reason.MetadataInvalid, "the director offers %s, which the image repository does not name", offered.Path)
		return s, nil, false, nil
	}
	if image.Length != offered.Length || image.SHA256 != offered.SHA256 {
		t.refuse(reason.MetadataInvalid, "director and image repository disagree about the bytes of %s", offered.Path)
		return s, nil, false, nil
	}
	bundle, ok, err = t.target(ctx, offered.Path+artifacts.BundleSuffix, artifacts.MaxBundleBytes, reason.PublisherRefused)
	if err != nil || !ok {
		return s, nil, false, err
	}
	proof, err := provenance.Verify(bundle, policy, provenance.Options{TrustedRootJSON: root})
	if err != nil {
		return s, nil, false, fmt.Errorf("cannot verify the publisher of %s: %w", offered.Path, err)
	}
	if !t.none(proof.Refusals) {
		return s, nil, false, nil
	}
	custom, err := artifacts.DecodeCustom(image.Custom)
	if err != nil {
		t.refuse(reason.StatementMismatch, "%s: %v", offered.Path, err)
		return s, nil, false, nil
	}
	name := componentOf(offered.Path)
	refusals := artifacts.CheckCustom(proof.Statement, name, custom)
	refusals = append(refusals, artifacts.CheckImage(proof.Statement, name, offered.Length, offered.SHA256)...)
	return proof.Statement, bundle, t.none(refusals), nil
}

// none records refusals and reports whether there were any.
func (t *conversation) none(refusals []artifacts.Refusal) bool {
	for _, r := range refusals {
		t.refuse(r.Reason, "%s", r.Detail)
	}
	return len(refusals) == 0
}

// allowed holds a release against the policy, this hardware, the installers and the device's counter. All findings are
// collected.
func (t *conversation) allowed(policy artifacts.Policy, u *Update) bool {
	c := t.client
	before := len(t.result.Refusals)
	t.none(artifacts.CheckRelease(policy, u.release))
	hardware := c.hardwareID()
	t.checkProduct(u.Product)
	t.none(artifacts.CheckComplete(u.release, hardware, u.components()))
	used := map[string]string{}
	for _, p := range u.parts {
		if !slices.Contains(p.component.HardwareIDs, hardware) {
			t.refuse(reason.HardwareIncompatible, "%s is for %q, this device is %q", p.path, p.component.HardwareIDs, hardware)
		}
		if _, ok := installer.Find(p.component.Installer, c.cfg.Installers); !ok {
			t.refuse(reason.HardwareIncompatible, "%s needs the installer %q, which this device does not have", p.path, p.component.Installer)
		}
		if other := used[p.component.Installer]; other != "" {
			t.refuse(reason.MetadataInvalid, "%s and %s need the same slot", other, p.path)
		}
		used[p.component.Installer] = p.path
	}
	t.checkCounter(policy, u)
	return len(t.result.Refusals) == before
}

func (u *Update) components() []string {
	var out []string
	for _, p := range u.parts {
		out = append(out, p.component.Name)
	}
	return out
}

// checkProduct keeps a device with its product, where its measured image says which that is: otherwise whoever controls
// the director could choose the product whose publishers are the easiest to rob.
func (t *conversation) checkProduct(product string) {
	if own := t.client.cfg.Product; own != "" && own != product {
		t.refuse(reason.HardwareIncompatible, "the release is of product %q, this device is of %q", product, own)
	}
}

func (c *Client) hardwareID() string {
	if c.cfg.HardwareID != "" {
		return c.cfg.HardwareID
	}
	return c.state.HardwareID
}

// checkCounter compares the release counter with the device's own. A recovery release that the offline policy lists is
// exempt; the policy's minimum holds for it too (artifacts.CheckRelease).
func (t *conversation) checkCounter(policy artifacts.Policy, u *Update) {
	c := t.client
	index, err := c.cfg.TPM.Counter()
	if errors.Is(err, tpm.ErrNoCounter) {
		t.refuse(reason.CounterMissing, "%v", err)
		return
	}
	if err != nil {
		t.refuse(reason.Internal, "cannot read the release counter: %v", err)
		return
	}
	base, known := c.base()
	if !known || index < base {
		t.refuse(reason.CounterMissing, "the release counter stands at %d, its base is %d", index, base)
		return
	}
	value := index - base
	switch {
	case recovers(policy, u.release):
	case u.release.Counter < value:
		t.refuse(reason.DowngradeRefused, "release counter %d is below the device's %d", u.release.Counter, value)
	case u.release.Counter-value > tpm.MaxCounterSteps:
		t.refuse(reason.IntermediateRequired, "release counter %d is more than %d steps above the device's %d", u.release.Counter, tpm.MaxCounterSteps, value)
	case u.release.Requires > value:
		t.refuse(reason.IntermediateRequired, "the release requires counter %d, the device is at %d", u.release.Requires, value)
	}
}

// recovers reports whether the offline policy lists all of a release for recovery.
func recovers(policy artifacts.Policy, r artifacts.Release) bool {
	return r.Recovery && !slices.ContainsFunc(r.Components, func(a artifacts.Component) bool {
		return !slices.Contains(policy.Recovery, a.SHA256)
	})
}
