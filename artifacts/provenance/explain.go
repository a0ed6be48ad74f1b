package provenance

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/verify"
)

// explanations turn the step at which sigstore-go stopped into what the owner of a pipeline can do. The steps have no
// error values of their own in sigstore-go v1.3.0, so they are known by their text; an unknown text is passed on.
var explanations = []struct{ step, words string }{
	{"failed to verify certificate identity", "its certificate belongs to an identity that is no publisher of the policy; sign from the workflow that the policy names, or change the policy with the offline role"},
	// With Rekor v2 any mismatch of key, certificate or payload first shows as a log entry that does not fit.
	{"failed to verify log inclusion", "it has no valid entry in a transparency log of sigstore/trusted_root.json, or the entry is for other bytes or another key; sign again, and check that the log is listed there"},
	{"failed to verify timestamps", "it has no valid timestamp of an authority in sigstore/trusted_root.json; sign again with a timestamp authority that is listed there"},
	{"failed to verify leaf certificate", "its certificate does not chain to a CA in sigstore/trusted_root.json, or was not valid when the bundle was signed"},
	{"failed to verify signed certificate timestamp", "its certificate was not logged in a certificate transparency log of sigstore/trusted_root.json"},
	{"failed to verify signature", "the signature does not fit the statement and the key; the bundle was changed after signing, or made with another key"},
	{"SCTs required", "it was signed with a key where a certificate is needed"},
	{"failed to get signature verifier", "its key cannot be used"},
}

// explain puts plain words before sigstore-go's own.
func explain(err error) error {
	var mismatch *verify.ErrNoMatchingCertificateIdentity
	if errors.As(err, &mismatch) {
		return fmt.Errorf("%s (%w)", explanations[0].words, err)
	}
	for _, e := range explanations {
		if strings.Contains(err.Error(), e.step) {
			return fmt.Errorf("%s (%w)", e.words, err)
		}
	}
	return fmt.Errorf("verification failed (%w)", err)
}
