package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Unexplained starts the Explain text of every event that this package has no words for.
const Unexplained = "unexplained"

// Tags of EV_EVENT_TAG that the EFI stub of Linux measures into PCR 9.
const (
	tagInitrd      = 0x8F3B22EC
	tagLoadOptions = 0x8F3B22ED
)

// ukiSections are the sections that systemd-stub measures into PCR 11, and what they hold.
var ukiSections = map[string]string{
	".linux": "the kernel", ".osrel": "the release description", ".cmdline": "the kernel command line",
	".initrd": "the initial file system", ".ucode": "CPU microcode", ".splash": "the boot picture",
	".dtb": "the device tree", ".dtbauto": "a device tree", ".hwids": "hardware ids", ".uname": "the kernel version",
	".sbat": "SBAT revocation data", ".pcrpkey": "the PCR signing key", ".profile": "the boot profile",
	".efifw": "embedded firmware",
}

// Explain returns one sentence about e in plain words, from its type and what the log says, or a text that starts
// with Unexplained. Text from the log is cut and has its control characters replaced.
func (e Event) Explain() string {
	switch e.Type {
	case TypeNoAction:
		return e.explainNoAction()
	case TypeSeparator:
		return e.explainSeparator()
	case TypeAction, TypeEFIAction:
		return "the firmware reports: " + clean(string(e.Data))
	case TypeSCRTMVersion:
		return "version of the firmware's root of trust: " + version(e.Data)
	case TypeSCRTMContents, TypePostCode, 0x00000013:
		return e.explainCode()
	case TypeEFIFirmwareBlob:
		return "firmware volume" + blob(e.Data)
	case TypeEFIFirmwareBlob2:
		return "firmware volume" + named(e.Data)
	case TypeEFIHandoffTables, TypeEFIHandoffTables2:
		return "tables that the firmware hands to the operating system" + tables(e)
	case TypeEFIVariableConfig, TypeEFIVariableBoot, TypeEFIVariableBoot2, TypeEFIAuthority:
		return e.explainVariable()
	case TypeEFIApplication, TypeEFIBootDriver, TypeEFIRuntimeDriver:
		return e.explainImage()
	case TypeEFIGPT:
		return explainGPT(e.Data)
	case TypeIPL:
		return e.explainIPL()
	case TypeEventTag:
		return e.explainTag()
	default:
		return e.explainOther()
	}
}

func (e Event) explainNoAction() string {
	switch {
	case bytes.HasPrefix(e.Data, sigSpecID):
		return "header of the log: its format and its digest banks"
	case bytes.HasPrefix(e.Data, sigLocality) && len(e.Data) == len(sigLocality)+1:
		return fmt.Sprintf("the TPM was started from locality %d", e.Data[len(sigLocality)])
	case bytes.HasPrefix(e.Data, []byte("SP800-155 Event")):
		return "where the vendor publishes reference measurements of this firmware"
	default:
		return Unexplained + ": a note without a measurement"
	}
}

func (e Event) explainSeparator() string {
	switch e.Digest {
	case separatorOK:
		return fmt.Sprintf("separator: the firmware's own measurements into PCR %d end here", e.PCR)
	case separatorError:
		return fmt.Sprintf("separator: the firmware failed while it measured into PCR %d", e.PCR)
	default:
		return Unexplained + ": a separator with a digest that no separator has"
	}
}

// explainCode speaks about firmware code: the data is a text or a UEFI_PLATFORM_FIRMWARE_BLOB.
func (e Event) explainCode() string {
	what := "firmware code"
	if e.Type == TypeSCRTMContents {
		what = "the firmware's root of trust"
	}
	if len(e.Data) == 16 && !printable(e.Data) {
		return what + blob(e.Data)
	}
	if printable(e.Data) && len(e.Data) > 0 {
		return what + ": " + clean(string(e.Data))
	}
	return what + named(e.Data)
}

func (e Event) explainVariable() string {
	v, ok := parseVariable(e.Data)
	if !ok {
		return Unexplained + ": a firmware variable that cannot be read"
	}
	switch {
	case e.Type == TypeEFIAuthority:
		return fmt.Sprintf("an entry of %s allowed the next program to start", keyStore(v.Name))
	case v.Name == "SecureBoot" && v.GUID == efiGlobal && len(v.Data) == 0:
		return "Secure Boot is off: the firmware has no such variable"
	case v.Name == "SecureBoot" && v.GUID == efiGlobal && len(v.Data) == 1:
		return "Secure Boot is " + onOff(v.Data[0])
	case e.Type == TypeEFIVariableConfig && keyStores[v.Name] != "":
		return holds(keyStore(v.Name), len(v.Data))
	case v.Name == "BootOrder":
		return "order in which the firmware tries boot options: " + bootOrder(v.Data)
	case isBootOption(v.Name):
		return "boot option " + v.Name + bootOption(v.Data)
	default:
		return fmt.Sprintf("firmware variable %s (%d bytes)", clean(v.Name), len(v.Data))
	}
}

// explainImage speaks about UEFI_IMAGE_LOAD_EVENT: location, length, link address, length of the path, the path.
func (e Event) explainImage() string {
	what := map[uint32]string{TypeEFIApplication: "program", TypeEFIBootDriver: "boot driver",
		TypeEFIRuntimeDriver: "run-time driver"}[e.Type]
	const fixed = 32
	if len(e.Data) < fixed {
		return Unexplained + ": a " + what + " without a description"
	}
	size := binary.LittleEndian.Uint64(e.Data[8:])
	path := e.Data[fixed:]
	if n := binary.LittleEndian.Uint64(e.Data[24:]); n > uint64(len(path)) {
		return Unexplained + ": a " + what + " whose path cannot be read"
	} else if n > 0 {
		path = path[:n]
	}
	return fmt.Sprintf("%s started from %s (%d bytes)", what, devicePath(path), size)
}

// explainIPL speaks about what boot loaders measure. systemd-stub measures two events per section of a UKI, both
// with the section's name as data: first the name itself, then the content.
func (e Event) explainIPL() string {
	text, wide := utf16Text(e.Data)
	if !wide {
		if !printable(e.Data) || len(e.Data) == 0 {
			return Unexplained + ": a boot loader measurement without a text"
		}
		return "the boot loader reports: " + clean(string(e.Data))
	}
	what, section := ukiSections[text]
	switch {
	case section && e.Digest == digest.Of(append([]byte(text), 0)):
		return fmt.Sprintf("name of section %s of the unified kernel image", text)
	case section:
		return fmt.Sprintf("content of section %s of the unified kernel image: %s", text, what)
	case e.PCR == 12:
		return "kernel command line: " + clean(text)
	default:
		return "the boot loader reports: " + clean(text)
	}
}

func (e Event) explainTag() string {
	if len(e.Data) < 8 {
		return Unexplained + ": a tagged event that is cut short"
	}
	text := e.Data[8:]
	if n := binary.LittleEndian.Uint32(e.Data[4:]); uint64(n) <= uint64(len(text)) {
		text = text[:n]
	}
	switch tag := binary.LittleEndian.Uint32(e.Data); tag {
	case tagLoadOptions:
		return "the kernel's load options: the command line that it was started with"
	case tagInitrd:
		return "the initial file system that the kernel loaded"
	default:
		if printable(text) && len(text) > 0 {
			return fmt.Sprintf("tagged event 0x%08x: %s", tag, clean(string(text)))
		}
		return fmt.Sprintf("%s: tagged event 0x%08x", Unexplained, tag)
	}
}

// otherTypes are types whose data says little; the words stand for themselves.
var otherTypes = map[uint32]string{
	0x00000009: "CPU microcode", 0x0000000A: "platform configuration", 0x0000000B: "table of devices",
	0x0000000E: "partition of the boot loader", 0x0000000F: "code of a device outside the host CPU",
	0x00000010: "configuration of a device outside the host CPU", 0x00000011: "description of a device outside the host CPU",
	0x00000012: "the firmware leaves boot device events out", TypeEFIHCRTM: "the hardware's root of trust",
	0x800000E1: "firmware of a device, by SPDM", 0x800000E2: "configuration of a device, by SPDM",
}

func (e Event) explainOther() string {
	what, ok := otherTypes[e.Type]
	if !ok {
		return Unexplained + ": event type " + e.TypeName()
	}
	if printable(e.Data) && len(e.Data) > 0 {
		return what + ": " + clean(string(e.Data))
	}
	return fmt.Sprintf("%s (%d bytes)", what, len(e.Data))
}

// keyStores are the Secure Boot variables.
var keyStores = map[string]string{
	"PK": "platform key", "KEK": "key exchange keys", "db": "allowed signers", "dbx": "revoked signers",
	"dbt": "time stamp signers", "dbr": "recovery signers", "Shim": "shim's built-in certificate",
	"MokList": "machine owner keys", "MokListX": "revoked machine owner keys", "SbatLevel": "SBAT revocation level",
}

func keyStore(name string) string {
	if words := keyStores[name]; words != "" {
		return fmt.Sprintf("%s (%s)", name, words)
	}
	return clean(name)
}

func holds(what string, n int) string {
	if n == 0 {
		return "Secure Boot list " + what + ": empty"
	}
	return fmt.Sprintf("Secure Boot list %s: %d bytes", what, n)
}

func onOff(b byte) string {
	switch b {
	case 0:
		return "off"
	case 1:
		return "on"
	default:
		return fmt.Sprintf("in the unknown state %d", b)
	}
}

func bootOrder(b []byte) string {
	var names []string
	for ; len(b) >= 2 && len(names) < 16; b = b[2:] {
		names = append(names, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(b)))
	}
	if len(b) >= 2 {
		names = append(names, "...")
	}
	return strings.Join(names, ", ")
}

func isBootOption(name string) bool {
	hex := strings.TrimPrefix(name, "Boot")
	return len(name) == 8 && len(hex) == 4 && strings.Trim(hex, "0123456789ABCDEFabcdef") == ""
}

// bootOption reads EFI_LOAD_OPTION: attributes, length of the path list, description, path list.
func bootOption(b []byte) string {
	if len(b) < 6 {
		return ""
	}
	n := int(binary.LittleEndian.Uint16(b[4:]))
	name, rest := cutUTF16(b[6:])
	if n > len(rest) {
		return ": " + clean(name)
	}
	return fmt.Sprintf(": %s, from %s", clean(name), devicePath(rest[:n]))
}
