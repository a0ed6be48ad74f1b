package evidencetest

import (
	"bytes"
	"reflect"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
)

// Sent is the Evidence of a case as an enrolled device sends it to a verifier that it cannot look into.
type Sent struct {
	Evidence attestation.Evidence // with the log
	After    bool                 // a good quote with the device's clock must have been accepted just before
	Beacon   bool                 // the quote is not over a challenge
}

// Reasons why a case is no question to a verifier that is only spoken to as a device.
const (
	askState   = "it needs another policy, release, baseline or record on the verifier's side"
	askKey     = "it is about which key is registered, which enrollment decides"
	askBefore  = "the verifier would have to accept another state before"
	askLog     = "a log without bytes cannot be sent, and a verifier keeps logs by digest, so it may know the one that is not sent"
	askInput   = "it is a verifier whose own side is incomplete"
	askUnknown = "it is no Evidence of a device"
)

// Send makes the Evidence of c as the device s sends it, s being good and about to quote. A case that changes what the
// verifier expects of nonce, device, connection and the like becomes a device that quotes over something else. why is
// empty, or says why no device can ask this. Cases of StageDocument have no Evidence: send Bytes.
func (c Case) Send(s *Scenario) (sent Sent, why string) {
	switch {
	case c.Stage == StageInput:
		return Sent{}, askInput
	case c.Stage == StageDocument:
		return Sent{}, askUnknown
	case c.ID == "N100" && (c.Name == "not sent" || c.Name == "nothing"):
		return Sent{}, askLog
	}
	good := *s
	good.Accept()
	known, key := verifierSide(s.Expected, s.Baseline, s.Policy), s.AK.Public
	if c.Device != nil {
		c.Device(s)
	}
	switch {
	case !bytes.Equal(s.AK.Public, key):
		return Sent{}, askKey
	case !bytes.Equal(known, verifierSide(s.Expected, s.Baseline, s.Policy)):
		return Sent{}, askState
	case s.Last != nil && !reflect.DeepEqual(s.Last, good.Last):
		return Sent{}, askBefore
	}
	sent.After, sent.Beacon = s.Last != nil, !s.Challenge
	in := s.Input()
	if c.Change == nil {
		sent.Evidence = whole(in)
		return sent, ""
	}
	return c.changed(s, in, sent)
}

// changed is the rest of Send for a case that changes a finished Input.
func (c Case) changed(s *Scenario, before attestation.Input, sent Sent) (Sent, string) {
	in := s.Input() // the same bytes again, which may be changed in place
	c.Change(&in)
	in.Binding.LogDigests, before.Binding.LogDigests = slices.Clip(in.Binding.LogDigests), slices.Clip(before.Binding.LogDigests)
	switch {
	case !reflect.DeepEqual(in.AK, before.AK):
		return Sent{}, askKey
	case !bytes.Equal(verifierSide(in.Expected, in.Baseline, in.Policy), verifierSide(before.Expected, before.Baseline, before.Policy)),
		len(in.Superseded) > 0, in.Challenge != before.Challenge, !reflect.DeepEqual(in.Last, before.Last):
		return Sent{}, askState
	}
	if !reflect.DeepEqual(in.Binding, before.Binding) && bytes.Equal(in.Evidence.Quote, before.Evidence.Quote) {
		s.Binding = in.Binding
		in = s.Input()
	}
	rekey(&in, s.AK)
	sent.Evidence = whole(in)
	return sent, ""
}

// whole is the Evidence with the log that goes along.
func whole(in attestation.Input) attestation.Evidence {
	e := in.Evidence
	e.Log = in.Log
	return e
}

// rekey signs the quote with ak when the registered key of the usual device has signed it.
func rekey(in *attestation.Input, ak AK) {
	public, err := identity.ParsePublic(NewAK(Seed("device")).Public)
	must(err)
	if quote.VerifySignature(public.Key, in.Evidence.Quote, in.Evidence.Signature) == nil {
		in.Evidence.Signature = ak.Sign(in.Evidence.Quote)
	}
}

// verifierSide is what the verifier knows, to compare: cases change it in place.
func verifierSide(side ...any) []byte {
	b, err := json.Marshal(side, json.Deterministic(true))
	must(err)
	return b
}
