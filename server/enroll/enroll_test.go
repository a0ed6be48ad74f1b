package enroll_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// manufacturer issues the EK certificates of this test; others pretends to be one.
var manufacturer, others = sync.OnceValue(func() evidencetest.CA { return evidencetest.NewCA("TPM maker") }),
	sync.OnceValue(func() evidencetest.CA { return evidencetest.NewCA("TPM maker") })

// soft is a TPM in software.
type soft struct {
	ek       evidencetest.EK
	ak       evidencetest.AK
	tls      evidencetest.Key
	exporter []byte
	index    uint64 // NV counter; 0: missing
	value    uint64 // what it has counted, by its own word
	clock    quote.Clock
	firmware uint64
	bare     bool // it holds no EK certificate
}

func newTPM(label string) *soft {
	exporter := sha256.Sum256([]byte("exporter " + label))
	return &soft{
		ek: manufacturer().NewEK(nil), ak: evidencetest.NewAK(evidencetest.Seed("ak " + label)),
		tls: evidencetest.NewTLSKey(evidencetest.Seed("tls " + label)), exporter: exporter[:], index: 40, clock: quote.Clock{Clock: 10, Safe: true},
	}
}

func (d *soft) id() string { return identity.DeviceIDOf(d.ek.SPKI).String() }

func spki(t testing.TB, k evidencetest.Key) []byte {
	t.Helper()
	out, err := x509.MarshalPKIXPublicKey(k.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (d *soft) request() wire.EnrollRequest {
	if d.bare {
		return wire.EnrollRequest{EKPublic: d.ek.SPKI, AKPublic: d.ak.Public, TLSPublic: d.tls.Public, HardwareID: "what it says"}
	}
	return wire.EnrollRequest{EKCertificate: d.ek.Certificate, AKPublic: d.ak.Public, TLSPublic: d.tls.Public, HardwareID: "what it says"}
}

// activation answers the credential; change may alter what is signed.
func (d *soft) activation(t testing.TB, first wire.EnrollRequest, offer wire.EnrollChallenge, change ...func(*proofs)) wire.ActivateRequest {
	t.Helper()
	secret, err := d.ek.Activate(offer.Credential, offer.EncryptedSecret, d.ak.Name())
	if err != nil {
		secret = make([]byte, 32) // it cannot know
	}
	claims := wire.Claims{Version: wire.ClaimsVersion}
	if d.index > 0 {
		claims.Counter = &wire.Counter{Index: d.index, Value: d.value}
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	log := evidencetest.DirectUKI(evidencetest.Release("lamp/1"))
	transcript := attestation.Transcript(attestation.Binding{
		Purpose: attestation.PurposeEnroll, Nonce: offer.Challenge, Device: d.id(), Exporter: d.exporter,
		LogDigests: []digest.SHA256{digest.Of(log.Bytes())}, Claims: digest.Of(encoded),
	})
	p := proofs{secret: secret, macOver: transcript, certifier: d.ak, certifyOver: transcript[:], certified: d.tls.Name(), quoter: d.ak, quoteOver: transcript[:], log: log.Bytes(),
		succeedOver: transcript[:], successor: d.ak.Name()}
	for _, c := range change {
		c(&p)
	}
	d.clock.Clock++
	quoted, regs := map[int]digest.SHA256{}, log.PCRs()
	e := attestation.Evidence{Version: attestation.EvidenceVersion, LogDigest: digest.Of(log.Bytes()), Log: p.log}
	for _, pcr := range attestation.DefaultRequiredPCRs {
		quoted[pcr] = regs[pcr]
		e.PCRs = append(e.PCRs, attestation.PCR{Index: pcr, Value: regs[pcr]})
	}
	e.Quote, e.Signature = p.quoter.Quote(evidencetest.QuoteSpec{ExtraData: p.quoteOver, Clock: d.clock, Firmware: d.firmware, PCRs: quoted, QualifiedSigner: p.signer})
	out := wire.ActivateRequest{Enroll: first, Challenge: offer.Challenge, Claims: encoded}
	if out.Evidence, err = attestation.EncodeEvidence(e); err != nil {
		t.Fatal(err)
	}
	out.Certify, out.CertifySignature = p.certifier.Certify(evidencetest.CertifySpec{ExtraData: p.certifyOver, Name: p.certified, Clock: d.clock})
	if p.before != nil {
		out.AKCertify, out.AKCertifySignature = p.before.Certify(evidencetest.CertifySpec{ExtraData: p.succeedOver, Name: p.successor, Clock: d.clock, QualifiedSigner: p.beforeSigner})
	}
	mac := hmac.New(sha256.New, p.secret)
	mac.Write(p.macOver[:])
	out.HMAC = mac.Sum(nil)
	return out
}

type proofs struct {
	secret      []byte
	macOver     digest.SHA256
	certifier   evidencetest.AK
	certifyOver []byte
	certified   []byte
	quoter      evidencetest.AK
	quoteOver   []byte
	signer      []byte
	log         []byte

	before       *evidencetest.AK // certifies the AK when it is rotated
	beforeSigner []byte
	succeedOver  []byte
	successor    []byte
}

type server struct {
	*appraisetest.World
	*enroll.Service
}

func newServer(t testing.TB) server {
	t.Helper()
	w := appraisetest.New(t)
	key := sha256.Sum256([]byte("activation"))
	challenges := appraise.NewChallenges(bytes.Repeat([]byte{9}, 32), 5*time.Minute)
	return server{w, enroll.New(w.Store, enroll.Admission{Policy: identity.EKPolicy{Roots: roots(t, manufacturer().Certificate)}, Bare: true}, challenges, key[:], standing.Rules{Terms: appraisetest.Settings.Terms}, 5*time.Minute, w.Now)}
}

func (s server) start(t testing.TB, d *soft, first wire.EnrollRequest) wire.EnrollChallenge {
	t.Helper()
	offer, err := s.Start(t.Context(), spki(t, d.tls), first)
	if err != nil {
		t.Fatal(err)
	}
	return offer
}

func (s server) enroll(t testing.TB, d *soft, change ...func(*proofs)) (wire.ActivateAnswer, error) {
	t.Helper()
	first := d.request()
	return s.Finish(t.Context(), spki(t, d.tls), d.exporter, d.activation(t, first, s.start(t, d, first), change...))
}

func (s server) row(t testing.TB, d *soft) fleet.Device {
	t.Helper()
	row, err := s.Store.Device(t.Context(), d.id())
	if err != nil {
		t.Fatal(err)
	}
	return row
}

func (s server) commit(t testing.TB, writes ...store.Write) {
	t.Helper()
	if err := s.Store.Commit(t.Context(), store.Change{Writes: writes}); err != nil {
		t.Fatal(err)
	}
}

func (s server) inventory(t testing.TB, d *soft) { t.Helper(); s.listed(t, d.id()) }

func (s server) listed(t testing.TB, id string) {
	t.Helper()
	s.commit(t, store.PutInventory{Entry: store.Inventory{
		Device: id, Product: appraisetest.Product, HardwareID: appraisetest.Hardware, Profile: evidencetest.Profile, By: "ann", At: s.Now(),
	}})
}

func wantProblem(t *testing.T, what string, err error, why reason.Reason) {
	t.Helper()
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || p.Reason != why || p.Status < 400 || p.Status > 499 {
		t.Errorf("%s: got %v, want %s", what, err, why)
	}
}

func TestPendingInventoryAndToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	pending, listed, claimed := newTPM("p"), newTPM("l"), newTPM("c")
	got, err := s.enroll(t, pending)
	if err != nil || got.Lifecycle != "pending" || got.Device != pending.id() || got.CounterBase != 40 || got.HardwareID != "" || len(got.Refusal) != 1 {
		t.Errorf("pending: got %+v, %v", got, err)
	}
	if row := s.row(t, pending); row.Product != "" || row.Segment != fleet.Restricted || row.Standing != fleet.Unproven {
		t.Errorf("pending: got %+v", row)
	}
	s.inventory(t, listed)
	got, err = s.enroll(t, listed)
	row := s.row(t, listed)
	if err != nil || got.Lifecycle != "active" || got.HardwareID != appraisetest.Hardware || row.Tier != fleet.TierInventory || row.HardwareID != appraisetest.Hardware {
		t.Errorf("listed: got %+v, %v, %+v", got, err, row)
	}
	s.commit(t, store.AddEnrollToken{Token: store.EnrollToken{
		Hash: digest.Of([]byte("once")), Product: appraisetest.Product, HardwareID: "rev-t", Profile: evidencetest.Profile, Expires: s.Now().Add(time.Hour),
	}})
	first := claimed.request()
	first.Token = "once"
	got, err = s.Finish(t.Context(), spki(t, claimed.tls), claimed.exporter, claimed.activation(t, first, s.start(t, claimed, first)))
	if err != nil || got.Lifecycle != "active" || got.HardwareID != "rev-t" || s.row(t, claimed).Tier != fleet.TierClaimed {
		t.Errorf("token: got %+v, %v", got, err)
	}
	for name, use := range map[string]string{"used": "once", "unknown": "never"} {
		thief := newTPM("thief " + name)
		first := thief.request()
		first.Token = use
		_, err := s.Finish(t.Context(), spki(t, thief.tls), thief.exporter, thief.activation(t, first, s.start(t, thief, first)))
		wantProblem(t, name+" token", err, reason.EnrollTokenRefused)
		if _, err := s.Store.Device(t.Context(), thief.id()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s token: admitted", name)
		}
	}
}

func TestFirstRoundRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	foreign := others().Certify(d.ek.Private, nil) // N40: the same name, another manufacturer's key
	weak := evidencetest.GoodAK()
	weak.Attributes &^= identity.Restricted
	unrestricted := evidencetest.NewKey(evidencetest.Seed("weak"), weak)
	leaky := evidencetest.GoodTLS()
	leaky.Attributes &^= identity.FixedTPM
	importable := evidencetest.NewKey(evidencetest.Seed("leaky"), leaky)
	tests := map[string]struct {
		change func(*wire.EnrollRequest)
		on     []byte // SPKI of the connection
		want   reason.Reason
	}{
		"EK of a forged manufacturer":   {func(r *wire.EnrollRequest) { r.EKCertificate = foreign.Certificate }, spki(t, d.tls), reason.EKUntrusted},
		"no EK certificate":             {func(r *wire.EnrollRequest) { r.EKCertificate = nil }, spki(t, d.tls), reason.EKUntrusted},
		"AK that signs anything":        {func(r *wire.EnrollRequest) { r.AKPublic = unrestricted.Public }, spki(t, d.tls), reason.AKNotBound},
		"no AK":                         {func(r *wire.EnrollRequest) { r.AKPublic = nil }, spki(t, d.tls), reason.AKNotBound},
		"TLS key that was imported":     {func(r *wire.EnrollRequest) { r.TLSPublic = importable.Public }, spki(t, importable), reason.AKNotBound},
		"TLS key of another connection": {func(*wire.EnrollRequest) {}, spki(t, newTPM("e").tls), reason.AKNotBound}, // N51
		"AK as TLS key":                 {func(r *wire.EnrollRequest) { r.TLSPublic = d.ak.Public }, spki(t, d.ak.Key), reason.AKNotBound},
		"long token":                    {func(r *wire.EnrollRequest) { r.Token = string(make([]byte, 129)) }, spki(t, d.tls), reason.RequestMalformed},
		"long chain":                    {func(r *wire.EnrollRequest) { r.EKChain = make([][]byte, 5) }, spki(t, d.tls), reason.RequestMalformed},
	}
	for name, test := range tests {
		req := d.request()
		test.change(&req)
		_, err := s.Start(t.Context(), test.on, req)
		wantProblem(t, name, err, test.want)
	}
	chained := manufacturer().Intermediate("site", nil)
	ok := d.request()
	ok.EKCertificate, ok.EKChain = chained.Certify(d.ek.Private, nil).Certificate, [][]byte{chained.Certificate.Raw}
	if _, err := s.Start(t.Context(), spki(t, d.tls), ok); err != nil {
		t.Errorf("intermediate: %v", err)
	}
}

func TestSecondRoundRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	other := newTPM("other")
	tests := map[string]struct {
		change func(*proofs)
		want   reason.Reason
	}{
		"wrong secret":                {func(p *proofs) { p.secret = make([]byte, 32) }, reason.AKNotBound},
		"MAC over another transcript": {func(p *proofs) { p.macOver[0] ^= 1 }, reason.AKNotBound},
		"TLS key certified by itself": {func(p *proofs) {
			p.certifier = evidencetest.AK{Key: evidencetest.NewTLSKey(evidencetest.Seed("tls x"))}
		}, reason.QuoteSignatureInvalid},
		"TLS key certified by another AK":     {func(p *proofs) { p.certifier = other.ak }, reason.QuoteSignatureInvalid},
		"another TLS key certified":           {func(p *proofs) { p.certified = other.tls.Name() }, reason.AKNotBound},
		"certification of another enrollment": {func(p *proofs) { p.certifyOver = make([]byte, 32) }, reason.NonceUnknown},
		"quote by another AK":                 {func(p *proofs) { p.quoter = other.ak }, reason.QuoteSignatureInvalid},
		"quote over another transcript":       {func(p *proofs) { p.quoteOver = make([]byte, 32) }, reason.NonceUnknown},
		"AK of another hierarchy":             {func(p *proofs) { p.signer = other.ak.QualifiedSigner() }, reason.AKNotBound},
		"another log":                         {func(p *proofs) { p.log = []byte("another log") }, reason.EventlogMismatch},
	}
	for name, test := range tests {
		d := newTPM("x")
		first := d.request()
		offer := s.start(t, d, first)
		bad := d.activation(t, first, offer, test.change)
		_, err := s.Finish(t.Context(), spki(t, d.tls), d.exporter, bad)
		wantProblem(t, name, err, test.want)
		// N46: no second guess with the same challenge, not even the right one.
		_, err = s.Finish(t.Context(), spki(t, d.tls), d.exporter, d.activation(t, first, offer))
		wantProblem(t, name+", then right", err, reason.Conflict)
		if _, err := s.Store.Device(t.Context(), d.id()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: admitted", name)
		}
		if got := s.Events(d.id()); !slices.Equal(got, []string{"device.refused"}) {
			t.Errorf("%s: events %v", name, got)
		}
	}
}

// N42: somebody else's EK certificate is public; only its TPM opens the credential.
func TestEKOfAnotherDeviceReplayed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	victim, thief := newTPM("victim"), newTPM("thief")
	if _, err := s.enroll(t, victim); err != nil {
		t.Fatal(err)
	}
	before := s.row(t, victim)
	first := thief.request()
	first.EKCertificate = victim.ek.Certificate
	offer := s.start(t, thief, first)
	if _, err := thief.ek.Activate(offer.Credential, offer.EncryptedSecret, thief.ak.Name()); err == nil {
		t.Fatal("another TPM opened the credential")
	}
	_, err := s.Finish(t.Context(), spki(t, thief.tls), thief.exporter, thief.activation(t, first, offer))
	wantProblem(t, "replayed EK", err, reason.AKNotBound)
	if got := s.row(t, victim); got.Version != before.Version {
		t.Errorf("the victim changed: %+v", got)
	}
}

func TestChallengeIsUsedOnceInTimeAndForItsRequest(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	first := d.request()
	offer := s.start(t, d, first)
	body := d.activation(t, first, offer)
	moved := *d
	other := sha256.Sum256([]byte("another connection"))
	_, err := s.Finish(t.Context(), spki(t, d.tls), other[:], moved.activation(t, first, s.start(t, d, first)))
	wantProblem(t, "another connection", err, reason.AKNotBound)
	changed := body
	changed.Enroll.HardwareID = "something else"
	_, err = s.Finish(t.Context(), spki(t, d.tls), d.exporter, changed)
	wantProblem(t, "another request", err, reason.NonceUnknown)
	_, err = s.Finish(t.Context(), spki(t, newTPM("e").tls), d.exporter, body)
	wantProblem(t, "another TLS key", err, reason.AKNotBound)
	if _, err := s.Finish(t.Context(), spki(t, d.tls), d.exporter, body); err != nil {
		t.Fatal(err)
	}
	_, err = s.Finish(t.Context(), spki(t, d.tls), d.exporter, body) // N45
	wantProblem(t, "twice", err, reason.Conflict)
	offer = s.start(t, d, first)
	body = d.activation(t, first, offer)
	s.Advance(5*time.Minute + time.Second)
	_, err = s.Finish(t.Context(), spki(t, d.tls), d.exporter, body)
	wantProblem(t, "late", err, reason.NonceExpired)
}

// A server that forgot a device in a restore keeps the base of its counter, or the device would refuse to be counted anew.
func TestForgottenDeviceKeepsItsBase(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, row := range map[string]struct{ value, base uint64 }{
		"new": {0, 40}, "has counted": {7, 33}, "claims more than there is": {99, 0},
	} {
		d := newTPM(name)
		d.value = row.value
		for _, time := range []string{"first", "second"} {
			got, err := s.enroll(t, d)
			if err != nil || got.CounterBase != row.base {
				t.Errorf("%s, %s time: got base %d, %v, want %d", name, time, got.CounterBase, err, row.base)
			}
		}
		if got := s.row(t, d).HighCounter; got != 40-row.base {
			t.Errorf("%s: got counter %d, want %d", name, got, 40-row.base)
		}
	}
}

func TestEnrollingAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	s.inventory(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	proven := s.row(t, d)
	proven.Standing, proven.Proven, proven.HighCounter, proven.Segment = fleet.Affirmed, "lamp/7", 7, fleet.Production
	proven.LeaseUntil, proven.Accepted = s.Now().Add(time.Hour), &attestation.Accepted{Clock: quote.Clock{Clock: 99}}
	proven.LastPoll, proven.LastAnswer = digest.Of([]byte("poll")), []byte("answer")
	s.commit(t, store.PutDevice{Device: proven})

	d.index = 47 // base 40 + counter 7
	before := s.row(t, d)
	got, err := s.enroll(t, d)
	after := s.row(t, d)
	if err != nil || got.CounterBase != 40 || after.Standing != fleet.Affirmed || after.Accepted == nil || !after.LeaseUntil.Equal(before.LeaseUntil) {
		t.Errorf("the same keys: got %+v, %v, %+v", got, err, after)
	}

	// TPM2_Clear: the AK stays, the TLS key is another one, the counter starts higher.
	d.tls, d.index, d.clock = evidencetest.NewTLSKey(evidencetest.Seed("after clear")), 60, quote.Clock{Clock: 1, Safe: true}
	got, err = s.enroll(t, d)
	after = s.row(t, d)
	if err != nil || got.CounterBase != 53 || after.Accepted != nil || after.Standing != fleet.Stale || after.HighCounter != 7 || after.LastAnswer != nil {
		t.Errorf("cleared: got %+v, %v, %+v", got, err, after)
	}
	if after.TLSKey != digest.Of(spki(t, d.tls)) {
		t.Error("the new TLS key was not taken")
	}
	if _, err := s.Store.OpenQuarantine(t.Context(), d.id()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("clearing a TPM quarantined: %v", err)
	}
	if !slices.Contains(s.Events(d.id()), "device.reactivated") {
		t.Errorf("events %v", s.Events(d.id()))
	}

	swapped := *d // V-17: another AK for the same EK is never taken over
	swapped.ak = evidencetest.NewAK(evidencetest.Seed("another AK"))
	_, err = s.enroll(t, &swapped)
	wantProblem(t, "AK swapped", err, reason.AKNotBound)

	stolen := newTPM("stolen") // a TLS key belongs to one device
	stolen.tls = d.tls
	_, err = s.enroll(t, stolen)
	wantProblem(t, "TLS key of another device", err, reason.Conflict)
}

func TestEnrollingAgainNeverEndsQuarantineOrRetirement(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	s.inventory(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	step := fleet.Isolate(s.row(t, d), nil, "ann", "", s.Now())
	s.commit(t, store.PutDevice{Device: step.Device}, store.PutQuarantine{Quarantine: *step.Quarantine})
	d.tls = evidencetest.NewTLSKey(evidencetest.Seed("after clear"))
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	row := s.row(t, d)
	if _, err := s.Store.OpenQuarantine(t.Context(), d.id()); err != nil || row.Standing != fleet.Refused || row.Segment != fleet.Restricted {
		t.Errorf("got %+v, %v", row, err)
	}
	s.commit(t, store.PutDevice{Device: fleet.Retire(row, "ann").Device})
	_, err := s.enroll(t, d)
	wantProblem(t, "retired", err, reason.DeviceRetired)
	if p, _ := errors.AsType[*problem.Error](err); p.Status != http.StatusForbidden {
		t.Errorf("got status %d", p.Status)
	}
}

func FuzzFinish(f *testing.F) {
	s := newServer(f)
	d := newTPM("d")
	first := d.request()
	good, err := json.Marshal(d.activation(f, first, s.start(f, d, first)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"enroll":{}}`))
	key, exporter := spki(f, d.tls), make([]byte, 32) // another connection: nothing may be admitted
	f.Fuzz(func(t *testing.T, body []byte) {
		var req wire.ActivateRequest
		if len(body) > wire.MaxEnrollBytes || json.Unmarshal(body, &req) != nil {
			return
		}
		if answer, err := s.Finish(t.Context(), key, exporter, req); err == nil {
			t.Errorf("admitted %+v", answer)
		}
	})
}
