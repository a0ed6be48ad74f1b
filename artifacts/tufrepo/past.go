package tufrepo

import (
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// VerifyTargets checks that the targets role of root has signed a top-level targets document, and returns what it holds.
// It serves auditors who look at documents that were current once: it asks neither for expiry nor whether a snapshot
// names the document, and root is believed as it is given. Errors are ErrMalformed, ErrTooLarge and ErrSignature.
func VerifyTargets(root, doc []byte) (TargetsSpec, error) {
	signer, err := parse[metadata.RootType](root, MaxRootBytes)
	if err != nil {
		return TargetsSpec{}, fmt.Errorf("root: %w", err)
	}
	md, err := parse[metadata.TargetsType](doc, MaxTargetsBytes)
	if err != nil {
		return TargetsSpec{}, err
	}
	if err := verify(signer, RoleTargets, md); err != nil {
		return TargetsSpec{}, err
	}
	return ParseTargets(doc)
}
