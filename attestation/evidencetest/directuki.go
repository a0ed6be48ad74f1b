package evidencetest

import (
	"encoding/binary"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Platform is what the firmware of a pretended machine measures. Equal Platforms give equal PCRs 0 to 3 and 5 to 7.
type Platform struct {
	Firmware   string            // stands for the firmware build; decides PCR 0
	SecureBoot bool              // the measured state; the rest of the log stays that of a boot without it
	Keys       map[string][]byte // values of PK, KEK, db, dbx; a missing one is empty
	BootOrder  []byte            // value of the variable
	DiskName   string            // name of the partition that the image was started from
}

// Tweak changes one thing about the Platform of DirectUKI.
type Tweak func(*Platform)

// Firmware pretends another build of the platform firmware.
func Firmware(build string) Tweak { return func(p *Platform) { p.Firmware = build } }

// SecureBootOn pretends that the firmware measured Secure Boot as on, with keys enrolled.
func SecureBootOn() Tweak {
	return func(p *Platform) {
		p.SecureBoot = true
		for _, name := range []string{"PK", "KEK", "db", "dbx"} {
			p.Keys[name] = signatureList(name)
		}
	}
}

// signatureList is EFI_SIGNATURE_LIST with one SHA-256 entry.
func signatureList(label string) []byte {
	const header, owner = 28, 16
	out := []byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	for _, n := range []uint32{header + owner + digest.Size, 0, owner + digest.Size} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	entry := digest.Of([]byte(label))
	return append(append(out, make([]byte, owner)...), entry[:]...)
}

// exitCalled is what firmware measures when the loader leaves it.
const exitCalled = "Exit Boot Services Invocation"

// DirectUKI builds the log of a machine whose firmware starts a UKI itself, in the order of genuine logs; PCRs 4, 9,
// 11 and 12 get the events of v.
func DirectUKI(v reference.Values, tweaks ...Tweak) *LogBuilder {
	p := Platform{Firmware: "1.0", Keys: map[string][]byte{}, BootOrder: []byte{1, 0, 0, 0}, DiskName: "ESP"}
	for _, tweak := range tweaks {
		tweak(&p)
	}
	events := map[int][]reference.Event{}
	for _, pcr := range v.PCRs {
		events[pcr.Index] = append(events[pcr.Index], pcr.Events...)
	}
	l := NewLog()
	l.firmware(p)
	programs := l.handOver(events[4])
	l.AddHashed(5, eventlog.TypeEFIGPT, gpt(p.DiskName))
	if len(programs) > 0 {
		l.Add(4, eventlog.TypeEFIApplication, programs[0].Digest, imageLoad(bootFile))
		programs = programs[1:]
	}
	l.overrides(events[12])
	l.sections(events[11])
	for _, e := range programs {
		l.Add(4, eventlog.TypeEFIApplication, e.Digest, imageLoad(stubPayload))
	}
	for i, e := range events[9] {
		l.kernelInput(e, i == len(events[9])-1)
	}
	l.AddHashed(5, eventlog.TypeEFIAction, []byte(exitCalled))
	l.AddHashed(5, eventlog.TypeEFIAction, []byte("Exit Boot Services Returned with Success"))
	return l
}

// firmware measures PCR 0, PCR 7 with its separator, and PCR 1.
func (l *LogBuilder) firmware(p Platform) {
	l.AddHashed(0, eventlog.TypeSCRTMVersion, []byte{0, 0})
	for i, volume := range []string{"PEI", "DXE"} {
		blob := binary.LittleEndian.AppendUint64(nil, 0x820000+uint64(i)*0xE0000)
		blob = binary.LittleEndian.AppendUint64(blob, 0xE0000)
		l.Add(0, eventlog.TypeEFIFirmwareBlob, digest.Of([]byte(volume+" volume of "+p.Firmware)), blob)
	}
	state := []byte{0}
	if p.SecureBoot {
		state[0] = 1
	}
	l.AddHashed(7, eventlog.TypeEFIVariableConfig, Variable("SecureBoot", state))
	for _, name := range []string{"PK", "KEK", "db", "dbx"} {
		l.AddHashed(7, eventlog.TypeEFIVariableConfig, Variable(name, p.Keys[name]))
	}
	l.AddHashed(7, eventlog.TypeSeparator, make([]byte, 4))
	l.Add(1, eventlog.TypeEFIVariableBoot, digest.Of(p.BootOrder), Variable("BootOrder", p.BootOrder))
	for _, name := range []string{"Boot0001", "Boot0000"} {
		option := bootOption("UEFI Misc Device " + name[7:])
		l.Add(1, eventlog.TypeEFIVariableBoot, digest.Of(option), Variable(name, option))
	}
}

// handOver writes what PCR 4 starts with and the separators of PCRs 0 to 6; it returns the programs that follow.
func (l *LogBuilder) handOver(events []reference.Event) []reference.Event {
	const action = "Calling EFI Application from Boot Option"
	if len(events) > 0 && events[0].Digest == digest.Of([]byte(action)) {
		l.AddHashed(4, eventlog.TypeEFIAction, []byte(action))
		events = events[1:]
	}
	for pcr := range 7 {
		if pcr != 4 {
			l.AddHashed(pcr, eventlog.TypeSeparator, make([]byte, 4))
			continue
		}
		if len(events) > 0 && events[0].Digest == digest.Of(make([]byte, 4)) {
			l.AddHashed(pcr, eventlog.TypeSeparator, make([]byte, 4))
			events = events[1:]
		}
	}
	return events
}

// sections writes PCR 11 as systemd-stub does: both events of a section carry its name.
func (l *LogBuilder) sections(events []reference.Event) {
	name := ".unknown"
	for _, e := range events {
		for _, known := range []string{".linux", ".osrel", ".cmdline", ".initrd"} {
			if e.Digest == digest.Of([]byte(known+"\x00")) {
				name = known
			}
		}
		l.Add(11, eventlog.TypeIPL, e.Digest, UTF16(name))
	}
}

// overrides writes PCR 12: command lines from outside of the image.
func (l *LogBuilder) overrides(events []reference.Event) {
	for _, e := range events {
		l.Add(12, eventlog.TypeIPL, e.Digest, UTF16("console=ttyS0"))
	}
}

// kernelInput writes PCR 9 as the EFI stub of Linux does: load options, and the initrd last.
func (l *LogBuilder) kernelInput(e reference.Event, last bool) {
	tag, text := uint32(0x8F3B22ED), "LOADED_IMAGE::LoadOptions\x00"
	if last && !strings.Contains(e.What, "load options") {
		tag, text = 0x8F3B22EC, "Linux initrd\x00"
	}
	data := binary.LittleEndian.AppendUint32(nil, tag)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
	l.Add(9, eventlog.TypeEventTag, e.Digest, append(data, text...))
}

// Device paths as they stand in genuine logs.
var (
	pathEnd = []byte{0x7F, 0xFF, 4, 0}
	// bootFile is a PCI disk and \EFI\BOOT\BOOTX64.EFI on it.
	bootFile = append(append([]byte{2, 1, 12, 0, 0xD0, 0x41, 3, 0x0A, 0, 0, 0, 0, 1, 1, 6, 0, 0, 1},
		filePath(`\EFI\BOOT\BOOTX64.EFI`)...), pathEnd...)
	// stubPayload is the vendor GUID that systemd-stub gives to the kernel it starts.
	stubPayload = append([]byte{4, 3, 20, 0, 0xF8, 0xD1, 0xC5, 0x55, 0xCD, 0x04, 0xB5, 0x46, 0x8A, 0x20, 0xE5, 0x6C,
		0xBB, 0x30, 0x52, 0xD0}, pathEnd...)
)

func filePath(name string) []byte {
	text := UTF16(name)
	return append([]byte{4, 4, byte(4 + len(text)), 0}, text...)
}

// imageLoad is UEFI_IMAGE_LOAD_EVENT.
func imageLoad(path []byte) []byte {
	var out []byte
	for _, field := range []uint64{0x1CE40018, 0x1178161, 0, uint64(len(path))} {
		out = binary.LittleEndian.AppendUint64(out, field)
	}
	return append(out, path...)
}

// bootOption is EFI_LOAD_OPTION for the disk.
func bootOption(name string) []byte {
	path := append([]byte{1, 1, 6, 0, 0, 1}, pathEnd...)
	out := binary.LittleEndian.AppendUint32(nil, 1)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(path)))
	return append(append(out, UTF16(name)...), path...)
}

// gpt is UEFI_GPT_DATA with one partition.
func gpt(name string) []byte {
	const header, entry = 92, 128
	out := make([]byte, header+8+entry)
	copy(out, "EFI PART\x00\x00\x01\x00\x5C")
	out[header] = 1
	copy(out[header+8+56:], UTF16(name))
	return out
}
