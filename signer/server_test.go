package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/signer/keys"
)

const (
	adminToken   = "admin-token"
	ciToken      = "ci-token"
	expiredToken = "expired-token"
	logKey       = "ota.example/log+c7996195+AVHu8qMLAwopfEvAJcNXm6EfsxsYhc+Twy+ilXPnfOGs" // nobody has its secret
)

// server is an admin API with just the routes that cordon-sign uses. It keeps what it is given and verifies it with the
// real verifiers; it holds an upload where a test wants it to stand.
type server struct {
	http   *httptest.Server
	caPEM  []byte
	caPin  digest.SHA256
	online []api.OnlineKey

	mu       sync.Mutex
	root     [2]int64 // image, director
	targets  int64
	newest   [2][]byte
	files    map[string][]byte
	blobs    map[digest.SHA256][]byte
	done     map[digest.SHA256]bool
	releases []api.Release
	received int64 // bytes of blobs since the last look

	lie     string        // what the status says instead; empty: the truth
	holdAt  int64         // an upload that reaches this offset stands until its connection ends; 0 never
	holding chan struct{} // a value for each upload that stands
}

func newServer() (*server, error) {
	s := &server{files: map[string][]byte{}, blobs: map[digest.SHA256][]byte{}, done: map[digest.SHA256]bool{}, holding: make(chan struct{}, 8)}
	for _, use := range []string{api.KeySnapshot, api.KeyTimestamp, api.KeyProduct, api.KeyDirector} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		text, err := keys.EncodePublic(key.Public())
		if err != nil {
			return nil, err
		}
		fingerprint, err := keys.Fingerprint(key.Public())
		if err != nil {
			return nil, err
		}
		s.online = append(s.online, api.OnlineKey{Use: use, PublicPEM: string(text), Fingerprint: fingerprint})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/status", s.status)
	mux.HandleFunc("POST /api/v1/ceremony", s.allow(adminToken, s.ceremony))
	mux.HandleFunc("HEAD /api/v1/blobs/{sha256}", s.allow(ciToken, s.head))
	mux.HandleFunc("PUT /api/v1/blobs/{sha256}", s.allow(ciToken, s.put))
	mux.HandleFunc("GET /api/v1/releases", s.allow(ciToken, s.list))
	mux.HandleFunc("POST /api/v1/releases", s.allow(ciToken, s.publish))
	s.http = httptest.NewUnstartedServer(mux)
	cert, err := s.certificate()
	if err != nil {
		return nil, err
	}
	s.http.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	s.http.StartTLS()
	return s, nil
}

func (s *server) certificate() (tls.Certificate, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	s.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	s.caPin = digest.Of(caDER)
	return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, err
}

func problem(w http.ResponseWriter, status int, r reason.Reason, detail string) {
	row, _ := reason.Lookup(r)
	b, err := json.Marshal(wire.Problem{Title: row.Title, Status: status, Detail: detail, Reason: r, RequestID: "r1", Next: row.Remedy})
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(b)
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Write(b)
}

func (s *server) allow(token string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer " + token:
			h(w, r)
		case "Bearer " + expiredToken:
			problem(w, http.StatusUnauthorized, reason.TokenExpired, "")
		case "":
			problem(w, http.StatusUnauthorized, reason.Unauthenticated, "")
		default:
			problem(w, http.StatusForbidden, reason.PermissionDenied, "")
		}
	}
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lie != "" {
		problem(w, http.StatusForbidden, reason.PermissionDenied, s.lie)
		return
	}
	answer(w, api.Status{Version: "test", Initialised: s.root[0] > 0, Keys: s.online, ServerCASHA256: s.caPin, ImageRoot: s.root[0], DirectorRoot: s.root[1], Targets: s.targets, LogKey: logKey})
}

func (s *server) ceremony(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in api.Ceremony
	if err := json.UnmarshalRead(io.LimitReader(r.Body, api.MaxCeremonyBytes), &in, json.RejectUnknownMembers(true)); err != nil {
		problem(w, http.StatusBadRequest, reason.RequestMalformed, err.Error())
		return
	}
	changed := false
	for i, roots := range [][][]byte{in.ImageRoots, in.DirectorRoots} {
		for _, doc := range roots {
			ok, err := s.takeRoot(i, doc)
			if err != nil {
				problem(w, http.StatusUnprocessableEntity, reason.MetadataInvalid, err.Error())
				return
			}
			changed = changed || ok
		}
	}
	var products []string
	if in.Targets != nil {
		spec, err := tufrepo.ParseTargets(in.Targets)
		if err != nil {
			problem(w, http.StatusUnprocessableEntity, reason.MetadataInvalid, err.Error())
			return
		}
		signers, _ := tufrepo.Signers(in.Targets)
		for path, f := range spec.Files {
			if data, ok := in.Files[path]; ok {
				s.files[path] = data
			}
			if digest.Of(s.files[path]) != f.SHA256 || len(signers) < 2 {
				problem(w, http.StatusUnprocessableEntity, reason.MetadataInvalid, path)
				return
			}
		}
		changed = changed || spec.Version > s.targets
		s.targets = spec.Version
		for name := range spec.Products {
			products = append(products, name)
		}
		slices.Sort(products)
	}
	answer(w, api.CeremonyResult{ImageRoot: s.root[0], DirectorRoot: s.root[1], Targets: s.targets, Products: products, Changed: changed})
}

func (s *server) takeRoot(i int, doc []byte) (bool, error) {
	trusted := s.newest[i]
	if trusted == nil {
		trusted = doc
	}
	chain, err := tufrepo.NewImage(trusted, time.Now())
	if err == nil {
		err = chain.UpdateRoot(doc)
	}
	if err != nil {
		return false, err
	}
	changed := chain.State().Root > s.root[i]
	s.root[i], s.newest[i] = chain.State().Root, chain.Root()
	return changed, nil
}

func (s *server) head(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := digest.Parse(r.PathValue("sha256"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if _, ok := s.blobs[d]; !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set(api.HeaderUploadOffset, strconv.Itoa(len(s.blobs[d])))
}

func (s *server) put(w http.ResponseWriter, r *http.Request) {
	d, err := digest.Parse(r.PathValue("sha256"))
	offset, err2 := strconv.ParseInt(r.Header.Get(api.HeaderUploadOffset), 10, 64)
	length, err3 := strconv.ParseInt(r.Header.Get(api.HeaderUploadLength), 10, 64)
	if err != nil || err2 != nil || err3 != nil {
		problem(w, http.StatusBadRequest, reason.RequestMalformed, "")
		return
	}
	s.mu.Lock()
	have, holdAt := int64(len(s.blobs[d])), s.holdAt
	s.mu.Unlock()
	w.Header().Set(api.HeaderUploadOffset, strconv.FormatInt(have, 10))
	if offset != have {
		problem(w, http.StatusConflict, reason.Conflict, "")
		return
	}
	limit := int64(api.UploadChunk)
	if holdAt > have {
		limit = min(limit, holdAt-have)
	}
	b, _ := io.ReadAll(io.LimitReader(r.Body, limit))
	s.mu.Lock()
	s.blobs[d] = append(s.blobs[d], b...)
	s.received += int64(len(b))
	have = int64(len(s.blobs[d]))
	s.mu.Unlock()
	if have == holdAt && have < length {
		s.holding <- struct{}{}
		io.Copy(io.Discard, r.Body) // until the client is gone
		panic(http.ErrAbortHandler)
	}
	if have == length && digest.Of(s.blobs[d]) != d {
		s.mu.Lock()
		delete(s.blobs, d)
		s.mu.Unlock()
		problem(w, http.StatusUnprocessableEntity, reason.ArtifactMismatch, "")
		return
	}
	w.Header().Set(api.HeaderUploadOffset, strconv.FormatInt(have, 10))
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page := api.Page[api.Release]{Items: []api.Release{}}
	i, _ := strconv.Atoi(r.URL.Query().Get("after")) // one release a page, so that pages are walked
	if i < len(s.releases) {
		page.Items = append(page.Items, s.releases[i])
		page.Next = strconv.Itoa(i + 1)
	}
	answer(w, page)
}

func (s *server) publish(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in api.PublishRequest
	if err := json.UnmarshalRead(io.LimitReader(r.Body, api.MaxRequestBytes), &in, json.RejectUnknownMembers(true)); err != nil {
		problem(w, http.StatusBadRequest, reason.RequestMalformed, err.Error())
		return
	}
	release, refusal := s.checkRelease(in)
	if refusal != nil {
		problem(w, http.StatusUnprocessableEntity, refusal.Reason, refusal.Detail)
		return
	}
	if !in.DryRun {
		s.releases = append(s.releases, release)
	}
	answer(w, release)
}

func (s *server) checkRelease(in api.PublishRequest) (api.Release, *artifacts.Refusal) {
	product, err := provenance.ClaimedProduct(in.Bundles[0])
	if err != nil {
		return api.Release{}, &artifacts.Refusal{Reason: reason.PublisherRefused, Detail: err.Error()}
	}
	policy, err := s.policyOf(product)
	if err != nil {
		return api.Release{}, &artifacts.Refusal{Reason: reason.PolicyMissing, Detail: err.Error()}
	}
	proof, err := provenance.VerifyAll(in.Bundles, policy, provenance.Options{})
	if err != nil {
		return api.Release{}, &artifacts.Refusal{Reason: reason.PolicyMissing, Detail: err.Error()}
	}
	release := proof.Statement.Predicate
	if refusals := append(proof.Refusals, artifacts.CheckRelease(policy, release)...); len(refusals) > 0 {
		return api.Release{}, &refusals[0]
	}
	if refusal := s.checkCounter(release); refusal != nil {
		return api.Release{}, refusal
	}
	for _, c := range release.Components {
		if in.Reference[c.Name] != c.ReferenceValues || !in.DryRun && int64(len(s.blobs[c.SHA256])) != c.Length {
			return api.Release{}, &artifacts.Refusal{Reason: reason.NotFound, Detail: "blob of component " + c.Name}
		}
		if !in.DryRun && !c.ReferenceValues.IsZero() && int64(len(s.blobs[c.ReferenceValues])) != c.ReferenceLength {
			return api.Release{}, &artifacts.Refusal{Reason: reason.NotFound, Detail: "Reference Values of component " + c.Name}
		}
	}
	return api.Release{
		Name: artifacts.ReleaseName(release.Product, release.Version), State: api.ReleasePublished, Release: release,
		Publishers: proof.Signers, Changed: !in.DryRun, Timestamp: int64(len(s.releases) + 1),
	}, nil
}

func (s *server) policyOf(product string) (artifacts.Policy, error) {
	for path, data := range s.files {
		if !strings.HasPrefix(path, "policy/") {
			continue
		}
		if p, err := artifacts.DecodePolicy(data); err != nil || p.Product == product {
			return p, err
		}
	}
	return artifacts.Policy{}, fmt.Errorf("no policy for product %q", product)
}

func (s *server) checkCounter(release artifacts.Release) *artifacts.Refusal {
	var highest uint64
	for _, r := range s.releases {
		if r.Release.Counter == release.Counter {
			return &artifacts.Refusal{Reason: reason.CounterRefused, Detail: fmt.Sprintf("counter %d belongs to %s already", release.Counter, r.Name)}
		}
		highest = max(highest, r.Release.Counter)
	}
	if release.Counter > highest+artifacts.MaxCounterStep {
		return &artifacts.Refusal{Reason: reason.CounterRefused, Detail: fmt.Sprintf("counter %d is more than %d above the highest one, %d", release.Counter, artifacts.MaxCounterStep, highest)}
	}
	return nil
}

// took returns the bytes of blobs that came in since the last call.
func (s *server) took() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.received
	s.received = 0
	return fmt.Sprint(n)
}
