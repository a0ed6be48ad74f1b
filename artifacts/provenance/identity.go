package provenance

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/cordon-ota/cordon/artifacts"
)

// ErrIdentity is returned for a certificate that is of nobody whom the policy names.
var ErrIdentity = errors.New("the certificate is of nobody whom the policy names")

// Identify returns the publisher of the policy that a fresh signing certificate stands for, and checks that a CA of the
// trusted root issued it. A signer asks before it uses the certificate, so that nothing is logged for nothing; the
// answer counts nothing until Verify was asked. It returns ErrIdentity with what was wanted and what was seen.
func Identify(der []byte, policy artifacts.Policy, opts Options) (string, error) {
	return identifyAs(publishers, der, policy, opts)
}

// IdentifyBaseline is Identify among baseline signers: policy has them where it otherwise has its publishers.
func IdentifyBaseline(der []byte, policy artifacts.Policy, opts Options) (string, error) {
	return identifyAs(baselineSigners, der, policy, opts)
}

func identifyAs(role role, der []byte, policy artifacts.Policy, opts Options) (string, error) {
	v, err := newVerifier(policy, role, readRelease, opts)
	if err != nil {
		return "", err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", fmt.Errorf("%w: it cannot be read: %w", ErrIdentity, err)
	}
	name, err := role.identify(leaf, v.keyless)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if v.trusted == nil {
		return "", fmt.Errorf("%w: there is no %s to check it with", ErrIdentity, artifacts.TrustedRootPath)
	}
	if _, err := verify.VerifyLeafCertificate(leaf.NotBefore, leaf, v.trusted); err != nil {
		return "", fmt.Errorf("%w: %w", ErrIdentity, v.foreignCA(leaf))
	}
	return name, nil
}

// identify holds a certificate against the signers of the policy, all values exactly. The error names what differs from the
// one that comes closest.
func (r role) identify(leaf *x509.Certificate, signers []artifacts.Publisher) (string, error) {
	seen, err := certificate.SummarizeCertificate(leaf)
	if err != nil {
		return "", fmt.Errorf("its certificate cannot be read: %w", err)
	}
	return r.match(seen, signers)
}

func (r role) match(seen certificate.Summary, signers []artifacts.Publisher) (string, error) {
	var closest []difference
	var name string
	for _, p := range signers {
		differs := r.differences(seen, p)
		if len(differs) == 0 {
			return p.Name, nil
		}
		if closest == nil || closer(differs, closest) {
			closest, name = differs, p.Name
		}
	}
	if closest == nil {
		return "", fmt.Errorf("the policy names %ss with keys only: sign with one of those keys", r.who)
	}
	var texts []string
	for _, d := range closest {
		texts = append(texts, fmt.Sprintf("wrong %s: the certificate says %.200q, %s %q wants %s", d.field, d.seen, r.who, name, d.want))
	}
	return "", found(closest[0].next, "%s", strings.Join(texts, "; "))
}

// closer compares by the first field that differs, then by how many do.
func closer(a, b []difference) bool {
	if a[0].rank != b[0].rank {
		return a[0].rank > b[0].rank
	}
	return len(a) < len(b)
}

// difference is one field in which a certificate is not what a signer's entry in the policy says.
type difference struct {
	field, seen, want, next string
	rank                    int
}

// orHolders ends each advice: either the pipeline is wrong, or the policy.
const orHolders = ", or let the holders change the policy: cordon-sign product set"

func (r role) differences(seen certificate.Summary, p artifacts.Publisher) []difference {
	var out []difference
	if seen.Issuer != p.Issuer {
		out = append(out, difference{"issuer", seen.Issuer, fmt.Sprintf("%.200q", p.Issuer), "take the identity token from the CI that the policy names" + orHolders, 1})
	}
	if seen.SubjectAlternativeName != p.Subject {
		out = append(out, difference{"subject", seen.SubjectAlternativeName, fmt.Sprintf("%.200q", p.Subject),
			r.do + " from the workflow, and from the branch or tag, that the policy's subject names" + orHolders, 2})
	}
	if p.SourceRepository != "" && seen.SourceRepositoryURI != p.SourceRepository {
		out = append(out, difference{"repository", seen.SourceRepositoryURI, fmt.Sprintf("%.200q", p.SourceRepository),
			r.do + " from the repository that the policy names" + orHolders, 3})
	}
	if len(p.Refs) > 0 && !slices.Contains(p.Refs, seen.SourceRepositoryRef) {
		out = append(out, difference{"ref", seen.SourceRepositoryRef, fmt.Sprintf("one of %.300q", p.Refs),
			r.do + " from one of the refs that the policy allows" + orHolders, 4})
	}
	return out
}

// leafOf returns the signing certificate of a bundle.
func leafOf(b *bundle.Bundle) (*x509.Certificate, error) {
	content, err := b.VerificationContent()
	if err != nil {
		return nil, fmt.Errorf("its certificate cannot be read: %w", err)
	}
	if content.Certificate() == nil {
		return nil, errors.New("it carries no certificate")
	}
	return content.Certificate(), nil
}
