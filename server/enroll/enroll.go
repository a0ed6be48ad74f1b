// Package enroll admits devices in two round trips.
//
// Round 1 checks who the TPM is and answers with a credential that only that TPM can open; the server keeps nothing.
// Round 2 proves that the attestation key and the TLS key live in that TPM. A genuine TPM is not an owned one: only an
// inventory entry, a one-time token or a person's approval takes a device out of "pending", and they, never the device,
// say product and hardware. How it was admitted fixes its tier for good. A TPM on the deny list is refused whatever else
// it shows. An attestation key is replaced only by one that it certifies itself, or after people had it forgotten.
//
// Trusted: it decides which keys speak for a device.
package enroll

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/limit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what enrollment reads and writes. Missing rows are store.ErrNotFound; Commit as in package store.
type Store interface {
	Device(ctx context.Context, id string) (fleet.Device, error)
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
	Inventory(ctx context.Context, device string) (store.Inventory, error)
	EnrollToken(ctx context.Context, hash digest.SHA256) (store.EnrollToken, error)
	DenialsInForce(ctx context.Context) ([]fleet.Denial, error)
	Commit(ctx context.Context, change store.Change) error
}

// Service enrolls devices. It is safe for concurrent use.
type Service struct {
	store      Store
	admission  Admission
	challenges *appraise.Challenges
	secretKey  []byte // makes the activation secret of a challenge; never leaves the server
	rules      standing.Rules
	maxAge     time.Duration
	now        func() time.Time
	refusals   *limit.Limiter
	rotations  *limit.Limiter
	anew       *limit.Limiter
}

// Admission says which endorsement keys may apply.
type Admission struct {
	Policy identity.EKPolicy
	// Bare lets TPMs apply that have no EK certificate. They need an inventory entry, or a token and a person, and reach
	// fleet.TierBare.
	Bare bool
}

// An EK certificate is no secret, so whoever has one can be refused in its device's name as often as he likes. Only so
// many of these refusals become events; the next one says how many were left out.
const (
	refusalBurst = 8
	refusalEvery = 10 * time.Minute
	refusalKeys  = 512
	maxWhy       = 512
)

// A device may make attestation keys and TLS keys without end; each rotation and each activation anew is an event for good.
// More devices than these keys share one allowance, so a whole fleet fits that does it in one go.
const (
	rotationBurst   = 4
	rotationEvery   = time.Hour
	rotationKeys    = 16384
	activationBurst = 8
	activationEvery = 10 * time.Minute
)

// refusedEvents is the event of a refused round 2, if it is one to keep. Its actor is the enrollment: nobody has proven
// to be the device.
func (s *Service) refusedEvents(device string, why error) []store.Event {
	ok, suppressed, _ := s.refusals.Allow(device, s.now())
	if !ok {
		return nil
	}
	text := why.Error()
	data := map[string]any{"why": strings.ToValidUTF8(text[:min(len(text), maxWhy)], "?")}
	if suppressed > 0 {
		data["suppressed"] = suppressed
	}
	return []store.Event{{At: s.now(), Type: audit.DeviceRefused, Actor: "enroll", Subject: device, Data: data}}
}

// New takes the endorsement keys that may apply, the challenges with their maximal age, and the key that activation
// secrets are made with. now is the server's clock.
func New(s Store, admission Admission, challenges *appraise.Challenges, secretKey []byte, rules standing.Rules, maxAge time.Duration, now func() time.Time) *Service {
	return &Service{store: s, admission: admission, challenges: challenges, secretKey: secretKey, rules: rules, maxAge: maxAge, now: now,
		refusals:  limit.New(refusalBurst, refusalEvery, refusalKeys),
		rotations: limit.New(rotationBurst, rotationEvery, rotationKeys),
		anew:      limit.New(activationBurst, activationEvery, rotationKeys)}
}

// applicant is a request whose keys were checked.
type applicant struct {
	ek     identity.EK
	ak     identity.Public
	tls    identity.Public
	qn     []byte // qualified name that the AK has in the endorsement hierarchy
	digest digest.SHA256
	id     string
}

// Start answers round 1. connection is the SPKI that the TLS connection authenticated with.
func (s *Service) Start(ctx context.Context, connection []byte, req wire.EnrollRequest) (wire.EnrollChallenge, error) {
	a, err := s.check(connection, req)
	if err != nil {
		return wire.EnrollChallenge{}, err
	}
	if err := s.denied(ctx, a, 0); err != nil {
		return wire.EnrollChallenge{}, err
	}
	token := s.challenges.Mint(purpose(a), a.id, s.now())
	credential, secret, err := identity.MakeCredential(a.ek.SPKI, a.ak.Name, s.secret(token))
	if errors.Is(err, identity.ErrCredential) { // an endorsement key of another kind: that is the applicant's, not an error of ours
		return wire.EnrollChallenge{}, problem.New(http.StatusForbidden, reason.EKUntrusted, "the endorsement key cannot be used: %v; a TPM has one of RSA-2048 as well", err)
	}
	if err != nil {
		return wire.EnrollChallenge{}, fmt.Errorf("cannot make a credential: %w", err)
	}
	return wire.EnrollChallenge{Device: a.id, Challenge: token, Credential: credential, EncryptedSecret: secret}, nil
}

// check holds the request against the rules for EK, AK and TLS key, and against the connection it came over.
func (s *Service) check(connection []byte, req wire.EnrollRequest) (applicant, error) {
	if len(req.EKChain) > 4 || len(req.HardwareID) > 63 || len(req.Token) > 128 {
		return applicant{}, problem.Malformed("a field of the request is too long")
	}
	if strings.ContainsFunc(req.HardwareID, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return applicant{}, problem.Malformed("hardware_id has characters that cannot be printed")
	}
	ak, err := identity.ParsePublic(req.AKPublic)
	if err != nil {
		return applicant{}, problem.New(http.StatusBadRequest, reason.AKNotBound, "the attestation key cannot be read: %v", err)
	}
	tls, err := identity.ParsePublic(req.TLSPublic)
	if err != nil {
		return applicant{}, problem.New(http.StatusBadRequest, reason.AKNotBound, "the TLS key cannot be read: %v", err)
	}
	if problems := append(identity.CheckAK(ak), identity.CheckTLSKey(tls)...); len(problems) > 0 {
		return applicant{}, refuse(problems)
	}
	spki, err := x509.MarshalPKIXPublicKey(tls.Key)
	if err != nil || !hmac.Equal(spki, connection) {
		return applicant{}, problem.New(http.StatusForbidden, reason.AKNotBound, "the connection does not use the TLS key of the request")
	}
	// The chain comes last: anybody can ask for it to be checked, and it costs more than all of the above.
	ek, problems := s.endorsement(req)
	if len(problems) > 0 {
		return applicant{}, refuse(problems)
	}
	canonical, err := json.Marshal(req, json.Deterministic(true))
	if err != nil {
		return applicant{}, fmt.Errorf("cannot hash the request: %w", err)
	}
	return applicant{ek: ek, ak: ak, tls: tls, qn: identity.QualifiedNameUnderEndorsement(ak.Name),
		digest: digest.Of(canonical), id: ek.Device.String()}, nil
}

// endorsement checks the EK by its certificate, or as a key without one where that is allowed.
func (s *Service) endorsement(req wire.EnrollRequest) (identity.EK, []identity.Problem) {
	switch {
	case len(req.EKPublic) == 0:
		return s.admission.Policy.Verify(req.EKCertificate, req.EKChain, s.now())
	case len(req.EKCertificate) > 0 || len(req.EKChain) > 0:
		return identity.EK{}, []identity.Problem{{Reason: reason.EKUntrusted, Detail: "an endorsement key comes with its certificate or without one, not both"}}
	case !s.admission.Bare:
		return identity.EK{}, []identity.Problem{{Reason: reason.EKUntrusted, Detail: "the TPM has no endorsement certificate, and this server admits none without"}}
	}
	return identity.EKWithoutCertificate(req.EKPublic)
}

// denied refuses a TPM that the deny list names: by its EK, by what is stored about it from before, and by the firmware
// that its quote shows, 0 before there is one. What the people wrote about the denial stays here.
func (s *Service) denied(ctx context.Context, a applicant, firmware uint64) error {
	list, err := s.store.DenialsInForce(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the deny list: %w", err)
	}
	if len(list) == 0 {
		return nil
	}
	if _, yes := fleet.DeniedEK(a.ek, firmware, list); yes {
		return problem.New(http.StatusForbidden, reason.EKRevoked, "this TPM is on the deny list")
	}
	known, err := s.store.Device(ctx, a.id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot load the device: %w", err)
	}
	if _, yes := fleet.DeniedForGood(known, list); yes {
		return problem.New(http.StatusForbidden, reason.EKRevoked, "this TPM is on the deny list")
	}
	return nil
}

// purpose binds a challenge to the exact request of round 1.
func purpose(a applicant) string { return attestation.PurposeEnroll + ":" + a.digest.String() }

// secret is the 32 bytes that only the TPM of the EK can get out of the credential.
func (s *Service) secret(token []byte) []byte {
	m := hmac.New(sha256.New, s.secretKey)
	m.Write([]byte("cordon/activation-secret/v1"))
	m.Write(token)
	return m.Sum(nil)
}

func refuse(problems []identity.Problem) error {
	p := problems[0]
	return problem.New(http.StatusForbidden, p.Reason, "%s", p.Detail)
}

// Finish answers round 2 and admits the device.
func (s *Service) Finish(ctx context.Context, connection, exporter []byte, req wire.ActivateRequest) (wire.ActivateAnswer, error) {
	a, err := s.check(connection, req.Enroll)
	if err != nil {
		return wire.ActivateAnswer{}, err
	}
	issued, why := s.challenges.Check(req.Challenge, purpose(a), a.id, s.now())
	if why != "" {
		return wire.ActivateAnswer{}, problem.New(http.StatusForbidden, why, "start the enrollment again")
	}
	consume := store.ConsumeChallenge{Digest: digest.Of(req.Challenge), Expires: issued.Add(s.maxAge + time.Minute)}
	shown, err := s.prove(a, exporter, req)
	if err == nil {
		err = s.denied(ctx, a, shown.firmware)
	}
	if err != nil {
		// One wrong answer ends the challenge: no second guess.
		if cerr := s.store.Commit(context.WithoutCancel(ctx), store.Change{Writes: []store.Write{consume}, Events: s.refusedEvents(a.id, err)}); cerr != nil && !errors.Is(cerr, store.ErrConflict) {
			return wire.ActivateAnswer{}, fmt.Errorf("cannot end the challenge: %w", cerr)
		}
		return wire.ActivateAnswer{}, err
	}
	return s.admit(ctx, a, req, shown, consume)
}
