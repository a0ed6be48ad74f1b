package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/installer"
)

// Update is a release that was verified in full and waits to be installed.
type Update struct {
	Product string
	Version string

	client  *Client
	release artifacts.Release
	parts   []part
	bundle  []byte
}

// Name is product/version.
func (u *Update) Name() string { return artifacts.ReleaseName(u.Product, u.Version) }

// Counter is the release counter.
func (u *Update) Counter() uint64 { return u.release.Counter }

// Recovery reports whether this is a recovery release.
func (u *Update) Recovery() bool { return u.release.Recovery }

// Bytes is the length of all images.
func (u *Update) Bytes() int64 {
	var n int64
	for _, p := range u.parts {
		n += p.component.Length
	}
	return n
}

// Install downloads the images into slots that do not run, verifies them there, names them for the next boot and asks
// for the restart. It goes on where an interrupted Install of the same release stopped. Refusals mean that the bytes
// were not those of the release, that the server's door refused them, or that the installer refused the image; nothing was
// staged then. Without installers those of Config are used.
func (u *Update) Install(ctx context.Context, installers ...installer.Installer) ([]Refusal, error) {
	c := u.client
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.save()
	if len(installers) == 0 {
		installers = c.cfg.Installers
	}
	if c.ready != nil && u.journal().same(*c.ready) {
		return nil, c.reboot(ctx, *c.ready) // the restart failed: installing again would wear the slot out, round by round
	}
	j, err := u.begin()
	if err != nil {
		return nil, err
	}
	get := &download{client: c}
	defer get.close()
	for i := range j.Parts {
		refused, err := u.fill(ctx, get, installers, &j, i)
		if refused != nil || err != nil {
			return refused, err
		}
	}
	clock, err := c.cfg.TPM.Clock()
	if err != nil {
		return nil, err
	}
	j.Step, j.Resets = stepVerified, clock.ResetCount
	if err := c.store.writeJSON(fileJournal, j); err != nil {
		return nil, err
	}
	crash.Here(crash.AgentVerified)
	return c.stage(ctx, installers, j)
}

// begin opens the journal, or goes on with the one of the same release.
func (u *Update) begin() (journal, error) {
	c := u.client
	j := u.journal()
	if old, ok := c.loadJournal(); ok && old.Product == j.Product && old.Version == j.Version && len(old.Parts) == len(j.Parts) {
		for i, p := range old.Parts {
			if p.SHA256 == j.Parts[i].SHA256 && p.Offset > 0 && p.Offset <= p.Length {
				j.Parts[i].Offset = p.Offset
			}
		}
	}
	c.ready = nil
	c.state.Boot = nil // a new update begins
	if err := c.store.write(fileBundle, u.bundle); err != nil {
		return journal{}, err
	}
	crash.Here(crash.AgentBundleKept)
	err := c.store.writeJSON(fileJournal, j)
	crash.Here(crash.AgentJournalBegun)
	return j, err
}

func (u *Update) journal() journal {
	j := journal{Step: stepDownloading, Product: u.Product, Version: u.Version}
	for _, p := range u.parts {
		j.Parts = append(j.Parts, journalPart{
			Component: p.component.Name, Installer: p.component.Installer, SHA256: p.component.SHA256, Length: p.component.Length,
		})
	}
	return j
}

// fill brings one image into its slot.
func (u *Update) fill(ctx context.Context, get *download, installers []installer.Installer, j *journal, i int) ([]Refusal, error) {
	c, p := u.client, u.parts[i]
	in, ok := installer.Find(p.component.Installer, installers)
	if !ok {
		return []Refusal{c.refuse(reason.HardwareIncompatible, "%s needs the installer %q", p.path, p.component.Installer)}, nil
	}
	slot, err := in.Prepare(ctx, p.image())
	if err != nil {
		return c.notInstalled(ctx, installers, *j, j.Parts[i], err)
	}
	keep := func(offset int64) error {
		j.Parts[i].Offset = offset
		err := c.store.writeJSON(fileJournal, *j)
		crash.Here(crash.AgentOffsetKept)
		return err
	}
	// A prefix that somebody changed in the slot shows only at the end; the image is then fetched once more.
	refused, err := get.into(ctx, slot, p, j.Parts[i].Offset, keep)
	if refused != nil && j.Parts[i].Offset > 0 && err == nil && refused[0].Reason == reason.ArtifactMismatch {
		if err = keep(0); err == nil {
			refused, err = get.into(ctx, slot, p, 0, keep)
		}
	}
	if refused != nil && refused[0].Reason == reason.ArtifactMismatch {
		err = errors.Join(err, keep(0))
	}
	return refused, errors.Join(err, slot.Close())
}

// stage hashes each slot once more, names it for the next boot and asks for the restart.
func (c *Client) stage(ctx context.Context, installers []installer.Installer, j journal) ([]Refusal, error) {
	for _, p := range j.Parts {
		in, ok := installer.Find(p.Installer, installers)
		if !ok {
			return nil, fmt.Errorf("cannot stage %s: no installer %q", p.Component, p.Installer)
		}
		image := installer.Image{Component: p.Component, SHA256: p.SHA256, Length: p.Length}
		if err := checkSlot(ctx, in, image); err != nil {
			return nil, err
		}
		if err := in.Activate(ctx, image); err != nil {
			return c.notInstalled(ctx, installers, j, p, err)
		}
		crash.Here(crash.AgentActivated)
	}
	j.Step = stepStaged
	if err := c.store.writeJSON(fileJournal, j); err != nil {
		return nil, err
	}
	crash.Here(crash.AgentStaged)
	c.ready, c.trouble = &j, ""
	c.log.Info("staged", "release", artifacts.ReleaseName(j.Product, j.Version))
	return nil, c.reboot(ctx, j)
}

func (c *Client) reboot(ctx context.Context, j journal) error {
	c.save()
	if c.cfg.Reboot == nil {
		return nil
	}
	j.Step = stepRebooting
	if err := c.store.writeJSON(fileJournal, j); err != nil {
		return err
	}
	crash.Here(crash.AgentRebooting)
	if err := c.restart(ctx, "into the staged release"); err != nil {
		return err
	}
	c.running, c.ready = nil, nil // where the restart returns, the next Check looks again
	return nil
}

// restart asks for a restart. One that fails is asked for again in the next round, and the server is told of each cause
// once: a machine that cannot restart would otherwise be one that does not update, without a word.
func (c *Client) restart(ctx context.Context, where string) error {
	err := c.cfg.Reboot(ctx)
	if err == nil {
		c.trouble = ""
		return nil
	}
	err = fmt.Errorf("cannot restart %s: %w", where, err)
	c.tellOnce(ctx, err)
	return err
}

// checkSlot reads a slot back and compares it with the image.
func checkSlot(ctx context.Context, in installer.Installer, image installer.Image) error {
	slot, err := in.Prepare(ctx, image)
	if err != nil {
		return fmt.Errorf("cannot read slot back: %w", err)
	}
	sum, err := hashPrefix(ctx, slot, image.Length)
	if err := errors.Join(err, slot.Close()); err != nil {
		return fmt.Errorf("cannot read slot back: %w", err)
	}
	if digest.SHA256(sum.Sum(nil)) != image.SHA256 {
		return fmt.Errorf("cannot stage %s: the slot does not hold what was written to it", image.Component)
	}
	return nil
}

// Pending reports whether an update is staged and waits for the restart.
func (c *Client) Pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	j, ok := c.loadJournal()
	return ok && slices.Contains([]string{stepStaged, stepRebooting}, j.Step)
}
