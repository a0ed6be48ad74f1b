package bench_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/conformance/bench"
)

// subject is the log that the budget speaks of: 34 KB, 83 events with the header, of a genuine machine.
const subject = "go-eventlog/rhel8-uefi.bin"

// realInput is Evidence of a machine with the log of subject; all of its registers are quoted and expected as they are.
func realInput(t testing.TB) attestation.Input {
	t.Helper()
	for _, l := range eventlogtest.All(t) {
		if l.Name == subject {
			return inputOf(t, l.Bytes)
		}
	}
	t.Fatalf("there is no log %s", subject)
	return attestation.Input{}
}

func inputOf(t testing.TB, raw []byte) attestation.Input {
	t.Helper()
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	s := evidencetest.NewScenario("bench", evidencetest.Current)
	s.Registers, s.Quoted = map[int]digest.SHA256{}, nil
	for pcr := range eventlog.MaxPCR + 1 {
		s.Registers[pcr], s.Quoted = eventlog.ResetValue(pcr), append(s.Quoted, pcr)
	}
	for pcr, value := range log.Replay() {
		s.Registers[pcr] = value
	}
	values := reference.Values{Version: reference.Version, Boot: reference.BootDirectUKI}
	for _, pcr := range []int{4, 8, 9, 11, 12, 13} {
		values.PCRs = append(values.PCRs, reference.PCR{Index: pcr, Value: s.Registers[pcr]})
	}
	baseline := reference.LearnBaseline("bench", s.Registers)
	s.Baseline, s.Expected = &baseline, []attestation.Expectation{{Release: evidencetest.Current, Values: values}}
	s.Policy.SecureBoot = true
	s.Policy.RevokedBoot = []digest.SHA256{digest.Of([]byte("withdrawn"))}
	s.Binding.LogDigests = []digest.SHA256{digest.Of(raw)}
	in := s.Input()
	in.Log, in.Evidence.LogDigest = raw, digest.Of(raw)
	return in
}

// cold is a whole appraisal, as the server does it for a log that it has never seen.
func cold(in attestation.Input) bench.Contestant {
	return bench.Contestant{Name: "cold appraisal, 34 KB log", Do: func() error {
		v, err := attestation.Appraise(in)
		if err == nil && v.Outcome != attestation.Affirmed {
			err = fmt.Errorf("refused: %+v", v.Findings)
		}
		return err
	}}
}

// cached is the appraisal of a state that is known: the device sends no log, and the server reads none.
func cached(t testing.TB, in attestation.Input) bench.Contestant {
	t.Helper()
	cache := attestation.NewCache(1024)
	standard, err := attestation.NewStandard(in)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := cache.Appraise(standard, in); err != nil || v.Outcome != attestation.Affirmed {
		t.Fatal(v, err)
	}
	in.Log = nil
	return bench.Contestant{Name: "cached appraisal", Do: func() error {
		v, err := cache.Appraise(standard, in)
		if err == nil && v.Outcome != attestation.Affirmed {
			err = fmt.Errorf("refused: %+v", v.Findings)
		}
		return err
	}}
}

// least is what no verifier can do without: the signature, and the hash of what was sent.
func least(t testing.TB, in attestation.Input, what string, sent []byte) bench.Contestant {
	t.Helper()
	key, err := identity.ParsePublic(in.AK.Public)
	if err != nil {
		t.Fatal(err)
	}
	known := sha256.Sum256(sent)
	return bench.Contestant{Name: "one ECDSA P-256 verification and SHA-256 of " + what, Do: func() error {
		if sha256.Sum256(sent) != known {
			return errors.New("something else was sent")
		}
		return quote.VerifySignature(key.Key, in.Evidence.Quote, in.Evidence.Signature)
	}}
}

// withoutLog is what a device sends whose log is known.
func withoutLog(t testing.TB, in attestation.Input) []byte {
	t.Helper()
	in.Evidence.Log = nil
	b, err := attestation.EncodeEvidence(in.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
