package verifytest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// Report is the report that an honest server makes of the World.
func (w *World) Report() api.Report {
	first, second := w.Devices[0].Record, w.Devices[1].Record
	last := w.Appraisals[3]
	q := api.Quarantine{
		ID: "q-" + second.Device.ID, Device: second.Device.ID, Since: last.At, Causes: []reason.Reason{reason.PCRMismatch},
		Detail: "it booted something else", By: "verifier", Evidence: AppraisalID(last),
	}
	second.Device.Standing, second.Device.Quarantine = "refused", &q
	first.Device.Standing, first.Device.Segment = "affirmed", "production"
	proven := w.Appraisals[2].At
	r := api.Report{
		Version: api.ReportVersion, Server: Server, TrustDomain: TrustDomain, From: Noon, To: Noon.Add(24 * time.Hour),
		CreatedAt: Noon.Add(25 * time.Hour), Coverage: api.Coverage{InScope: 2, Proven: 1, Never: 1},
		Appraisals: append([]api.Appraisal(nil), w.Appraisals...), Events: w.events(),
		Updates: []api.UpdateRecord{{
			Device: first.Device.ID, From: Product + "/1.0.0", To: Product + "/1.1.0", OfferedAt: Noon.Add(time.Hour),
			ProvenAt: &proven, Result: "proven", Evidence: AppraisalID(w.Appraisals[2]),
		}},
		Releases: append([]api.ReleaseRecord(nil), w.Releases...), Quarantines: []api.Quarantine{q},
		Logs: w.Logs, Beacons: map[string][]byte{digest.Of(w.Beacon).String(): w.Beacon},
		Image: w.image(), Devices: []api.DeviceRecord{first, second},
	}
	if w.Log.Key != nil {
		r.Log = w.Log.Prove(r.Events, w.Log.Leaves)
	}
	return r
}

func (w *World) image() api.ImageMetadata {
	files := func(version int64) map[string][]byte {
		spec, err := tufrepo.ParseTargets(w.Metadata[tufrepo.FileName(version, tufrepo.RoleTargets)])
		must(err)
		out := map[string][]byte{}
		for path, f := range spec.Files {
			out[path] = w.Metadata[tufrepo.TargetFileName(path, f.SHA256)]
		}
		return out
	}
	past := files(1)
	for _, path := range []string{artifacts.BaselinePath(Product, evidencetest.Profile), artifacts.BaselinePath(Lab, evidencetest.Profile), artifacts.PolicyPath(Lab)} {
		delete(past, path) // the same as now
	}
	return api.ImageMetadata{
		Roots:   [][]byte{w.Metadata["1.root.json"], w.Metadata["2.root.json"]},
		Targets: w.Metadata["2.targets.json"], Files: files(2), Products: map[string][]byte{Product: w.Metadata["1."+Product+".json"]},
		Snapshot: w.Metadata["1.snapshot.json"], Timestamp: w.Timestamp,
		Past: []api.PastTargets{{Targets: w.Metadata["1.targets.json"], Files: past}},
	}
}

// Event makes an audit event as the store would.
func Event(number int64, at time.Time, kind, actor, subject, data string) api.Event {
	leaf, err := json.Marshal(struct {
		V       int            `json:"v"`
		N       int64          `json:"n"`
		At      string         `json:"at"`
		Type    string         `json:"type"`
		Actor   string         `json:"actor"`
		Subject string         `json:"subject"`
		Data    jsontext.Value `json:"data"`
	}{1, number, at.UTC().Format("2006-01-02T15:04:05.000000Z"), kind, actor, subject, jsontext.Value(data)})
	must(err)
	return api.Event{Number: number, At: at, Type: kind, Actor: actor, Subject: subject, Data: jsontext.Value(data), Leaf: leaf}
}

func (w *World) events() []api.Event {
	first, second := w.Devices[0].Record.Device.ID, w.Devices[1].Record.Device.ID
	return []api.Event{
		Event(7, Noon.Add(time.Minute), "verdict.affirmed", "verifier", first, `{"release":"thermostat/1.0.0"}`),
		Event(8, Noon.Add(time.Hour), "release.offered", "server", first, `{"release":"thermostat/1.1.0"}`),
		Event(9, Noon.Add(2*time.Hour), "update.proven", "verifier", first, `{"release":"thermostat/1.1.0"}`),
		Event(10, Noon.Add(3*time.Hour), "quarantine.opened", "verifier", second, `{"by":"verifier"}`),
	}
}

// AppraisalID is how the server names an appraisal.
func AppraisalID(p api.Appraisal) digest.SHA256 {
	input, err := json.Marshal(p.Input, json.Deterministic(true))
	must(err)
	at := json1(p.At.UnixMicro())
	return digest.Of([]byte(p.Device + "\n" + at + "\n" + digest.Of(input).String()))
}

func json1(v any) string {
	b, err := json.Marshal(v)
	must(err)
	return string(b)
}

// Values are the Reference Values of a release: those of evidencetest, with every PCR that a document must name.
func Values(name string) reference.Values {
	v := evidencetest.Release(name)
	if last := v.PCRs[len(v.PCRs)-1].Index; last < 13 {
		v.PCRs = append(v.PCRs, reference.PCR{Index: 13, Events: []reference.Event{}})
	}
	return v
}

// publish makes a release and signs it.
func (w *World) publish(version string, counter uint64) {
	name := artifacts.ReleaseName(Product, version)
	values := Values(name)
	doc, err := values.Encode()
	must(err)
	release := artifacts.Release{Product: Product, Version: version, Counter: counter, Components: []artifacts.Component{{
		Name: "system", HardwareIDs: []string{Hardware}, SHA256: values.Image, Length: 4096, Installer: "uki",
		ReferenceValues: digest.Of(doc), ReferenceLength: int64(len(doc)),
	}}}
	statement, err := artifacts.NewStatement(release)
	must(err)
	payload, err := statement.Encode()
	must(err)
	w.Statements[name] = payload
	w.Releases = append(w.Releases, api.ReleaseRecord{
		Release: release, Bundles: [][]byte{Bundle(payload, w.publisher)}, Reference: map[string][]byte{"system": doc},
		CreatedBy: "ci", PublishedAt: Noon.Add(-time.Hour),
	})
}

// Smuggle adds a release to the report that the publisher signed and that no metadata has, and returns its name.
func (w *World) Smuggle(version string, counter uint64) string {
	w.publish(version, counter)
	return artifacts.ReleaseName(Product, version)
}

// Bundle signs a statement as a publisher with a key does.
func Bundle(payload []byte, key *ecdsa.PrivateKey) []byte {
	bundle, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: artifacts.PayloadType}, pair{key}, sign.BundleOptions{Context: context.Background()})
	must(err)
	raw, err := protojson.Marshal(bundle)
	must(err)
	out := jsontext.Value(raw)
	must(out.Compact())
	return out
}

// pair shows a key to sigstore-go.
type pair struct{ key *ecdsa.PrivateKey }

func (p pair) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}

func (p pair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
}

func (p pair) GetHint() []byte {
	hint, err := artifacts.KeyHint(p.key.Public())
	must(err)
	return []byte(hint)
}

func (p pair) GetKeyAlgorithm() string          { return "ECDSA" }
func (p pair) GetPublicKey() crypto.PublicKey   { return p.key.Public() }
func (p pair) GetPublicKeyPem() (string, error) { return publicPEM(p.key.Public()), nil }

func (p pair) SignData(_ context.Context, data []byte) (signature, sum []byte, err error) {
	h := sha256.Sum256(data)
	signature, err = p.key.Sign(rand.Reader, h[:], crypto.SHA256)
	return signature, h[:], err
}

func deviceID(spki []byte) string { return identity.DeviceIDOf(spki).String() }
