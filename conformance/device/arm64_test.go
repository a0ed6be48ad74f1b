//go:build device

package device_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// TestTwoBootsOnARM64 plays the same story on a machine of arm64: other firmware, another kernel, other boot programs, and
// the same way to predict.
func TestTwoBootsOnARM64(t *testing.T) {
	t.Parallel()
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t), Arch: parts.ARM64})
	twoBoots(t, f, "off")
	keepPrediction(t, f, "1", "arm64-systemd-boot-secure-boot-off")
}

// keepPrediction writes down a proven boot beside what was predicted for it, when the tests are run with -keep.
func keepPrediction(t *testing.T, f *device.Fleet, version, name string) {
	t.Helper()
	if !*keepVectors {
		return
	}
	r, dir := f.Report(), filepath.Join("../vectors/prediction", name)
	must(t, os.MkdirAll(dir, 0o755))
	for _, release := range r.Releases {
		for _, document := range release.Reference {
			if release.Release.Product == device.Product && release.Release.Version == version {
				must(t, os.WriteFile(filepath.Join(dir, "values.json"), document, 0o644))
			}
		}
	}
	for _, a := range r.Appraisals {
		var verdict struct {
			Release string `json:"release"`
		}
		must(t, json.Unmarshal(a.Verdict, &verdict))
		if verdict.Release != device.Product+"/"+version {
			continue
		}
		var text strings.Builder
		for _, p := range a.Input.Evidence.PCRs {
			fmt.Fprintf(&text, "SHA256 PCR%02d %s\n", p.Index, p.Value)
		}
		must(t, os.WriteFile(filepath.Join(dir, "pcrs.txt"), []byte(text.String()), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "eventlog.bin"), r.Logs[a.Input.Evidence.LogDigest.String()], 0o644))
		t.Logf("kept as %s", name)
		return
	}
	t.Errorf("the report has no proof of %s", version)
}
