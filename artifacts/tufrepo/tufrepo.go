// Package tufrepo encodes, verifies and publishes the TUF metadata of both repositories: the Image repository (what may
// exist) and the Director repository (what one device may install now).
//
// It promises that nothing is signed that its own verifiers refuse, that a verifier changes its state only after every
// check has passed, and that a published timestamp never names a file that is not in the store. It refuses to sign root
// and the top-level targets role: for those it only encodes payloads, and checks and attaches signatures that holders
// made elsewhere.
//
// Trusted: whoever controls this package in a client decides which metadata that client believes.
package tufrepo

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Errors of verification; test with errors.Is. ReasonOf maps them to what a device or an operator is told.
var (
	ErrSignature   = errors.New("metadata is not signed by enough of its keys")
	ErrExpired     = errors.New("metadata has expired")
	ErrRollback    = errors.New("metadata is older than what was seen, or changed under the same version")
	ErrMixAndMatch = errors.New("metadata is not the file that its parent names")
	ErrMalformed   = errors.New("metadata is malformed")
	ErrWrongDevice = errors.New("metadata is for another device")
	ErrDelegation  = errors.New("metadata delegates, or is delegated, in a way that is not allowed")
	ErrTooLarge    = errors.New("metadata is too large")
	// ErrIncomplete means that a parent is not there yet: snapshot before timestamp, product before targets.
	ErrIncomplete = errors.New("metadata is not complete")
	// ErrMissing is returned by Publish when the timestamp would name a file that is not in the store.
	ErrMissing = errors.New("published metadata would name a file that is not there")
)

// Limits. Those in bytes are checked before anything is parsed.
const (
	MaxRootBytes      = 512_000
	MaxTimestampBytes = 16_384
	MaxSnapshotBytes  = 2_000_000
	MaxTargetsBytes   = 5_000_000
	MaxTargets        = 5_000 // entries of one targets document
	MaxProducts       = 5_000 // delegations of the targets role
	MaxRootRotations  = 256   // roots in one call
	MaxKeys           = 64    // keys of one role, and signatures of one document
)

// Names of the top-level roles.
const (
	RoleRoot      = "root"
	RoleTargets   = "targets"
	RoleSnapshot  = "snapshot"
	RoleTimestamp = "timestamp"
)

// Unrecognised fields of director targets, as a verifier reads them; metaSetJSON and directorJSON write them. Other TUF
// clients keep and ignore them.
const (
	fieldDevice      = "x-cordon-device"
	fieldCounterBase = "x-cordon-counter-base"
)

// offlineDirs are the first path segments that belong to the offline targets role; no product may be named so.
var offlineDirs = []string{"baseline", "ca", "policy", "sigstore", "witness"}

// ReasonOf maps an error of this package to a reason; nil gives the empty reason.
func ReasonOf(err error) reason.Reason {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrWrongDevice):
		return reason.MetadataForOtherDevice
	case errors.Is(err, ErrExpired), errors.Is(err, ErrRollback):
		return reason.MetadataExpired
	}
	return reason.MetadataInvalid
}

// ValidProduct checks a product name for use as a role name: artifacts.ValidName, and neither a top-level role nor a
// directory of the offline targets role.
func ValidProduct(name string) error {
	if err := artifacts.ValidName(name); err != nil {
		return err
	}
	switch name {
	case RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp:
		return fmt.Errorf("%w: %q is the name of a top-level role", artifacts.ErrName, name)
	}
	if slices.Contains(offlineDirs, name) {
		return fmt.Errorf("%w: %q is a directory of the offline targets role", artifacts.ErrName, name)
	}
	return nil
}

// ValidPath checks a target path: two or three segments of artifacts' alphabet, each with at most one of the document
// suffixes. go-tuf does not escape paths, so nothing that needs escaping may occur in one.
func ValidPath(path string) error {
	segments := strings.Split(path, "/")
	if len(segments) < 2 || len(segments) > 3 {
		return fmt.Errorf("%w: path %q must have two or three segments", artifacts.ErrName, path)
	}
	for i, s := range segments {
		if i == len(segments)-1 {
			s = trimSuffix(s)
		}
		if err := artifacts.ValidName(s); err != nil {
			return fmt.Errorf("path %q: %w", path, err)
		}
	}
	return nil
}

func trimSuffix(s string) string {
	for _, suffix := range []string{artifacts.BundleSuffix, artifacts.ReferenceSuffix, artifacts.SBOMSuffix, ".json"} {
		if cut, ok := strings.CutSuffix(s, suffix); ok {
			return cut
		}
	}
	return s
}

// offlinePath reports whether path belongs to the offline targets role.
func offlinePath(path string) bool {
	dir, _, ok := strings.Cut(path, "/")
	return ok && slices.Contains(offlineDirs, dir) && ValidPath(path) == nil
}

// productPath returns the product of a path <product>/<version>/<component>.
func productPath(path string) (product string, ok bool) {
	segments := strings.Split(path, "/")
	if len(segments) != 3 || ValidPath(path) != nil || ValidProduct(segments[0]) != nil {
		return "", false
	}
	return segments[0], true
}

// FileName is the name of a versioned document under consistent snapshots, as in "3.snapshot.json".
func FileName(version int64, role string) string { return fmt.Sprintf("%d.%s.json", version, role) }

// TimestampName is the one name that moves.
const TimestampName = "timestamp.json"
