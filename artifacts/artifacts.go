// Package artifacts says what a release is, where its bytes lie, and by which names TUF knows it.
//
// It refuses to decide whether a release may be installed: that is provenance (who built it), tufrepo (is it current)
// and the client (all of it together). It imports nothing of ours but attestation's plain types.
package artifacts

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Limits that every reader of a release holds.
const (
	MaxComponents     = 64
	MaxHardwareIDs    = 64
	MaxCounterStep    = 16       // a release counter grows per product by at most this much
	MaxImageBytes     = 16 << 30 // one component
	MaxStatementBytes = 256 << 10
	MaxBundleBytes    = 512 << 10
	MaxSBOMBytes      = 16 << 20
	MaxPolicyBytes    = 256 << 10
)

// ErrName is returned for a product, version, component or hardware id outside its alphabet.
var ErrName = errors.New("name must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit")

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ValidName checks a product, version, component, hardware id or profile. The alphabet is small because names become
// target paths, file names and URLs (facts: go-tuf does not escape them). ".." is refused.
func ValidName(s string) error {
	if !nameRE.MatchString(s) || strings.Contains(s, "..") {
		return fmt.Errorf("%w: %q", ErrName, s)
	}
	return nil
}

// Suffixes of the documents that lie beside a component's target path.
const (
	BundleSuffix    = ".sigstore.json"
	ReferenceSuffix = ".refvalues.json"
	SBOMSuffix      = ".sbom.json"
)

// TargetPath is the TUF path of a component: <product>/<version>/<component>.
func TargetPath(product, version, component string) string {
	return product + "/" + version + "/" + component
}

// ReleaseName is how a release is written in verdicts, events and messages: <product>/<version>.
func ReleaseName(product, version string) string { return product + "/" + version }

// Paths that the offline targets role signs itself.
const (
	TrustedRootPath = "sigstore/trusted_root.json"
)

// PolicyPath is the TUF path of a product's offline policy.
func PolicyPath(product string) string { return "policy/" + product + ".json" }

// BaselinePath is the TUF path of a platform baseline.
func BaselinePath(product, profile string) string {
	return "baseline/" + product + "/" + profile + ".json"
}
