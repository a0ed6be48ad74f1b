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

// tagLoaderConf is the tag of systemd-boot's own configuration, in PCR 5.
const tagLoaderConf = 0xF5BC582A

// tagGoogle marks what the controller of Google's hosts measures ("GMES").
const tagGoogle = 0x474D4553

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
	case TypeSCRTMContents, TypePostCode, TypePostCode2:
		return e.explainCode()
	case TypeEFIFirmwareBlob:
		return "firmware volume" + blob(e.Data)
	case TypeEFIFirmwareBlob2:
		return "firmware volume" + named(e.Data)
	case TypeEFIHandoffTables, TypeEFIHandoffTables2:
		return "tables that the firmware hands to the operating system" + tables(e)
	case TypeEFIVariableConfig, TypeEFIVariableBoot, TypeEFIVariableBoot2, TypeEFIAuthority, TypeSPDMPolicy, TypeSPDMAuthority:
		return e.explainVariable()
	case TypeEFIApplication, TypeEFIBootDriver, TypeEFIRuntimeDriver:
		return e.explainImage()
	case TypeEFIGPT, TypeEFIGPT2:
		return e.explainGPT()
	case TypeNonhostInfo:
		return e.explainNonhostInfo()
	case TypeSPDMFirmware, TypeSPDMConfig:
		return e.explainSPDM()
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
		if e.PCR > lastFirmwarePCR {
			return fmt.Sprintf("separator in PCR %d: what follows is measured by somebody else", e.PCR)
		}
		return fmt.Sprintf("separator: the firmware's own measurements into PCR %d end here", e.PCR)
	case separatorError:
		return fmt.Sprintf("separator: the firmware failed while it measured into PCR %d", e.PCR)
	default:
		if e.PCR > lastFirmwarePCR && printable(e.Data) && digest.Of(e.Data) == e.Digest {
			return "separator of the loader: " + clean(string(e.Data)) // Windows: WBCL
		}
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
	v, ok := e.Variable()
	if !ok {
		return Unexplained + ": a firmware variable that cannot be read"
	}
	switch {
	case e.Type == TypeEFIAuthority:
		return explainAuthority(v)
	case e.Type == TypeSPDMPolicy || e.Type == TypeSPDMAuthority:
		return fmt.Sprintf("who may vouch for devices by SPDM: variable %s (%d bytes)", clean(v.Name), len(v.Data))
	case v.Name == "SecureBoot" && v.GUID == efiGlobal && len(v.Data) == 0:
		return "Secure Boot is off: the firmware has no such variable"
	case v.Name == "SecureBoot" && v.GUID == efiGlobal && len(v.Data) == 1:
		return "Secure Boot is " + onOff(v.Data[0])
	case e.Type == TypeEFIVariableConfig && keyStores[v.Name] != "":
		return holds(v)
	case e.Type == TypeEFIVariableConfig && len(v.Data) == 1 && modes[v.Name] != "" && v.GUID == efiGlobal:
		return modes[v.Name] + " is " + onOff(v.Data[0])
	case v.Name == "BootOrder":
		return "order in which the firmware tries boot options: " + bootOrder(v.Data)
	case isBootOption(v.Name):
		return explainBootOption(v)
	default:
		return fmt.Sprintf("firmware variable %s (%d bytes)", clean(v.Name), len(v.Data))
	}
}

// explainAuthority speaks about the entry that a program's signature was checked with; shim measures its own lists and
// its SBAT level under the same type.
func explainAuthority(v Variable) string {
	text := fmt.Sprintf("an entry of %s allowed the next program to start", keyStore(v.Name))
	const owner = 16
	switch {
	case v.Name == "SbatLevel":
		return "SBAT revocation level that shim enforces: " + clean(strings.TrimRight(string(v.Data), "\n"))
	case v.Name == "MokListTrusted" && len(v.Data) == 1:
		return "shim's trust in machine owner keys (MokListTrusted) is " + onOff(v.Data[0])
	case v.Name == "Shim":
		return text + name(v.Data)
	case len(v.Data) > owner:
		return text + name(v.Data[owner:])
	default:
		return text
	}
}

// name renders a certificate's name behind a text, and nothing for what is no certificate.
func name(der []byte) string {
	if len(der) == 0 || der[0] != 0x30 {
		return ""
	}
	return ": " + certificateName(der)
}

// explainImage speaks about a program or driver.
func (e Event) explainImage() string {
	what := map[uint32]string{TypeEFIApplication: "program", TypeEFIBootDriver: "boot driver",
		TypeEFIRuntimeDriver: "run-time driver"}[e.Type]
	image, ok := e.Image()
	if !ok {
		return Unexplained + ": a " + what + " whose description or path cannot be read"
	}
	return fmt.Sprintf("%s started from %s (%d bytes)", what, place(image.Path), image.Size)
}

// grubTexts are the prefixes that GRUB gives to what it measures as text, and what each means; distributions had their
// own before GRUB 2.04. What follows the prefix is what was hashed.
var grubTexts = []struct{ prefix, what string }{
	{"grub_cmd: ", "GRUB ran: "}, {"grub_cmd ", "GRUB ran: "},
	{"kernel_cmdline: ", "GRUB started the kernel with: "}, {"grub_kernel_cmdline ", "GRUB started the kernel with: "},
	{"module_cmdline: ", "GRUB loaded a module with: "},
}

// Registers that boot loaders measure into.
const (
	grubTextPCR = 8
	grubFilePCR = 9
	stubTextPCR = 12
	shimPCR     = 14
)

// explainIPL speaks about what boot loaders measure. systemd-stub measures two events per section of a UKI, both
// with the section's name as data: first the name itself, then the content.
func (e Event) explainIPL() string {
	text, wide := utf16Text(e.Data)
	if !wide {
		return e.explainLoaderText()
	}
	what, section := ukiSections[text]
	switch {
	case section && e.Digest == digest.Of(append([]byte(text), 0)):
		return fmt.Sprintf("name of section %s of the unified kernel image", text)
	case section:
		return fmt.Sprintf("content of section %s of the unified kernel image: %s", text, what)
	case e.PCR == stubTextPCR || e.PCR == grubTextPCR: // systemd-boot before version 251 measured into PCR 8
		return "kernel command line: " + clean(text)
	default:
		return "the boot loader reports: " + clean(text)
	}
}

// explainLoaderText speaks about the measurements of GRUB and shim.
func (e Event) explainLoaderText() string {
	if !printable(e.Data) || len(e.Data) == 0 {
		return Unexplained + ": a boot loader measurement without a text"
	}
	text := string(e.Data)
	for _, g := range grubTexts {
		if rest, ok := strings.CutPrefix(text, g.prefix); ok && e.PCR == grubTextPCR {
			return g.what + clean(rest)
		}
	}
	store := strings.TrimRight(text, "\x00")
	switch {
	case e.PCR == grubFilePCR:
		return "GRUB read the file " + clean(text)
	case e.PCR == shimPCR && keyStores[store] != "":
		return "shim read its list " + keyStore(store)
	default:
		return "the boot loader reports: " + clean(text)
	}
}

func (e Event) explainTag() string {
	tag, ok := e.Tag()
	if !ok {
		return Unexplained + ": a tagged event that is cut short"
	}
	switch tag.ID {
	case tagLoadOptions:
		return "the kernel's load options: the command line that it was started with"
	case tagInitrd:
		return "the initial file system that the kernel loaded"
	case tagLoaderConf:
		return "loader.conf, the configuration of systemd-boot"
	case tagGoogle:
		return fmt.Sprintf("measurement by the controller of a Google host (%d bytes of description)", len(tag.Data))
	}
	if printable(tag.Data) && len(tag.Data) > 0 {
		return fmt.Sprintf("tagged event 0x%08x: %s", tag.ID, clean(string(tag.Data)))
	}
	return fmt.Sprintf("%s: tagged event 0x%08x", Unexplained, tag.ID)
}

// googleInfo starts what virtual firmware of Google Compute Engine says about its host; one byte follows that names the
// protection of the machine's memory.
var googleInfo = []byte("GCE NonHostInfo\x00")

func (e Event) explainNonhostInfo() string {
	rest, ok := bytes.CutPrefix(e.Data, googleInfo)
	if !ok || len(rest) == 0 {
		return e.explainOther()
	}
	protection, ok := map[byte]string{0: "none", 1: "AMD SEV", 2: "AMD SEV-ES", 3: "Intel TDX", 4: "AMD SEV-SNP"}[rest[0]]
	if !ok {
		protection = fmt.Sprintf("unknown (%d)", rest[0])
	}
	return "memory protection of the virtual machine, by its host's word: " + protection
}

// sigSPDM starts the two forms of TCG_DEVICE_SECURITY_EVENT_DATA (section 10.2.8).
var sigSPDM = []byte("SPDM Device Sec")

func (e Event) explainSPDM() string {
	if !bytes.HasPrefix(e.Data, sigSPDM) {
		return Unexplained + ": a device's measurement that cannot be read"
	}
	if e.Type == TypeSPDMConfig {
		return fmt.Sprintf("configuration of a device, by SPDM (%d bytes of description)", len(e.Data))
	}
	return fmt.Sprintf("firmware of a device, by SPDM (%d bytes of description)", len(e.Data))
}

// otherTypes are types whose data says little; the words stand for themselves.
var otherTypes = map[uint32]string{
	0x00000000: "certificate of the platform", TypeCPUMicrocode: "CPU microcode", TypePlatformConfig: "platform configuration",
	TypeTableOfDevices: "table of devices", TypeCompactHash: "measurement of the boot loader or the operating system",
	TypeIPLPartitionData: "partition of the boot loader", TypeNonhostCode: "code of a device outside the host CPU",
	TypeNonhostConfig: "configuration of a device outside the host CPU", TypeNonhostInfo: "description of a device outside the host CPU",
	TypeOmitBootDevice: "the firmware leaves boot device events out", TypeEFIHCRTM: "the hardware's root of trust",
	TypeGoogleDRTM: "a dynamic launch of a Google host",
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
	"MokList": "machine owner keys", "MokListX": "revoked machine owner keys", "MokListTrusted": "trust in machine owner keys",
	"SbatLevel": "SBAT revocation level",
}

func keyStore(name string) string {
	if words := keyStores[name]; words != "" {
		return fmt.Sprintf("%s (%s)", name, words)
	}
	return clean(name)
}

// modes are the variables that say how Secure Boot may be changed.
var modes = map[string]string{"AuditMode": "audit mode", "DeployedMode": "deployed mode", "SetupMode": "setup mode"}

// holds renders a list of keys or digests.
func holds(v Variable) string {
	lists, ok := v.SignatureLists()
	if !ok {
		return fmt.Sprintf("%s: Secure Boot list %s that cannot be read", Unexplained, keyStore(v.Name))
	}
	return fmt.Sprintf("Secure Boot list %s: %s", keyStore(v.Name), signers(lists))
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

func explainBootOption(v Variable) string {
	o, ok := v.BootOption()
	if !ok {
		return Unexplained + ": boot option " + v.Name + " that cannot be read"
	}
	from := "memory"
	for _, path := range o.Paths { // some firmware puts a path of its own kind before the one that says something
		if from = place(path); from != "memory" {
			break
		}
	}
	return fmt.Sprintf("boot option %s: %s, from %s", v.Name, clean(o.Description), from)
}
