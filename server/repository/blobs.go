package repository

import (
	"fmt"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/store"
)

// BlobsOf returns every blob that the release needs of the artifact store: images, Reference Values, SBOMs and bundles.
// Inputs returns what the Reference Values name besides.
func BlobsOf(row store.Release) ([]digest.SHA256, error) {
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return nil, fmt.Errorf("stored statement of %s: %w", row.Name, err)
	}
	out := []digest.SHA256{digest.Of(bundleDocument(row.Bundles))}
	for _, c := range statement.Predicate.Components {
		out = append(out, c.SHA256)
	}
	for _, named := range []map[string]digest.SHA256{row.Reference, row.SBOMs} {
		for _, name := range sortedKeys(named) {
			out = append(out, named[name])
		}
	}
	return out, nil
}
