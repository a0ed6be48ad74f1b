package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// agentName is what claims and requests call this client.
const agentName = "cordon-client/1"

// challenge is what the server gave to quote over. It lives five minutes there; the client stops using it earlier.
type challenge struct {
	bytes []byte
	at    time.Time
}

const challengeLife = 4 * time.Minute

func (ch challenge) usable(now time.Time) bool {
	age := now.Sub(ch.at)
	return len(ch.bytes) > 0 && age >= 0 && age < challengeLife
}

// bootState is what one installer says about the running system.
type bootState struct {
	installer installer.Installer
	boot      installer.Boot
	kept      bool // the boot loader knows that this boot was a good one
}

// readRunning asks every installer; a boot does not change while a process lives, so those that have answered are not
// asked again. One that cannot tell is left out: the quote says what was booted, and a device that is silent because
// somebody started it in another way would hide just that.
func (c *Client) readRunning(ctx context.Context) error {
	if c.running != nil && !c.unsure {
		return nil
	}
	running, unsure := []bootState{}, false
	for _, in := range c.cfg.Installers {
		boot, err := in.Running(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.log.Warn("cannot tell what runs", "installer", in.Name(), "error", err.Error())
			unsure = true
			continue
		}
		running = append(running, bootState{installer: in, boot: boot})
	}
	c.running, c.unsure = running, unsure
	return nil
}

// keep says that this boot of the default slot was a good one where the boot loader counts those, too: the agent runs. A
// trial is left to Commit. What fails is tried again in the next round.
//
// A device whose TPM has agreed on a counter base has enrolled. Where its state does not say so, its disk is lost, or is not
// there because this release does not find it: a trial would look like any other boot, so the server has to answer first.
func (c *Client) keep(ctx context.Context) {
	if c.anchor != nil && !c.state.Enrolled {
		return
	}
	for i := range c.running {
		r := &c.running[i]
		keeper, ok := r.installer.(installer.Keeper)
		if !ok || r.boot.Trial || r.kept {
			continue
		}
		err := keeper.Keep(ctx)
		if err != nil {
			c.log.Warn("cannot tell the boot loader that this boot was a good one", "installer", r.installer.Name(), "error", err.Error())
		}
		r.kept = err == nil
	}
}

// bootOf returns what an installer of this client said about the running system.
func (c *Client) bootOf(name string) (installer.Boot, bool) {
	for _, r := range c.running {
		if r.installer.Name() == name {
			return r.boot, true
		}
	}
	return installer.Boot{}, false
}

// eventLog reads the log of this boot and bounds it.
func (c *Client) eventLog() ([]byte, error) {
	log, err := c.cfg.EventLog()
	if err != nil {
		return nil, fmt.Errorf("cannot read event log: %w", err)
	}
	if len(log) > attestation.MaxLogBytes {
		return nil, fmt.Errorf("cannot use event log: %d bytes, at most %d", len(log), attestation.MaxLogBytes)
	}
	return log, nil
}

// claims says what the device has.
func (c *Client) claims(ctx context.Context, log []byte) (wire.Claims, error) {
	if err := c.readRunning(ctx); err != nil {
		return wire.Claims{}, err
	}
	image := c.trust.image.State()
	out := wire.Claims{
		Version: wire.ClaimsVersion, Timestamp: image.Beacon, ImageRoot: image.Root,
		LogDigest: digest.Of(log), Components: c.components(), Boot: c.state.Boot, Events: c.state.Events, Agent: agentName,
	}
	out.DirectorRoot, out.DirectorVersion = c.trust.director.Versions()
	index, err := c.cfg.TPM.Counter()
	switch {
	case err == nil:
		out.Counter = &wire.Counter{Index: index, Value: c.counterValue(index)}
	case !errors.Is(err, tpm.ErrNoCounter):
		return wire.Claims{}, err
	}
	return out, nil
}

// components names what runs, with the release that brought it as far as that is remembered.
func (c *Client) components() []wire.Installed {
	var out []wire.Installed
	for _, r := range c.running {
		item := wire.Installed{Component: r.installer.Name(), SHA256: r.boot.SHA256, Length: r.boot.Length}
		for _, known := range c.known() {
			if known.SHA256 == r.boot.SHA256 {
				item = known
			}
		}
		out = append(out, item)
	}
	return out
}

// known are the images whose release is remembered: installed ones, and those of the update under way.
func (c *Client) known() []wire.Installed {
	out := append([]wire.Installed(nil), c.state.Installed...)
	if j, ok := c.loadJournal(); ok {
		for _, p := range j.Parts {
			out = append(out, wire.Installed{Component: p.Component, SHA256: p.SHA256, Length: p.Length, Product: j.Product, Version: j.Version})
		}
	}
	return out
}

// base is the base of the release counter: what the director signed, else what was agreed on before, and never more
// than that. A lower base makes the counter's value larger and only refuses more. known is false before either.
func (c *Client) base() (base uint64, known bool) {
	base, known = c.trust.director.CounterBase()
	if agreed := c.agreedBase(); agreed != nil && (!known || base > *agreed) {
		return *agreed, true
	}
	return base, known
}

// agreedBase is the base that enrollment agreed on: the TPM's word, and the state's only where the TPM has none.
func (c *Client) agreedBase() *uint64 {
	if c.anchor != nil {
		return c.anchor
	}
	return c.state.Base
}

// counterValue is what claims say. A server goes by it only when it does not know the device, or not any more.
func (c *Client) counterValue(index uint64) uint64 {
	base, known := c.base()
	if !known || index < base {
		return 0
	}
	return index - base
}

// evidence quotes over nonce, bound to the connection, the log and the claims.
func (c *Client) evidence(ch *channel, purpose string, nonce, log, claims []byte, withLog bool) (jsontext.Value, [32]byte, error) {
	transcript := attestation.Transcript(attestation.Binding{
		Purpose: purpose, Nonce: nonce, Device: c.id.String(), Exporter: ch.exporter,
		LogDigests: []digest.SHA256{digest.Of(log)}, Claims: digest.Of(claims),
	})
	q, err := c.cfg.TPM.Quote(transcript[:])
	if err != nil {
		return nil, transcript, fmt.Errorf("cannot prove the boot state: %w", err)
	}
	e := attestation.Evidence{
		Version: attestation.EvidenceVersion, Quote: q.Attest, Signature: q.Signature, PCRs: q.PCRs, LogDigest: digest.Of(log),
	}
	if withLog {
		e.Log = log
	}
	b, err := attestation.EncodeEvidence(e)
	if err != nil {
		return nil, transcript, fmt.Errorf("cannot encode evidence: %w", err)
	}
	return jsontext.Value(b), transcript, nil
}

// pollNonce keeps two polls that say the same apart: the server answers the same bytes with the stored answer.
const pollNonce = 8

// pollBody builds one poll. nonce is a challenge, or nil for the beacon; quoted tells whether to prove anything at all.
func (c *Client) pollBody(ctx context.Context, ch *channel, nonce []byte, quoted, withLog bool) ([]byte, error) {
	log, err := c.eventLog()
	if err != nil {
		return nil, err
	}
	claims, err := c.claims(ctx, log)
	if err != nil {
		return nil, err
	}
	claims.Challenge = bytes.Clone(nonce)
	claims.Poll = make([]byte, pollNonce)
	rand.Read(claims.Poll) // never fails
	if quoted && nonce == nil {
		nonce = claims.Timestamp[:]
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("cannot encode claims: %w", err)
	}
	req := wire.PollRequest{Claims: encoded}
	if quoted {
		if req.Evidence, _, err = c.evidence(ch, attestation.PurposePoll, nonce, log, encoded, withLog); err != nil {
			return nil, err
		}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("cannot encode poll: %w", err)
	}
	if len(encoded) > wire.MaxClaimsBytes || len(body) > wire.MaxPollBytes {
		return nil, fmt.Errorf("cannot poll: %d bytes of claims, %d in all", len(encoded), len(body))
	}
	return body, nil
}
