// Package keyless signs release statements without a key that anybody keeps: with the identity token of a CI, a
// certificate that lives for minutes, an RFC 3161 timestamp and an entry in a transparency log, as Sigstore defines them.
//
// It promises that a bundle which it returns was verified the way that server and devices verify it, against the
// product's offline policy and the Sigstore trusted root that the offline role signed; that the token is sent to the one
// CA of the signing config and is never printed; and that it gives up after a bounded number of attempts or with its
// context. It refuses to choose a Sigstore by itself, and to log anything with a certificate that the policy does not
// name: a log entry is there for everybody and for good.
//
// Trusted: an attacker who controls this code signs what they like for as long as the token is valid.
package keyless

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/signer/keys"
)

// Errors that a caller tests for.
var (
	// ErrIdentity means that the CA's certificate is of nobody whom the policy names; nothing was logged.
	ErrIdentity = provenance.ErrIdentity
	// ErrRefused means that the bundle was made and does not verify; nothing was uploaded.
	ErrRefused = errors.New("the new bundle does not verify")
	// ErrUnavailable means that a Sigstore service could not be reached, or failed, in every attempt.
	ErrUnavailable = errors.New("a Sigstore service is not available")
	// ErrService means that a Sigstore service refused the request.
	ErrService = errors.New("a Sigstore service refused")
	// ErrTokenRefused means that the CA does not accept the identity token.
	ErrTokenRefused = errors.New("the CA refused the identity token")
)

// Defaults of Config.
const (
	DefaultTimeout  = 30 * time.Second
	DefaultAttempts = 4
	conflictRetries = 3 // a log that has the entry already: sign again, an ECDSA signature is never the same twice
)

// Config says with what to sign, and what the result is held against.
type Config struct {
	Instance Instance
	Expect   Expectations
	Token    func(ctx context.Context) (Token, error)

	Timeout  time.Duration // Optional: of one request; default DefaultTimeout
	Attempts int           // Optional: how often a request is tried; default DefaultAttempts
	// Wait is Optional: how to wait between two attempts; the default is a timer that ends with the context.
	Wait func(context.Context, time.Duration) error
	// Step is Optional: what is being done, in a few words.
	Step func(text string)
}

// Signer signs with a certificate of its own for each bundle. Its methods may be called at once.
type Signer struct {
	cfg Config
}

// New makes a Signer. It connects to nothing.
func New(cfg Config) *Signer {
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = DefaultAttempts
	}
	if cfg.Wait == nil {
		cfg.Wait = wait
	}
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	return &Signer{cfg: cfg}
}

// Sign returns a Sigstore bundle v0.3 over payload that server and devices would accept from one publisher. Errors to
// test for: those of this package, and provenance.ErrTrustedRoot.
func (s *Signer) Sign(ctx context.Context, payload []byte, payloadType string) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		bundle, err := s.once(ctx, payload, payloadType)
		if !errors.Is(err, errConflict) || attempt == conflictRetries {
			return bundle, err
		}
		s.cfg.Step("the log has this entry already; signing again")
	}
}

func (s *Signer) once(ctx context.Context, payload []byte, payloadType string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx) // also ends what the requests of this bundle have left behind
	defer cancel()
	token, err := s.cfg.Token(ctx)
	if err != nil {
		return nil, err
	}
	s.cfg.Step(fmt.Sprintf("signing as %s", token))
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key for one signature: %w", err)
	}
	bundle, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: payloadType}, pair, s.options(ctx, token))
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", errors.Join(ctx.Err(), err))
	}
	encoded, err := keys.EncodeBundle(bundle)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Expect.verify(encoded); err != nil {
		return nil, err
	}
	s.cfg.Step("the bundle verifies against policy and trusted root")
	return encoded, nil
}

// options are the services in the order in which sigstore-go asks them: CA, timestamp authorities, logs.
func (s *Signer) options(ctx context.Context, token Token) sign.BundleOptions {
	in := s.cfg.Instance
	out := sign.BundleOptions{
		Context: ctx,
		CertificateProvider: &checkedCA{
			ca:     sign.NewFulcio(&sign.FulcioOptions{BaseURL: in.ca, Timeout: -1, Transport: s.transport(ctx, "CA", in.ca)}),
			signer: s,
		},
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token.raw},
	}
	for _, url := range in.authorities {
		out.TimestampAuthorities = append(out.TimestampAuthorities, sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{
			URL: url, Timeout: -1, Transport: s.transport(ctx, "timestamp authority", url),
		}))
	}
	for _, log := range in.logs {
		out.TransparencyLogs = append(out.TransparencyLogs, s.log(log))
	}
	return out
}

func (s *Signer) transport(ctx context.Context, service, url string) http.RoundTripper {
	return &transport{ctx: ctx, cfg: s.cfg, service: service, url: url}
}

// checkedCA looks at the certificate before anything is signed with it for others to see.
type checkedCA struct {
	ca     *sign.Fulcio
	signer *Signer
}

// GetCertificate implements sign.CertificateProvider.
func (c *checkedCA) GetCertificate(ctx context.Context, pair sign.Keypair, opts *sign.CertificateProviderOptions) ([]byte, error) {
	der, err := c.ca.GetCertificate(ctx, pair, opts)
	if refused := new(serviceError); errors.As(err, &refused) && refused.aboutToken() {
		return nil, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	if err != nil {
		return nil, err
	}
	name, err := c.signer.cfg.Expect.identify(der)
	if err != nil {
		return nil, err
	}
	c.signer.cfg.Step(fmt.Sprintf("the certificate is of %s %q", c.signer.cfg.Expect.who(), name))
	return der, nil
}

// verify holds a bundle against everything that the server and the devices will hold it against, but for the number of
// publishers: others may have signed too.
func (e Expectations) verify(bundle []byte) error {
	for _, root := range e.roots() {
		refusals, err := e.refusals(bundle, provenance.Options{TrustedRootJSON: root})
		if err != nil {
			return err
		}
		if len(refusals) > 0 {
			return fmt.Errorf("%w: %s", ErrRefused, refusals[0].Detail)
		}
	}
	return nil
}

func (e Expectations) refusals(bundle []byte, opts provenance.Options) ([]artifacts.Refusal, error) {
	if !e.Baseline {
		result, err := provenance.VerifyAll([][]byte{bundle}, e.one(), opts)
		return result.Refusals, err
	}
	p := e.one()
	p.Baselines = &artifacts.BaselinePolicy{Signers: p.Publishers, Threshold: 1}
	result, err := provenance.VerifyBaseline([][]byte{bundle}, p, opts)
	return result.Refusals, err
}

func (e Expectations) identify(der []byte) (name string, err error) {
	identify := provenance.Identify
	if e.Baseline {
		identify = provenance.IdentifyBaseline
	}
	for _, root := range e.roots() {
		name, err = identify(der, e.one(), provenance.Options{TrustedRootJSON: root})
		if err != nil {
			return "", err
		}
	}
	return name, nil
}

// who is what those are called whom the policy asks for.
func (e Expectations) who() string {
	if e.Baseline {
		return "baseline signer"
	}
	return "publisher"
}

func (e Expectations) one() artifacts.Policy {
	p := e.Policy
	p.Threshold = 1
	return p
}

// roots are the trusted roots that a bundle has to verify with: the server's, and the one that the caller gave.
func (e Expectations) roots() [][]byte {
	if len(e.Own) == 0 {
		return [][]byte{e.TrustedRoot}
	}
	return [][]byte{e.TrustedRoot, e.Own}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
