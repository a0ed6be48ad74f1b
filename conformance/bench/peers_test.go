//go:build interop

package bench_test

import (
	"crypto"
	"testing"

	"github.com/google/go-attestation/attest"
	attestpb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"
	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/conformance/bench"
)

// peers are others' verifiers, given the same Evidence. Each is asked in the way that costs it least: go-tpm-tools for
// one bank and no boot loader, go-attestation for the quote and the log without the state of Secure Boot. Neither has
// Reference Values, baselines or continuity to look at.
func peers(t *testing.T, in attestation.Input) []peer {
	t.Helper()
	area, err := tpm2.DecodePublic(in.AK.Public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := area.Key()
	if err != nil {
		t.Fatal(err)
	}
	nonce := attestation.Transcript(in.Binding)
	values := map[uint32][]byte{}
	var registers []attest.PCR
	for _, p := range in.Evidence.PCRs {
		values[uint32(p.Index)] = p.Value[:]
		registers = append(registers, attest.PCR{Index: p.Index, Digest: p.Value[:], DigestAlg: crypto.SHA256})
	}
	evidence := &attestpb.Attestation{AkPub: in.AK.Public, EventLog: in.Log, Quotes: []*tpmpb.Quote{{
		Quote: in.Evidence.Quote, RawSig: in.Evidence.Signature,
		Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: values},
	}}}
	options := server.VerifyOpts{
		Nonce: nonce[:], TrustedAKs: []crypto.PublicKey{key}, Loader: server.UnsupportedLoader, HashAlgo: tpm2.AlgSHA256,
	}
	return []peer{
		{ceiling: coldToTPMTools, Contestant: bench.Contestant{Name: "go-tpm-tools VerifyAttestation", Do: func() error {
			_, err := server.VerifyAttestation(evidence, options)
			return err
		}}},
		{ceiling: coldToGoAttestation, Contestant: bench.Contestant{Name: "go-attestation VerifyAll, ParseEventLog, EventLog.Verify", Do: func() error {
			return goAttestation(in, registers, nonce[:])
		}}},
	}
}

func goAttestation(in attestation.Input, registers []attest.PCR, nonce []byte) error {
	key, err := attest.ParseAKPublic(in.AK.Public)
	if err != nil {
		return err
	}
	if err := key.VerifyAll([]attest.Quote{{Quote: in.Evidence.Quote, Signature: in.Evidence.Signature}}, registers, nonce); err != nil {
		return err
	}
	log, err := attest.ParseEventLog(in.Log)
	if err != nil {
		return err
	}
	_, err = log.Verify(registers)
	return err
}
