package parts

import (
	"context"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// SignUnchecked signs a payload as a client does that looks at nothing it is given: what services of the signing config
// answer goes into the bundle as it is, and services that it leaves out are not asked. It is how bundles are made that
// must be refused.
func SignUnchecked(ctx context.Context, signingConfig, token string, payload []byte, payloadType string) ([]byte, error) {
	config, err := root.NewSigningConfigFromPath(signingConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read signing config: %w", err)
	}
	ca, err := root.SelectService(config.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, time.Now())
	if err != nil {
		return nil, fmt.Errorf("cannot choose a CA: %w", err)
	}
	const timeout = 30 * time.Second
	options := sign.BundleOptions{
		Context:                    ctx,
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: ca.URL, Timeout: timeout}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
	}
	for _, s := range config.RekorLogURLs() {
		options.TransparencyLogs = append(options.TransparencyLogs, sign.NewRekor(&sign.RekorOptions{BaseURL: s.URL, Timeout: timeout, Version: s.MajorAPIVersion}))
	}
	for _, s := range config.TimestampAuthorityURLs() {
		options.TimestampAuthorities = append(options.TimestampAuthorities, sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: s.URL, Timeout: timeout}))
	}
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	bundle, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: payloadType}, pair, options)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return protojson.Marshal(bundle)
}
