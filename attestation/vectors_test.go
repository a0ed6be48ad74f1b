package attestation_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

const vectors = "../conformance/vectors/measured-boot"

var genuine = []string{"direct-uki-v1-no-secureboot", "sdboot-ab-1-v1", "sdboot-ab-2-v2-after-update", "sdboot-secureboot-snakeoil-v1"}

func vector(t *testing.T, name, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name, file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func recorded(t *testing.T, name string) map[int]digest.SHA256 {
	t.Helper()
	out := map[int]digest.SHA256{}
	for line := range strings.Lines(string(vector(t, name, "pcrs.txt"))) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "SHA256" {
			d, err := digest.Parse(f[2])
			if err != nil {
				t.Fatal(err)
			}
			out[len(out)] = d
		}
	}
	return out
}

// recordedInput is an Input for a machine that booted what was recorded, with its own state as what is expected of it.
func recordedInput(t *testing.T, name string) attestation.Input {
	t.Helper()
	registers, log := recorded(t, name), vector(t, name, "eventlog.bin")
	values := reference.Values{Version: reference.Version, Boot: reference.BootDirectUKI}
	for _, pcr := range []int{4, 9, 11, 12, 13} {
		values.PCRs = append(values.PCRs, reference.PCR{Index: pcr, Value: registers[pcr]})
	}
	baseline := reference.LearnBaseline(name, registers)
	s := scenario()
	s.Registers, s.Baseline = registers, &baseline
	s.Expected = []attestation.Expectation{{Release: current, Values: values}}
	s.Quoted = nil
	for pcr := range 24 {
		s.Quoted = append(s.Quoted, pcr)
	}
	s.Binding.LogDigests = []digest.SHA256{digest.Of(log)}
	in := s.Input()
	in.Log, in.Evidence.LogDigest = log, digest.Of(log)
	return in
}

// Strictness must not mean "refuse everything": the logs of real firmware explain the PCRs of real TPMs.
func TestGenuineLogsExplainGenuinePCRs(t *testing.T) {
	t.Parallel()
	for _, name := range genuine {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := recordedInput(t, name)
			if v := appraise(t, in); v.Outcome != attestation.Affirmed {
				t.Errorf("refused: %+v", v.Findings)
			}
			in.Policy.SecureBoot = true
			var want []reason.Reason
			if !strings.Contains(name, "snakeoil") {
				want = only(reason.SecureBootOff)
			}
			if got := appraise(t, in).Reasons(); !slices.Equal(got, want) {
				t.Errorf("Secure Boot: got %v, want %v", got, want)
			}
		})
	}
}

// Every event that was extended matters: a log that lacks one explains the PCRs no more.
func TestNoEventOfAGenuineLogMayBeMissing(t *testing.T) {
	t.Parallel()
	for _, name := range genuine {
		in := recordedInput(t, name)
		log, err := eventlog.Parse(in.Log)
		if err != nil {
			t.Fatal(err)
		}
		for _, missing := range log.Events[1:] {
			if !missing.Extends() {
				continue
			}
			b := evidencetest.NewLog()
			for _, e := range log.Events[1:] {
				if e.Index != missing.Index {
					b.Add(e.PCR, e.Type, e.Digest, e.Data)
				}
			}
			cut := in
			cut.Log = b.Bytes()
			cut.Evidence.LogDigest = digest.Of(cut.Log)
			cut.Binding.LogDigests = []digest.SHA256{cut.Evidence.LogDigest}
			s := scenario()
			extra := attestation.Transcript(cut.Binding)
			cut.Evidence.Quote, cut.Evidence.Signature = s.AK.Quote(evidencetest.QuoteSpec{ExtraData: extra[:], Clock: s.Clock, Firmware: s.Firmware, PCRs: recorded(t, name)})
			if got, want := appraise(t, cut).Reasons(), only(reason.EventlogMismatch); !slices.Equal(got, want) {
				t.Errorf("%s without event %d: got %v, want %v", name, missing.Index, got, want)
			}
		}
	}
}

// N32: genuine quotes by genuine keys, but of the owner hierarchy, where the TPM obfuscates its clock.
func TestRefusesGenuineQuotesOfTheOwnerHierarchy(t *testing.T) {
	t.Parallel()
	for _, name := range genuine {
		in := recordedInput(t, name)
		in.Evidence.Quote, in.Evidence.Signature = vector(t, name, "quote.msg"), vector(t, name, "quote.sig")
		q, err := quote.ParseQuote(in.Evidence.Quote)
		if err != nil {
			t.Fatal(err)
		}
		in.AK = attestation.AK{Public: vector(t, name, "ak.pub"), QualifiedSigner: q.QualifiedSigner}
		got := appraise(t, in).Reasons()
		if len(got) < 2 || got[0] != reason.AKNotBound || !slices.Contains(got, reason.NonceUnknown) {
			t.Errorf("%s: got %v, want ak_not_bound first, and nonce_unknown", name, got)
		}
		if slices.Contains(got, reason.QuoteSignatureInvalid) {
			t.Errorf("%s: the genuine signature does not verify", name)
		}
	}
}
