// Package verify checks a signed report offline: without the server that made it, without a network, from a trust bundle
// that came another way.
//
// It promises that Verified means: the report is byte for byte what the server signed; every policy, baseline and release
// in it is signed by the offline roles and publishers that the trust bundle leads to; and every verdict in it is reached
// again, byte for byte, from the raw Evidence. It refuses to overlook anything: what it cannot check is listed, what it
// had to believe is listed, and a report of which it cannot check a part is Undecided.
//
// Trusted: an attacker who controls this code can make any report look right to its reader.
package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
)

// Outcome of a verification.
type Outcome string

// The three outcomes.
const (
	Verified  Outcome = "verified"
	Failed    Outcome = "failed"
	Undecided Outcome = "undecided" // nothing is wrong, and a part could not be checked
)

// Names of the steps, in their order.
const (
	StepFormat     = "format"
	StepSignature  = "signature"
	StepMetadata   = "metadata"
	StepReleases   = "releases"
	StepDevices    = "devices"
	StepAppraisals = "appraisals"
	StepEvents     = "events"
	StepLog        = "log"
	StepDecisions  = "decisions"
)

var stepNames = [...]string{StepFormat, StepSignature, StepMetadata, StepReleases, StepDevices, StepAppraisals, StepEvents, StepLog, StepDecisions}

// about says in plain words what a step checks.
var about = map[string]string{
	StepFormat:     "the file is exactly one report of a known version",
	StepSignature:  "the server that the trust bundle names signed exactly these bytes",
	StepMetadata:   "policies and baselines are signed by the offline roles, from the trust bundle's root on",
	StepReleases:   "every release was signed by the publishers that its policy asks for, and is in the signed metadata or was withdrawn by the offline role",
	StepDevices:    "every device id follows from its endorsement key; every attestation key is one that only quotes, and is of one device",
	StepAppraisals: "every verdict is reached again from the raw Evidence, byte for byte",
	StepEvents:     "every audit event says what its stored bytes say, and no number is missing",
	StepLog:        "every event is a leaf of the log that the offline role named, under a checkpoint that enough witnesses cosigned",
	StepDecisions:  "quarantines, updates and coverage follow from the verdicts and people that they cite, and no verdict or quarantine that an event tells about is left out",
}

// Options change what is checked.
type Options struct {
	// EKRoots are the TPM manufacturers that the auditor believes. Optional: without them the EK certificates count as
	// admitted by the server, and the result says so.
	EKRoots *x509.CertPool
	// Checkpoints are those of the log that the auditor has from elsewhere. Optional.
	Checkpoints []Checkpoint
}

// Result is what a verification came to.
type Result struct {
	Outcome   Outcome      `json:"outcome"`
	Steps     []Step       `json:"steps"`
	Trusted   []string     `json:"trusted"`             // what had to be believed
	Undecided []string     `json:"undecided,omitempty"` // what could not be checked
	Withdrawn []string     `json:"withdrawn,omitempty"` // releases of the report that verified and that the offline role withdrew
	Coverage  api.Coverage `json:"coverage"`
	Report    *api.Report  `json:"-"` // nil unless format and signature passed
}

// Step is one step of a verification.
type Step struct {
	Name     string   `json:"name"`
	About    string   `json:"about"`
	Done     bool     `json:"done"` // false: an earlier step failed, so it could not be done
	OK       bool     `json:"ok"`
	Checked  int      `json:"checked"` // how many things were looked at
	Findings []string `json:"findings,omitempty"`
	More     int      `json:"more,omitempty"` // findings beyond the first maxFindings
}

const maxFindings = 50

// ErrFormat is returned by Decode for a file that is not exactly one SignedReport.
var ErrFormat = errors.New("file is not a signed report")

// URI is the URI SAN of the certificate that may sign reports.
func URI(trustDomain string) string { return "spiffe://" + trustDomain + "/report" }

// Decode reads a SignedReport and its Report strictly. The file must be the one form that the server writes: no byte of
// it is without meaning. It verifies no signature. Errors wrap ErrFormat.
func Decode(doc []byte) (api.SignedReport, api.Report, error) {
	var signed api.SignedReport
	var r api.Report
	if len(doc) > api.MaxReportBytes {
		return signed, r, fmt.Errorf("%w: %d bytes, at most %d", ErrFormat, len(doc), api.MaxReportBytes)
	}
	if err := json.Unmarshal(doc, &signed, json.RejectUnknownMembers(true)); err != nil {
		return signed, r, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	signature, err := json.Marshal(signed.Signature, json.Deterministic(true))
	if err != nil {
		return signed, r, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	again := bytes.Join([][]byte{[]byte(`{"report":`), signed.Report, []byte(`,"signature":`), signature, []byte(`}`)}, nil)
	if !bytes.Equal(again, doc) {
		return signed, r, fmt.Errorf("%w: it is not in the form that the server writes; keep the file byte for byte", ErrFormat)
	}
	if err := json.Unmarshal(signed.Report, &r, json.RejectUnknownMembers(true)); err != nil {
		return signed, r, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if r.Version != api.ReportVersion {
		return signed, r, fmt.Errorf("%w: version %d, this build reads %d", ErrFormat, r.Version, api.ReportVersion)
	}
	return signed, r, nil
}

// Report verifies a report. It never fails: everything that it has to say is in the Result.
func Report(doc []byte, trust wire.Trust, o Options) Result {
	v := &verification{trust: trust, o: o}
	for _, name := range stepNames {
		v.steps = append(v.steps, Step{Name: name, About: about[name]})
	}
	v.run(doc)
	return v.result()
}

// verification is one run of Report.
type verification struct {
	trust     wire.Trust
	o         Options
	r         api.Report
	steps     []Step
	current   *Step
	signed    bool
	undecided []string
	extra     []string // what had to be believed in this report beyond the usual
	state
}

func (v *verification) run(doc []byte) {
	v.begin(StepFormat)
	signed, r, err := Decode(doc)
	if err != nil {
		v.fail("%v", err)
		return
	}
	v.r = r
	v.count()
	v.begin(StepSignature)
	if err := checkSignature(signed, r, v.trust); err != nil {
		v.fail("%v", err)
		return
	}
	v.count()
	v.signed = true
	if r.Server != v.trust.Server {
		v.believe("the server's address: the report names %s, the trust bundle %s", r.Server, v.trust.Server)
	}
	v.metadata()
	if v.failed(StepMetadata) {
		v.laterSteps(false)
		return
	}
	v.releases()
	v.devices()
	v.appraisals()
	v.laterSteps(true)
}

// laterSteps do not need the signed metadata.
func (v *verification) laterSteps(appraised bool) {
	v.events()
	if !v.failed(StepMetadata) {
		v.log()
	}
	if appraised {
		v.decisions()
	}
}

// checkSignature checks that the server CA issued the signing certificate for reports, and that it signed these bytes.
func checkSignature(signed api.SignedReport, r api.Report, trust wire.Trust) error {
	if r.TrustDomain != trust.TrustDomain {
		return fmt.Errorf("the report is of trust domain %q, the trust bundle is for %q", r.TrustDomain, trust.TrustDomain)
	}
	cert, err := x509.ParseCertificate(signed.Signature.Certificate)
	if err != nil {
		return fmt.Errorf("the signing certificate cannot be parsed: %w", err)
	}
	pool, err := trust.Pool()
	if err != nil {
		return err
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: r.CreatedAt, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("the signing certificate does not chain to the server CA of the trust bundle: %w", err)
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case len(cert.URIs) != 1 || cert.URIs[0].String() != URI(trust.TrustDomain):
		return fmt.Errorf("the signing certificate is not for reports: want exactly the URI %s, got %v", URI(trust.TrustDomain), cert.URIs)
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the signing certificate is not for signatures")
	case !ok || public.Curve != elliptic.P256():
		return errors.New("the signing certificate is not for an ECDSA P-256 key")
	}
	h := sha256.New()
	h.Write([]byte(api.ReportContext))
	h.Write(signed.Report)
	if !ecdsa.VerifyASN1(public, h.Sum(nil), signed.Signature.Signature) {
		return errors.New("the signature is not over these bytes: the file was changed, or it is of another server")
	}
	return nil
}

func (v *verification) begin(name string) {
	for i := range v.steps {
		if v.steps[i].Name == name {
			v.current = &v.steps[i]
			v.current.Done, v.current.OK = true, true
		}
	}
}

func (v *verification) count() { v.current.Checked++ }

func (v *verification) fail(format string, args ...any) {
	v.current.OK = false
	if len(v.current.Findings) == maxFindings {
		v.current.More++
		return
	}
	v.current.Findings = append(v.current.Findings, clip(fmt.Sprintf(format, args...)))
}

// cannot records what could not be checked.
func (v *verification) cannot(format string, args ...any) {
	if len(v.undecided) < maxFindings {
		v.undecided = append(v.undecided, clip(fmt.Sprintf(format, args...)))
	}
}

// believe records what had to be believed, once.
func (v *verification) believe(format string, args ...any) {
	text := clip(fmt.Sprintf(format, args...))
	for _, known := range v.extra {
		if known == text {
			return
		}
	}
	if len(v.extra) < maxFindings {
		v.extra = append(v.extra, text)
	}
}

// clip bounds a text that may hold bytes of the report, and keeps it valid UTF-8: a finding that no JSON holds could not
// be told.
func clip(s string) string {
	if len(s) > 2000 {
		s = s[:2000] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func (v *verification) failed(name string) bool {
	for _, s := range v.steps {
		if s.Name == name {
			return !s.OK
		}
	}
	return true
}

func (v *verification) result() Result {
	out := Result{Outcome: Verified, Steps: v.steps, Trusted: v.trusted(), Undecided: v.undecided, Withdrawn: v.withdrawn()}
	if len(v.undecided) > 0 {
		out.Outcome = Undecided
	}
	for _, s := range v.steps {
		if !s.OK {
			out.Outcome = Failed
		}
	}
	if v.signed {
		r := v.r
		out.Report, out.Coverage = &r, r.Coverage
	}
	return out
}

// trusted lists what no report can prove today.
func (v *verification) trusted() []string {
	out := []string{
		"the trust bundle: its roots and its server CA came to you another way than the report",
		"admission of attestation keys: the server saw each of them in the TPM of its endorsement key; that exchange leaves nothing that could be checked again",
	}
	if v.o.EKRoots == nil {
		out = append(out, "endorsement certificates: the server checked that they chain to TPM manufacturers (give --ek-roots FILE to check it yourself)")
	}
	out = append(out,
		"freshness: the server issued each challenge at most minutes before its quote, and its clock was right",
		"TLS: the exporter value in each transcript was that of the device's connection",
		"the inventory: which device belongs to which product, hardware id and platform profile",
		"people: names of who approved, quarantined and claimed are the server's word",
	)
	return append(out, v.extra...)
}
