//go:build interop

package vectors_test

import (
	"crypto"
	"fmt"
	"os"

	"github.com/google/go-attestation/attest"
	attestpb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"
	"github.com/google/go-tpm/legacy/tpm2"
	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// maxLibraryBytes is the address space of a process that holds a library: well above what the process itself needs, and
// low enough for the machine when the library believes a length that an attacker wrote.
const maxLibraryBytes = 2 << 30

// serveLibrary makes this process a verifier that is one library of others and nothing else. What the library does to it
// stays in it.
func serveLibrary(name string) error {
	limit := unix.Rlimit{Cur: maxLibraryBytes, Max: maxLibraryBytes}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return fmt.Errorf("cannot limit memory: %w", err)
	}
	verify := askTPMTools
	if name == "go-attestation" {
		verify = askGoAttestation
	}
	return vectors.ServeAs(func(q vectors.Question) (vectors.Answer, error) { return guarded(q, verify), nil }, os.Stdin, os.Stdout)
}

// guarded turns what a library does into an answer: no error is affirmed, an error is refused, a panic is undecidable.
func guarded(q vectors.Question, verify func(attestation.Input, []byte) error) (a vectors.Answer) {
	a = vectors.Answer{Name: q.Name, Outcome: vectors.Undecidable}
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "%s: panic: %v\n", q.Name, p)
		}
	}()
	if err := verify(*q.Input, q.Log); err != nil {
		a.Outcome = vectors.Refused
		return a
	}
	a.Outcome = vectors.Affirmed
	return a
}

// askTPMTools asks for what VerifyAttestation's documentation names: key, signature, nonce, registers, log. The options
// are the strictest that the device of the suite passes: the registered key alone, SHA-256 alone, no SHA-1.
func askTPMTools(in attestation.Input, log []byte) error {
	area, err := tpm2.DecodePublic(in.AK.Public)
	if err != nil {
		return err
	}
	key, err := area.Key()
	if err != nil {
		return err
	}
	values := map[uint32][]byte{}
	for _, p := range in.Evidence.PCRs {
		values[uint32(p.Index)] = p.Value[:]
	}
	nonce := attestation.Transcript(in.Binding)
	_, err = server.VerifyAttestation(&attestpb.Attestation{
		AkPub: in.AK.Public, EventLog: log,
		Quotes: []*tpmpb.Quote{{
			Quote: in.Evidence.Quote, RawSig: in.Evidence.Signature,
			Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: values},
		}},
	}, server.VerifyOpts{Nonce: nonce[:], TrustedAKs: []crypto.PublicKey{key}, Loader: server.UnsupportedLoader, HashAlgo: tpm2.AlgSHA256})
	return err
}

// askGoAttestation takes the steps of its documentation: key, quote, log against the registers that the quote vouches
// for, and the state of Secure Boot from the events that were found good.
func askGoAttestation(in attestation.Input, log []byte) error {
	key, err := attest.ParseAKPublic(in.AK.Public)
	if err != nil {
		return err
	}
	var registers []attest.PCR
	for _, p := range in.Evidence.PCRs {
		registers = append(registers, attest.PCR{Index: p.Index, Digest: p.Value[:], DigestAlg: crypto.SHA256})
	}
	nonce := attestation.Transcript(in.Binding)
	quotes := []attest.Quote{{Quote: in.Evidence.Quote, Signature: in.Evidence.Signature}}
	if err := key.VerifyAll(quotes, registers, nonce[:]); err != nil {
		return err
	}
	parsed, err := attest.ParseEventLog(log)
	if err != nil {
		return err
	}
	events, err := parsed.Verify(registers)
	if err != nil {
		return err
	}
	_, err = attest.ParseSecurebootState(events)
	return err
}
