package tufrepo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// ErrKey is returned for a key that is neither Ed25519 nor ECDSA P-256.
var ErrKey = errors.New("key is neither ed25519 nor ecdsa p-256")

// ErrSpec is returned when something is to be encoded that the verifiers would refuse.
var ErrSpec = errors.New("metadata cannot be encoded")

// File is what a targets document says about one target. Custom must be a JSON object or empty.
type File struct {
	Length int64
	SHA256 digest.SHA256
	Custom jsontext.Value
}

// Doc is what a parent document says about a child document.
type Doc struct {
	Version int64
	Length  int64
	SHA256  digest.SHA256
}

// DocOf describes encoded metadata.
func DocOf(version int64, data []byte) Doc {
	return Doc{Version: version, Length: int64(len(data)), SHA256: digest.Of(data)}
}

// The members of every struct below stand in the order of canonical JSON.

type signatureJSON struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

type envelopeJSON struct {
	Signatures []signatureJSON `json:"signatures"`
	Signed     jsontext.Value  `json:"signed"`
}

type headerJSON struct {
	Type        string `json:"_type"`
	Expires     string `json:"expires"`
	SpecVersion string `json:"spec_version"`
	Version     int64  `json:"version"`
}

type hashesJSON struct {
	SHA256 digest.SHA256 `json:"sha256"`
}

type metaJSON struct {
	Hashes  hashesJSON `json:"hashes"`
	Length  int64      `json:"length"`
	Version int64      `json:"version"`
}

type fileJSON struct {
	Custom jsontext.Value `json:"custom,omitempty"`
	Hashes hashesJSON     `json:"hashes"`
	Length int64          `json:"length"`
}

type keyJSON struct {
	KeyType string     `json:"keytype"`
	KeyVal  keyValJSON `json:"keyval"`
	Scheme  string     `json:"scheme"`
}

type keyValJSON struct {
	Public string `json:"public"`
}

// KeyID returns the TUF key id of an Ed25519 or ECDSA P-256 public key, ErrKey for any other.
func KeyID(pub crypto.PublicKey) (string, error) {
	id, _, err := encodeKey(pub)
	return id, err
}

func encodeKey(pub crypto.PublicKey) (id string, k keyJSON, err error) {
	if err := checkPublic(pub); err != nil {
		return "", keyJSON{}, err
	}
	key, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		return "", keyJSON{}, fmt.Errorf("%w: %v", ErrKey, err)
	}
	id, err = key.ID()
	if err != nil {
		return "", keyJSON{}, fmt.Errorf("%w: %v", ErrKey, err)
	}
	return id, keyJSON{KeyType: key.Type, KeyVal: keyValJSON{Public: key.Value.PublicKey}, Scheme: key.Scheme}, nil
}

func checkPublic(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	case *ecdsa.PublicKey:
		if k != nil && k.Curve == elliptic.P256() {
			return nil
		}
	}
	return fmt.Errorf("%w: %T", ErrKey, pub)
}

// canonical returns the bytes that are signed: canonical JSON of the signed part.
func canonical(signed jsontext.Value) ([]byte, error) {
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return payload, nil
}

// PayloadBytes returns the bytes that a holder signs: the canonical form of the document's signed part.
func PayloadBytes(doc []byte) ([]byte, error) {
	env, err := openEnvelope(doc)
	if err != nil {
		return nil, err
	}
	return canonical(env.Signed)
}

// AddSignature attaches a signature after verifying it, and replaces an earlier one of the same key. ErrSignature means
// that sig is not by pub over this document.
func AddSignature(doc []byte, pub crypto.PublicKey, sig []byte) ([]byte, error) {
	env, err := openEnvelope(doc)
	if err != nil {
		return nil, err
	}
	id, _, err := encodeKey(pub)
	if err != nil {
		return nil, err
	}
	payload, err := canonical(env.Signed)
	if err != nil {
		return nil, err
	}
	if !verifySignature(pub, payload, sig) {
		return nil, fmt.Errorf("%w: key %s", ErrSignature, id)
	}
	env.Signatures = slices.DeleteFunc(env.Signatures, func(s signatureJSON) bool { return s.KeyID == id })
	env.Signatures = append(env.Signatures, signatureJSON{KeyID: id, Sig: hex.EncodeToString(sig)})
	slices.SortFunc(env.Signatures, func(a, b signatureJSON) int { return strings.Compare(a.KeyID, b.KeyID) })
	return encodeEnvelope(env)
}

// Signers returns the key ids that have a signature in the document; it does not verify them.
func Signers(doc []byte) ([]string, error) {
	env, err := openEnvelope(doc)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(env.Signatures))
	for _, s := range env.Signatures {
		ids = append(ids, s.KeyID)
	}
	return ids, nil
}

// Header is what every document says about itself.
type Header struct {
	Type    string
	Version int64
	Expires time.Time
}

// HeaderOf reads the header of a document of any role; it verifies nothing.
func HeaderOf(doc []byte) (Header, error) {
	env, err := openEnvelope(doc)
	if err != nil {
		return Header{}, err
	}
	var h headerJSON
	if err := json.Unmarshal(env.Signed, &h); err != nil {
		return Header{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	expires, err := time.Parse(time.RFC3339, h.Expires)
	if err != nil {
		return Header{}, fmt.Errorf("%w: expires: %v", ErrMalformed, err)
	}
	if h.Version < 1 {
		return Header{}, fmt.Errorf("%w: version %d", ErrMalformed, h.Version)
	}
	return Header{Type: h.Type, Version: h.Version, Expires: expires}, nil
}

func openEnvelope(doc []byte) (envelopeJSON, error) {
	if len(doc) > MaxTargetsBytes {
		return envelopeJSON{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(doc))
	}
	var env envelopeJSON
	if err := json.Unmarshal(doc, &env); err != nil {
		return envelopeJSON{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if env.Signed.Kind() != '{' {
		return envelopeJSON{}, fmt.Errorf("%w: signed part is not an object", ErrMalformed)
	}
	if len(env.Signatures) > MaxKeys {
		return envelopeJSON{}, fmt.Errorf("%w: %d signatures", ErrTooLarge, len(env.Signatures))
	}
	return env, nil
}

func encodeEnvelope(env envelopeJSON) ([]byte, error) {
	if env.Signatures == nil {
		env.Signatures = []signatureJSON{}
	}
	out, err := json.Marshal(env, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSpec, err)
	}
	return out, nil
}

// encodeSigned encodes a signed part; members of maps are sorted.
func encodeSigned(signed any) (jsontext.Value, error) {
	out, err := json.Marshal(signed, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSpec, err)
	}
	return out, nil
}

func newHeader(role string, version int64, expires time.Time) (headerJSON, error) {
	if version < 1 {
		return headerJSON{}, fmt.Errorf("%w: %s version %d", ErrSpec, role, version)
	}
	if expires.IsZero() || expires.Year() > 9999 {
		return headerJSON{}, fmt.Errorf("%w: %s expires at %v", ErrSpec, role, expires)
	}
	expires = expires.UTC().Truncate(time.Second)
	return headerJSON{
		Type: role, Expires: expires.Format(time.RFC3339), SpecVersion: metadata.SPECIFICATION_VERSION, Version: version,
	}, nil
}

func encodeDoc(d Doc) (metaJSON, error) {
	if d.Version < 1 || d.Length < 1 || d.SHA256.IsZero() {
		return metaJSON{}, fmt.Errorf("%w: a child document needs version, length and digest", ErrSpec)
	}
	return metaJSON{Hashes: hashesJSON{d.SHA256}, Length: d.Length, Version: d.Version}, nil
}

func encodeFiles(files map[string]File, allowed func(path string) bool) (map[string]fileJSON, error) {
	if len(files) > MaxTargets {
		return nil, fmt.Errorf("%w: %d targets, at most %d", ErrTooLarge, len(files), MaxTargets)
	}
	out := make(map[string]fileJSON, len(files))
	for path, f := range files {
		if !allowed(path) {
			return nil, fmt.Errorf("%w: target path %q does not belong to the role", ErrSpec, path)
		}
		if f.Length < 0 || f.SHA256.IsZero() {
			return nil, fmt.Errorf("%w: target %q needs length and digest", ErrSpec, path)
		}
		if len(f.Custom) > 0 && f.Custom.Kind() != '{' {
			return nil, fmt.Errorf("%w: custom of %q is not an object", ErrSpec, path)
		}
		out[path] = fileJSON{Custom: f.Custom, Hashes: hashesJSON{f.SHA256}, Length: f.Length}
	}
	return out, nil
}

// signer is a key with its id, so that signing several documents computes the id once.
type signer struct {
	id  string
	key crypto.Signer
}

func newSigner(key crypto.Signer) (signer, error) {
	id, err := KeyID(key.Public())
	if err != nil {
		return signer{}, err
	}
	return signer{id: id, key: key}, nil
}

// sign encodes and signs a signed part, once. It is reached only from the online roles of online.go.
func (s signer) sign(signed any, limit int) ([]byte, error) {
	raw, err := encodeSigned(signed)
	if err != nil {
		return nil, err
	}
	payload, err := canonical(raw)
	if err != nil {
		return nil, err
	}
	sig, err := signPayload(s.key, payload)
	if err != nil {
		return nil, fmt.Errorf("cannot sign metadata: %w", err)
	}
	doc, err := encodeEnvelope(envelopeJSON{Signatures: []signatureJSON{{s.id, hex.EncodeToString(sig)}}, Signed: raw})
	if err != nil {
		return nil, err
	}
	if len(doc) > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(doc), limit)
	}
	return doc, nil
}

func signPayload(key crypto.Signer, payload []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, payload, crypto.Hash(0))
	}
	sum := sha256.Sum256(payload)
	return key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func verifySignature(pub crypto.PublicKey, payload, sig []byte) bool {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, payload, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(payload)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

// names reports whether data is exactly the document that d names.
func (d Doc) names(data []byte) bool {
	return int64(len(data)) == d.Length && digest.Of(data) == d.SHA256
}
