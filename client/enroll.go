package client

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// Enrollment is what the server made of the device.
type Enrollment struct {
	Device    string
	Lifecycle string    // "pending" or "active"
	Refusals  []Refusal // why it is pending, or why it was refused
}

// Enroll proves to the server that this TPM is genuine and that the device's keys live in it. It may be repeated at any
// time; a lost answer is recovered by calling it again. A server that refuses gives Refusals and no Lifecycle.
func (c *Client) Enroll(ctx context.Context) (Enrollment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.save()
	return c.enroll(ctx)
}

func (c *Client) enroll(ctx context.Context) (Enrollment, error) {
	if c.state.AKNext > 0 { // a rotation was cut short
		e, err := c.rotate(ctx)
		if err != nil || e.Lifecycle != "" {
			return e, err
		}
	}
	return c.enrollKnown(ctx)
}

// enrollOnce enrolls with the attestation key that the TPM uses now, certified by the generation before if that is given.
// known is the Name of the attestation key that the server has registered, when it refused because of that.
func (c *Client) enrollOnce(ctx context.Context, before *uint32) (e Enrollment, known []byte, err error) {
	if err := c.ensureCounter(); err != nil {
		return Enrollment{}, nil, err
	}
	first, err := c.enrollRequest()
	if err != nil {
		return Enrollment{}, nil, err
	}
	ch, err := c.dialer.open(ctx)
	if err != nil {
		return Enrollment{}, nil, err
	}
	defer ch.close()
	var offer wire.EnrollChallenge
	if _, refused, err := c.round(ctx, ch, wire.PathEnroll, first, &offer); refused != nil || err != nil {
		return Enrollment{Device: c.id.String(), Refusals: refused}, nil, err
	}
	if offer.Device != c.id.String() {
		return Enrollment{}, nil, fmt.Errorf("%w: it calls this device %.80q, its TPM says %q", ErrServer, offer.Device, c.id)
	}
	second, err := c.activateRequest(ctx, ch, first, offer, before)
	if err != nil {
		return Enrollment{}, nil, err
	}
	var done wire.ActivateAnswer
	if p, refused, err := c.round(ctx, ch, wire.PathActivate, second, &done); refused != nil || err != nil {
		return Enrollment{Device: c.id.String(), Refusals: refused}, p.AKName, err
	}
	if done.Device != c.id.String() {
		return Enrollment{}, nil, fmt.Errorf("%w: it activated another device, %.80q", ErrServer, done.Device)
	}
	crash.Here(crash.AgentActivatedAnswer)
	e, err = c.enrolled(done)
	return e, nil, err
}

// ensureCounter makes the release counter if it is missing, and remembers that before it does.
func (c *Client) ensureCounter() error {
	if _, err := c.cfg.TPM.Counter(); !errors.Is(err, tpm.ErrNoCounter) {
		return err
	}
	if c.agreedBase() != nil {
		c.event(reason.CounterMissing, "the release counter was gone from the TPM and is made anew")
	}
	c.state.CounterNew, c.anchor = true, nil // EnsureCounter forgets the base of the lost counter
	c.save()
	_, err := c.cfg.TPM.EnsureCounter()
	crash.Here(crash.AgentCounterMade)
	return err
}

func (c *Client) enrollRequest() (wire.EnrollRequest, error) {
	out := wire.EnrollRequest{HardwareID: c.cfg.HardwareID, Token: c.cfg.Token}
	ek, err := c.cfg.TPM.EKCertificate()
	switch {
	case err == nil:
		out.EKCertificate = ek.Raw
	case errors.Is(err, tpm.ErrNoEKCertificate): // a server may admit it on somebody's word
		if out.EKPublic, err = c.cfg.TPM.EKPublic(); err != nil {
			return wire.EnrollRequest{}, err
		}
	default:
		return wire.EnrollRequest{}, err
	}
	ak, err := c.cfg.TPM.AKPublic()
	if err != nil {
		return wire.EnrollRequest{}, err
	}
	tls, err := c.cfg.TPM.TLSPublic()
	if err != nil {
		return wire.EnrollRequest{}, err
	}
	out.AKPublic, out.TLSPublic = ak, tls
	return out, nil
}

// activateRequest answers the credential: only the TPM with that endorsement key and that attestation key can. before is
// the generation of the attestation key that this one follows, nil if it follows none.
func (c *Client) activateRequest(ctx context.Context, ch *channel, first wire.EnrollRequest, offer wire.EnrollChallenge, before *uint32) (wire.ActivateRequest, error) {
	secret, err := c.cfg.TPM.ActivateCredential(offer.Credential, offer.EncryptedSecret)
	if err != nil {
		return wire.ActivateRequest{}, err
	}
	log, err := c.eventLog()
	if err != nil {
		return wire.ActivateRequest{}, err
	}
	claims, err := c.claims(ctx, log)
	if err != nil {
		return wire.ActivateRequest{}, err
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		return wire.ActivateRequest{}, fmt.Errorf("cannot encode claims: %w", err)
	}
	out := wire.ActivateRequest{Enroll: first, Challenge: offer.Challenge, Claims: encoded}
	evidence, transcript, err := c.evidence(ch, attestation.PurposeEnroll, offer.Challenge, log, encoded, true)
	if err != nil {
		return wire.ActivateRequest{}, err
	}
	out.Evidence = evidence
	if out.Certify, out.CertifySignature, err = c.cfg.TPM.CertifyTLS(transcript[:]); err != nil {
		return wire.ActivateRequest{}, err
	}
	if before != nil {
		if out.AKCertify, out.AKCertifySignature, err = c.cfg.TPM.CertifyAK(*before, transcript[:]); err != nil {
			return wire.ActivateRequest{}, err
		}
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(transcript[:])
	out.HMAC = mac.Sum(nil)
	return out, nil
}

// round makes one exchange of enrollment. A refusal of the server is a value, and comes with its document.
func (c *Client) round(ctx context.Context, ch *channel, path string, req, res any) (wire.Problem, []Refusal, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return wire.Problem{}, nil, fmt.Errorf("cannot encode request: %w", err)
	}
	if len(body) > wire.MaxEnrollBytes {
		return wire.Problem{}, nil, fmt.Errorf("cannot enroll: request of %d bytes, at most %d", len(body), wire.MaxEnrollBytes)
	}
	a, err := ch.send(ctx, http.MethodPost, path, body, wire.MaxAnswerBytes)
	if err != nil {
		return wire.Problem{}, nil, err
	}
	if a.status == http.StatusOK {
		if err := json.Unmarshal(a.body, res); err != nil {
			return wire.Problem{}, nil, fmt.Errorf("%w: %s: %v", ErrServer, path, err)
		}
		return wire.Problem{}, nil, nil
	}
	refused, err := refusalOf(path, a)
	return a.problem(), refused, err
}

// enrolled keeps what the server said.
func (c *Client) enrolled(done wire.ActivateAnswer) (Enrollment, error) {
	out := Enrollment{Device: done.Device, Lifecycle: done.Lifecycle, Refusals: fromServer(done.Refusal)}
	if err := c.checkBase(done.CounterBase); err != nil {
		return Enrollment{}, err
	}
	base, err := c.cfg.TPM.AnchorBase(done.CounterBase)
	if err != nil {
		return Enrollment{}, err
	}
	if base != done.CounterBase {
		c.event(reason.Reason(""), "the server told a lower base of the release counter than at the first enrollment; the first one stays")
	}
	crash.Here(crash.AgentBaseAnchored)
	c.anchor = &base
	c.state.Base, c.state.Enrolled, c.state.Lifecycle = &base, true, done.Lifecycle
	c.state.CounterNew = false
	if done.HardwareID != "" && artifacts.ValidName(done.HardwareID) == nil {
		c.state.HardwareID = done.HardwareID
	}
	c.state.Refusals = out.Refusals
	c.state.Proven, c.state.Verdict = digest.SHA256{}, ""
	c.fresh = challenge{}
	if err := c.store.remove(filePoll); err != nil {
		c.log.Warn("cannot forget old poll", "error", err.Error())
	}
	c.log.Info("enrolled", "device", done.Device, "lifecycle", done.Lifecycle)
	return out, nil
}

// errBase is returned when the server moves the base of a counter that is still there.
var errBase = errors.New("the server raised the base of the release counter, which would allow older releases")

// checkBase refuses a higher base while the counter of the last enrollment still exists: a higher base makes the
// counter's value smaller, and releases below it installable again. Only a counter that had to be made anew, after
// TPM2_Clear, gets a new base.
func (c *Client) checkBase(base uint64) error {
	index, err := c.cfg.TPM.Counter()
	if err != nil {
		return err
	}
	if base > index {
		return fmt.Errorf("%w: the base %d of the release counter is above the counter, %d", ErrServer, base, index)
	}
	agreed := c.agreedBase()
	fresh := c.anchor == nil && c.state.CounterNew
	if fresh || agreed == nil || base <= *agreed {
		return nil
	}
	c.event(reason.DowngradeRefused, errBase.Error())
	return fmt.Errorf("cannot enroll: %w", errBase)
}

// refusalOf turns an answer that is not a 200 into refusals, or into an error if the server could not decide.
func refusalOf(path string, a answer) ([]Refusal, error) {
	p := a.problem()
	if a.status < 400 || a.status >= 500 || a.status == http.StatusTooManyRequests || p.Reason == "" {
		return nil, fmt.Errorf("%w: status %d for %s, reason %.64q", ErrServer, a.status, path, p.Reason)
	}
	next := p.Next
	if next == "" {
		next = remedy(p.Reason)
	}
	return []Refusal{{Reason: p.Reason, Detail: cutText(p.Title), Remedy: cutText(next)}}, nil
}

func fromServer(refusals []wire.Refusal) []Refusal {
	var out []Refusal
	for i, r := range refusals {
		if i == maxEvents {
			break
		}
		out = append(out, Refusal{Reason: r.Reason, Remedy: cutText(r.Remedy)})
	}
	return out
}
