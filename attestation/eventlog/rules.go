package eventlog

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// violationRules are the rows behind Violations. Nothing changes them, nor the tables below.
var violationRules = slices.Concat(structureRules[:], agreementRules[:])

// structureRules say what may stand where, and how often (V-66, V-68).
var structureRules = [...]rule{
	{name: "separator-once", demands: "a register of 0 to 7 has one separator", event: separatorOnce},
	{name: "after-separator", demands: "after its separator a register of 0 to 7 gets only events of the types that are listed for it", event: afterSeparator},
	{name: "type-in-pcr", demands: "a type stands only in the registers that the specification gives it", event: typeInPCR},
	{name: "key-variable-once", demands: "SecureBoot, PK, KEK, db and dbx are measured once", event: keyVariableOnce},
	{name: "key-variable-pcr", demands: "SecureBoot, PK, KEK, db and dbx are configuration of PCR 7 only", event: keyVariablePCR},
	{name: "hcrtm-first", demands: "H-CRTM is the first measurement into PCR 0", event: hcrtmFirst},
	{name: "exit-order", demands: "ExitBootServices is successful only after it was called, and both are said in PCR 5", event: exitOrder},
	{name: "after-exit", demands: "no register of 0 to 7 changes after ExitBootServices", event: afterExit},
	{name: "variable-form", demands: "a firmware variable has the lengths that it states", event: variableForm},
	{name: "signature-list-form", demands: "PK, KEK, db and dbx hold whole signature lists", event: signatureListForm},
	{name: "image-form", demands: "a loaded image has a description and a whole device path", event: imageForm},
	{name: "partition-table-form", demands: "a partition table holds as many partitions as it states", event: partitionTableForm},
}

// agreementRules are the rows behind Disagreements: what was measured against what the log says (V-64).
var agreementRules = [...]rule{
	{name: "separator-digest", demands: "a separator measures 00000000 or FFFFFFFF in PCR 0 to 7, and its data elsewhere", event: disagrees(separatorAgrees, TypeSeparator)},
	{name: "separator-hidden", demands: "no other event has the digest of a separator", event: separatorHidden},
	{name: "action-digest", demands: "an action measures its text", event: disagrees(hashesData, TypeAction, TypeEFIAction)},
	{name: "configuration-digest", demands: "a variable that configures the firmware is measured whole", event: disagrees(hashesData, TypeEFIVariableConfig)},
	{name: "partition-table-digest", demands: "a partition table is measured whole", event: disagrees(hashesData, TypeEFIGPT, TypeEFIGPT2)},
	{name: "boot-variable-digest", demands: "a boot variable is measured whole, or its value is", event: disagrees(bootVariableAgrees, TypeEFIVariableBoot, TypeEFIVariableBoot2)},
	{name: "authority-digest", demands: "an authority is measured whole", event: disagrees(authorityAgrees, TypeEFIAuthority)},
	{name: "grub-text-digest", demands: "what GRUB says that it ran is what it measured", event: disagrees(grubAgrees, TypeIPL)},
}

// profileRules are the rows behind Departures.
var profileRules = [...]rule{
	{name: "unknown-type", demands: "no register of 0 to 15 has an event of a type that the specification does not list", event: unknownType},
	{name: "scrtm-first", demands: "PCR 0 starts with the version, the contents or the H-CRTM of the firmware's root of trust", event: scrtmFirst},
	{name: "scrtm-missing", demands: "PCR 0 holds the version or the H-CRTM of the firmware's root of trust", end: scrtmMissing},
	{name: "separator-missing", demands: "each register of 0 to 7 has its separator", end: separatorMissing},
	{name: "key-variable-missing", demands: "SecureBoot, PK, KEK, db and dbx are all measured into PCR 7", end: keyVariableMissing},
}

func separatorOnce(s *scan, e *measured) string {
	if e.Type != TypeSeparator || e.PCR > lastFirmwarePCR || s.separators[e.PCR] == 0 {
		return ""
	}
	return "a second separator"
}

func afterSeparator(s *scan, e *measured) string {
	if e.PCR > lastFirmwarePCR || s.separators[e.PCR] == 0 || e.Type == TypeSeparator || !e.known() || slices.Contains(laterTypes[e.PCR], e.Type) {
		return "" // a second separator and an unknown type are other rules' affair
	}
	return "it stands after the separator, where only what was booted is measured"
}

func typeInPCR(_ *scan, e *measured) string {
	set, limited := placeOf(e.Type)
	if !limited || e.PCR > lastStaticPCR || set&in(e.PCR) != 0 {
		return ""
	}
	return "events of this type are not measured there"
}

func keyVariableOnce(s *scan, e *measured) string {
	k, ok := keyVariable(e)
	if !ok || e.PCR != secureBootPCR || s.keys[k] == 0 {
		return ""
	}
	return "variable " + keyVariables[k].name + " for the second time"
}

// keyVariablePCR goes by the name alone: a variable of that name and another vendor is a lie as well.
func keyVariablePCR(_ *scan, e *measured) string {
	if e.Type != TypeEFIVariableConfig || !e.hasVariable {
		return ""
	}
	for _, row := range keyVariables {
		if row.name == e.variable.Name && (e.PCR != secureBootPCR || e.variable.GUID != row.guid) {
			return "variable " + row.name + " is not the one that decides about Secure Boot"
		}
	}
	return ""
}

func hcrtmFirst(s *scan, e *measured) string {
	if e.Type != TypeEFIHCRTM || e.PCR != 0 || s.events[0] == 0 {
		return ""
	}
	return "H-CRTM after another measurement"
}

func exitOrder(s *scan, e *measured) string {
	if e.Type != TypeEFIAction {
		return ""
	}
	text := string(e.Data)
	switch {
	case text != exitCalled && text != exitFailed && text != exitDone:
		return ""
	case e.PCR != exitPCR:
		return "ExitBootServices is measured into PCR 5"
	case text == exitDone && !s.exiting: // EDK II reports a failure without the call before it
		return "ExitBootServices was successful before it was called"
	default:
		return ""
	}
}

func afterExit(s *scan, e *measured) string {
	if e.PCR > lastFirmwarePCR || !s.exited {
		return ""
	}
	return "the firmware measures nothing after ExitBootServices"
}

func variableForm(_ *scan, e *measured) string {
	switch e.Type {
	case TypeEFIVariableConfig, TypeEFIVariableBoot, TypeEFIVariableBoot2, TypeEFIAuthority:
	default:
		return ""
	}
	if e.hasVariable && (e.variable.Exact || e.Type == TypeEFIAuthority) { // shim's extra bytes: authorityAgrees
		return ""
	}
	return "the variable does not have the lengths that it states"
}

func signatureListForm(_ *scan, e *measured) string {
	if k, ok := keyVariable(e); !ok || keyVariables[k].name == "SecureBoot" {
		return ""
	}
	if e.variable.holdsSignatureLists() {
		return ""
	}
	return "the signature lists do not have the lengths that they state"
}

func imageForm(_ *scan, e *measured) string {
	switch e.Type {
	case TypeEFIApplication, TypeEFIBootDriver, TypeEFIRuntimeDriver:
	default:
		return ""
	}
	if _, ok := e.imagePaths(); ok {
		return ""
	}
	return "the description of the image or its device path cannot be read"
}

func partitionTableForm(_ *scan, e *measured) string {
	if e.Type != TypeEFIGPT && e.Type != TypeEFIGPT2 {
		return ""
	}
	if _, ok := e.partitions(); ok {
		return ""
	}
	return "the partition table cannot be read"
}

// disagrees makes a rule for types whose digest can be computed from the data (V-64).
func disagrees(agrees func(*measured) bool, of ...uint32) func(*scan, *measured) string {
	return func(_ *scan, e *measured) string {
		if !slices.Contains(of, e.Type) || agrees(e) {
			return ""
		}
		return "what it says is not what was measured"
	}
}

func hashesData(e *measured) bool { return e.hash() == e.Digest }

// separatorAgrees lets loaders use separators of their own in their registers: Windows measures "WBCL" into 12 to 14.
func separatorAgrees(e *measured) bool {
	return e.hash() == e.Digest && (e.PCR > lastFirmwarePCR || e.Digest == separatorOK || e.Digest == separatorError)
}

// bootVariableAgrees: firmware measures the variable's value alone (EDK II) or the whole structure (early OVMF).
func bootVariableAgrees(e *measured) bool {
	return e.hash() == e.Digest || e.hasVariable && digest.Of(e.variable.Data) == e.Digest
}

// authorityAgrees: early versions of shim logged six bytes too many and left the last of them out of the digest.
func authorityAgrees(e *measured) bool {
	return e.hash() == e.Digest || e.hasVariable && !e.variable.Exact && digest.Of(e.Data[:len(e.Data)-1]) == e.Digest
}

// grubAgrees: what follows the prefix was hashed, without the zero byte at its end or, by older versions, with it.
func grubAgrees(e *measured) bool {
	if e.PCR != grubTextPCR {
		return true
	}
	for _, g := range grubTexts {
		if rest, ok := bytes.CutPrefix(e.Data, []byte(g.prefix)); ok {
			return digest.Of(bytes.TrimSuffix(rest, []byte{0})) == e.Digest || digest.Of(rest) == e.Digest
		}
	}
	return true // no claim
}

// separatorHidden: retyping an event leaves its digest alone, and a separator under another type hides where the
// firmware handed over. Two events may honestly have such a digest: an empty entry of a firmware table is measured as
// four zero bytes, and a boot variable may hold four of them.
func separatorHidden(_ *scan, e *measured) string {
	switch {
	case e.Type == TypeSeparator || e.Digest != separatorOK && e.Digest != separatorError:
		return ""
	case e.Type == TypeSCRTMContents && e.Digest == separatorOK:
		return ""
	case (e.Type == TypeEFIVariableBoot || e.Type == TypeEFIVariableBoot2) && bootVariableAgrees(e):
		return ""
	default:
		return "it has the digest of a separator"
	}
}

func unknownType(_ *scan, e *measured) string {
	if e.PCR > lastStaticPCR || e.known() {
		return ""
	}
	return "the specification does not list this type"
}

func scrtmFirst(s *scan, e *measured) string {
	if e.PCR != 0 || s.events[0] > 0 || e.Type == TypeSCRTMVersion || e.Type == TypeSCRTMContents || e.Type == TypeEFIHCRTM {
		return ""
	}
	return "PCR 0 does not start with the firmware's root of trust"
}

func scrtmMissing(s *scan) []Violation {
	if s.scrtm {
		return nil
	}
	return []Violation{{PCR: 0, Detail: "the firmware did not measure the version of its root of trust"}}
}

func separatorMissing(s *scan) (out []Violation) {
	for pcr := range lastFirmwarePCR + 1 {
		if s.separators[pcr] == 0 {
			out = append(out, Violation{PCR: pcr, Detail: fmt.Sprintf("PCR %d has no separator", pcr)})
		}
	}
	return out
}

func keyVariableMissing(s *scan) (out []Violation) {
	for k, row := range keyVariables {
		if s.keys[k] == 0 {
			out = append(out, Violation{PCR: secureBootPCR, Detail: "the firmware did not measure variable " + row.name})
		}
	}
	return out
}
