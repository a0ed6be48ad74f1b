package client_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// server speaks the device API for one device: it checks keys, credentials and quotes as the real one does, and holds
// no policy about boot states. Its hooks inject faults.
type server struct {
	*httptest.Server
	*repos
	roots *x509.CertPool
	ca    []byte // PEM
	inter [][]byte

	mu       sync.Mutex // guards all below
	device   string
	ak       identity.Public
	spki     []byte
	secret   []byte
	pending  []byte        // challenge of the enrollment under way
	proven   uint32        // reset count of the last quote over a challenge, plus one
	beacon   digest.SHA256 // that was proven last
	polls    []wire.PollRequest
	bodies   [][]byte
	stored   []byte // answer to the last body
	problems []error
	enrolled int // enrollments that were committed

	onAnswer func(*wire.PollAnswer)                                 // spoils an answer
	onPoll   func(w http.ResponseWriter, r *http.Request) bool      // replaces an answer; true: done
	onBase   func(uint64) uint64                                    // what enrollment says that the base is
	onLost   func(body []byte) bool                                 // true: the answer was made but is lost
	onAK     func(committed bool) bool                              // around the commit of an enrollment; true: the power is cut
	noRotate bool                                                   // it takes no other attestation key over
	onImage  func(w http.ResponseWriter, r *http.Request, b []byte) // sends artifact bytes
}

func newServer(t testing.TB, tpm *parts.TPM) *server {
	t.Helper()
	s := &server{repos: newRepos(t), roots: x509.NewCertPool()}
	roots, inter, err := tpm.CARoots()
	if err != nil {
		t.Fatalf("CARoots: %v", err)
	}
	s.roots.AppendCertsFromPEM(roots)
	for block, rest := pem.Decode(inter); block != nil; block, rest = pem.Decode(rest) {
		s.inter = append(s.inter, block.Bytes)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathEnroll, s.enroll)
	mux.HandleFunc("POST "+wire.PathActivate, s.activate)
	mux.HandleFunc("POST "+wire.PathPoll, s.poll)
	mux.HandleFunc("GET "+wire.PathArtifacts+"/{sum}", s.image)
	mux.HandleFunc("GET "+wire.PathImage+"{name...}", s.file)
	s.Server = httptest.NewUnstartedServer(mux)
	s.Server.Config.ErrorLog = log.New(io.Discard, "", 0) // broken connections are what the tests make
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{s.certificate(t)}}
	s.StartTLS()
	t.Cleanup(func() {
		s.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, err := range s.problems {
			t.Errorf("server: %v", err)
		}
	})
	return s
}

func (s *server) certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"},
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(10 * 365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (s *server) trust() wire.Trust {
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	return wire.Trust{Version: 1, Server: "https://localhost:" + port, TrustDomain: "example.org", ServerCA: string(s.ca),
		ImageRoot: s.imageRoots[0], DirectorRoot: s.dirRoots[0]}
}

func (s *server) refuse(w http.ResponseWriter, status int, r reason.Reason) {
	w.WriteHeader(status)
	b, _ := json.Marshal(wire.Problem{Status: status, Reason: r, Title: "refused"})
	_, _ = w.Write(b) // a client that went away is its own problem
}

func (s *server) reply(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.problems = append(s.problems, err)
	}
	w.Header().Set(wire.HeaderNextPoll, "900")
	_, _ = w.Write(b)
}

// failed notes a check that an honest client never fails.
func (s *server) failed(w http.ResponseWriter, format string, args ...any) {
	s.problems = append(s.problems, fmt.Errorf(format, args...))
	s.refuse(w, http.StatusBadRequest, reason.RequestMalformed)
}

func (s *server) enroll(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var req wire.EnrollRequest
	if err := json.UnmarshalRead(r.Body, &req); err != nil {
		s.failed(w, "enroll: %v", err)
		return
	}
	ek, problems := identity.EKWithoutCertificate(req.EKPublic)
	if len(req.EKCertificate) > 0 {
		ek, problems = identity.VerifyEK(req.EKCertificate, s.inter, s.roots, start)
	}
	if problems != nil {
		s.failed(w, "EK: %v", problems)
		return
	}
	ak, err := identity.ParsePublic(req.AKPublic)
	if err != nil || identity.CheckAK(ak) != nil {
		s.failed(w, "AK: %v %v", err, identity.CheckAK(ak))
		return
	}
	s.secret, s.pending = make([]byte, 32), make([]byte, 48)
	rand.Read(s.secret)
	rand.Read(s.pending)
	blob, sealed, err := identity.MakeCredential(ek.SPKI, ak.Name, s.secret)
	if err != nil {
		s.failed(w, "MakeCredential: %v", err)
		return
	}
	s.device = ek.Device.String()
	s.reply(w, wire.EnrollChallenge{Device: s.device, Challenge: s.pending, Credential: blob, EncryptedSecret: sealed})
}

func (s *server) activate(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var req wire.ActivateRequest
	var claims wire.Claims
	if err := errors.Join(json.UnmarshalRead(r.Body, &req), json.Unmarshal(req.Claims, &claims)); err != nil {
		s.failed(w, "activate: %v", err)
		return
	}
	ak, _ := identity.ParsePublic(req.Enroll.AKPublic)
	tlsKey, err := identity.ParsePublic(req.Enroll.TLSPublic)
	if err != nil {
		s.failed(w, "TLS key: %v", err)
		return
	}
	transcript, _, err := s.check(r, ak, attestation.PurposeEnroll, s.pending, req.Claims, req.Evidence)
	if err != nil {
		s.failed(w, "activate: %v", err)
		return
	}
	if p := identity.VerifyCertify(ak, identity.QualifiedNameUnderEndorsement(ak.Name), req.Certify, req.CertifySignature, transcript[:], tlsKey); p != nil {
		s.failed(w, "certify: %v", p)
		return
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write(transcript[:])
	if !hmac.Equal(mac.Sum(nil), req.HMAC) || !bytes.Equal(req.Challenge, s.pending) {
		s.failed(w, "activate: wrong HMAC or challenge")
		return
	}
	if !s.succeeds(w, ak, transcript[:], req) {
		return
	}
	if s.onAK != nil && s.onAK(false) {
		panic(http.ErrAbortHandler)
	}
	s.enrolled++
	s.ak, s.spki, s.proven = ak, r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo, 0
	key, _ := x509.MarshalPKIXPublicKey(tlsKey.Key)
	if !bytes.Equal(key, s.spki) {
		s.failed(w, "activate: the connection does not use the certified key")
		return
	}
	if s.onAK != nil && s.onAK(true) {
		panic(http.ErrAbortHandler)
	}
	s.base = claims.Counter.Index
	if s.onBase != nil {
		s.base = s.onBase(s.base)
	}
	s.reply(w, wire.ActivateAnswer{Device: s.device, Lifecycle: "active", CounterBase: s.base, HardwareID: hardware})
}

// succeeds refuses another attestation key than the registered one, unless that one certified it.
func (s *server) succeeds(w http.ResponseWriter, ak identity.Public, transcript []byte, req wire.ActivateRequest) bool {
	if s.ak.Raw == nil || bytes.Equal(s.ak.Raw, ak.Raw) {
		return true
	}
	if req.AKCertify == nil || s.noRotate {
		w.WriteHeader(http.StatusForbidden)
		b, _ := json.Marshal(wire.Problem{Status: http.StatusForbidden, Reason: reason.AKNotBound, Title: "refused", AKName: s.ak.Name})
		_, _ = w.Write(b)
		return false
	}
	if p := identity.VerifySuccessor(s.ak, identity.QualifiedNameUnderEndorsement(s.ak.Name), req.AKCertify, req.AKCertifySignature, transcript, ak); p != nil {
		s.failed(w, "successor: %v", p)
		return false
	}
	return true
}

// check verifies a quote against the connection it came over.
func (s *server) check(r *http.Request, ak identity.Public, purpose string, nonce, claims, evidence []byte) ([32]byte, quote.Attest, error) {
	e, err := attestation.DecodeEvidence(evidence)
	if err != nil {
		return [32]byte{}, quote.Attest{}, err
	}
	exporter, err := r.TLS.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	if err != nil {
		return [32]byte{}, quote.Attest{}, err
	}
	want := attestation.Transcript(attestation.Binding{Purpose: purpose, Nonce: nonce, Device: s.device, Exporter: exporter,
		LogDigests: []digest.SHA256{e.LogDigest}, Claims: digest.Of(claims)})
	a, err := quote.ParseQuote(e.Quote)
	if err != nil {
		return want, a, err
	}
	if err := quote.VerifySignature(ak.Key, e.Quote, e.Signature); err != nil {
		return want, a, err
	}
	if !bytes.Equal(a.ExtraData, want[:]) {
		return want, a, errors.New("the quote is bound to something else")
	}
	return want, a, nil
}

func (s *server) poll(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if s.onPoll != nil && s.onPoll(w, r) {
		return
	}
	if !bytes.Equal(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo, s.spki) {
		s.refuse(w, http.StatusUnauthorized, reason.DeviceUnknown)
		return
	}
	if s.ak.Raw == nil { // people had it forgotten
		s.refuse(w, http.StatusForbidden, reason.AKUnknown)
		return
	}
	if n := len(s.bodies); n > 0 && bytes.Equal(s.bodies[n-1], body) {
		s.bodies = append(s.bodies, body)
		_, _ = w.Write(s.stored)
		return
	}
	var req wire.PollRequest
	var claims wire.Claims
	if err := errors.Join(json.Unmarshal(body, &req), json.Unmarshal(req.Claims, &claims)); err != nil {
		s.failed(w, "poll: %v", err)
		return
	}
	s.polls, s.bodies = append(s.polls, req), append(s.bodies, body)
	var p wire.PollAnswer
	if err := s.judge(r, req, claims, &p); errors.Is(err, quote.ErrSignature) {
		p.Verdict, p.Refusal = string(attestation.Refused), []wire.Refusal{{Reason: reason.QuoteSignatureInvalid}}
	} else if err != nil {
		s.failed(w, "poll: %v", err)
		return
	}
	s.fill(claims, &p)
	if s.onAnswer != nil {
		s.onAnswer(&p)
	}
	s.stored, _ = json.Marshal(p)
	if s.onLost != nil && s.onLost(body) {
		panic(http.ErrAbortHandler)
	}
	s.reply(w, p)
}

var testChallenge = bytes.Repeat([]byte{7}, 64)

// judge wants one quote over a challenge per boot, and one more as long as a trial is reported.
func (s *server) judge(r *http.Request, req wire.PollRequest, claims wire.Claims, p *wire.PollAnswer) error {
	if req.Evidence == nil && s.proven > 0 && claims.Timestamp == s.beacon {
		return nil
	}
	if req.Evidence == nil {
		p.Challenge, p.EvidenceWanted = testChallenge, wire.WantLog
		return nil
	}
	nonce := claims.Challenge
	if nonce == nil {
		nonce = claims.Timestamp[:]
	} else if !bytes.Equal(nonce, testChallenge) {
		return errors.New("another challenge")
	}
	_, a, err := s.check(r, s.ak, attestation.PurposePoll, nonce, req.Claims, req.Evidence)
	if err != nil {
		return err
	}
	if claims.Challenge == nil && (s.proven != a.Clock.ResetCount+1 || claims.Boot != nil) {
		p.Challenge, p.EvidenceWanted = testChallenge, wire.WantQuote
		return nil
	}
	if claims.Challenge != nil {
		s.proven = a.Clock.ResetCount + 1
	}
	s.beacon = claims.Timestamp
	p.Verdict = string(attestation.Affirmed)
	return nil
}

func (s *server) file(w http.ResponseWriter, r *http.Request) {
	s.repos.mu.Lock()
	defer s.repos.mu.Unlock()
	b, ok := s.files[r.PathValue("name")]
	if !ok {
		s.refuse(w, http.StatusNotFound, reason.NotFound)
		return
	}
	_, _ = w.Write(b)
}

func (s *server) image(w http.ResponseWriter, r *http.Request) {
	sum, err := digest.Parse(r.PathValue("sum"))
	s.repos.mu.Lock()
	b, ok := s.images[sum]
	s.repos.mu.Unlock()
	if err != nil || !ok {
		s.refuse(w, http.StatusNotFound, reason.NotFound)
		return
	}
	s.mu.Lock()
	hook := s.onImage
	s.mu.Unlock()
	if hook != nil {
		hook(w, r, b)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// claims are those of the last poll.
func (s *server) lastClaims(t testing.TB) wire.Claims {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.polls) == 0 {
		t.Fatal("there was no poll")
	}
	var c wire.Claims
	if err := json.Unmarshal(s.polls[len(s.polls)-1].Claims, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}
