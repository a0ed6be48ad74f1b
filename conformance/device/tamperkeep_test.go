//go:build device

package device_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

var keepVectors = flag.Bool("keep", false, "keep the Evidence of the tampering scenarios in conformance/vectors/machine")

// keep writes the last Evidence of the victim as a vector, when the tests are run with -keep.
func (v *victim) keep(name string) {
	v.t.Helper()
	if !*keepVectors {
		return
	}
	if v.y.ownKeys {
		name = "own-keys-" + name
	}
	r := v.Report()
	for _, a := range slices.Backward(r.Appraisals) {
		if a.Device != v.id {
			continue
		}
		in := a.Input
		out := vectors.Vector{
			Format: vectors.Format, Case: "M", About: "the last poll of the scenario; README.md says how it was made", Stage: "machine", MaxAlloc: vectors.MaxAlloc,
			Note:     "recorded on a virtual PC with OVMF, swtpm, systemd-boot and Debian's kernel",
			Question: vectors.Question{Name: name, Input: &in, Log: r.Logs[in.Evidence.LogDigest.String()]},
		}
		answer, verdict, err := vectors.Ask(out.Question)
		must(v.t, err)
		if string(verdict) != string(a.Verdict) {
			v.t.Errorf("%s: appraised again it is\n%s, the server said\n%s", name, verdict, a.Verdict)
		}
		out.Answer, out.Verdict = answer, verdict
		b, err := out.Encode()
		must(v.t, err)
		must(v.t, os.MkdirAll(machineVectors, 0o755))
		must(v.t, os.WriteFile(filepath.Join(machineVectors, name+".json"), b, 0o644))
		v.n.saw("kept as %s: %s %v", name, answer.Outcome, answer.Reasons)
		return
	}
	v.t.Errorf("the report has no appraisal of %s", v.id)
}

const machineVectors = "../vectors/machine"

// provenAgain waits until the machine, which was just switched on with its genuine disk, has proven it anew.
func (v *victim) provenAgain(ctx context.Context) {
	v.t.Helper()
	begin := time.Now()
	d := v.WaitSeen(ctx, v.m, v.id, "a fresh proof", func(d api.Device) bool {
		return d.Proven == genuineRelease && d.Standing == "affirmed" && d.Quarantine == nil && d.ProvenAt.After(begin)
	})
	v.n.saw("with the genuine disk it proves %s again", d.Proven)
}
