package keyless

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
)

// MaxSigningConfigBytes bounds a signing config.
const MaxSigningConfigBytes = 1 << 20

// ErrSigningConfig means that a signing config cannot be used.
var ErrSigningConfig = errors.New("signing config cannot be used")

// Instance is a Sigstore: where to ask for certificates, timestamps and log entries.
type Instance struct {
	ca          string
	authorities []string
	logs        []logService
}

type logService struct {
	url     string
	version uint32
}

// ParseInstance reads a signing_config.json (v0.2) and chooses the services that are valid now, as its selectors say. It
// returns ErrSigningConfig for one that names no CA, no log or no timestamp authority: a certificate of minutes is worth
// nothing later without a proof of when it was used, and a Rekor v2 log gives none.
func ParseInstance(b []byte, now time.Time) (in Instance, err error) {
	fail := func(format string, args ...any) (Instance, error) {
		return Instance{}, fmt.Errorf("%w: %w", ErrSigningConfig, fmt.Errorf(format, args...))
	}
	if len(b) > MaxSigningConfigBytes {
		return fail("it has %d bytes, at most %d are allowed", len(b), MaxSigningConfigBytes)
	}
	defer func() {
		if p := recover(); p != nil { // sigstore-go does not look whether the selectors are there
			in, err = fail("its parser crashed (%v): rekorTlogConfig and tsaConfig must be there", p)
		}
	}()
	sc, err := root.NewSigningConfigFromJSON(b)
	if err != nil {
		return fail("it is no signing config v0.2: %w", err)
	}
	ca, err := root.SelectService(sc.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, now)
	if err != nil {
		return fail("it names no CA (caUrls) that is valid now and speaks version 1")
	}
	logs, err := root.SelectServices(sc.RekorLogURLs(), sc.RekorLogURLsConfig(), sign.RekorAPIVersions, now)
	if err != nil {
		return fail("it names no transparency log (rekorTlogUrls) that is valid now and speaks version 1 or 2, or too few for its selector")
	}
	authorities, err := root.SelectServices(sc.TimestampAuthorityURLs(), sc.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
	if err != nil {
		return fail("it names no timestamp authority (tsaUrls) that is valid now and speaks version 1, or too few for its selector")
	}
	if in.ca, err = safeURL(ca.URL); err != nil {
		return fail("CA: %w", err)
	}
	for _, s := range authorities {
		u, err := safeURL(s.URL)
		if err != nil {
			return fail("timestamp authority: %w", err)
		}
		in.authorities = append(in.authorities, u)
	}
	for _, s := range logs {
		u, err := safeURL(s.URL)
		if err != nil {
			return fail("transparency log: %w", err)
		}
		in.logs = append(in.logs, logService{url: u, version: s.MajorAPIVersion})
	}
	return in, nil
}

// safeURL takes https, and http to this machine only: whoever reads an identity token on its way signs in its name.
func safeURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%.200q is no URL", text)
	}
	local := u.Scheme == "http" && isLoopback(u.Hostname())
	if u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && !local {
		return "", fmt.Errorf("%.200q is no https URL", text)
	}
	return text, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
