package vectors_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// quotesFolder holds questions whose quotes an emulated TPM signed, asked by the code of a device.
const quotesFolder = "swtpm"

// bench is a machine whose TPM is real software and whose firmware is a list of measurements.
type bench struct {
	t    *testing.T
	part *parts.TPM
	tpm  *tpm.TPM
	log  *evidencetest.LogBuilder // what was measured since the last reset
	out  []vectors.Vector
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, part: parts.TestTPM(t)}
	b.open()
	return b
}

func (b *bench) open() {
	b.t.Helper()
	opened, err := tpm.Open(b.part.Addr())
	if err != nil {
		b.t.Fatal(err)
	}
	b.tpm = opened
	b.t.Cleanup(func() { opened.Close() })
}

// boot measures everything that a log tells into the TPM.
func (b *bench) boot(l *evidencetest.LogBuilder) {
	b.t.Helper()
	b.log = l
	log, err := eventlog.Parse(l.Bytes())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range log.Events[1:] {
		if e.Type == eventlog.TypeNoAction {
			continue
		}
		if err := b.part.Extend(e.PCR, e.Digest); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) reset() {
	b.t.Helper()
	if err := b.tpm.Close(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.part.Reset(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// input lets the device quote over the usual binding and a log; the verifier expects what the usual device boots.
func (b *bench) input(log []byte) attestation.Input {
	b.t.Helper()
	in := evidencetest.NewScenario("device", evidencetest.Current).Input()
	in.Log, in.Last = log, nil
	in.Binding.LogDigests = []digest.SHA256{digest.Of(log)}
	transcript := attestation.Transcript(in.Binding)
	q, err := b.tpm.Quote(transcript[:])
	if err != nil {
		b.t.Fatal(err)
	}
	in.Evidence = attestation.Evidence{Version: attestation.EvidenceVersion, Quote: q.Attest, Signature: q.Signature, PCRs: q.PCRs, LogDigest: digest.Of(log)}
	if in.AK.Public, err = b.tpm.AKPublic(); err != nil {
		b.t.Fatal(err)
	}
	if in.AK.QualifiedSigner, err = b.tpm.QualifiedSigner(); err != nil {
		b.t.Fatal(err)
	}
	return in
}

// add keeps a question with its right answer.
func (b *bench) add(id, name, about string, in attestation.Input, why ...reason.Reason) attestation.Verdict {
	b.t.Helper()
	in.Evidence.Quote, in.Evidence.Signature = bytes.Clone(in.Evidence.Quote), bytes.Clone(in.Evidence.Signature)
	v := vectors.Vector{
		Format: vectors.Format, Case: id, About: about, Stage: string(evidencetest.StageAffirmed), MaxAlloc: vectors.MaxAlloc,
		Question: vectors.Question{Name: nameOf(evidencetest.Case{ID: id, Name: name}), Input: &in, Log: in.Log},
		Answer:   vectors.Answer{Outcome: vectors.Affirmed, Reasons: why},
	}
	if v.Answer.Name = v.Question.Name; len(why) > 0 {
		v.Answer.Outcome, v.Stage = vectors.Refused, string(evidencetest.StageState)
	}
	a, verdict, err := vectors.Ask(v.Question)
	if err != nil {
		b.t.Fatal(err)
	}
	if v.Judge(a) != vectors.Right || !slices.Equal(a.Reasons, why) {
		b.t.Errorf("%s: got %s %v, want %s %v", v.Question.Name, a.Outcome, a.Reasons, v.Answer.Outcome, why)
	}
	v.Verdict = verdict
	b.out = append(b.out, v)
	judged, err := attestation.Appraise(in)
	if err != nil {
		b.t.Fatal(err)
	}
	return judged
}

// story is a device's life in questions: good boots, a replay, a hidden event, a changed boot, another reset.
func (b *bench) story() {
	usual := func() *evidencetest.LogBuilder {
		return evidencetest.DirectUKI(evidencetest.Release(evidencetest.Current))
	}
	b.add("N84", "TPM without a boot", "nothing was measured since the TPM was started", b.input(usual().Bytes()), reason.PCRBankWeak)
	b.boot(usual())
	first := b.input(b.log.Bytes())
	accepted := b.add("P30", "boot", "a boot of what is expected", first).Accepted
	second := b.input(b.log.Bytes())
	second.Last = accepted
	later := b.add("P30", "second quote of one boot", "a later quote, with the first one accepted", second).Accepted

	replayed := first
	replayed.Last = later
	b.add("N61", "replay in one boot", "the first quote again, after the second was accepted", replayed, reason.NonceReused)
	stale := first
	stale.Binding.Nonce = bytes.Repeat([]byte{7}, 32)
	b.add("N62", "other challenge", "the quote is over another challenge", stale, reason.NonceUnknown)
	flipped := first
	flipped.Evidence.Quote = bytes.Clone(first.Evidence.Quote)
	flipped.Evidence.Quote[len(flipped.Evidence.Quote)-1] ^= 1
	b.add("N20", "bit of the quote", "one bit of the quoted digest flipped", flipped, reason.QuoteSignatureInvalid)
	altered := first
	altered.Evidence.PCRs = slices.Clone(first.Evidence.PCRs)
	altered.Evidence.PCRs[4].Value[0] ^= 1
	b.add("N85", "value altered", "one bit of a listed value flipped", altered, reason.QuoteMalformed)
	short := evidencetest.Rewrite(b.log, func(e eventlog.Event) []eventlog.Event {
		if e.PCR == 11 {
			return nil
		}
		return []eventlog.Event{e}
	})
	b.add("N102", "PCR 11", "every event of PCR 11 is left out of the log that the TPM quotes for", b.input(short.Bytes()), reason.EventlogMismatch)

	line := evidencetest.UTF16("init=/bin/sh")
	if err := b.part.Extend(12, digest.Of(line)); err != nil {
		b.t.Fatal(err)
	}
	b.add("N118", "command line not logged", "something was measured into PCR 12 and the log is silent", b.input(b.log.Bytes()), reason.EventlogMismatch)
	b.log.AddHashed(12, eventlog.TypeIPL, line)
	b.add("N118", "command line", "init=/bin/sh was measured and logged", b.input(b.log.Bytes()), reason.PCRMismatch)

	b.reset()
	b.boot(usual())
	again := b.input(b.log.Bytes())
	again.Last = later
	afterReset := b.add("P30", "after a reset", "the expected boot after a reset of the machine", again).Accepted
	old := second
	old.Last = afterReset
	b.add("N69", "quote from before the reset", "a good quote of the boot before, after a newer one was accepted", old, reason.NonceReused)
	b.reset()
	b.boot(evidencetest.DirectUKI(evidencetest.Release("product/evil")))
	evil := b.input(b.log.Bytes())
	evil.Last = afterReset
	b.add("N133", "release that nobody expects", "the machine boots another image and tells the truth about it", evil, reason.PCRMismatch)
}

// The TPM of today and the code of a device lead to the same answers as those that were recorded.
func TestQuotesOfATPMAreJudged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.story()
	var names []string
	for _, v := range b.out {
		names = append(names, v.Question.Name+".json")
		if !*record {
			continue
		}
		text, err := v.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(quotesFolder, names[len(names)-1]), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	have, err := filepath.Glob(filepath.Join(quotesFolder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range have {
		have[i] = filepath.Base(have[i])
	}
	if !slices.Equal(have, names) {
		t.Errorf("the folder has %s, the story %s; run: go test ./conformance/vectors -run TestQuotesOfATPM -record", strings.Join(have, " "), strings.Join(names, " "))
	}
}
