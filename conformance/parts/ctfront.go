package parts

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	ctutil "github.com/google/certificate-transparency-go/x509util"
)

// ctFront is the write side of a certificate transparency log as RFC 6962 sections 3.2 and 4.2 describe it: it answers
// add-pre-chain with a signed certificate timestamp (SCT) that Fulcio puts into the certificate, and that every verifier
// checks against the log's key. It keeps no tree: what it promises to log is logged nowhere, and nobody can audit it.
// That is enough to see that a certificate without a valid SCT is refused, and for nothing else.
type ctFront struct {
	key *ecdsa.PrivateKey
	id  [sha256.Size]byte
}

// ctPrefix is the path below which the log's API lies.
const ctPrefix = "/cordon"

// maxChainBytes bounds a request; a chain of Fulcio has a few KB.
const maxChainBytes = 1 << 20

func newCTFront(key *ecdsa.PrivateKey) (*ctFront, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("cannot encode the key of the CT log: %w", err)
	}
	return &ctFront{key: key, id: sha256.Sum256(spki)}, nil
}

func (f *ctFront) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+ctPrefix+"/ct/v1/add-pre-chain", f.addPreChain)
	return mux
}

func (f *ctFront) addPreChain(w http.ResponseWriter, r *http.Request) {
	var req ct.AddChainRequest
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxChainBytes), &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var chain []*ctx509.Certificate
	for _, der := range req.Chain {
		c, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		chain = append(chain, c)
	}
	now := uint64(time.Now().UnixMilli())
	leaf, err := ct.MerkleTreeLeafFromChain(chain, ct.PrecertLogEntryType, now)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	sct, err := f.sign(*leaf)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	signature, err := cttls.Marshal(cttls.DigitallySigned(sct.Signature))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, ct.AddChainResponse{SCTVersion: ct.V1, ID: f.id[:], Timestamp: now, Signature: signature})
}

func (f *ctFront) sign(leaf ct.MerkleTreeLeaf) (*ct.SignedCertificateTimestamp, error) {
	sct := &ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: f.id}, Timestamp: leaf.TimestampedEntry.Timestamp,
	}
	input, err := ct.SerializeSCTSignatureInput(*sct, ct.LogEntry{Leaf: leaf})
	if err != nil {
		return nil, fmt.Errorf("cannot encode an SCT: %w", err)
	}
	signature, err := cttls.CreateSignature(*f.key, cttls.SHA256, input)
	if err != nil {
		return nil, fmt.Errorf("cannot sign an SCT: %w", err)
	}
	sct.Signature = ct.DigitallySigned(signature)
	return sct, nil
}

// embedded is the value of the certificate extension that carries an SCT for a certificate, given as it is without this
// extension (RFC 6962 section 3.3).
func (f *ctFront) embedded(tbs []byte, issuer *x509.Certificate) ([]byte, error) {
	sct, err := f.sign(ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: uint64(time.Now().UnixMilli()), EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBSCertificate: tbs},
		},
	})
	if err != nil {
		return nil, err
	}
	list, err := ctutil.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{sct})
	if err != nil {
		return nil, fmt.Errorf("cannot encode an SCT: %w", err)
	}
	b, err := cttls.Marshal(*list)
	if err != nil {
		return nil, fmt.Errorf("cannot encode an SCT: %w", err)
	}
	return asn1.Marshal(b)
}

// answer writes a JSON document.
func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
