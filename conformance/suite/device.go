package suite

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/wire"
)

// counterIndex is what the device's NV counter says.
const counterIndex = 1000

// device is a device in software.
type device struct {
	id     string
	ek     evidencetest.EK
	ak     evidencetest.AK
	tls    evidencetest.Key
	values reference.Values // what it boots
	conn   *connection

	clock     quote.Clock // of the last good quote
	beacon    digest.SHA256
	challenge []byte
	got       time.Time // the challenge
	hardware  string    // as the server said at enrollment
}

// newDevice makes the keys of a device that nobody has seen.
func (r *run) newDevice() *device {
	ek := r.cfg.Root.NewEK(nil)
	return &device{
		id: identity.DeviceIDOf(ek.SPKI).String(), ek: ek, ak: evidencetest.NewAK(rand.Reader), tls: evidencetest.NewTLSKey(rand.Reader),
		clock: quote.Clock{ResetCount: 7, RestartCount: 2, Clock: 1_000_000, Safe: true},
	}
}

// claims are what the device says about itself, different in each poll.
func (d *device) claims(challenge []byte, overBeacon bool) ([]byte, error) {
	c := wire.Claims{
		Version: wire.ClaimsVersion, Challenge: challenge, ImageRoot: 1, DirectorRoot: 1,
		Counter: &wire.Counter{Index: counterIndex}, Agent: "conformance-suite/1", Poll: make([]byte, 8),
	}
	if overBeacon {
		c.Challenge, c.Timestamp = nil, d.beacon
	}
	if _, err := rand.Read(c.Poll); err != nil {
		return nil, fmt.Errorf("cannot make claims: %w", err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("cannot encode claims: %w", err)
	}
	return b, nil
}

// good is the device as a scenario that passes, about to quote for this connection.
func (d *device) good(c *connection, purpose string, nonce, claims []byte) *evidencetest.Scenario {
	s := evidencetest.NewScenario("suite", evidencetest.Current)
	s.AK = d.ak
	if len(d.values.PCRs) > 0 {
		s.Log = evidencetest.DirectUKI(d.values)
		s.Registers = s.Log.PCRs()
		s.Expected[0].Values = d.values
	}
	s.Clock = d.clock
	s.Binding = attestation.Binding{Purpose: purpose, Nonce: nonce, Device: d.id, Exporter: c.exporter, Claims: digest.Of(claims)}
	return s
}

// tick lets the TPM's clock run.
func (d *device) tick() { d.clock.Clock += 1000 }

// attempt is one enrollment with everything that a case may spoil.
type attempt struct {
	dev       *device
	conn      *connection
	request   wire.EnrollRequest
	offer     wire.EnrollChallenge
	secret    []byte          // what the TPM got out of the credential
	nonce     []byte          // that quote and certification are over; nil: the offer's challenge
	exporter  []byte          // nil: the connection's
	certifier evidencetest.AK // that vouches for the TLS key
	certify   evidencetest.CertifySpec
	quote     func(*attestation.Input, evidencetest.AK)
	finish    func(*wire.ActivateRequest) // changes the finished request
}

// start makes the request of round 1.
func (d *device) start(c *connection, token string) *attempt {
	return &attempt{dev: d, conn: c, certifier: d.ak, request: wire.EnrollRequest{
		EKCertificate: d.ek.Certificate, AKPublic: d.ak.Public, TLSPublic: d.tls.Public, Token: token,
	}}
}

// round1 sends the request; the offer is kept when the server makes one.
func (a *attempt) round1(ctx context.Context) (answer, error) {
	body, err := json.Marshal(a.request)
	if err != nil {
		return answer{}, fmt.Errorf("cannot encode request: %w", err)
	}
	got, err := a.conn.exchange(ctx, http.MethodPost, wire.PathEnroll, func(*connection) ([]byte, error) { return body, nil })
	if err != nil || got.status != http.StatusOK {
		return got, err
	}
	if err := json.Unmarshal(got.body, &a.offer); err != nil {
		return answer{}, fmt.Errorf("%w: round 1 was answered with something else: %w", ErrSetup, err)
	}
	secret, err := a.dev.ek.Activate(a.offer.Credential, a.offer.EncryptedSecret, a.dev.ak.Name())
	if err != nil {
		secret = make([]byte, sha256.Size) // the credential is for another TPM: all that is left is to guess
	}
	a.secret = secret
	return got, nil
}

// round2 proves, or what the case made of it.
func (a *attempt) round2(ctx context.Context) (answer, error) {
	return a.conn.exchange(ctx, http.MethodPost, wire.PathActivate, func(c *connection) ([]byte, error) { return a.proof(c) })
}

func (a *attempt) proof(c *connection) ([]byte, error) {
	claims, err := a.dev.claims(nil, false)
	if err != nil {
		return nil, err
	}
	nonce, exporter := a.nonce, a.exporter
	if nonce == nil {
		nonce = a.offer.Challenge
	}
	s := a.dev.good(c, attestation.PurposeEnroll, nonce, claims)
	if exporter != nil {
		s.Binding.Exporter = exporter
	}
	in := s.Input()
	transcript := attestation.Transcript(in.Binding)
	if a.quote != nil {
		a.quote(&in, a.dev.ak)
	}
	in.Evidence.Log = in.Log
	evidence, err := json.Marshal(in.Evidence)
	if err != nil {
		return nil, fmt.Errorf("cannot encode evidence: %w", err)
	}
	spec := a.certify
	if spec.ExtraData == nil {
		spec.ExtraData = transcript[:]
	}
	if spec.Name == nil {
		spec.Name = a.dev.tls.Name()
	}
	spec.Clock, spec.Firmware = s.Clock, s.Firmware
	out := wire.ActivateRequest{Enroll: a.request, Challenge: a.offer.Challenge, Claims: claims, Evidence: evidence}
	out.Certify, out.CertifySignature = a.certifier.Certify(spec)
	mac := hmac.New(sha256.New, a.secret)
	mac.Write(transcript[:])
	out.HMAC = mac.Sum(nil)
	if a.finish != nil {
		a.finish(&out)
	}
	b, err := json.Marshal(out, jsontext.AllowDuplicateNames(true)) // a case may have them
	if err != nil {
		return nil, fmt.Errorf("cannot encode request: %w", err)
	}
	return b, nil
}

// enroll enrolls a good device.
func (r *run) enroll(ctx context.Context, d *device, token string) (lifecycle string, err error) {
	if d.conn, err = r.connect(ctx, d.tls); err != nil {
		return "", err
	}
	a := d.start(d.conn, token)
	got, err := a.round1(ctx)
	if err == nil && got.status == http.StatusOK {
		got, err = a.round2(ctx)
	}
	if err != nil {
		return "", err
	}
	if got.status != http.StatusOK {
		return "", fmt.Errorf("%w: a good device cannot enroll: status %d, %s", ErrSetup, got.status, got.problem().Reason)
	}
	var done wire.ActivateAnswer
	if err := json.Unmarshal(got.body, &done); err != nil || done.Lifecycle == "" {
		return "", fmt.Errorf("%w: round 2 was answered with something else: %w", ErrSetup, err)
	}
	d.hardware = done.HardwareID
	return done.Lifecycle, nil
}
