package appraisetest

import (
	"crypto/x509"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Device is a device of the world with its TPM in software.
type Device struct {
	t        testing.TB
	w        *World
	ID       string
	AK       evidencetest.AK
	TLS      evidencetest.Key
	Exporter []byte // of its connection; Reconnect changes it
	Log      *evidencetest.LogBuilder
	Regs     map[int]digest.SHA256
	Clock    quote.Clock
	Firmware uint64      // of its TPM
	Claims   wire.Claims // Timestamp, DirectorVersion and Challenge follow the answers
	Known    bool        // the device sends the log only when it is asked to
}

// Enrolled adds an active, never proven device to the store, which has booted release.
func (w *World) Enrolled(t testing.TB, label, release string, change ...func(*fleet.Device)) *Device {
	t.Helper()
	d := &Device{
		t: t, w: w, ID: identity.DeviceIDOf([]byte(label)).String(), AK: evidencetest.NewAK(evidencetest.Seed("ak " + label)),
		TLS: evidencetest.NewTLSKey(evidencetest.Seed("tls " + label)), Clock: quote.Clock{ResetCount: 3, RestartCount: 1, Clock: 1000, Safe: true},
		Firmware: 1,
		Claims:   wire.Claims{Version: wire.ClaimsVersion, ImageRoot: 1, DirectorRoot: 1, Counter: &wire.Counter{Index: 100}},
	}
	d.Reconnect("first")
	row := fleet.Device{
		ID: d.ID, Product: Product, HardwareID: Hardware, Profile: evidencetest.Profile, Lifecycle: fleet.Active, Standing: fleet.Unproven,
		Segment: fleet.Restricted, Tier: fleet.TierInventory, AdmittedBy: "inventory", EKSPKI: digest.Of([]byte("ek " + label)),
		AKPublic: d.AK.Public, AKName: d.AK.Name(), AKQualifiedSigner: d.AK.QualifiedSigner(),
		TLSPublic: d.TLS.Public, TLSKey: d.Key(), CounterBase: 100, EnrolledAt: w.Now(),
	}
	for _, c := range change {
		c(&row)
	}
	must(t, w.Store.Commit(t.Context(), store.Change{
		Expect: []store.Expect{{Table: store.Devices, Key: d.ID}}, Writes: []store.Write{store.PutDevice{Device: row}},
	}))
	d.Boot(release)
	return d
}

// Key is how the device API knows the device.
func (d *Device) Key() digest.SHA256 {
	spki, err := x509.MarshalPKIXPublicKey(d.TLS.Private.Public())
	must(d.t, err)
	return digest.Of(spki)
}

// Reconnect pretends another TLS connection.
func (d *Device) Reconnect(label string) {
	sum := digest.Of([]byte("exporter " + label + d.ID))
	d.Exporter = sum[:]
}

// Boot resets the machine into a release.
func (d *Device) Boot(release string, tweaks ...evidencetest.Tweak) {
	d.Log = evidencetest.DirectUKI(evidencetest.Release(release), tweaks...)
	d.Regs = d.Log.PCRs()
	d.Clock.ResetCount++
	d.Clock.Clock += 1000
}

// Body is a poll. With nonce nil it carries no Evidence; a nonce that is not the beacon is a challenge.
func (d *Device) Body(nonce []byte, withLog bool) []byte {
	d.t.Helper()
	claims := d.Claims
	log := d.Log.Bytes()
	claims.LogDigest = digest.Of(log)
	if nonce != nil && !slices.Equal(nonce, claims.Timestamp[:]) {
		claims.Challenge = nonce
	}
	encoded, err := json.Marshal(claims)
	must(d.t, err)
	req := wire.PollRequest{Claims: encoded}
	if nonce != nil {
		req.Evidence = d.Evidence(attestation.Binding{
			Purpose: attestation.PurposePoll, Nonce: nonce, Device: d.ID, Exporter: d.Exporter,
			LogDigests: []digest.SHA256{digest.Of(log)}, Claims: digest.Of(encoded),
		}, withLog)
	}
	body, err := json.Marshal(req)
	must(d.t, err)
	return body
}

// Evidence quotes over the binding.
func (d *Device) Evidence(b attestation.Binding, withLog bool) jsontext.Value {
	d.t.Helper()
	d.Clock.Clock += 10
	extra := attestation.Transcript(b)
	e := attestation.Evidence{Version: attestation.EvidenceVersion, LogDigest: digest.Of(d.Log.Bytes())}
	quoted := map[int]digest.SHA256{}
	for _, pcr := range attestation.DefaultRequiredPCRs {
		quoted[pcr] = d.Regs[pcr]
		e.PCRs = append(e.PCRs, attestation.PCR{Index: pcr, Value: d.Regs[pcr]})
	}
	e.Quote, e.Signature = d.AK.Quote(evidencetest.QuoteSpec{ExtraData: extra[:], Clock: d.Clock, Firmware: d.Firmware, PCRs: quoted})
	if withLog {
		e.Log = d.Log.Bytes()
	}
	encoded, err := attestation.EncodeEvidence(e)
	must(d.t, err)
	return encoded
}

// Send sends a body and follows the answer's metadata.
func (d *Device) Send(s *appraise.Service, body []byte) (wire.PollAnswer, appraise.Answer, error) {
	answer, err := s.Poll(d.t.Context(), d.Key(), d.Exporter, body)
	var p wire.PollAnswer
	if err == nil && answer.Body != nil {
		must(d.t, json.Unmarshal(answer.Body, &p))
		if p.Timestamp != nil {
			d.Claims.Timestamp = digest.Of(p.Timestamp)
		}
	}
	return p, answer, err
}

// Poll sends one poll and fails the test on an error.
func (d *Device) Poll(nonce []byte) wire.PollAnswer {
	d.t.Helper()
	p, _, err := d.Send(d.w.Service, d.Body(nonce, false))
	must(d.t, err)
	return p
}

// Renew polls over the newest beacon.
func (d *Device) Renew() wire.PollAnswer {
	d.t.Helper()
	d.Claims.Timestamp = d.w.Catalog().Beacon
	return d.Poll(d.w.Catalog().Beacon[:])
}

// Converse polls as a client does, over challenges, until the server asks for nothing more.
func (d *Device) Converse() wire.PollAnswer {
	d.t.Helper()
	p := d.Poll(nil)
	if p.EvidenceWanted == "" { // idle: a challenge of our own choice
		p.Challenge, p.EvidenceWanted = d.w.Challenges.Mint(attestation.PurposePoll, d.ID, d.w.Now()), wire.WantQuote
	}
	for range 4 {
		if p.EvidenceWanted == "" {
			return p
		}
		var err error
		p, _, err = d.Send(d.w.Service, d.Body(p.Challenge, p.EvidenceWanted == wire.WantLog))
		must(d.t, err)
	}
	d.t.Fatalf("device %s: still asked for %q", d.ID, p.EvidenceWanted)
	return p
}

// Row reads the device back.
func (d *Device) Row() fleet.Device {
	d.t.Helper()
	row, err := d.w.Store.Device(d.t.Context(), d.ID)
	must(d.t, err)
	return row
}
