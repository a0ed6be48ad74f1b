package parts

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
)

// fulcioTemplates is the part of Fulcio's configuration that turns claims into a certificate, as the public instance has
// it for GitHub and GitLab (sigstore/fulcio, config/identity/config.yaml).
const fulcioTemplates = `
ci-issuer-metadata:
  github-workflow:
    default-template-values:
      url: "https://github.com"
      environment: ""
    extension-templates:
      github-workflow-trigger: "event_name"
      github-workflow-sha: "sha"
      github-workflow-name: "workflow"
      github-workflow-repository: "repository"
      github-workflow-ref: "ref"
      build-signer-uri: "{{ .url }}/{{ .job_workflow_ref }}"
      build-signer-digest: "job_workflow_sha"
      runner-environment: "runner_environment"
      source-repository-uri: "{{ .url }}/{{ .repository }}"
      source-repository-digest: "sha"
      source-repository-ref: "ref"
      source-repository-identifier: "repository_id"
      source-repository-owner-uri: "{{ .url }}/{{ .repository_owner }}"
      source-repository-owner-identifier: "repository_owner_id"
      build-config-uri: "{{ .url }}/{{ .workflow_ref }}"
      build-config-digest: "workflow_sha"
      build-trigger: "event_name"
      run-invocation-uri: "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id }}/attempts/{{ .run_attempt }}"
      source-repository-visibility-at-signing: "repository_visibility"
      deployment-environment: "environment"
    subject-alternative-name-template: "{{ .url }}/{{ .job_workflow_ref }}"
  gitlab-pipeline:
    default-template-values:
      url: "https://gitlab.com"
      environment: ""
    extension-templates:
      build-signer-uri: "https://{{ .ci_config_ref_uri }}"
      build-signer-digest: "ci_config_sha"
      runner-environment: "runner_environment"
      source-repository-uri: "{{ .url }}/{{ .project_path }}"
      source-repository-digest: "sha"
      source-repository-ref: refs/{{if eq .ref_type "branch"}}heads/{{ else }}tags/{{end}}{{ .ref }}
      source-repository-identifier: "project_id"
      source-repository-owner-uri: "{{ .url }}/{{ .namespace_path }}"
      source-repository-owner-identifier: "namespace_id"
      build-config-uri: "https://{{ .ci_config_ref_uri }}"
      build-config-digest: "ci_config_sha"
      build-trigger: "pipeline_source"
      run-invocation-uri: "{{ .url }}/{{ .project_path }}/-/jobs/{{ .job_id }}"
      source-repository-visibility-at-signing: "project_visibility"
      deployment-environment: "environment"
    subject-alternative-name-template: "https://{{ .ci_config_ref_uri }}"
`

func fulcioConfig(o *OIDC) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "oidc-issuers:")
	for _, provider := range []struct {
		issuer *Issuer
		name   string
	}{{o.GitHub, "github-workflow"}, {o.GitLab, "gitlab-pipeline"}} {
		url := strconv.Quote(provider.issuer.URL())
		fmt.Fprintf(&b, "  %s:\n    issuer-url: %s\n    client-id: %s\n    type: ci-provider\n    ci-provider: %s\n    contact: nobody@cordon.example\n    description: test\n",
			url, url, sigstoreAudience, provider.name)
	}
	b.WriteString(fulcioTemplates)
	return b.Bytes()
}

// CertificateFault is what a certificate authority does wrong.
type CertificateFault struct {
	Shift      time.Duration // moves the validity: -time.Hour makes certificates that expired before they can be used
	WithoutSCT bool          // leaves the CT log's promise out
}

// FaultyCA is a certificate authority in front of the Sigstore's Fulcio that changes each certificate and signs it again
// with the same CA key, as a CA that went wrong would.
type FaultyCA struct {
	sigstore *Sigstore
	fault    CertificateFault
	server   *loopback
}

// StartFaultyCA starts the authority; a signing config names it as SigningChange.CA.
func (s *Sigstore) StartFaultyCA(fault CertificateFault) (*FaultyCA, error) {
	f := &FaultyCA{sigstore: s, fault: fault}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", f.signingCert)
	var err error
	f.server, err = listenLoopback(mux)
	return f, err
}

// URL is what a signing config names.
func (f *FaultyCA) URL() string { return f.server.url() }

// Stop ends the authority.
func (f *FaultyCA) Stop() { f.server.stop() }

// signingCertAnswer is Fulcio's answer, as much of it as clients read.
type signingCertAnswer struct {
	Signed struct {
		Chain struct {
			Certificates []string `json:"certificates"`
		} `json:"chain"`
	} `json:"signedCertificateEmbeddedSct"`
}

func (f *FaultyCA) signingCert(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, f.sigstore.FulcioURL()+r.URL.Path, http.MaxBytesReader(w, r.Body, maxChainBytes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req.Header = r.Header.Clone()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxChainBytes))
	if err != nil || res.StatusCode != http.StatusOK {
		w.WriteHeader(res.StatusCode)
		_, _ = w.Write(body)
		return
	}
	var got signingCertAnswer
	if err := json.Unmarshal(body, &got); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	changed, err := f.reissue(got.Signed.Chain.Certificates)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	got.Signed.Chain.Certificates[0] = changed
	answer(w, got)
}

// reissue signs the first certificate of a chain again, with its fault.
func (f *FaultyCA) reissue(chain []string) (string, error) {
	if len(chain) == 0 {
		return "", errors.New("the CA answered without a certificate")
	}
	block, _ := pem.Decode([]byte(chain[0]))
	if block == nil {
		return "", errors.New("the CA's certificate is not PEM")
	}
	old, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("cannot read certificate: %w", err)
	}
	sctList := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	template := &x509.Certificate{
		SerialNumber: old.SerialNumber, RawSubject: old.RawSubject,
		NotBefore: old.NotBefore.Add(f.fault.Shift), NotAfter: old.NotAfter.Add(f.fault.Shift),
		ExtraExtensions: slices.DeleteFunc(slices.Clone(old.Extensions), func(e pkix.Extension) bool { return e.Id.Equal(sctList) }),
	}
	pki := f.sigstore.pki
	der, err := x509.CreateCertificate(rand.Reader, template, pki.caCert, old.PublicKey, pki.caKey)
	if err != nil {
		return "", fmt.Errorf("cannot make certificate: %w", err)
	}
	if !f.fault.WithoutSCT {
		if der, err = f.withSCT(der, template, old.PublicKey, sctList); err != nil {
			return "", err
		}
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

func (f *FaultyCA) withSCT(der []byte, template *x509.Certificate, public any, sctList asn1.ObjectIdentifier) ([]byte, error) {
	bare, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate: %w", err)
	}
	pki := f.sigstore.pki
	front, err := newCTFront(pki.ctKey)
	if err != nil {
		return nil, err
	}
	value, err := front.embedded(bare.RawTBSCertificate, pki.caCert)
	if err != nil {
		return nil, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: sctList, Value: value})
	der, err = x509.CreateCertificate(rand.Reader, template, pki.caCert, public, pki.caKey)
	if err != nil {
		return nil, fmt.Errorf("cannot make certificate: %w", err)
	}
	return der, nil
}
