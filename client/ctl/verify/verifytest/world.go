// Package verifytest makes signed reports for tests: a small world with a ceremony, a publisher, two devices and a
// server, all of whose keys the test holds. Only tests trust it.
package verifytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
)

// What every World has.
const (
	Product     = "thermostat"
	Hardware    = "rev-a"
	TrustDomain = "fleet.example"
	Server      = "https://updates.example:8443"
)

// Noon is when a World begins; its report is of the day that follows.
var Noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// World is all that a report is made of. The image root was rotated once, and the offline targets were replaced once:
// the second policy withdraws release 1.0.0, which is in no signed metadata any more, and the second targets name the log.
type World struct {
	Trust       wire.Trust
	Certificate []byte // of ReportKey
	ReportKey   *ecdsa.PrivateKey
	EKRoots     *x509.CertPool
	EKRootPEM   []byte

	Metadata   map[string][]byte // by name in the Image repository; offline files under targets/
	Timestamp  []byte
	Beacon     []byte // an older timestamp, signed with the key of root 1
	Releases   []api.ReleaseRecord
	Statements map[string][]byte // by release name
	Devices    []*Device         // the first updates from 1.0.0 to 1.1.0, the second boots something else
	Appraisals []api.Appraisal
	Logs       map[string][]byte // event logs
	Log        Log               // the audit log
	Platform   *ecdsa.PrivateKey // the baseline signer of Product

	ca, holder, publisher        *ecdsa.PrivateKey
	caCert                       *x509.Certificate
	timestamp1, timestamp2, rest ed25519.PrivateKey
	policies                     [2]artifacts.Policy // before and after the withdrawal
	baseline                     []byte
}

// Device is a device with its TPM in software.
type Device struct {
	Record   api.DeviceRecord
	Scenario *evidencetest.Scenario
	EK       evidencetest.EK
}

// New makes a World. It panics when something in it cannot be made.
func New() *World { return build(true) }

// NewWithoutLog makes a World whose offline role names no log, and whose server has none.
func NewWithoutLog() *World { return build(false) }

func build(log bool) *World {
	w := &World{Metadata: map[string][]byte{}, Statements: map[string][]byte{}, Logs: map[string][]byte{}}
	w.ca, w.holder, w.publisher, w.ReportKey, w.Platform = ecKey(), ecKey(), ecKey(), ecKey(), ecKey()
	w.timestamp1, w.timestamp2, w.rest = edKey(), edKey(), edKey()
	w.caCert, _ = w.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "server CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, w.ca.Public())
	w.Certificate = w.Leaf(Purpose, w.ReportKey.Public())
	w.enroll()
	w.publish("1.0.0", 1)
	w.publish("1.1.0", 2)
	if log {
		w.newLog()
	}
	w.ceremony()
	w.poll()
	w.Log.Leaves = History(w.events(), LogSize)
	w.Trust = wire.Trust{
		Version: wire.TrustVersion, Server: Server, TrustDomain: TrustDomain, ServerCA: pemOf(w.caCert.Raw),
		ImageRoot: w.Metadata["1.root.json"], DirectorRoot: w.Metadata["1.root.json"],
	}
	return w
}

// Purpose is the URI of a certificate for reports.
const Purpose = "spiffe://" + TrustDomain + "/report"

// Leaf makes a certificate of the server CA with that URI.
func (w *World) Leaf(uri string, public crypto.PublicKey) []byte {
	u, err := url.Parse(uri)
	must(err)
	_, der := w.issue(&x509.Certificate{URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature}, public)
	return der
}

func (w *World) issue(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, []byte) {
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = Noon.AddDate(-1, 0, 0), Noon.AddDate(10, 0, 0)
	parent := w.caCert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, w.ca)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	return cert, der
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (w *World) enroll() {
	manufacturer := evidencetest.NewCA("manufacturer")
	w.EKRoots, w.EKRootPEM = manufacturer.Pool(), []byte(pemOf(manufacturer.Certificate.Raw))
	for _, label := range []string{"first", "second"} {
		d := &Device{EK: manufacturer.NewEK(nil), Scenario: evidencetest.NewScenario(label, Product+"/1.0.0")}
		d.Record = api.DeviceRecord{EKCertificate: d.EK.Certificate, AKPublic: d.Scenario.AK.Public, AdmittedBy: "inventory", Device: api.Device{
			ID: deviceID(d.EK.SPKI), Product: Product, HardwareID: Hardware, Profile: evidencetest.Profile, Lifecycle: "active",
			Standing: "unproven", Segment: "restricted", Tier: 5, EnrolledAt: Noon, Version: 1,
		}}
		d.Scenario.Binding.Device = d.Record.Device.ID
		w.Devices = append(w.Devices, d)
	}
	var err error
	w.baseline, err = w.Devices[0].Scenario.Baseline.Encode()
	must(err)
}

// ceremony signs two generations of offline metadata and what the server signs below them.
func (w *World) ceremony() {
	w.root(1, w.timestamp1)
	w.root(2, w.timestamp2)
	base := artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: Product, Threshold: 1,
		Publishers: []artifacts.Publisher{{Name: "ci", KeyPEM: publicPEM(w.publisher.Public())}},
		Baselines:  &artifacts.BaselinePolicy{Threshold: 1, Signers: []artifacts.Publisher{{Name: "platform", KeyPEM: publicPEM(w.Platform.Public())}}},
	}
	w.policies = [2]artifacts.Policy{base, base}
	w.policies[1].Withdrawn = []digest.SHA256{w.Releases[0].Release.Components[0].SHA256}
	docs := map[string]tufrepo.Doc{}
	for i, policy := range w.policies {
		docs[tufrepo.RoleTargets] = w.targets(int64(i+1), policy)
	}
	product := w.product()
	docs[Product] = w.keep(1, Product, product)
	snapshot, err := tufrepo.SignSnapshot(1, w.expires(), docs, w.rest)
	must(err)
	named := w.keep(1, tufrepo.RoleSnapshot, snapshot)
	w.Beacon, err = tufrepo.SignTimestamp(1, w.expires(), named, [32]byte{1}, w.timestamp1)
	must(err)
	w.Timestamp, err = tufrepo.SignTimestamp(2, w.expires(), named, [32]byte{2}, w.timestamp2)
	must(err)
}

func (w *World) expires() time.Time { return Noon.AddDate(50, 0, 0) } // clients look at it with the clock of the day

func (w *World) keep(version int64, role string, doc []byte) tufrepo.Doc {
	w.Metadata[tufrepo.FileName(version, role)] = doc
	return tufrepo.DocOf(version, doc)
}

func (w *World) root(version int64, timestamp ed25519.PrivateKey) {
	holders := []crypto.PublicKey{w.holder.Public()}
	doc, err := tufrepo.RootPayload(tufrepo.RootSpec{Version: version, Expires: w.expires(), Keys: map[string][]crypto.PublicKey{
		tufrepo.RoleRoot: holders, tufrepo.RoleTargets: holders,
		tufrepo.RoleSnapshot: {w.rest.Public()}, tufrepo.RoleTimestamp: {timestamp.Public()},
	}, Threshold: map[string]int{tufrepo.RoleRoot: 1, tufrepo.RoleTargets: 1, tufrepo.RoleSnapshot: 1, tufrepo.RoleTimestamp: 1}})
	must(err)
	w.keep(version, tufrepo.RoleRoot, w.hold(doc))
}

// hold is what the one holder does.
func (w *World) hold(doc []byte) []byte {
	payload, err := tufrepo.PayloadBytes(doc)
	must(err)
	sum := sha256.Sum256(payload)
	sig, err := w.holder.Sign(rand.Reader, sum[:], crypto.SHA256)
	must(err)
	doc, err = tufrepo.AddSignature(doc, w.holder.Public(), sig)
	must(err)
	return doc
}

func (w *World) targets(version int64, policy artifacts.Policy) tufrepo.Doc {
	encoded, err := policy.Encode()
	must(err)
	files := map[string]tufrepo.File{}
	lab, err := w.Lab().Encode()
	must(err)
	signed := map[string][]byte{
		artifacts.PolicyPath(Product): encoded, artifacts.BaselinePath(Product, evidencetest.Profile): w.baseline,
		artifacts.PolicyPath(Lab): lab, artifacts.BaselinePath(Lab, evidencetest.Profile): w.baseline,
	}
	if version > 1 && w.Log.Key != nil {
		signed[tlog.PolicyPath], err = w.Log.Policy.Encode()
		must(err)
	}
	for path, data := range signed {
		files[path] = tufrepo.File{Length: int64(len(data)), SHA256: digest.Of(data)}
		w.Metadata[tufrepo.TargetFileName(path, digest.Of(data))] = data
	}
	doc, err := tufrepo.TargetsPayload(tufrepo.TargetsSpec{Version: version, Expires: w.expires(), Files: files,
		Products: map[string]tufrepo.Delegation{Product: {Keys: []crypto.PublicKey{w.rest.Public()}, Threshold: 1}}})
	must(err)
	return w.keep(version, tufrepo.RoleTargets, w.hold(doc))
}

func (w *World) product() []byte {
	files := map[string]tufrepo.File{}
	for _, r := range w.Releases {
		if slices.ContainsFunc(r.Release.Components, func(c artifacts.Component) bool { return slices.Contains(w.policies[1].Withdrawn, c.SHA256) }) {
			continue // as the server does
		}
		for _, c := range r.Release.Components {
			custom, err := artifacts.CustomOf(r.Release, c).Encode()
			must(err)
			files[artifacts.TargetPath(Product, r.Release.Version, c.Name)] = tufrepo.File{Length: c.Length, SHA256: c.SHA256, Custom: custom}
		}
	}
	doc, err := tufrepo.SignProduct(tufrepo.ProductSpec{Product: Product, Version: 1, Expires: w.expires(), Files: files}, w.rest)
	must(err)
	return doc
}

// poll lets the devices prove themselves. The first: 1.0.0 over a challenge, again over a beacon, then 1.1.0 under the
// new policy. The second boots what nobody published.
func (w *World) poll() {
	first, second := w.Devices[0], w.Devices[1]
	values := func(version string) attestation.Expectation {
		return attestation.Expectation{Release: Product + "/" + version, Values: Values(Product + "/" + version)}
	}
	second.Scenario.Expected = []attestation.Expectation{values("1.1.0"), values("1.0.0")}
	first.Scenario.Expected = []attestation.Expectation{values("1.1.0"), values("1.0.0")}
	w.Appraise(first, Noon.Add(time.Minute), 0)
	first.Scenario.Tick()
	beacon := digest.Of(w.Beacon)
	nonce := first.Scenario.Binding.Nonce
	first.Scenario.Challenge, first.Scenario.Binding.Nonce = false, beacon[:]
	w.Appraise(first, Noon.Add(16*time.Minute), 0)
	first.Scenario.Boot(Product + "/1.1.0")
	first.Scenario.Challenge, first.Scenario.Binding.Nonce = true, nonce
	w.Appraise(first, Noon.Add(2*time.Hour), 1)
	second.Scenario.Boot("thermostat/evil")
	w.Appraise(second, Noon.Add(3*time.Hour), 1)
}

// Lab is another product on the same platform, whose policy asks for little.
const Lab = "lab"

// LabWithdrawn is a version of Product whose image the policy of Lab withdraws.
const LabWithdrawn = "1.3.0"

// Lab returns its policy.
func (w *World) Lab() artifacts.Policy {
	return artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: Lab, Threshold: 1, RequiredPCRs: []int{4},
		Withdrawn:  []digest.SHA256{Values(artifacts.ReleaseName(Product, LabWithdrawn)).Image},
		Publishers: []artifacts.Publisher{{Name: "ci", KeyPEM: publicPEM(w.publisher.Public())}},
	}
}

// Appraise lets a device quote and the server decide, under the first or the second policy.
func (w *World) Appraise(d *Device, at time.Time, policy int) api.Appraisal {
	in := d.Scenario.Input()
	in.Policy = attestation.Policy{RequiredPCRs: attestation.DefaultRequiredPCRs[:], SecureBoot: w.policies[policy].SecureBoot}
	if policy == 1 {
		boot, _ := evidencetest.Release(Product + "/1.0.0").BootDigest()
		in.Policy.RevokedBoot = []digest.SHA256{boot}
	}
	encoded, err := w.policies[policy].Encode()
	must(err)
	verdict, err := attestation.Appraise(in)
	must(err)
	if verdict.Outcome == attestation.Affirmed {
		d.Scenario.Last = verdict.Accepted
		d.Record.Device.Proven, d.Record.Device.ProvenAt = verdict.Release, &at
	}
	b, err := verdict.Marshal()
	must(err)
	w.Logs[in.Evidence.LogDigest.String()] = in.Log
	in.Log = nil
	p := api.Appraisal{
		Number: int64(len(w.Appraisals) + 1), At: at, Device: d.Record.Device.ID, Input: in, Verdict: b, Verifier: "verifytest",
		PolicySHA256: digest.Of(encoded), BaselineSHA256: digest.Of(w.baseline),
	}
	w.Appraisals = append(w.Appraisals, p)
	return p
}

// Sign makes the file of a report, as the server would: with these keys a test can be a server that lies.
func (w *World) Sign(r api.Report) []byte {
	body, err := json.Marshal(r, json.Deterministic(true))
	must(err)
	return w.SignBytes(body, w.ReportKey, w.Certificate)
}

// SignBytes signs the bytes of a report with any key under any certificate.
func (w *World) SignBytes(body []byte, key crypto.Signer, certificate []byte) []byte {
	sum := sha256.Sum256(append([]byte(api.ReportContext), body...))
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	must(err)
	signature, err := json.Marshal(api.ReportSignature{Certificate: certificate, Signature: sig})
	must(err)
	return bytes.Join([][]byte{[]byte(`{"report":`), body, []byte(`,"signature":`), signature, []byte(`}`)}, nil)
}

func ecKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return key
}

func edKey() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	return key
}

func publicPEM(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	must(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("verifytest: %v", err))
	}
}
