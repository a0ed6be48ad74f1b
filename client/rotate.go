package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/tpm"
)

// ErrLastKey is returned by RotateAK when the device has used every generation of its attestation key.
var ErrLastKey = fmt.Errorf("the device has used all %d generations of its attestation key", tpm.MaxGeneration+1)

// RotateAK replaces the attestation key by its next generation, which the key in use certifies, in one full enrollment.
// Everything that the server knows of the device stays; quotes of the old key count for nothing from then on.
//
// It may be cut short anywhere: the intention is on disk before the server hears of it, and the next Enroll or Step
// carries it out or finds it done. A server that refuses gives Refusals and no Lifecycle, and the old key stays in use.
// It returns ErrNotEnrolled and ErrLastKey.
func (c *Client) RotateAK(ctx context.Context) (Enrollment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.save()
	if !c.state.Enrolled {
		return Enrollment{}, fmt.Errorf("cannot rotate attestation key: %w", ErrNotEnrolled)
	}
	if c.state.AKNext == 0 {
		if c.state.AKGeneration >= tpm.MaxGeneration {
			return Enrollment{}, fmt.Errorf("cannot rotate attestation key: %w", ErrLastKey)
		}
		c.state.AKNext = c.state.AKGeneration + 1
		if err := c.store.writeJSON(fileState, c.state); err != nil {
			c.state.AKNext = 0
			return Enrollment{}, err
		}
	}
	return c.rotate(ctx)
}

// rotate carries out the rotation that the state names. The server may have committed it already: the same enrollment
// then finds the new key registered and changes nothing.
func (c *Client) rotate(ctx context.Context) (Enrollment, error) {
	before := c.state.AKGeneration
	e, _, err := c.enrollAs(ctx, c.state.AKNext, &before)
	if err == nil && e.Lifecycle == "" { // refused: nothing was committed, now or before
		c.state.AKNext = 0
	}
	return e, err
}

// settle carries out a rotation that was cut short. The device goes on without it when that cannot be done now: one of the
// two keys is the one that the server knows.
func (c *Client) settle(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.AKNext == 0 {
		return
	}
	defer c.save()
	e, err := c.rotate(ctx)
	switch {
	case err == nil && e.Lifecycle == "":
		c.log.Warn("the rotation of the attestation key was refused; the key before stays in use", "refusals", len(e.Refusals))
	case err != nil && causeOf(err) != c.unrotated: // a server that wants it later is asked at every poll
		c.log.Warn("cannot finish the rotation of the attestation key now", "error", err.Error())
	}
	c.unrotated = causeOf(err)
}

// causeOf is what an error says without the address of our end of the connection, which is another one each time.
func causeOf(err error) string {
	if err == nil {
		return ""
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Source != nil {
		return strings.ReplaceAll(err.Error(), op.Source.String(), "")
	}
	return err.Error()
}

// enrollKnown enrolls with the attestation key that the state names. A device that lost its state, or had it set back, may
// name another one than the server knows: then it enrolls once more with the generation that the server's answer names.
func (c *Client) enrollKnown(ctx context.Context) (Enrollment, error) {
	e, known, err := c.enrollAs(ctx, c.state.AKGeneration, nil)
	if err != nil || e.Lifecycle != "" || known == nil {
		return e, err
	}
	generation, ok, err := c.findGeneration(known)
	if err != nil || !ok || generation == c.state.AKGeneration {
		return e, err
	}
	e, _, err = c.enrollAs(ctx, generation, nil)
	return e, err
}

// findGeneration looks for the attestation key with this Name among those of this TPM.
func (c *Client) findGeneration(name []byte) (generation uint32, ok bool, err error) {
	defer func() { err = errors.Join(err, c.cfg.TPM.UseGeneration(c.state.AKGeneration)) }()
	for generation := range uint32(tpm.MaxGeneration + 1) {
		if err := c.cfg.TPM.UseGeneration(generation); err != nil {
			return 0, false, err
		}
		raw, err := c.cfg.TPM.AKPublic()
		if err != nil {
			return 0, false, err
		}
		public, err := identity.ParsePublic(raw)
		if err != nil {
			return 0, false, fmt.Errorf("cannot read attestation key: %w", err)
		}
		if bytes.Equal(public.Name, name) {
			return generation, true, nil
		}
	}
	return 0, false, nil
}

// enrollAs enrolls with one generation of the attestation key, certified by the generation before if that is given. known
// is the Name of the key that the server has registered instead, when it says so. The generation in use afterwards is
// the one that the state names.
func (c *Client) enrollAs(ctx context.Context, generation uint32, before *uint32) (e Enrollment, known []byte, err error) {
	if err := c.cfg.TPM.UseGeneration(generation); err != nil {
		return Enrollment{}, nil, err
	}
	defer func() { err = errors.Join(err, c.cfg.TPM.UseGeneration(c.state.AKGeneration)) }()
	e, known, err = c.enrollOnce(ctx, before)
	if err == nil && e.Lifecycle != "" {
		if c.state.AKGeneration != generation {
			c.log.Info("the attestation key in use is another one now", "generation", generation)
		}
		c.state.AKGeneration, c.state.AKNext = generation, 0
	}
	return e, known, err
}

// unknownKey says that the server may know another attestation key than the one in use.
func unknownKey(refusals []Refusal) bool {
	for _, r := range refusals {
		if !r.Local && (r.Reason == reason.QuoteSignatureInvalid || r.Reason == reason.AKNotBound) {
			return true
		}
	}
	return false
}
