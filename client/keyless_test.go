package client_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// trustKeyless lets the offline role name a publisher by identity, and the Sigstore that certifies it.
func (d *device) trustKeyless(s *parts.Sigstore, id parts.Identity) {
	d.t.Helper()
	root, err := os.ReadFile(s.TrustedRoot())
	if err != nil {
		d.t.Fatal(err)
	}
	d.server.offline = map[string][]byte{artifacts.TrustedRootPath: root}
	d.server.policy.Publishers = []artifacts.Publisher{{Name: "ci", Issuer: id.Issuer, Subject: id.Subject, SourceRepository: id.SourceRepository, Refs: []string{id.Ref}}}
}

// publishBundle offers a release with a bundle that no server of ours would take.
func (d *device) publishBundle(rel artifacts.Release, image, bundle []byte) {
	d.t.Helper()
	d.server.publish(rel, image, d.server.ci, func(path string, files map[string]tufrepo.File) {
		d.server.addFile(path+artifacts.BundleSuffix, bundle, files)
	})
	d.server.offer(d.client.DeviceID().String(), &rel)
}

// signKeyless signs a release as a job of GitHub's.
func signKeyless(t *testing.T, s *parts.Sigstore, job parts.Job, config string, rel artifacts.Release, change func(*protobundle.Bundle)) []byte {
	t.Helper()
	statement, err := artifacts.NewStatement(rel)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := statement.Encode()
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.OIDC.GitHub.Token(job)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := parts.SignUnchecked(t.Context(), config, token, payload, artifacts.PayloadType)
	if err != nil {
		t.Fatal(err)
	}
	var bundle protobundle.Bundle
	if err := protojson.Unmarshal(raw, &bundle); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&bundle)
	}
	if raw, err = protojson.Marshal(&bundle); err != nil {
		t.Fatal(err)
	}
	return raw
}

// A device verifies a keyless release with what the offline role signed and nothing else: no network, and no clock, for
// the certificate has long expired when the device sees it.
func TestInstallsAKeylessRelease(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	d := newDevice(t)
	d.enroll()
	d.trustKeyless(s, s.OIDC.GitHub.Identity(parts.Job{}))
	image := randomImage(t, 2000)
	rel := release("2.0.0", 5, image)
	d.publishBundle(rel, image, signKeyless(t, s, parts.Job{}, s.SigningConfig(), rel, nil))
	if r := d.check(); r.Update == nil {
		t.Errorf("Check = %+v, want the update", r)
	}
}

// Whoever controls the server can offer any bundle; the device refuses each with the sentence that the pipeline's owner
// needs, and fetches nothing.
func TestRefusesKeylessReleasesOfOthers(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	faulty := func(fault parts.CertificateFault) string {
		ca, err := s.StartFaultyCA(fault)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ca.Stop)
		path := filepath.Join(t.TempDir(), "signing_config.json")
		if err := s.SigningConfigWith(path, parts.SigningChange{CA: ca.URL()}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, own := s.OIDC.GitHub.Identity(parts.Job{}), s.SigningConfig()
	gitLab, otherRepository, otherRef := good, good, good
	gitLab.Issuer, otherRepository.SourceRepository, otherRef.Ref = s.OIDC.GitLab.URL(), "https://github.com/acme/other", "refs/heads/main"
	higher := release("2.0.0", 6, []byte("another image"))
	tests := map[string]struct {
		policy parts.Identity
		job    parts.Job
		config string
		change func(*protobundle.Bundle)
		says   string
	}{
		"wrong issuer":        {gitLab, parts.Job{}, own, nil, "wrong issuer: the certificate says"},
		"wrong subject":       {good, parts.Job{Workflow: ".github/workflows/test.yml"}, own, nil, "wrong subject: the certificate says"},
		"wrong repository":    {otherRepository, parts.Job{}, own, nil, "wrong repository: the certificate says"},
		"wrong ref":           {otherRef, parts.Job{}, own, nil, "wrong ref: the certificate says"},
		"expired certificate": {good, parts.Job{}, faulty(parts.CertificateFault{Shift: -time.Hour}), nil, "expired certificate: it was valid from"},
		"missing SCT":         {good, parts.Job{}, faulty(parts.CertificateFault{WithoutSCT: true}), nil, "missing SCT"},
		"missing log entry":   {good, parts.Job{}, own, func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }, "missing log entry"},
		"missing timestamp":   {good, parts.Job{}, own, func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil }, "missing timestamp"},
		"untrusted instance":  {good, parts.Job{}, parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: s.OIDC}).SigningConfig(), nil, "untrusted instance"},
		"tampered statement": {good, parts.Job{}, own, func(b *protobundle.Bundle) {
			statement, _ := artifacts.NewStatement(higher)
			b.GetDsseEnvelope().Payload, _ = statement.Encode()
		}, "tampered statement"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.enroll()
			d.trustKeyless(s, test.policy)
			image := randomImage(t, 2000)
			rel := release("2.0.0", 5, image)
			d.publishBundle(rel, image, signKeyless(t, s, test.job, test.config, rel, test.change))
			r := d.check()
			if r.Update != nil || len(r.Refusals) == 0 || r.Refusals[0].Reason != reason.PublisherRefused || !strings.Contains(r.Refusals[0].Detail, test.says) || !strings.Contains(r.Refusals[0].Detail, "; next: ") {
				t.Fatalf("Check = %+v, want publisher_refused with %q", r, test.says)
			}
			t.Logf("device: %s", r.Refusals[0].Detail)
		})
	}
}
