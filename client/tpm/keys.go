package tpm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm-tools/client"
	"github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpmutil"

	"github.com/cordon-ota/cordon/attestation/identity"
)

// keyKind tells the device's own keys apart.
type keyKind int

const (
	keyAK keyKind = iota
	keyTLS
)

// key is one of the device's keys. The TLS key has one generation, 0.
type key struct {
	kind       keyKind
	generation uint32
}

// MaxGeneration bounds the generations of the attestation key, so that a device that forgot which one it uses can try
// them all.
const MaxGeneration = 31

// ErrGeneration is returned for a generation above MaxGeneration.
var ErrGeneration = errors.New("the TPM has no such generation of the attestation key")

// The salts make the primary keys cordon's own: another program with the same template gets other keys. Changing one
// changes the key of every device in the field.
const (
	saltAK  = "cordon attestation key v1"
	saltTLS = "cordon tls key v1"
)

// template returns the hierarchy and the template of a key. See the package comment for why the hierarchies differ.
func template(k key) (tpmutil.Handle, tpm2.Public) {
	hierarchy, salt, attributes := tpmutil.Handle(tpm2.HandleEndorsement), saltAK, tpm2.FlagSignerDefault|tpm2.FlagNoDA
	if k.kind == keyTLS {
		hierarchy, salt, attributes = tpm2.HandleOwner, saltTLS, attributes&^tpm2.FlagRestricted
	}
	if k.generation > 0 { // the first generation keeps the key that devices in the field have
		salt = fmt.Sprintf("%s, generation %d", salt, k.generation)
	}
	unique := sha256.Sum256([]byte(salt))
	return hierarchy, tpm2.Public{
		Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: attributes,
		ECCParameters: &tpm2.ECCParams{
			CurveID: tpm2.CurveNISTP256,
			Sign:    &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256},
			Point:   tpm2.ECPoint{XRaw: unique[:], YRaw: make([]byte, len(unique))},
		},
	}
}

// load brings a key into the TPM: from its saved context, or derived anew. The caller flushes the handle.
func (t *TPM) load(k key) (tpmutil.Handle, error) {
	if saved, ok := t.saved[k]; ok {
		h, err := tpm2.ContextLoad(t.rw, saved)
		if err == nil {
			return h, nil
		}
		if outOfRoom(err) {
			return 0, err
		}
		delete(t.saved, k) // contexts do not survive a reset of the TPM
	}
	hierarchy, public := template(k)
	h, _, err := tpm2.CreatePrimary(t.rw, hierarchy, tpm2.PCRSelection{}, "", "", public)
	if err != nil {
		return 0, fmt.Errorf("cannot derive key: %w", err)
	}
	if saved, err := tpm2.ContextSave(t.rw, h); err == nil { // without it the key is derived again each time
		t.saved[k] = saved
	}
	return h, nil
}

func (t *TPM) flush(h tpmutil.Handle) { _ = tpm2.FlushContext(t.rw, h) } // a leak is cured by flushAll

// public returns the TPMT_PUBLIC of the key that which names; it is asked while no other operation runs.
func (t *TPM) public(which func() key) ([]byte, error) {
	var out []byte
	err := t.do(func() error {
		k := which()
		if out = t.publics[k]; out != nil {
			return nil
		}
		h, err := t.load(k)
		if err != nil {
			return err
		}
		defer t.flush(h)
		public, _, _, err := tpm2.ReadPublic(t.rw, h)
		if err != nil {
			return fmt.Errorf("cannot read public area: %w", err)
		}
		if out, err = public.Encode(); err == nil {
			t.publics[k] = out
		}
		return err
	})
	return out, err
}

// ak is the attestation key in use. The caller holds mu.
func (t *TPM) ak() key { return key{keyAK, t.generation} }

func tlsKey() key { return key{kind: keyTLS} }

// UseGeneration makes every later operation use this generation of the attestation key. Generation 0 is in use after
// Open. Nothing in the TPM changes: each generation is a primary key of its own. It returns ErrGeneration.
func (t *TPM) UseGeneration(generation uint32) error {
	if generation > MaxGeneration {
		return fmt.Errorf("cannot use generation %d: %w", generation, ErrGeneration)
	}
	return t.do(func() error {
		t.generation = generation
		return nil
	})
}

// AKPublic returns the TPMT_PUBLIC of the attestation key.
func (t *TPM) AKPublic() ([]byte, error) { return t.public(t.ak) }

// TLSPublic returns the TPMT_PUBLIC of the TLS key.
func (t *TPM) TLSPublic() ([]byte, error) { return t.public(tlsKey) }

// QualifiedSigner returns the qualified Name that the attestation key's quotes carry.
func (t *TPM) QualifiedSigner() ([]byte, error) {
	raw, err := t.AKPublic()
	if err != nil {
		return nil, err
	}
	p, err := identity.ParsePublic(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read attestation key: %w", err)
	}
	return identity.QualifiedNameUnderEndorsement(p.Name), nil
}

// TLSSigner returns the TLS key. It signs SHA-256 digests with ECDSA, which is what TLS 1.3 uses with a P-256 key.
func (t *TPM) TLSSigner() (crypto.Signer, error) {
	raw, err := t.TLSPublic()
	if err != nil {
		return nil, err
	}
	p, err := identity.ParsePublic(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read TLS key: %w", err)
	}
	return &signer{tpm: t, public: p.Key}, nil
}

type signer struct {
	tpm    *TPM
	public crypto.PublicKey
}

// Public returns the public key.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256 digest; any other hash is refused.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("cannot sign: the TLS key signs SHA-256 digests only")
	}
	var out []byte
	err := s.tpm.do(func() error {
		h, err := s.tpm.load(tlsKey())
		if err != nil {
			return err
		}
		defer s.tpm.flush(h)
		sig, err := tpm2.Sign(s.tpm.rw, h, "", digest, nil, nil)
		if err != nil {
			return fmt.Errorf("cannot sign: %w", err)
		}
		if sig.ECC == nil {
			return errors.New("cannot sign: the TPM answered with another kind of signature")
		}
		out, err = asn1.Marshal(struct{ R, S *big.Int }{sig.ECC.R, sig.ECC.S})
		return err
	})
	return out, err
}

// ActivateCredential decrypts the secret that a verifier made for this TPM's endorsement key and attestation key.
// credential is a TPM2B_ID_OBJECT, encryptedSecret a TPM2B_ENCRYPTED_SECRET.
func (t *TPM) ActivateCredential(credential, encryptedSecret []byte) ([]byte, error) {
	blob, errBlob := unsized(credential)
	sealed, errSealed := unsized(encryptedSecret)
	if err := errors.Join(errBlob, errSealed); err != nil {
		return nil, fmt.Errorf("cannot activate credential: %w", err)
	}
	var secret []byte
	err := t.do(func() error {
		ek, err := t.loadEK()
		if err != nil {
			return err
		}
		defer ek.Close()
		ak, err := t.load(t.ak())
		if err != nil {
			return err
		}
		defer t.flush(ak)
		session, err := client.NewEKSession(t.rw)
		if err != nil {
			return fmt.Errorf("cannot activate credential: %w", err)
		}
		defer session.Close()
		auth, err := session.Auth()
		if err != nil {
			return fmt.Errorf("cannot activate credential: %w", err)
		}
		password := tpm2.AuthCommand{Session: tpm2.HandlePasswordSession, Attributes: tpm2.AttrContinueSession}
		secret, err = tpm2.ActivateCredentialUsingAuth(t.rw, []tpm2.AuthCommand{password, auth}, ak, ek.Handle(), blob, sealed)
		if err != nil {
			return fmt.Errorf("cannot activate credential: %w", err)
		}
		return nil
	})
	return secret, err
}

// loadEK uses the persistent RSA endorsement key if it is there and derives it otherwise. client.EndorsementKeyRSA
// would evict whatever else sits at the reserved handle.
func (t *TPM) loadEK() (*client.Key, error) {
	want := client.DefaultEKTemplateRSA()
	public, _, _, err := tpm2.ReadPublic(t.rw, client.EKReservedHandle)
	if err == nil && public.MatchesTemplate(want) {
		session, err := client.NewEKSession(t.rw)
		if err != nil {
			return nil, fmt.Errorf("cannot load endorsement key: %w", err)
		}
		key, err := client.LoadCachedKey(t.rw, client.EKReservedHandle, session)
		if err != nil {
			return nil, fmt.Errorf("cannot load endorsement key: %w", err)
		}
		return key, nil
	}
	key, err := client.NewKey(t.rw, tpm2.HandleEndorsement, want)
	if err != nil {
		return nil, fmt.Errorf("cannot derive endorsement key: %w", err)
	}
	return key, nil
}

// unsized takes the contents out of a TPM2B and refuses any other length.
func unsized(b []byte) ([]byte, error) {
	var out tpmutil.U16Bytes
	if len(b) > 1024 {
		return nil, fmt.Errorf("%d bytes, at most 1024", len(b))
	}
	n, err := tpmutil.Unpack(b, &out)
	if err != nil || n != len(b) {
		return nil, errors.New("not a TPM2B")
	}
	return bytes.Clone(out), nil
}
