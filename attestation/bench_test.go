package attestation_test

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
)

func BenchmarkAppraise(b *testing.B) {
	in := scenario().Input()
	b.ReportAllocs()
	for b.Loop() {
		if v, err := attestation.Appraise(in); err != nil || v.Outcome != attestation.Affirmed {
			b.Fatal(v, err)
		}
	}
}

// BenchmarkSignatureAlone is what BenchmarkAppraise is compared with.
func BenchmarkSignatureAlone(b *testing.B) {
	in := scenario().Input()
	ak, err := identity.ParsePublic(in.AK.Public)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := quote.VerifySignature(ak.Key, in.Evidence.Quote, in.Evidence.Signature); err != nil {
			b.Fatal(err)
		}
	}
}
