//go:build device

package device_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

var keepVectors = flag.Bool("keep", false, "keep the Evidence of the tampering scenarios in conformance/vectors/machine")

// keep writes the last Evidence of the victim, which came to an outcome, as a vector, when the tests are run with -keep.
func (v *victim) keep(name string, outcome attestation.Outcome) {
	v.t.Helper()
	if !*keepVectors {
		return
	}
	if v.y.ownKeys {
		name = "own-keys-" + name
	}
	r := v.Report()
	for _, a := range slices.Backward(r.Appraisals) {
		if a.Device == v.id && strings.Contains(string(a.Verdict), `"outcome":"`+string(outcome)+`"`) {
			must(v.t, keepVector(vectors.Vector{
				About: "the last poll of the scenario; README.md says how it was made",
				Note:  "recorded on a virtual PC with OVMF, swtpm, systemd-boot and Debian's kernel",
			}, name, a, r.Logs[a.Input.Evidence.LogDigest.String()]))
			v.n.saw("kept as %s", name)
			return
		}
	}
	v.t.Errorf("no appraisal of %s with the outcome %s", v.id, outcome)
}

// keepVector writes an appraisal as a vector, if its verdict is reached again. v says what it is about.
func keepVector(v vectors.Vector, name string, a api.Appraisal, log []byte) error {
	v.Format, v.Case, v.Stage, v.MaxAlloc = vectors.Format, "M", "machine", vectors.MaxAlloc
	v.Question = vectors.Question{Name: name, Input: &a.Input, Log: log}
	answer, verdict, err := vectors.Ask(v.Question)
	if err != nil {
		return err
	}
	if string(verdict) != string(a.Verdict) {
		return fmt.Errorf("%s: appraised again it is\n%s, the server said\n%s", name, verdict, a.Verdict)
	}
	v.Answer, v.Verdict = answer, verdict
	b, err := v.Encode()
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(machineVectors, 0o755), os.WriteFile(filepath.Join(machineVectors, name+".json"), b, 0o644))
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
