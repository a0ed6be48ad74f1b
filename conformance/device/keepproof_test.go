//go:build device

package device_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// keepProof writes down a proven boot beside what was predicted for it, and the last poll that proved it, when the tests
// are run with -keep.
func keepProof(t *testing.T, f *device.Fleet, version, name string) {
	t.Helper()
	if !*keepVectors {
		return
	}
	r, release := f.Report(), device.Product+"/"+version
	var proof *api.Appraisal
	for i, a := range r.Appraisals {
		var verdict struct {
			Release string `json:"release"`
		}
		must(t, json.Unmarshal(a.Verdict, &verdict))
		if verdict.Release == release {
			proof = &r.Appraisals[i]
		}
	}
	if proof == nil {
		t.Fatalf("the report has no proof of %s", release)
	}
	log := r.Logs[proof.Input.Evidence.LogDigest.String()]
	keepPrediction(t, r, *proof, log, version, filepath.Join("../vectors/prediction", name))
	must(t, keepVector(vectors.Vector{
		About: "a genuine boot of arm64; README.md says how it was made",
		Note:  "recorded on QEMU's board virt with AAVMF, swtpm, systemd-boot and Debian's kernel",
	}, name, *proof, log))
	t.Logf("kept as %s", name)
}

func keepPrediction(t *testing.T, r api.Report, proof api.Appraisal, log []byte, version, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for _, release := range r.Releases {
		for _, document := range release.Reference {
			if release.Release.Product == device.Product && release.Release.Version == version {
				must(t, os.WriteFile(filepath.Join(dir, "values.json"), document, 0o644))
			}
		}
	}
	var text strings.Builder
	for _, p := range proof.Input.Evidence.PCRs {
		fmt.Fprintf(&text, "SHA256 PCR%02d %s\n", p.Index, p.Value)
	}
	must(t, os.WriteFile(filepath.Join(dir, "pcrs.txt"), []byte(text.String()), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "eventlog.bin"), log, 0o644))
}
