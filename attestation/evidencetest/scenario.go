package evidencetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Profile is the platform profile of every Scenario.
const Profile = "evidencetest"

// Scenario is a pretended device at the moment of a poll. NewScenario makes one that passes; a test changes what it
// wants to see refused and calls Input. The zero value is not usable.
type Scenario struct {
	AK        AK
	Log       *LogBuilder           // what the device measured
	Registers map[int]digest.SHA256 // what its TPM holds; those of Log at first
	Quoted    []int                 // which registers it quotes, rising
	Clock     quote.Clock
	Firmware  uint64
	Binding   attestation.Binding // LogDigests is filled by Input when it is nil
	Challenge bool
	Last      *attestation.Accepted
	Expected  []attestation.Expectation
	Baseline  *reference.Baseline
	Policy    attestation.Policy
}

// Seed turns a label into 32 bytes for NewAK and its like.
func Seed(label string) *bytes.Reader {
	sum := sha256.Sum256([]byte(label))
	return bytes.NewReader(sum[:])
}

// NewScenario makes a device that label names, which booted release and is expected to.
func NewScenario(label, release string, tweaks ...Tweak) *Scenario {
	values := Release(release)
	log := DirectUKI(values, tweaks...)
	baseline := learned(log.PCRs())
	nonce, exporter := digest.Of([]byte("nonce of "+label)), digest.Of([]byte("exporter of "+label))
	return &Scenario{
		AK: NewAK(Seed(label)), Log: log, Registers: log.PCRs(),
		Quoted: slices.Clone(attestation.DefaultRequiredPCRs[:]),
		Clock:  quote.Clock{ResetCount: 7, RestartCount: 2, Clock: 1_000_000, Safe: true}, Firmware: 0x2017061900163636,
		Binding: attestation.Binding{
			Purpose: attestation.PurposePoll, Nonce: nonce[:], Device: "device of " + label, Exporter: exporter[:],
			Claims: digest.Of([]byte("claims of " + label)),
		},
		Challenge: true,
		Expected:  []attestation.Expectation{{Release: release, Values: values}},
		Baseline:  &baseline,
		Policy:    attestation.Policy{RequiredPCRs: slices.Clone(attestation.DefaultRequiredPCRs[:])},
	}
}

func learned(registers map[int]digest.SHA256) reference.Baseline {
	return reference.LearnBaseline(Profile, registers)
}

// Boot makes the device boot release: a new log, new registers, a reset, and no change to what is expected. A release that
// is expected has the values that are expected of it.
func (s *Scenario) Boot(release string, tweaks ...Tweak) {
	values := Release(release)
	for _, e := range s.Expected {
		if e.Release == release && len(e.Values.PCRs) > 0 {
			values = e.Values
		}
	}
	s.Log = DirectUKI(values, tweaks...)
	s.Registers = s.Log.PCRs()
	s.Clock.ResetCount++
	s.Clock.Clock += 1000
}

// Tick lets time pass within the same boot.
func (s *Scenario) Tick() { s.Clock.Clock += 1000 }

// Accept remembers the state of the device as the last accepted quote.
func (s *Scenario) Accept() {
	last := attestation.Accepted{Clock: s.Clock, Firmware: s.Firmware}
	for _, p := range s.pcrs() {
		if p.Index <= 12 && p.Index != 10 {
			last.PCRs = append(last.PCRs, p)
		}
	}
	s.Last = &last
}

// Input quotes and assembles what Appraise needs.
func (s *Scenario) Input() attestation.Input {
	log := s.Log.Bytes()
	binding := s.Binding
	if binding.LogDigests == nil {
		binding.LogDigests = []digest.SHA256{digest.Of(log)}
	}
	extra := attestation.Transcript(binding)
	registers := map[int]digest.SHA256{}
	for _, p := range s.pcrs() {
		registers[p.Index] = p.Value
	}
	msg, sig := s.AK.Quote(QuoteSpec{ExtraData: extra[:], Clock: s.Clock, Firmware: s.Firmware, PCRs: registers})
	return attestation.Input{
		Evidence: attestation.Evidence{Version: attestation.EvidenceVersion, Quote: msg, Signature: sig, PCRs: s.pcrs(), LogDigest: digest.Of(log)},
		Log:      log,
		AK:       attestation.AK{Public: s.AK.Public, QualifiedSigner: s.AK.QualifiedSigner()},
		Binding:  binding, Challenge: s.Challenge, Last: s.Last,
		Expected: s.Expected, Baseline: s.Baseline, Policy: s.Policy,
	}
}

func (s *Scenario) pcrs() []attestation.PCR {
	var out []attestation.PCR
	for _, pcr := range s.Quoted {
		out = append(out, attestation.PCR{Index: pcr, Value: s.Registers[pcr]})
	}
	return out
}

// Release makes the Reference Values of a pretended UKI. Different names give different images.
func Release(name string) reference.Values {
	image := func(part string) digest.SHA256 { return digest.Of([]byte(part + " of " + name)) }
	event := func(what string, d digest.SHA256) reference.Event { return reference.Event{Digest: d, What: what} }
	var sections []reference.Event
	for _, section := range []string{".linux", ".osrel", ".cmdline", ".initrd"} {
		sections = append(sections, event("name of section "+section, digest.Of([]byte(section+"\x00"))), event("section "+section, image(section)))
	}
	return reference.Values{Version: reference.Version, Image: image("file"), Boot: reference.BootDirectUKI, PCRs: []reference.PCR{
		registerOf(4,
			event("boot attempt", digest.Of([]byte("Calling EFI Application from Boot Option"))),
			event("separator", digest.Of(make([]byte, 4))),
			event(fmt.Sprintf("image %s", name), image("image")), event("kernel", image("kernel"))),
		registerOf(9, event("load options of the kernel", image("load options")), event("initrd", image("initrd"))),
		registerOf(11, sections...),
		registerOf(12),
	}}
}

func registerOf(index int, events ...reference.Event) reference.PCR {
	var v digest.SHA256
	for _, e := range events {
		v = eventlog.Extend(v, e.Digest)
	}
	if events == nil {
		events = []reference.Event{}
	}
	return reference.PCR{Index: index, Events: events, Value: v}
}
