package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/wire"
)

// rejection is what is remembered of an image that an installer did not take.
type rejection struct {
	Tries int    `json:"tries"` // maxFailures at once where another try would get the same answer
	Cause string `json:"cause"`
}

func (r rejection) text(what string) string {
	return "no installer of this device takes " + what + ", and it is not tried again: " + r.Cause
}

// notInstalled notes that an installer did not take an image. Trouble that passes is an error, and the installation is tried
// again in the next round, later and later. What went wrong in another way has maxFailures tries, and a refusal of the image
// itself is the last word: nothing of the release stays named for a boot then, and it is not tried again before the director
// has offered something else. As long as the clock is wrong a refusal is none: installers verify certificates by it, and not
// every one says that this was why.
func (c *Client) notInstalled(ctx context.Context, installers []installer.Installer, j journal, p journalPart, err error) ([]Refusal, error) {
	name := artifacts.ReleaseName(j.Product, j.Version)
	told := fmt.Errorf("cannot install %s of %s: %w", p.Component, name, err)
	refused := errors.Is(err, installer.ErrRefused)
	if ctx.Err() != nil || refused && !c.clockRight() || !refused && !errors.Is(err, installer.ErrFailed) {
		c.tellOnce(ctx, told)
		return nil, told
	}
	r := rejection{Tries: c.state.Rejected[p.SHA256.String()].Tries + 1, Cause: cutText(err.Error())}
	if refused {
		r.Tries = maxFailures
	}
	if c.state.Rejected == nil {
		c.state.Rejected = map[string]rejection{}
	}
	c.state.Rejected[p.SHA256.String()] = r
	c.state.Boot = &wire.BootReport{Result: bootRefused, Version: name, Detail: r.Cause}
	if r.Tries < maxFailures {
		c.event(reason.Reason(""), fmt.Sprintf("try %d of %d: %v", r.Tries, maxFailures, told))
		return nil, told
	}
	c.log.Warn("a release is given up", "release", name, "component", p.Component, "cause", r.Cause)
	refusals := []Refusal{c.refuse(reason.UpdateOverdue, "%s", r.text(artifacts.TargetPath(j.Product, j.Version, p.Component)))}
	c.save()
	if err := takeBack(ctx, installers, j); err != nil {
		return refusals, err
	}
	return refusals, c.dropJournal()
}

// tellOnce tells the server of trouble that passes, until another one takes its place.
func (c *Client) tellOnce(ctx context.Context, err error) {
	if text := err.Error(); ctx.Err() == nil && text != c.trouble {
		c.trouble = text
		c.event(reason.Reason(""), text)
	}
}

// forgetRejected forgets the images that the director's current metadata does not name: when one of them is offered again, an
// operator wants it to be tried.
func (c *Client) forgetRejected(targets []tufrepo.DirectorTarget) {
	if _, current := c.trust.director.CounterBase(); !current {
		return
	}
	maps.DeleteFunc(c.state.Rejected, func(sum string, _ rejection) bool {
		return !slices.ContainsFunc(targets, func(d tufrepo.DirectorTarget) bool { return d.SHA256.String() == sum })
	})
}
