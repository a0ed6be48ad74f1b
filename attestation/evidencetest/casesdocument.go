package evidencetest

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// documentCases are bytes that are not one Evidence document.
func documentCases() []Case {
	malformed, large := only(reason.QuoteMalformed), only(reason.RequestTooLarge)
	replaced := func(old, new string) func([]byte) []byte {
		return func(good []byte) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	}
	return []Case{
		{ID: "N05", Name: "document cut", About: "the document ends in the middle", Stage: StageDocument, Reasons: malformed,
			Document: func(good []byte) []byte { return good[:len(good)/2] }},
		{ID: "N06", Name: "two quotes", About: "two quotes in one document", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`"quote":`, `"quote":"AA==","quote":`)},
		{ID: "N06", Name: "2000 quotes", About: "2,000 quotes as a list", Stage: StageDocument, Reasons: malformed,
			Document: func(good []byte) []byte {
				list := "[" + strings.Repeat(`"AA==",`, 1999) + `"AA=="]`
				return replaced(`"quote":"`, `"quote":`+list+`,"x":"`)(good)
			}},
		{ID: "N07", Name: "5 MiB", About: "a log of 5 MiB in the document", Stage: StageDocument, Reasons: large, Large: true,
			Document: func([]byte) []byte {
				log := base64.StdEncoding.EncodeToString(make([]byte, 5<<20))
				return []byte(`{"version":1,"log":"` + log + `"}`)
			}},
		{ID: "N07", Name: "quote of 1025 bytes", About: "a quote that is longer than any TPM's", Stage: StageDocument, Reasons: large,
			Document: replaced(`"quote":"`, `"quote":"`+strings.Repeat("AAAA", 342))},
		{ID: "N08", Name: "compressed", About: "the document is compressed: 300 KiB of zeros in a few hundred bytes", Stage: StageDocument, Reasons: malformed,
			Document: func([]byte) []byte { return compressed(make([]byte, 300<<10)) }, Note: "nothing is ever unpacked"},
		{ID: "N12", Name: "member twice", About: "a member of the document appears twice", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`"version":1`, `"version":1,"version":1`)},
		{ID: "N12", Name: "PCR member twice", About: "the index of a PCR appears twice", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`"index":1,`, `"index":1,"index":1,`)},
		{ID: "N12", Name: "other case", About: "the name of a member in capitals", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`"version"`, `"Version"`)},
		{ID: "N15", Name: "document padded", About: "zero bytes after the document", Stage: StageDocument, Reasons: malformed,
			Document: func(good []byte) []byte { return append(slices.Clone(good), 0, 0, 0, 0) }},
		{ID: "N28", Name: "certificate of the key", About: "the document brings a certificate for its attestation key", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`{"version"`, `{"ak_certificate":"AA==","version"`),
			Note:     "an attestation key is admitted by activation and never by a certificate, so there is no expired, revoked or foreign one to tell apart"},
		{ID: "N25", Name: "key in the document", About: "the document brings its own attestation key", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`{"version"`, `{"ak":"AA==","version"`)},
		{ID: "N86", Name: "PCR 24", About: "a value for a register that does not exist", Stage: StageDocument, Reasons: malformed,
			Document: replaced(`"index":12,`, `"index":24,`)},
	}
}

func compressed(b []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	must(err)
	_, err = w.Write(b)
	must(err)
	must(w.Close())
	return out.Bytes()
}

// encodingCases are quotes and signatures that no TPM writes, and wrong Evidence that was decoded elsewhere.
func encodingCases() []Case {
	malformed, unsigned := only(reason.QuoteMalformed), only(reason.QuoteSignatureInvalid)
	cases := []Case{
		{ID: "N01", Name: "byte after the quote", About: "one more byte after TPMS_ATTEST", Change: func(in *attestation.Input) { in.Evidence.Quote = append(in.Evidence.Quote, 0) }, Reasons: malformed},
		{ID: "N01", Name: "signed byte after the quote", About: "one more byte after TPMS_ATTEST, signed with it", Change: resigned(func(b []byte) []byte { return append(b, 0) }), Reasons: malformed},
		{ID: "N02", Name: "byte after the signature", About: "one more byte after TPMT_SIGNATURE", Change: func(in *attestation.Input) { in.Evidence.Signature = append(in.Evidence.Signature, 0) }, Reasons: malformed},
		{ID: "N03", Name: "wrong magic", About: "signed bytes that do not begin with TPM_GENERATED_VALUE", Change: requoted(func(s *QuoteSpec) { s.Magic = 0xff544348 }), Reasons: malformed},
		{ID: "N03", Name: "truth value 2", About: "the flag that the clock is safe is neither 0 nor 1", Change: resigned(func(b []byte) []byte {
			b[len(b)-53] = 2 // before the firmware version, one bank of three bytes and a digest of 32
			return b
		}), Reasons: malformed},
		{ID: "N80", Name: "17 banks", About: "the quote names more banks than any TPM has", Change: requoted(func(s *QuoteSpec) {
			s.Banks = slices.Repeat([]Bank{{Alg: AlgSHA256, Select: []byte{0xff, 0x3a, 0}}}, 17)
		}), Reasons: malformed},
		{ID: "N80", Name: "17 banks of which 16 are there", About: "the quote says that it names more banks than it does", Change: both(requoted(func(s *QuoteSpec) {
			s.Banks = slices.Repeat([]Bank{{Alg: AlgSHA256, Select: []byte{0xff, 0x3a, 0}}}, 16)
		}), resigned(func(b []byte) []byte {
			b[len(b)-(2+32)-16*6-1] = 17
			return b
		})), Reasons: malformed},
		{ID: "N07", Name: "quote with many bytes of bank", About: "a whole quote that is larger than any TPM's", Change: requoted(func(s *QuoteSpec) {
			s.Banks = slices.Repeat([]Bank{{Alg: AlgSHA256, Select: make([]byte, 200)}}, 6)
		}), Reasons: malformed},
		{ID: "N07", Name: "large quote", About: "a quote beyond its limit", Change: func(in *attestation.Input) { in.Evidence.Quote = make([]byte, attestation.MaxQuoteBytes+1) }, Reasons: malformed},
		{ID: "N07", Name: "large signature", About: "a signature beyond its limit", Change: func(in *attestation.Input) { in.Evidence.Signature = make([]byte, attestation.MaxSignatureBytes+1) }, Reasons: malformed},
		{ID: "N15", Name: "zeros after the quote", About: "the quote is padded with zeros, and signed so", Change: resigned(func(b []byte) []byte { return append(b, make([]byte, 16)...) }), Reasons: malformed},
		{ID: "N15", Name: "ones after the quote", About: "the quote is padded with 0xff, and signed so", Change: resigned(func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xff}, 16)...) }), Reasons: malformed},
		{ID: "N20", Name: "bit of the quote", About: "one bit of the quote flipped", Change: func(in *attestation.Input) { in.Evidence.Quote[60] ^= 1 }, Reasons: unsigned,
			Note: "a test flips every bit of quote and signature"},
		{ID: "N20", Name: "bit of the signature", About: "one bit of the signature flipped", Change: func(in *attestation.Input) { in.Evidence.Signature[20] ^= 1 }, Reasons: unsigned},
		{ID: "N02", Name: "no signature", About: "the signature is empty", Change: func(in *attestation.Input) { in.Evidence.Signature = nil }, Reasons: malformed},
		{ID: "N01", Name: "no quote", About: "the quote is empty", Change: func(in *attestation.Input) { in.Evidence.Quote = nil }, Reasons: malformed},
		{ID: "N12", Name: "unknown version", About: "the Evidence is of a version that nobody wrote", Change: func(in *attestation.Input) { in.Evidence.Version = 2 }, Reasons: malformed},
		{ID: "N86", Name: "no values", About: "no PCR values at all", Change: func(in *attestation.Input) { in.Evidence.PCRs = nil }, Reasons: malformed},
		{ID: "N86", Name: "values not in order", About: "two PCR values change places", Change: func(in *attestation.Input) {
			in.Evidence.PCRs[4], in.Evidence.PCRs[5] = in.Evidence.PCRs[5], in.Evidence.PCRs[4]
		}, Reasons: malformed},
	}
	for _, kind := range []struct {
		tag  uint16
		name string
	}{{0x8014, "NV"}, {0x8015, "command audit"}, {0x8016, "session audit"}, {0x8017, "certify"}, {0x8019, "time"}, {0x801a, "creation"}} {
		cases = append(cases, Case{ID: "N04", Name: kind.name, About: "a signed TPMS_ATTEST of type " + kind.name + " where a quote belongs",
			Change: requoted(func(s *QuoteSpec) { s.Type = kind.tag }), Reasons: malformed})
	}
	for _, n := range []int{3, 5, 6, 40, 80, 108, 140} {
		cases = append(cases, Case{ID: "N05", Name: fmt.Sprintf("quote cut at %d", n), About: fmt.Sprintf("the quote ends after %d bytes, and is signed so", n),
			Change: resigned(func(b []byte) []byte { return b[:n] }), Reasons: malformed, Note: "a test cuts at every offset"})
	}
	for _, n := range []int{1, 4, 5, 37, 71} {
		cases = append(cases, Case{ID: "N05", Name: fmt.Sprintf("signature cut at %d", n), About: fmt.Sprintf("the signature ends after %d bytes", n),
			Change: func(in *attestation.Input) { in.Evidence.Signature = in.Evidence.Signature[:n] }, Reasons: malformed})
	}
	return staged(StageAuthentic, cases)
}

// staged sets the stage of cases that do not name one.
func staged(s Stage, cases []Case) []Case {
	for i := range cases {
		if cases[i].Stage == "" {
			cases[i].Stage = s
		}
	}
	return cases
}
