package suite_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/suite"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// timestamp is what the stand-in calls its newest metadata.
var timestamp = []byte("timestamp")

// standIn is a tiny server that believes every enrollment and judges Evidence with cordon's verifier, as far as judge
// lets it.
type standIn struct {
	mu     sync.Mutex
	known  map[digest.SHA256]*standInDevice // by TLS key
	judge  func(*attestation.Input)         // leaves a check out
	credit bool                             // everything is affirmed
	hasty  bool                             // whatever is refused puts the device into quarantine
	mild   bool                             // a good quote ends a quarantine
}

type standInDevice struct {
	id        string
	ak        attestation.AK
	last      *attestation.Accepted
	wrong     bool
	challenge []byte
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := digest.Of(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)
	switch r.URL.Path {
	case wire.PathEnroll:
		s.enroll(w, r)
	case wire.PathActivate:
		s.activate(w, r, key)
	case wire.PathPoll:
		s.poll(w, r, key)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func deviceOf(req wire.EnrollRequest) (id string, spki []byte) {
	cert, err := x509.ParseCertificate(req.EKCertificate)
	if err != nil {
		return "unknown", nil
	}
	return identity.DeviceIDOf(cert.RawSubjectPublicKeyInfo).String(), cert.RawSubjectPublicKeyInfo
}

func (s *standIn) enroll(w http.ResponseWriter, r *http.Request) {
	var req wire.EnrollRequest
	if json.UnmarshalRead(r.Body, &req) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id, spki := deviceOf(req)
	blob, secret, err := identity.MakeCredential(spki, evidencetest.Key{Public: req.AKPublic}.Name(), make([]byte, 32))
	if err != nil {
		blob, secret = []byte{}, []byte{}
	}
	_ = json.MarshalWrite(w, wire.EnrollChallenge{Device: id, Challenge: make([]byte, 32), Credential: blob, EncryptedSecret: secret})
}

func (s *standIn) activate(w http.ResponseWriter, r *http.Request, key digest.SHA256) {
	var req wire.ActivateRequest
	if json.UnmarshalRead(r.Body, &req, jsontext.AllowDuplicateNames(s.credit)) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id, _ := deviceOf(req.Enroll)
	ak := evidencetest.Key{Public: req.Enroll.AKPublic}
	nonce := digest.Of([]byte("challenge for " + id))
	s.known[key] = &standInDevice{id: id, ak: attestation.AK{Public: ak.Public, QualifiedSigner: ak.QualifiedSigner()}, challenge: nonce[:]}
	_ = json.MarshalWrite(w, wire.ActivateAnswer{Device: id, Lifecycle: "active"})
}

func (s *standIn) poll(w http.ResponseWriter, r *http.Request, key digest.SHA256) {
	var req wire.PollRequest
	var claims wire.Claims
	d := s.known[key]
	if d == nil && !s.credit {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if d == nil {
		d = &standInDevice{}
	}
	out := wire.PollAnswer{Challenge: d.challenge, Timestamp: timestamp}
	if json.UnmarshalRead(http.MaxBytesReader(w, r.Body, wire.MaxPollBytes), &req) != nil || json.Unmarshal(req.Claims, &claims) != nil {
		if !s.credit {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out.Verdict = vectors.Affirmed
	}
	switch {
	case s.credit:
		out.Verdict = vectors.Affirmed
	case len(req.Evidence) == 0:
		out.EvidenceWanted = wire.WantQuote
	default:
		s.appraise(r, d, claims, req, &out)
	}
	_ = json.MarshalWrite(w, out)
}

// appraise judges one poll, and remembers what a server must.
func (s *standIn) appraise(r *http.Request, d *standInDevice, claims wire.Claims, req wire.PollRequest, out *wire.PollAnswer) {
	refuse := func(all ...reason.Reason) {
		for _, why := range all {
			out.Refusal = append(out.Refusal, wire.Refusal{Reason: why})
		}
		out.Verdict = vectors.Refused
	}
	evidence, err := attestation.DecodeEvidence(req.Evidence)
	if err != nil {
		refuse(reason.QuoteMalformed)
		return
	}
	nonce := claims.Challenge
	if beacon := digest.Of(timestamp); len(nonce) == 0 && claims.Timestamp == beacon {
		nonce = beacon[:]
	} else if !slices.Equal(nonce, d.challenge) {
		refuse(reason.NonceUnknown)
		return
	}
	exporter, _ := r.TLS.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	in := evidencetest.NewScenario("suite", evidencetest.Current).Input()
	in.Log, evidence.Log = evidence.Log, nil
	in.Evidence, in.AK, in.Last, in.Challenge = evidence, d.ak, d.last, len(claims.Challenge) > 0
	in.Binding = attestation.Binding{
		Purpose: attestation.PurposePoll, Nonce: nonce, Device: d.id, Exporter: exporter, LogDigests: []digest.SHA256{evidence.LogDigest}, Claims: digest.Of(req.Claims),
	}
	if s.judge != nil {
		s.judge(&in)
	}
	v, err := attestation.Appraise(in)
	switch {
	case err != nil:
		refuse(reason.Internal)
	case v.Outcome != attestation.Affirmed:
		refuse(v.Reasons()...)
		effect, _ := reason.Strongest(v.Reasons())
		d.wrong = d.wrong || effect == reason.Quarantine || s.hasty
	default:
		d.last, out.Verdict = v.Accepted, vectors.Affirmed
		d.wrong = d.wrong && !s.mild
		if d.wrong {
			out.Refusal = append(out.Refusal, wire.Refusal{Reason: reason.DeviceQuarantined})
		}
	}
}

// started is a stand-in that listens, and how to ask it.
func started(t *testing.T, s *standIn) (*httptest.Server, suite.Config) {
	t.Helper()
	s.known = map[digest.SHA256]*standInDevice{}
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	values := evidencetest.Release(evidencetest.Current)
	return server, suite.Config{
		Server: server.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		Root: evidencetest.NewCA("suite"), Tokens: make([]string, suite.Tokens()), Values: &values,
	}
}

// against runs the suite against a stand-in and returns the wrongly accepted polls by case.
func against(t *testing.T, s *standIn) (report suite.Report, accepted []string, err error) {
	t.Helper()
	server, c := started(t, s)
	defer server.Close()
	report, err = suite.Run(t.Context(), c)
	for _, row := range report.Rows {
		if row.Road == "poll" && row.Judgement == vectors.WronglyAccepted {
			accepted = append(accepted, row.Case)
		}
	}
	return report, accepted, err
}

// A server that believes everything is found out in every case.
func TestCredulousServerIsFoundOut(t *testing.T) {
	t.Parallel()
	report, _, err := against(t, &standIn{credit: true})
	if !errors.Is(err, suite.ErrWrong) {
		t.Fatalf("got %v, want ErrWrong", err)
	}
	for _, row := range report.Rows {
		if row.Outcome == vectors.Refused && row.Judgement != vectors.WronglyAccepted {
			t.Errorf("%s %s: %s %v %d", row.Case, row.Name, row.Judgement, row.Said, row.Status)
		}
	}
	if n := report.Count[vectors.WronglyAccepted]; n < 200 {
		t.Errorf("only %d cases were noticed", n)
	}
}

// Cordon's verifier behind the wire gives no poll a wrong answer.
func TestRightAnswersAreRight(t *testing.T) {
	t.Parallel()
	report, accepted, _ := against(t, &standIn{})
	for _, row := range report.Rows {
		if row.Road == "poll" && row.Judgement != vectors.Right {
			t.Errorf("%s %s: %s: got %s %v, want %s %v (%d %s)", row.Case, row.Name, row.Judgement, row.Got, row.Said, row.Outcome, row.Reasons, row.Status, row.Note)
		}
	}
	if len(accepted) > 0 {
		t.Errorf("wrongly accepted: %v", accepted)
	}
}

// find is the row of a case.
func find(t *testing.T, r suite.Report, id, name string) suite.Row {
	t.Helper()
	for _, row := range r.Rows {
		if row.Case == id && row.Name == name {
			return row
		}
	}
	t.Fatalf("there is no %s %s", id, name)
	return suite.Row{}
}

// A server that quarantines for bytes that anybody could have sent is found out, and so is one that forgets a wrong state.
func TestQuarantineThatIsWrongIsFoundOut(t *testing.T) {
	t.Parallel()
	hasty, _, _ := against(t, &standIn{hasty: true})
	if row := find(t, hasty, "P2", "good after all that"); row.Judgement != vectors.WronglyRefused {
		t.Errorf("hasty: got %s", row.Judgement)
	}
	mild, _, _ := against(t, &standIn{mild: true})
	if row := find(t, mild, "N140", "failed, then passed"); row.Judgement != vectors.WronglyAccepted {
		t.Errorf("mild: got %s", row.Judgement)
	}
}

// A server that refuses everything has shown nothing: the good device is wrongly refused, and nothing else is asked of it.
func TestRefusalsWithoutAGoodDeviceDecideNothing(t *testing.T) {
	t.Parallel()
	report, _, err := against(t, &standIn{judge: func(in *attestation.Input) { in.Expected = nil }})
	if !errors.Is(err, suite.ErrWrong) {
		t.Errorf("got %v, want ErrWrong", err)
	}
	if row := find(t, report, "P1", "good Evidence"); row.Judgement != vectors.WronglyRefused {
		t.Errorf("the good device: got %s", row.Judgement)
	}
	if row := find(t, report, "N20", "bit of the quote"); row.Judgement != vectors.Undecided || row.Got != "not asked" {
		t.Errorf("N20: got %s, %s", row.Got, row.Judgement)
	}
}

// A run that is ended early says so.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	server, c := started(t, &standIn{})
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	c.Out = cancelling{cancel}
	if _, err := suite.Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// cancelling ends the run at the first word of progress.
type cancelling struct{ cancel context.CancelFunc }

func (c cancelling) Write(b []byte) (int, error) {
	c.cancel()
	return len(b), nil
}

// One check left out is noticed by the cases that are about it.
func TestOneMissingCheckIsFoundOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		judge func(*attestation.Input)
		want  []string
	}{
		"continuity": {func(in *attestation.Input) { in.Last = nil }, []string{"N67", "N68", "N69"}},
		"registers":  {func(in *attestation.Input) { in.Policy.RequiredPCRs = []int{0} }, []string{"N82"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, accepted, err := against(t, &standIn{judge: c.judge})
			if !errors.Is(err, suite.ErrWrong) {
				t.Fatalf("got %v, want ErrWrong", err)
			}
			for _, id := range c.want {
				if !slices.Contains(accepted, id) {
					t.Errorf("%s was not noticed, only %v", id, accepted)
				}
			}
		})
	}
}
