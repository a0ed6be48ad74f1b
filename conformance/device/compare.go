package device

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// Register is one PCR of a boot, side by side: as the release predicted it, as the TPM quoted it, and as the machine's
// kernel read it.
type Register struct {
	PCR                       int
	Predicted, Quoted, Kernel digest.SHA256
}

// Equal reports whether all three are the same.
func (r Register) Equal() bool { return r.Predicted == r.Quoted && r.Quoted == r.Kernel }

// Compare sets the registers that a release predicts beside those of the last boot that was affirmed for it. boot is
// that boot's event "pcrs".
func (f *Fleet) Compare(id, version string, boot Event) []Register {
	f.t.Helper()
	r := f.Report()
	predicted, quoted := f.Predicted(r, version), f.Quoted(r, id, version)
	kernel, err := boot.PCRs()
	f.must(err)
	var rows []Register
	for _, p := range predicted {
		rows = append(rows, Register{PCR: p.Index, Predicted: p.Value, Quoted: quoted[p.Index], Kernel: kernel[p.Index]})
	}
	return rows
}

// PrintRegisters writes a table of registers.
func PrintRegisters(w io.Writer, title string, rows []Register) {
	fmt.Fprintf(w, "%s\n  PCR  %-64s  %-64s  kernel\n", title, "predicted by the release", "quoted by the TPM")
	for _, r := range rows {
		verdict := "same"
		if !r.Equal() {
			verdict = "DIFFERENT: " + r.Kernel.String()
		}
		fmt.Fprintf(w, "  %3d  %s  %s  %s\n", r.PCR, r.Predicted, r.Quoted, verdict)
	}
}

// Predicted are the registers that a version's release predicts, for machines with or without Secure Boot as this fleet's
// are.
func (f *Fleet) Predicted(r api.Report, version string) []reference.PCR {
	f.t.Helper()
	for _, release := range r.Releases {
		if release.Release.Product != Product || release.Release.Version != version {
			continue
		}
		for _, document := range release.Reference {
			v, err := reference.Decode(document)
			f.must(err)
			return registersOf(v, f.cfg.OwnKeys)
		}
	}
	f.t.Fatalf("the report has no Reference Values of %s", version)
	return nil
}

// registersOf are the registers of the one way to boot an image that is taken with Secure Boot on, or off.
func registersOf(v reference.Values, secure bool) []reference.PCR {
	all := map[int]reference.PCR{}
	for _, p := range v.PCRs {
		all[p.Index] = p
	}
	for _, shape := range v.Shapes {
		if shape.SecureBoot != secure {
			continue
		}
		for _, p := range shape.PCRs {
			all[p.Index] = p
		}
		break
	}
	var out []reference.PCR
	for _, p := range all {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b reference.PCR) int { return a.Index - b.Index })
	return out
}

// Quoted are the PCRs of the last appraisal of a device that was affirmed for a version.
func (f *Fleet) Quoted(r api.Report, id, version string) map[int]digest.SHA256 {
	f.t.Helper()
	for _, a := range slices.Backward(r.Appraisals) {
		var verdict struct {
			Outcome string `json:"outcome"`
			Release string `json:"release"`
		}
		f.must(json.Unmarshal(a.Verdict, &verdict))
		if a.Device != id || strings.TrimPrefix(verdict.Release, Product+"/") != version {
			continue
		}
		quoted := map[int]digest.SHA256{}
		for _, p := range a.Input.Evidence.PCRs {
			quoted[p.Index] = p.Value
		}
		return quoted
	}
	f.t.Fatalf("the report has no affirmed appraisal of %s on %s", id, version)
	return nil
}
