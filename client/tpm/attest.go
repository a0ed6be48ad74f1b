package tpm

import (
	"fmt"
	"slices"

	"github.com/google/go-tpm-tools/client"
	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/quote"
)

// bootPCRs are the registers that a cordon device quotes: everything that boot measures. 10 is left out, since IMA
// extends it while the system runs, and 15, since it is the system's own.
var bootPCRs = [...]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14}

// quoteAttempts bounds the quotes that are taken until one fits the registers that were read with it.
const quoteAttempts = 5

// Quote is a signed statement of the TPM about its boot registers.
type Quote struct {
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE
	PCRs      []attestation.PCR
}

// Quote quotes the registers of the boot in the SHA-256 bank with the attestation key, over extraData of at most 32 bytes. The values in
// the answer are those that were quoted. It returns ErrNoSHA256, ErrUnstable and ErrLockedOut.
func (t *TPM) Quote(extraData []byte) (Quote, error) {
	if len(extraData) == 0 || len(extraData) > digest.Size {
		return Quote{}, fmt.Errorf("cannot quote: extra data of %d bytes, want 1 to %d", len(extraData), digest.Size)
	}
	if err := t.CheckBank(); err != nil {
		return Quote{}, err
	}
	var out Quote
	err := t.do(func() error {
		ak, err := t.load(t.ak())
		if err != nil {
			return err
		}
		defer t.flush(ak)
		sel := tpm2.PCRSelection{Hash: tpm2.AlgSHA256, PCRs: bootPCRs[:]}
		for range quoteAttempts {
			out.Attest, out.Signature, err = tpm2.QuoteRaw(t.rw, ak, "", "", extraData, sel, tpm2.AlgNull)
			if err != nil {
				return fmt.Errorf("cannot quote: %w", err)
			}
			if out.PCRs, err = t.readPCRs(sel); err != nil {
				return err
			}
			parsed, err := quote.ParseQuote(out.Attest)
			if err != nil {
				return fmt.Errorf("cannot quote: the TPM's answer: %w", err)
			}
			if pcrDigest(out.PCRs) == parsed.PCRDigest {
				return nil
			}
		}
		return ErrUnstable
	})
	if err != nil {
		return Quote{}, err
	}
	return out, nil
}

func pcrDigest(pcrs []attestation.PCR) digest.SHA256 {
	values := make([]digest.SHA256, 0, len(pcrs))
	for _, p := range pcrs {
		values = append(values, p.Value)
	}
	return quote.PCRDigest(values)
}

// PCRs reads the registers of the boot, those that Quote quotes, from the SHA-256 bank.
func (t *TPM) PCRs() ([]attestation.PCR, error) {
	var out []attestation.PCR
	err := t.do(func() error {
		var err error
		out, err = t.readPCRs(tpm2.PCRSelection{Hash: tpm2.AlgSHA256, PCRs: bootPCRs[:]})
		return err
	})
	return out, err
}

func (t *TPM) readPCRs(sel tpm2.PCRSelection) ([]attestation.PCR, error) {
	read, err := client.ReadPCRs(t.rw, sel)
	if err != nil {
		return nil, fmt.Errorf("cannot read registers: %w", err)
	}
	out := make([]attestation.PCR, 0, len(sel.PCRs))
	for _, i := range sel.PCRs {
		value, err := digest.FromBytes(read.GetPcrs()[uint32(i)])
		if err != nil {
			return nil, fmt.Errorf("cannot read register %d: %w", i, err)
		}
		out = append(out, attestation.PCR{Index: i, Value: value})
	}
	return out, nil
}

// CheckBank returns ErrNoSHA256 unless the SHA-256 bank covers the registers that Quote quotes.
func (t *TPM) CheckBank() error {
	return t.do(func() error {
		banks, err := client.AllocatedPCRs(t.rw)
		if err != nil {
			return fmt.Errorf("cannot read PCR banks: %w", err)
		}
		for _, b := range banks {
			if b.Hash != tpm2.AlgSHA256 {
				continue
			}
			for _, i := range bootPCRs {
				if !slices.Contains(b.PCRs, i) {
					return fmt.Errorf("%w: register %d is missing", ErrNoSHA256, i)
				}
			}
			return nil
		}
		return ErrNoSHA256
	})
}

// CertifyTLS lets the attestation key certify the TLS key over extraData: a TPMS_ATTEST and a TPMT_SIGNATURE.
func (t *TPM) CertifyTLS(extraData []byte) (attest, signature []byte, err error) {
	return t.certify(extraData, func() (signer, object key) { return t.ak(), tlsKey() })
}

// CertifyAK lets an earlier generation of the attestation key certify the one in use, over extraData: a TPMS_ATTEST and a
// TPMT_SIGNATURE. It returns ErrGeneration.
func (t *TPM) CertifyAK(earlier uint32, extraData []byte) (attest, signature []byte, err error) {
	if earlier > MaxGeneration {
		return nil, nil, fmt.Errorf("cannot certify attestation key by generation %d: %w", earlier, ErrGeneration)
	}
	return t.certify(extraData, func() (signer, object key) { return key{keyAK, earlier}, t.ak() })
}

// certify lets one key vouch for another that lives in the same TPM.
func (t *TPM) certify(extraData []byte, which func() (signer, object key)) (attest, signature []byte, err error) {
	err = t.do(func() error {
		by, of := which()
		signer, err := t.load(by)
		if err != nil {
			return err
		}
		defer t.flush(signer)
		object, err := t.load(of)
		if err != nil {
			return err
		}
		defer t.flush(object)
		attest, signature, err = tpm2.CertifyEx(t.rw, "", "", object, signer, extraData, tpm2.SigScheme{Alg: tpm2.AlgNull})
		if err != nil {
			return fmt.Errorf("cannot certify key: %w", err)
		}
		return nil
	})
	return attest, signature, err
}
