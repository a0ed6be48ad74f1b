package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/wire"
)

// Steps of an update, in order. The journal holds the last one that was completed.
const (
	stepDownloading = "downloading" // bytes lie in the slots; Offset of each part is durable
	stepVerified    = "verified"    // every slot holds its whole image
	stepStaged      = "staged"      // every slot is named for the next boot
	stepRebooting   = "rebooting"   // the restart was asked for
	stepFallen      = "fallen"      // the trial fell back and was counted; what is left of it is to be taken away
)

// Results of a boot report.
const (
	bootOK       = "ok"
	bootFallback = "fallback"
	bootRefused  = "refused" // there was no boot: an installer did not take an image
)

// journal is the update under way. It is a hint: a slot is hashed again before it is activated, what runs is read from
// the slot, and the release behind it is verified again before anything is committed.
type journal struct {
	Step    string        `json:"step"`
	Product string        `json:"product"`
	Version string        `json:"version"`
	Parts   []journalPart `json:"parts"`
	Resets  uint32        `json:"resets"` // TPM reset count when it was verified
}

type journalPart struct {
	Component string        `json:"component"`
	Installer string        `json:"installer"`
	SHA256    digest.SHA256 `json:"sha256"`
	Length    int64         `json:"length"`
	Offset    int64         `json:"offset"` // durable bytes
}

// same reports whether two journals are of the same images of one release.
func (j journal) same(o journal) bool {
	return j.Product == o.Product && j.Version == o.Version && slices.EqualFunc(j.Parts, o.Parts, func(p, q journalPart) bool {
		p.Offset, q.Offset = 0, 0
		return p == q
	})
}

func (c *Client) loadJournal() (journal, bool) {
	var j journal
	if !c.store.readJSON(fileJournal, &j) || len(j.Parts) == 0 || len(j.Parts) > artifacts.MaxComponents {
		return journal{}, false
	}
	if artifacts.ValidName(j.Product) != nil || artifacts.ValidName(j.Version) != nil {
		return journal{}, false
	}
	return j, true
}

func (c *Client) dropJournal() error {
	c.ready = nil
	if err := c.store.remove(fileJournal); err != nil {
		return err
	}
	return c.store.remove(fileBundle)
}

// inTrial reports whether one of the installers runs something that is not committed.
func (c *Client) inTrial() bool {
	return slices.ContainsFunc(c.running, func(r bootState) bool { return r.boot.Trial })
}

// runs reports whether all parts of j are what was booted.
func (c *Client) runs(j journal) bool {
	return !slices.ContainsFunc(j.Parts, func(p journalPart) bool {
		boot, ok := c.bootOf(p.Installer)
		return !ok || boot.SHA256 != p.SHA256 || boot.Length != p.Length
	})
}

// afterBoot finds out what became of an update that was staged before: it runs and is to be proven, or the boot fell
// back, or no boot took place yet.
func (c *Client) afterBoot(ctx context.Context) error {
	if err := c.readRunning(ctx); err != nil {
		return err
	}
	c.keep(ctx)
	j, ok := c.loadJournal()
	if !ok || !j.named() {
		return nil
	}
	if c.unsure && !c.runs(j) {
		return nil // nobody can tell whether this is the trial or a fallback: nothing is concluded from it
	}
	if j.Step == stepFallen {
		return c.cleanUp(ctx)
	}
	name := artifacts.ReleaseName(j.Product, j.Version)
	if c.runs(j) {
		c.state.Boot = &wire.BootReport{Result: bootOK, Version: name}
		return nil
	}
	clock, err := c.cfg.TPM.Clock()
	if err != nil {
		return err
	}
	if clock.ResetCount == j.Resets {
		return nil // the restart is still to come
	}
	if j.Step == stepVerified && !c.started(ctx, j) {
		return nil // the power failed before anything was named for the boot, or nobody can tell: it is installed again
	}
	failed := c.failed(ctx, j)
	c.state.Boot = &wire.BootReport{Result: bootFallback, Version: name, Detail: cutText(failed)}
	c.event(reason.Reason(""), "the trial of "+name+" fell back: "+failed)
	c.log.Warn("a trial fell back", "release", name, "cause", failed)
	c.save()
	crash.Here(crash.AgentFellBack)
	j.Step = stepFallen // counted once, however often the rest has to be tried
	if err := c.store.writeJSON(fileJournal, j); err != nil {
		c.log.Warn("cannot note that a trial fell back", "error", err.Error())
	}
	return c.cleanUp(ctx)
}

// named reports whether images of j may have been named for the next boot: after stepVerified the power may fail at any
// moment, and that is a boot.
func (j journal) named() bool {
	return slices.Contains([]string{stepVerified, stepStaged, stepRebooting, stepFallen}, j.Step)
}

// cleanUp takes away what a failed trial left. Where that cannot be done now (a partition that went read-only, say), the
// server is told of the fallback all the same, and the next Check tries again.
func (c *Client) cleanUp(ctx context.Context) error {
	for _, r := range c.running {
		if err := r.installer.Rollback(ctx); err != nil {
			c.log.Warn("cannot clean up after a failed trial", "installer", r.installer.Name(), "error", err.Error())
			return ctx.Err()
		}
	}
	return c.dropJournal()
}

// started reports whether a boot loader that counts has started an image of j.
func (c *Client) started(ctx context.Context, j journal) bool {
	return slices.ContainsFunc(j.Parts, func(p journalPart) bool {
		tries, ok := c.tries(ctx, p)
		return ok && tries.Used > 0
	})
}

// withdraw takes a release back that is named for the next boot, so that no restart brings it.
func (c *Client) withdraw(ctx context.Context, j journal, why string) error {
	name := artifacts.ReleaseName(j.Product, j.Version)
	var used []installer.Installer
	for _, r := range c.running {
		used = append(used, r.installer)
	}
	if err := takeBack(ctx, used, j); err != nil {
		return err
	}
	c.event(reason.Reason(""), name+" was staged and is taken back: "+why)
	c.log.Info("a staged release is taken back", "release", name, "cause", why)
	return c.dropJournal()
}

// takeBack lets no image of j be named for the next boot.
func takeBack(ctx context.Context, installers []installer.Installer, j journal) error {
	for _, in := range installers {
		if !slices.ContainsFunc(j.Parts, func(p journalPart) bool { return p.Installer == in.Name() }) {
			continue
		}
		if err := in.Rollback(ctx); err != nil {
			return fmt.Errorf("cannot take %s back: %w", artifacts.ReleaseName(j.Product, j.Version), err)
		}
	}
	return nil
}

// waiting returns the release that waits for a restart and does not run.
func (c *Client) waiting() (journal, bool) {
	j, ok := c.loadJournal()
	return j, ok && j.named() && j.Step != stepFallen && !c.runs(j)
}

// offered reports whether the director offers exactly what j has.
func (j journal) offered(targets []tufrepo.DirectorTarget) bool {
	return len(targets) == len(j.Parts) && !slices.ContainsFunc(j.Parts, func(p journalPart) bool {
		path := artifacts.TargetPath(j.Product, j.Version, p.Component)
		return !slices.ContainsFunc(targets, func(d tufrepo.DirectorTarget) bool {
			return d.Path == path && d.SHA256 == p.SHA256 && d.Length == p.Length
		})
	})
}

// failed says why the trial of j did not last, and counts it against its images: as many times as the boot loader has
// started them, or once where it does not say.
func (c *Client) failed(ctx context.Context, j journal) string {
	cause := "another slot was booted than the one under trial"
	for _, p := range j.Parts {
		n := 1
		if tries, ok := c.tries(ctx, p); ok {
			n = max(n, tries.Used)
			cause = fmt.Sprintf("the boot loader used %d of %d tries of %s and booted another image", tries.Used, tries.Of, tries.Name)
		}
		if c.state.Failures == nil || len(c.state.Failures) > maxInstall {
			c.state.Failures = map[string]int{}
		}
		c.state.Failures[p.SHA256.String()] += n
	}
	return cause
}

// tries asks the installer of a part how often its image was started. Where it cannot tell, the fallback counts once.
func (c *Client) tries(ctx context.Context, p journalPart) (installer.Tries, bool) {
	for _, r := range c.running {
		counter, ok := r.installer.(installer.Counter)
		if !ok || r.installer.Name() != p.Installer {
			continue
		}
		tries, ok, err := counter.Tries(ctx, installer.Image{Component: p.Component, SHA256: p.SHA256, Length: p.Length})
		if err != nil {
			c.log.Warn("cannot tell how often a trial was started", "component", p.Component, "error", err.Error())
		}
		return tries, ok && err == nil
	}
	return installer.Tries{}, false
}

// staged is a trial that was proven in this boot.
type staged struct {
	journal journal
}

// trialProven notes that the server affirmed a challenge quote of this boot. matched is the release that the server
// says it was; empty if it does not say.
func (c *Client) trialProven(matched string) bool {
	j, ok := c.loadJournal()
	if !ok || !c.runs(j) {
		return false
	}
	name := artifacts.ReleaseName(j.Product, j.Version)
	if matched != "" && matched != name {
		c.event(reason.FirmwareRolledBack, "the server matched "+matched+", the trial is of "+name)
		return false
	}
	c.proven = &staged{journal: j}
	return true
}

// Commit makes a trial that was proven in this boot permanent and then raises the release counter in the TPM. It may be
// repeated after a crash anywhere in it. It returns ErrNothingProven without a proven trial. The release is verified
// once more, against the current offline policy, because the journal cannot be trusted with the counter.
func (c *Client) Commit(ctx context.Context) ([]Refusal, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.save()
	if c.proven == nil {
		return nil, ErrNothingProven
	}
	c.trust.setTime(c.now())
	j := c.proven.journal
	release, refused, err := c.verifyAgain(ctx, j)
	if err != nil || len(refused) > 0 {
		return refused, err
	}
	for _, p := range j.Parts {
		for _, r := range c.running {
			if r.installer.Name() != p.Installer {
				continue
			}
			if err := r.installer.Commit(ctx); err != nil {
				return nil, fmt.Errorf("cannot commit %s: %w", p.Component, err)
			}
		}
	}
	crash.Here(crash.AgentSlotCommitted)
	if err := c.raiseCounter(release); err != nil {
		return nil, err
	}
	crash.Here(crash.AgentCounterRaised)
	c.installed(j)
	c.save()
	crash.Here(crash.AgentCommitRecorded)
	c.proven, c.running = nil, nil
	c.log.Info("committed", "release", artifacts.ReleaseName(j.Product, j.Version), "counter", release.Counter)
	return nil, c.dropJournal()
}

// errNoBase is cured by the next poll, which brings director metadata.
var errNoBase = errors.New("cannot raise release counter: its base is not known")

// raiseCounter brings the TPM's counter to the release's. A recovery release leaves it alone, as it does in the fleet: a
// device that recovered must be able to take the ordinary release it had before.
func (c *Client) raiseCounter(release artifacts.Release) error {
	if release.Recovery {
		return nil
	}
	index, err := c.cfg.TPM.Counter()
	if err != nil {
		return err
	}
	base, known := c.base()
	if !known {
		return errNoBase
	}
	if base+release.Counter <= index {
		return nil
	}
	_, err = c.cfg.TPM.RaiseCounter(base + release.Counter)
	return err
}

func (c *Client) installed(j journal) {
	for _, p := range j.Parts {
		c.state.Installed = slices.DeleteFunc(c.state.Installed, func(i wire.Installed) bool { return i.Component == p.Component })
		c.state.Installed = append(c.state.Installed, wire.Installed{
			Component: p.Component, SHA256: p.SHA256, Length: p.Length, Product: j.Product, Version: j.Version,
		})
		delete(c.state.Failures, p.SHA256.String())
		delete(c.state.Rejected, p.SHA256.String())
	}
	delete(c.state.Failures, leftTrial)
	c.state.Boot = nil
}

// verifyAgain finds the release behind a proven trial: the publisher's statement, verified against the offline policy
// of now, must name exactly the images that run. It talks to the server for the policy, and for the bundle if the one
// that was kept is gone.
func (c *Client) verifyAgain(ctx context.Context, j journal) (artifacts.Release, []Refusal, error) {
	ch, err := c.dialer.open(ctx)
	if err != nil {
		return artifacts.Release{}, nil, err
	}
	t := &conversation{client: c, ch: ch}
	defer ch.close()
	release, err := t.verifyAgain(ctx, j)
	if err != nil || len(t.result.Refusals) > 0 {
		return artifacts.Release{}, t.result.Refusals, err
	}
	if release == nil {
		return artifacts.Release{}, []Refusal{c.refuse(reason.Internal, "the release behind the trial could not be verified")}, nil
	}
	return *release, nil, nil
}

// verifyAgain returns nil after a refusal.
func (t *conversation) verifyAgain(ctx context.Context, j journal) (*artifacts.Release, error) {
	if ok, err := t.fetch(ctx, j.Product); err != nil || !ok {
		return nil, err
	}
	policy, root, ok, err := t.policy(ctx, j.Product)
	if err != nil || !ok {
		return nil, err
	}
	if kept := t.client.store.read(fileBundle, artifacts.MaxBundleBytes); kept != nil {
		r, refusals, err := signedRelease(kept, policy, root, j)
		if err != nil {
			return nil, err
		}
		if len(refusals) == 0 {
			return t.allowedTrial(policy, r, j)
		}
		if err := t.client.store.remove(fileBundle); err != nil { // somebody changed it
			return nil, err
		}
	}
	path := artifacts.TargetPath(j.Product, j.Version, j.Parts[0].Component) + artifacts.BundleSuffix
	bundle, ok, err := t.target(ctx, path, artifacts.MaxBundleBytes, reason.PublisherRefused)
	if err != nil || !ok {
		return nil, err
	}
	r, refusals, err := signedRelease(bundle, policy, root, j)
	if err != nil || !t.none(refusals) {
		return nil, err
	}
	return t.allowedTrial(policy, r, j)
}

// allowedTrial asks of a trial what was asked before it was installed: somebody may have written slot and journal since.
func (t *conversation) allowedTrial(policy artifacts.Policy, r artifacts.Release, j journal) (*artifacts.Release, error) {
	c := t.client
	before := len(t.result.Refusals)
	hardware := c.hardwareID()
	var names []string
	for _, p := range j.Parts {
		names = append(names, p.Component)
		component, _ := r.Component(p.Component) // signedRelease found it
		if component.Installer != p.Installer || !slices.Contains(component.HardwareIDs, hardware) {
			t.refuse(reason.HardwareIncompatible, "the trial has %s by installer %q on %q, the release is for %q on %q", p.Component, p.Installer, hardware, component.Installer, component.HardwareIDs)
		}
	}
	t.checkProduct(r.Product)
	t.none(artifacts.CheckComplete(r, hardware, names))
	index, err := c.cfg.TPM.Counter()
	if err != nil {
		return nil, err
	}
	base, known := c.base()
	if !known {
		return nil, errNoBase
	}
	if index >= base && r.Counter < index-base && !recovers(policy, r) {
		t.refuse(reason.DowngradeRefused, "release counter %d of the trial is below the device's %d", r.Counter, index-base)
	}
	if len(t.result.Refusals) > before {
		return nil, nil
	}
	return &r, nil
}

// signedRelease verifies a bundle and holds what it says against the trial.
func signedRelease(bundle []byte, policy artifacts.Policy, root []byte, j journal) (artifacts.Release, []artifacts.Refusal, error) {
	proof, err := provenance.Verify(bundle, policy, provenance.Options{TrustedRootJSON: root})
	if err != nil {
		return artifacts.Release{}, nil, fmt.Errorf("cannot verify the publisher again: %w", err)
	}
	if len(proof.Refusals) > 0 {
		return artifacts.Release{}, proof.Refusals, nil
	}
	r := proof.Statement.Predicate
	refusals := artifacts.CheckRelease(policy, r)
	if r.Product != j.Product || r.Version != j.Version {
		refusals = append(refusals, artifacts.Refusal{Reason: reason.StatementMismatch, Detail: "the statement is of another release than the trial"})
	}
	for _, p := range j.Parts {
		refusals = append(refusals, artifacts.CheckImage(proof.Statement, p.Component, p.Length, p.SHA256)...)
	}
	return r, refusals, nil
}
